//! What is trained on and what is held out.

use std::path::PathBuf;

use anyhow::Result;

use super::Record;
use super::duplicates::Fingerprint;
use crate::error::input_error;
use crate::random::{Purpose, Stream};

/// The words of a name that say that a file is not for training, as Hugging Face's `datasets` reads
/// them (`data_files.py`: a word between separators, in the file's name or a folder's).
const HELD_OUT: [&str; 8] = [
    "validation",
    "valid",
    "dev",
    "val",
    "test",
    "testing",
    "eval",
    "evaluation",
];

/// Both parts, in the order of the data; fingerprints of the first, then of the second.
pub(super) struct Split {
    pub train: Vec<Record>,
    pub eval: Vec<Record>,
    pub prints: Vec<Fingerprint>,
}

/// The files, of several, that are held out because of their names; none, where nothing would be
/// left to train on.
pub(super) fn held_out_files(files: &[(String, PathBuf)]) -> Vec<String> {
    let named = |name: &str| {
        let stem = name
            .rsplit_once('.')
            .map_or(name, |(stem, _)| stem)
            .to_lowercase();
        let mut words = stem.split(|c: char| !c.is_alphabetic());
        words.any(|word| HELD_OUT.contains(&word))
    };
    let names = files.iter().map(|(name, _)| name);
    let held_out: Vec<String> = names.filter(|name| named(name)).cloned().collect();
    match held_out.len() == files.len() {
        true => Vec::new(),
        false => held_out,
    }
}

/// Holds out the records of `files`, or, where there are none, `eval_split` (a share, or a number)
/// of the records, chosen by `seed`.
///
/// # Errors
/// Nothing is left to train on.
pub(super) fn split(
    records: Vec<Record>,
    prints: Vec<Fingerprint>,
    files: &[String],
    eval_split: f64,
    seed: u64,
) -> Result<Split> {
    let out = match files {
        [] => by_chance(records.len(), eval_split, seed)?,
        _ => by_files(&records, files)?,
    };
    let mut split = Split {
        train: Vec::with_capacity(records.len()),
        eval: Vec::new(),
        prints: Vec::with_capacity(prints.len()),
    };
    let mut prints_of_eval = Vec::new();
    for ((record, print), out) in records.into_iter().zip(prints).zip(out) {
        if out {
            split.eval.push(record);
            prints_of_eval.push(print);
        } else {
            split.train.push(record);
            split.prints.push(print);
        }
    }
    split.prints.extend(prints_of_eval);
    Ok(split)
}

fn by_files(records: &[Record], files: &[String]) -> Result<Vec<bool>> {
    let from = |record: &Record, file: &String| {
        let rest = record.origin.strip_prefix(file.as_str());
        rest.is_some_and(|rest| rest.starts_with(':'))
    };
    let out: Vec<bool> = records
        .iter()
        .map(|record| files.iter().any(|file| from(record, file)))
        .collect();
    if out.iter().all(|out| *out) {
        return Err(input_error(format!(
            "train_data_dir: all usable records lie in files that are held out because of their \
             names ({}), which leaves none to train on; mend or rename the others",
            super::files::listed(files)
        )));
    }
    Ok(out)
}

pub(super) fn by_chance(total: usize, eval_split: f64, seed: u64) -> Result<Vec<bool>> {
    let mut out = vec![false; total];
    if eval_split == 0.0 {
        return Ok(out);
    }
    let held_out = if eval_split < 1.0 {
        ((eval_split * total as f64).round() as usize).max(1)
    } else {
        eval_split as usize
    };
    if held_out >= total {
        return Err(input_error(format!(
            "eval_split: {eval_split} holds out {held_out} of {total} usable records and leaves none \
             to train on; write a smaller one, or `eval_split: 0` for no eval"
        )));
    }
    let mut order: Vec<u32> = (0..total as u32).collect();
    Stream::new(seed, Purpose::Split, 0, 0).shuffle(&mut order);
    for index in &order[..held_out] {
        out[*index as usize] = true;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_held_out_by_a_whole_word_of_their_names() {
        let held_out = |names: &[&str]| {
            let files: Vec<_> = names
                .iter()
                .map(|n| ((*n).to_owned(), PathBuf::new()))
                .collect();
            held_out_files(&files)
        };
        let none: [&str; 0] = [];
        assert_eq!(held_out(&["train.jsonl", "eval.jsonl"]), ["eval.jsonl"]);
        assert_eq!(
            held_out(&[
                "a.jsonl",
                "qa-validation-00000.jsonl",
                "test/b.json",
                "latest.csv"
            ]),
            ["qa-validation-00000.jsonl", "test/b.json"]
        );
        assert_eq!(held_out(&["medieval.jsonl", "contest.jsonl"]), none);
        // All that there is must be meant for training.
        assert_eq!(held_out(&["test.jsonl"]), none);
        assert_eq!(held_out(&["train.test"]), none);
    }
}
