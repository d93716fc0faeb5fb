//! What the data holds.

use std::collections::BTreeMap;

use super::Record;
use crate::protocol::{DataStatistics, LengthBucket};

/// Counts everything but what the reading and the findings know (files, skipped, duplicates).
pub(super) fn of(train: &[Record], eval: &[Record], warnings: Vec<String>) -> DataStatistics {
    let records = || train.iter().chain(eval);
    let mut lengths: Vec<u64> = records().map(|r| r.ids.len() as u64).collect();
    lengths.sort_unstable();
    let mut formats: BTreeMap<String, u64> = BTreeMap::new();
    for record in records() {
        *formats.entry(record.format.to_owned()).or_default() += 1;
    }

    let cut = || records().filter(|record| record.cut > 0);
    DataStatistics {
        train_records: train.len() as u64,
        eval_records: eval.len() as u64,
        formats,
        files: 0,
        tokens: lengths.iter().sum(),
        trained_tokens: records().map(trained_tokens).sum(),
        min_length: lengths.first().copied().unwrap_or(0),
        median_length: percentile(&lengths, 0.5),
        p95_length: percentile(&lengths, 0.95),
        max_length: lengths.last().copied().unwrap_or(0),
        truncated: cut().count() as u64,
        cut_tokens: cut().map(|record| record.cut as u64).sum(),
        packing: None,
        held_out_files: Vec::new(),
        duplicates: 0,
        skipped: 0,
        lengths: histogram(&lengths),
        images: None,
        findings: Vec::new(),
        warnings,
    }
}

/// Tokens that count in the loss: all that are trained on but the first, which nothing predicts.
pub(super) fn trained_tokens(record: &Record) -> u64 {
    record.trained.iter().skip(1).filter(|t| **t).count() as u64
}

/// By nearest rank; 0 of nothing.
pub(super) fn percentile(sorted: &[u64], share: f64) -> u64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

/// About 20 bars of a round width from the shortest to the longest.
pub(super) fn histogram(sorted: &[u64]) -> Vec<LengthBucket> {
    let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
        return Vec::new();
    };
    let width = (0..)
        .flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.pow(power)))
        .find(|width| max / width - min / width < 20)
        .unwrap_or(1);
    let first = min / width;
    let mut buckets: Vec<LengthBucket> = (first..=max / width)
        .map(|i| LengthBucket {
            from: i * width,
            to: (i + 1) * width,
            count: 0,
        })
        .collect();
    for length in sorted {
        buckets[(length / width - first) as usize].count += 1;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_every_length_once_in_at_most_twenty_bars() {
        for lengths in [
            vec![1],
            vec![7, 7, 7],
            (1..=100).collect::<Vec<u64>>(),
            vec![19, 20],
            vec![3, 1_000_000],
            (0..5000).map(|i| i * i).collect(),
        ] {
            let bars = histogram(&lengths);
            assert!(bars.len() <= 20);
            assert_eq!(
                bars.iter().map(|b| b.count).sum::<u64>(),
                lengths.len() as u64
            );
            for bar in &bars {
                let inside = |l: &&u64| (bar.from..bar.to).contains(*l);
                assert_eq!(bar.count, lengths.iter().filter(inside).count() as u64);
            }
            assert!(bars[0].count > 0 && bars[bars.len() - 1].count > 0);
        }
        assert!(histogram(&[]).is_empty());
    }
}
