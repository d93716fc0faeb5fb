//! The parts of captions between commas, and what they say of the trigger word.

use std::collections::HashMap;

use super::{found, images, verb};
use crate::data::images::ImageItem;
use crate::protocol::{Finding, FindingItem, Severity};

/// Share of captions in which a tag is in nearly every one.
const NEARLY_ALL: f64 = 0.9;
/// Captions below which shares say nothing.
const ENOUGH: usize = 5;

/// Tags of a caption, each once.
fn tags(caption: &str) -> Vec<&str> {
    let mut tags: Vec<&str> = Vec::new();
    for tag in caption.split(',').map(str::trim) {
        if !tag.is_empty() && !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    tags
}

/// Tags and the images that have them, the most frequent first.
pub(super) fn frequencies(trained: &[&ImageItem]) -> Vec<(String, u64)> {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for item in trained {
        for tag in tags(&item.caption) {
            *counts.entry(tag).or_default() += 1;
        }
    }
    let mut counts: Vec<(String, u64)> =
        counts.into_iter().map(|(t, n)| (t.to_owned(), n)).collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts
}

/// Whether a caption has the words of a trigger, whole and next to one another, whatever their
/// case.
pub fn mentions(caption: &str, trigger: &str) -> bool {
    let (caption, trigger) = (caption.to_lowercase(), trigger.trim().to_lowercase());
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    !trigger.is_empty()
        && caption.match_indices(&trigger).any(|(at, _)| {
            edge(caption[..at].chars().next_back())
                && edge(caption[at + trigger.len()..].chars().next())
        })
}

pub(super) fn findings(trained: &[&ImageItem], trigger: Option<&str>) -> Vec<Finding> {
    let captioned: Vec<&ImageItem> = trained
        .iter()
        .copied()
        .filter(|i| !i.caption.is_empty())
        .collect();
    let mut findings = Vec::new();
    if let Some(trigger) = trigger {
        let lacks = captioned.iter().filter(|i| !mentions(&i.caption, trigger));
        let lacks: Vec<FindingItem> = lacks.map(|i| FindingItem::new(&i.name, "")).collect();
        let all = captioned.len();
        findings.extend(found(
            "trigger_missing",
            Severity::Note,
            lacks,
            |n| {
                format!(
                    "`{trigger}` stands in {} of {all} captions, and is put before the other {n}",
                    all - n
                )
            },
            "nothing, if they show what the trigger word is for; else move them into `reg_data_dir`",
        ));
    }
    if captioned.len() < ENOUGH {
        return findings;
    }
    let common: Vec<FindingItem> = frequencies(&captioned)
        .into_iter()
        .filter(|(_, n)| *n as f64 >= NEARLY_ALL * captioned.len() as f64)
        .filter(|(tag, _)| trigger.is_none_or(|t| !tag.trim().eq_ignore_ascii_case(t.trim())))
        .map(|(tag, n)| FindingItem::new(tag, format!("in {n} of {}", captioned.len())))
        .collect();
    let all = images(captioned.len());
    match trigger {
        Some(trigger) => findings.extend(found(
            "tags_with_trigger",
            Severity::Note,
            common,
            |n| {
                format!(
                    "{n} {} with `{trigger}` in nearly every caption of {all}, and will hardly be \
                     told apart from it",
                    verb(n, "tag stands", "tags stand")
                )
            },
            "remove what belongs to the subject from the captions; vary what does not",
        )),
        None => findings.extend(found(
            "common_tags",
            Severity::Note,
            common,
            |n| {
                format!(
                    "{n} {} in nearly every caption of {all}, and will act as trigger words",
                    verb(n, "tag stands", "tags stand")
                )
            },
            "name the one that is meant to with `trigger_word`; remove or vary the others",
        )),
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_found_as_whole_words_only() {
        assert!(mentions("a photo of Sks dog, grass", "sks dog"));
        assert!(mentions("sks dog", "sks dog"));
        assert!(!mentions("a sks dogged by", "sks dog"));
        assert!(!mentions("masks dog", "sks dog"));
        assert!(!mentions("anything", " "));
    }

    #[test]
    fn a_tag_counts_once_in_a_caption() {
        assert_eq!(tags(" a, b ,a,,c"), ["a", "b", "c"]);
    }
}
