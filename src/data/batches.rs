//! The order of training.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::Record;
use crate::config::RunConfig;
use crate::model::TokenBatch;
use crate::random::{Purpose, Stream};

/// Where the next micro-batch comes from: all a checkpoint needs to go on reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursor {
    pub epoch: u64,
    /// Micro-batches of this epoch already used.
    pub micro_batch: u64,
}

/// How the records of an epoch become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// A record a row, shuffled.
    Shuffled,
    /// A record a row, shuffled so that steps of this many rows are of like length.
    ByLength { step_rows: usize },
    /// Rows of up to this many tokens, filled with whole records.
    Packed { row_tokens: usize },
}

/// The order of training: a pure function of seed, epoch and position. Every epoch has the same
/// number of rows.
pub struct Batches {
    seed: u64,
    /// Rows of a micro-batch.
    batch_size: usize,
    arrangement: Arrangement,
    /// Tokens of each record.
    lengths: Vec<u32>,
    rows: usize,
    /// The last epoch asked for, so that it is arranged once and not per micro-batch.
    known: Mutex<Option<(u64, Epoch)>>,
}

/// An epoch's records in order, and where each row of them ends.
#[derive(Clone, Debug, PartialEq)]
struct Epoch {
    records: Vec<u32>,
    ends: Vec<u32>,
}

impl Batches {
    /// Micro-batches of `batch_size` rows out of records of the given lengths.
    pub fn new(seed: u64, batch_size: usize, arrangement: Arrangement, lengths: Vec<u32>) -> Self {
        let mut batches = Batches {
            seed,
            batch_size: batch_size.max(1),
            arrangement,
            rows: lengths.len(),
            lengths,
            known: Mutex::new(None),
        };
        if let Arrangement::Packed { .. } = arrangement {
            batches.rows = batches.arranged(0).ends.len();
        }
        batches
    }

    /// The order that a config asks for.
    pub fn of(config: &RunConfig, records: &[Record]) -> Self {
        let arrangement = if config.packing {
            Arrangement::Packed {
                row_tokens: config.sequence_len,
            }
        } else if config.group_by_length {
            Arrangement::ByLength {
                step_rows: config.batch_size * config.gradient_accumulation_steps,
            }
        } else {
            Arrangement::Shuffled
        };
        let lengths = records.iter().map(|record| record.ids.len() as u32);
        Self::new(
            config.seed,
            config.batch_size,
            arrangement,
            lengths.collect(),
        )
    }

    /// Rows of one epoch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Micro-batches of one epoch (the last may be smaller).
    pub fn per_epoch(&self) -> u64 {
        self.rows.div_ceil(self.batch_size) as u64
    }

    /// Indices of the records of the micro-batch at `cursor`, row after row, and the cursor after
    /// it. Without records: none, and the same cursor.
    pub fn at(&self, cursor: Cursor) -> (Vec<usize>, Cursor) {
        let per_epoch = self.per_epoch();
        if per_epoch == 0 {
            return (Vec::new(), cursor);
        }
        // A cursor behind an epoch's last micro-batch stands before the next epoch's first.
        let epoch = cursor.epoch + cursor.micro_batch / per_epoch;
        let micro_batch = cursor.micro_batch % per_epoch;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, arranged) = match known.take() {
            Some(same) if same.0 == epoch => known.insert(same),
            _ => known.insert((epoch, self.arranged(epoch))),
        };
        let from = micro_batch as usize * self.batch_size;
        let to = (from + self.batch_size).min(self.rows);
        let start = match from.checked_sub(1) {
            Some(before) => arranged.ends[before],
            None => 0,
        };
        let records = &arranged.records[start as usize..arranged.ends[to - 1] as usize];
        let after = if micro_batch + 1 == per_epoch {
            Cursor {
                epoch: epoch + 1,
                micro_batch: 0,
            }
        } else {
            Cursor {
                epoch,
                micro_batch: micro_batch + 1,
            }
        };
        (records.iter().map(|i| *i as usize).collect(), after)
    }

    fn arranged(&self, epoch: u64) -> Epoch {
        let mut order: Vec<u32> = (0..self.lengths.len() as u32).collect();
        Stream::new(self.seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
        match self.arrangement {
            Arrangement::Shuffled => Epoch::of_single(order),
            Arrangement::ByLength { step_rows } => {
                group_by_length(&mut order, &self.lengths, step_rows.max(1));
                Epoch::of_single(order)
            }
            Arrangement::Packed { row_tokens } => {
                let mut rows = pack(order, &self.lengths, row_tokens);
                Stream::new(self.seed, Purpose::Shuffle, epoch, 1).shuffle(&mut rows);
                let mut arranged = Epoch::of_single(Vec::new());
                for row in rows {
                    arranged.records.extend(row);
                    arranged.ends.push(arranged.records.len() as u32);
                }
                arranged
            }
        }
    }
}

impl Epoch {
    /// Every record a row of its own.
    fn of_single(records: Vec<u32>) -> Self {
        Epoch {
            ends: (1..=records.len() as u32).collect(),
            records,
        }
    }
}

/// Orders shuffled records so that those of a step are of like length, as transformers'
/// `LengthGroupedSampler` does: megabatches of up to 50 steps, the longest record of each first,
/// and the longest of all at the very beginning, where too little memory shows at once.
fn group_by_length(order: &mut [u32], lengths: &[u32], step_rows: usize) {
    let steps = (order.len() / (4 * step_rows)).clamp(1, 50);
    let size = steps * step_rows;
    let length = |record: u32| lengths[record as usize];
    for megabatch in order.chunks_mut(size) {
        megabatch.sort_by_key(|&record| Reverse(length(record)));
    }
    // Of equally long ones the first, as `argmax` has it.
    let longest = (0..order.len())
        .step_by(size)
        .max_by_key(|&first| (length(order[first]), Reverse(first)));
    if let Some(longest) = longest {
        order.swap(0, longest);
    }
}

/// Fills rows of up to `row_tokens` with whole records: best-fit decreasing, which needs at most
/// 11/9 of the fewest rows possible (Johnson et al., 1974). How many rows come out depends on the
/// lengths alone; which of equally long records lies where, on `order`. A record that is longer
/// than a row has one to itself.
fn pack(mut order: Vec<u32>, lengths: &[u32], row_tokens: usize) -> Vec<Vec<u32>> {
    let length = |record: u32| lengths[record as usize] as usize;
    order.sort_by_key(|&record| Reverse(length(record)));
    let mut rows: Vec<Vec<u32>> = Vec::new();
    // Rows by the tokens they still have room for.
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for record in order {
        let needed = length(record);
        let tightest = open.range(needed..).next().map(|(&room, _)| room);
        let (row, room) = match tightest.and_then(|room| Some((open.get_mut(&room)?.pop()?, room)))
        {
            Some((row, room)) => {
                if open.get(&room).is_some_and(Vec::is_empty) {
                    open.remove(&room);
                }
                (row, room)
            }
            None => {
                rows.push(Vec::new());
                (rows.len() - 1, row_tokens)
            }
        };
        rows[row].push(record);
        let left = room.saturating_sub(needed);
        if left > 0 {
            open.entry(left).or_default().push(row);
        }
    }
    rows
}

/// The records as rows of a batch, without padding, each with the targets of its own tokens. Packed
/// records stay rows apart, so none sees another, and each begins at position 0.
pub fn collate(records: &[&Record]) -> TokenBatch {
    let targets = |record: &&Record| {
        let next = record.ids.iter().zip(&record.trained).skip(1);
        next.map(|(id, trained)| trained.then_some(*id))
            .chain([None])
            .take(record.ids.len())
            .collect()
    };
    TokenBatch {
        input_ids: records.iter().map(|record| record.ids.clone()).collect(),
        targets: records.iter().map(targets).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRANGEMENTS: [Arrangement; 3] = [
        Arrangement::Shuffled,
        Arrangement::ByLength { step_rows: 4 },
        Arrangement::Packed { row_tokens: 30 },
    ];

    /// Lengths from 1 to 30, most of them short.
    fn lengths(count: usize) -> Vec<u32> {
        let mut stream = Stream::new(3, Purpose::Split, 0, 0);
        (0..count)
            .map(|_| 1 + stream.below(30) * stream.below(30) / 30)
            .collect()
    }

    fn batches(seed: u64, batch_size: usize, records: usize) -> Batches {
        Batches::new(seed, batch_size, Arrangement::Shuffled, lengths(records))
    }

    fn epoch(batches: &Batches, epoch: u64) -> Vec<Vec<usize>> {
        let mut cursor = Cursor {
            epoch,
            micro_batch: 0,
        };
        let mut all = Vec::new();
        while cursor.epoch == epoch {
            let (records, after) = batches.at(cursor);
            all.push(records);
            cursor = after;
        }
        all
    }

    #[test]
    fn every_record_comes_once_per_epoch_in_another_order_each() {
        for arrangement in ARRANGEMENTS {
            let batches = Batches::new(7, 4, arrangement, lengths(50));
            let (first, second) = (epoch(&batches, 0), epoch(&batches, 1));
            assert_eq!(first.len() as u64, batches.per_epoch());
            assert_eq!(second.len() as u64, batches.per_epoch());
            for records in [&first, &second] {
                let mut flat: Vec<usize> = records.concat();
                flat.sort_unstable();
                assert_eq!(flat, (0..50).collect::<Vec<_>>(), "{arrangement:?}");
            }
            assert_ne!(first, second, "{arrangement:?}");
        }
        let sizes: Vec<usize> = epoch(&batches(7, 4, 10), 0).iter().map(Vec::len).collect();
        assert_eq!(sizes, [4, 4, 2]);
    }

    #[test]
    fn the_order_depends_on_the_cursor_alone() {
        for arrangement in ARRANGEMENTS {
            let fresh = |seed| Batches::new(seed, 3, arrangement, lengths(40));
            let walked = fresh(7);
            let third = epoch(&walked, 3);
            for (i, expected) in third.iter().enumerate() {
                let cursor = Cursor {
                    epoch: 3,
                    micro_batch: i as u64,
                };
                assert_eq!(&fresh(7).at(cursor).0, expected);
            }
            assert_ne!(epoch(&fresh(8), 3), third);
            // Behind the last micro-batch stands the next epoch.
            let behind = Cursor {
                epoch: 2,
                micro_batch: walked.per_epoch(),
            };
            assert_eq!(walked.at(behind).0, third[0]);
        }
    }

    #[test]
    fn packed_rows_are_full_and_never_longer_than_asked() {
        let lengths = lengths(500);
        let tokens: u32 = lengths.iter().sum();
        let batches = Batches::new(
            1,
            1,
            Arrangement::Packed { row_tokens: 30 },
            lengths.clone(),
        );
        for number in [0, 1, 2] {
            let rows = epoch(&batches, number);
            assert_eq!(rows.len(), batches.rows());
            let length = |row: &Vec<usize>| row.iter().map(|&r| lengths[r]).sum::<u32>();
            assert!(rows.iter().all(|row| length(row) <= 30));
        }
        let fewest = tokens.div_ceil(30) as usize;
        assert!(
            batches.rows() <= fewest + 1,
            "{} of {fewest}",
            batches.rows()
        );
        // Nothing fits a row that is too short: each record has its own.
        let alone = Batches::new(1, 1, Arrangement::Packed { row_tokens: 2 }, vec![5, 9, 3]);
        assert_eq!(alone.rows(), 3);
    }

    #[derive(serde::Deserialize)]
    struct Grouped {
        lengths: Vec<u32>,
        batch_size: usize,
        shuffled: Vec<u32>,
        order: Vec<u32>,
    }

    #[test]
    fn records_are_grouped_by_length_as_transformers_groups_them() {
        let cases: Vec<Grouped> =
            serde_json::from_str(include_str!("../../tests/fixtures/length_grouped.json")).unwrap();
        assert!(cases.len() > 3);
        for mut case in cases {
            group_by_length(&mut case.shuffled, &case.lengths, case.batch_size);
            assert_eq!(case.shuffled, case.order, "{} records", case.lengths.len());
        }
    }

    #[test]
    fn targets_are_the_next_tokens_that_are_trained_on() {
        let record = |ids: &[u32], trained: &[bool]| Record {
            origin: String::new(),
            format: "text",
            ids: ids.to_vec(),
            trained: trained.to_vec(),
            cut: 0,
        };
        let long = record(&[5, 6, 7, 8], &[true, false, true, true]);
        let short = record(&[9, 3], &[false, true]);
        let batch = collate(&[&long, &short]);
        assert_eq!(batch.input_ids, [vec![5, 6, 7, 8], vec![9, 3]]);
        assert_eq!(
            batch.targets,
            [vec![None, Some(7), Some(8), None], vec![Some(3), None]]
        );
    }
}
