//! What is wrong or odd in a set of text records, each with its place and the remedy.

use std::collections::BTreeMap;

use super::duplicates::{Fingerprint, Like, repeats};
use super::{BadKind, BadRecord, Record};
use crate::protocol::{Finding, FindingItem, Severity};

/// A format that at least this share of the records has is the set's own; others are strays.
const OWN: f64 = 0.8;

/// What a set of text is judged by.
pub(super) struct Judged<'a> {
    pub train: &'a [Record],
    pub eval: &'a [Record],
    /// Of the training records, then of those held out.
    pub prints: &'a [Fingerprint],
    pub bad: &'a [BadRecord],
    pub sequence_len: usize,
    pub skip_bad_records: bool,
    /// Whether files, not chance, say what is held out.
    pub split_by_files: bool,
}

/// Everything found, the worst first.
pub(super) fn findings(data: &Judged<'_>) -> Vec<Finding> {
    let mut all = bad_records(data);
    let records: Vec<&Record> = data.train.iter().chain(data.eval).collect();
    let repeats = repeats(data.prints, data.train.len());
    all.extend(leaks(data, &records, &repeats.leaks));
    all.extend(duplicates(&records, &repeats.within));
    all.extend(truncated(&records, data.sequence_len));
    all.extend(formats(&records));
    all.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    all
}

fn some(finding: Finding) -> Option<Finding> {
    (finding.count > 0).then_some(finding)
}

/// "1 record is", "2 records are".
fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 record {one}"),
        _ => format!("{count} records {many}"),
    }
}

fn bad_records(data: &Judged<'_>) -> Vec<Finding> {
    let severity = match data.skip_bad_records {
        true => Severity::Warning,
        false => Severity::Wrong,
    };
    let skip = match data.skip_bad_records {
        true => "it is left out",
        false => "or leave it out with `skip_bad_records: true`",
    };
    BadKind::ALL
        .into_iter()
        .filter_map(|kind| {
            let of_kind = data.bad.iter().filter(|bad| bad.kind == kind);
            let items: Vec<FindingItem> = of_kind
                .map(|bad| FindingItem::new(format!("{}:{}", bad.file, bad.line), &bad.reason))
                .collect();
            let (word, one, many, remedy) = kind.told();
            let message = counted(items.len(), one, many);
            some(Finding::new(
                word,
                severity,
                message,
                format!("{remedy}; {skip}"),
                items,
            ))
        })
        .collect()
}

impl BadKind {
    /// The finding's word, what is said of one record and of many, and what to do.
    fn told(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            BadKind::Unreadable => (
                "unreadable_records",
                "cannot be read",
                "cannot be read",
                "mend the line, which is no valid JSON, CSV or UTF-8",
            ),
            BadKind::OtherKind => (
                "records_of_another_kind",
                "is of another kind than text to train on",
                "are of another kind than text to train on",
                "remove it, or rename its keys to those of a format that is read",
            ),
            BadKind::Empty => (
                "empty_answers",
                "has an empty answer: there is nothing to learn",
                "have empty answers: there is nothing to learn",
                "write the answer, or remove the record",
            ),
            BadKind::Malformed => (
                "malformed_records",
                "does not keep to its format",
                "do not keep to their format",
                "mend it as its reason says",
            ),
            BadKind::Template => (
                "template_errors",
                "is refused or changed by the chat template",
                "are refused or changed by the chat template",
                "change the record to what the template takes, or write another `chat_template`",
            ),
            BadKind::TooLong => (
                "answers_cut_off",
                "has its whole answer beyond `sequence_len`",
                "have their whole answers beyond `sequence_len`",
                "shorten it, or write a larger `sequence_len`",
            ),
            BadKind::Other => (
                "bad_records",
                "cannot be used",
                "cannot be used",
                "mend it as its reason says",
            ),
        }
    }
}

/// "as train.jsonl:3", "96 % like train.jsonl:3".
fn likened(like: Like, records: &[&Record]) -> String {
    let other = &records[like.other as usize].origin;
    match like {
        Like { exact: true, .. } => format!("as {other}"),
        Like { likeness, .. } if likeness >= 1.0 => format!("in the words of {other}"),
        Like { likeness, .. } => format!("about {:.0} % like {other}", 100.0 * likeness),
    }
}

/// Held-out records that are trained on, too: word for word, and nearly.
fn leaks(data: &Judged<'_>, records: &[&Record], leaks: &[Option<Like>]) -> Vec<Finding> {
    let of = |same: bool| -> Vec<FindingItem> {
        let found = records.iter().zip(leaks);
        found
            .filter_map(|(record, like)| {
                let like = (*like).filter(|like| (like.likeness >= 1.0) == same)?;
                Some(FindingItem::new(&record.origin, likened(like, records)))
            })
            .collect()
    };
    let counted = |count: usize| match count {
        1 => "1 held-out record is".to_owned(),
        n => format!("{n} held-out records are"),
    };
    let remedy = match data.split_by_files {
        true => "remove them from one of the files",
        false => "remove the repeated records, so that chance cannot put one on either side",
    };
    let (same, near) = (of(true), of(false));
    let all = [
        Finding::new(
            "leaks",
            Severity::Warning,
            format!(
                "{} in the training data too, so that the held-out loss looks better than it is",
                counted(same.len())
            ),
            remedy,
            same,
        ),
        Finding::new(
            "near_leaks",
            Severity::Note,
            format!(
                "{} much like training records, so that the held-out loss may look better than it is",
                counted(near.len())
            ),
            remedy,
            near,
        ),
    ];
    all.into_iter().filter_map(some).collect()
}

fn duplicates(records: &[&Record], within: &[Option<Like>]) -> Vec<Finding> {
    let of = |exact: bool| -> Vec<FindingItem> {
        let found = records.iter().zip(within);
        found
            .filter_map(|(record, like)| {
                let like = (*like).filter(|like| like.exact == exact)?;
                Some(FindingItem::new(&record.origin, likened(like, records)))
            })
            .collect()
    };
    let (exact, near) = (of(true), of(false));
    let all = [
        Finding::new(
            "exact_duplicates",
            Severity::Warning,
            counted(
                exact.len(),
                "repeats another exactly",
                "repeat another exactly",
            ),
            "remove the copies: what is there twice counts twice",
            exact,
        ),
        Finding::new(
            "near_duplicates",
            Severity::Note,
            counted(
                near.len(),
                "says nearly the same as another",
                "say nearly the same as another",
            ),
            "keep the better one of each pair, or both where the difference is what is to be learned",
            near,
        ),
    ];
    all.into_iter().filter_map(some).collect()
}

fn truncated(records: &[&Record], sequence_len: usize) -> Option<Finding> {
    let items: Vec<FindingItem> = records
        .iter()
        .filter(|record| record.cut > 0)
        .map(|record| {
            let tokens = record.ids.len() + record.cut;
            let detail = format!("{tokens} tokens, the last {} cut off", record.cut);
            FindingItem::new(&record.origin, detail)
        })
        .collect();
    let longest = records
        .iter()
        .map(|r| r.ids.len() + r.cut)
        .max()
        .unwrap_or(0);
    let cut: usize = records.iter().map(|r| r.cut).sum();
    let all: usize = records.iter().map(|r| r.ids.len() + r.cut).sum();
    let message = format!(
        "{} longer than `sequence_len: {sequence_len}` and cut, which leaves out {cut} tokens \
         ({:.1} %)",
        counted(items.len(), "is", "are"),
        100.0 * cut as f64 / all.max(1) as f64
    );
    let remedy = format!("write `sequence_len: {longest}` if the memory allows, or split them");
    some(Finding::new(
        "truncated",
        Severity::Warning,
        message,
        remedy,
        items,
    ))
}

/// Records in another format than nearly all, or, where no format prevails, the mixture itself.
fn formats(records: &[&Record]) -> Option<Finding> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records {
        *counts.entry(record.format).or_default() += 1;
    }
    if counts.len() < 2 {
        return None;
    }
    let (&own, &most) = counts.iter().max_by_key(|(_, count)| **count)?;
    if (most as f64) < OWN * records.len() as f64 {
        let each: Vec<String> = counts.iter().map(|(f, n)| format!("{n} {f}")).collect();
        let mut finding = Finding::new(
            "mixed_formats",
            Severity::Note,
            format!("the data mixes formats: {}", each.join(", ")),
            "nothing to do where that is meant; each format is rendered in its own way",
            Vec::new(),
        );
        finding.count = records.len() as u64;
        return Some(finding);
    }
    let items: Vec<FindingItem> = records
        .iter()
        .filter(|record| record.format != own)
        .map(|record| FindingItem::new(&record.origin, format!("{}, not {own}", record.format)))
        .collect();
    Some(Finding::new(
        "other_format",
        Severity::Warning,
        format!(
            "{} of another format than the rest, which is {own}",
            counted(items.len(), "is", "are")
        ),
        "look whether it belongs here: remove it, or write it in the format of the rest",
        items,
    ))
}
