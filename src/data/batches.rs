//! The order of training.

use std::sync::{Mutex, PoisonError};

use super::Record;
use crate::model::TokenBatch;
use crate::random::{Purpose, Stream};

/// Where the next micro-batch comes from: all a checkpoint needs to go on reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursor {
    pub epoch: u64,
    /// Micro-batches of this epoch already used.
    pub micro_batch: u64,
}

/// The order of training: a pure function of seed, epoch and position.
pub struct Batches {
    seed: u64,
    batch_size: usize,
    records: usize,
    /// The last epoch's order, so that it is shuffled once and not per micro-batch.
    order: Mutex<Option<(u64, Vec<u32>)>>,
}

impl Batches {
    /// Micro-batches of `batch_size` out of `records` records.
    pub fn new(seed: u64, batch_size: usize, records: usize) -> Self {
        Batches {
            seed,
            batch_size: batch_size.max(1),
            records,
            order: Mutex::new(None),
        }
    }

    /// Micro-batches of one epoch (the last may be smaller).
    pub fn per_epoch(&self) -> u64 {
        self.records.div_ceil(self.batch_size) as u64
    }

    /// Indices of the records of the micro-batch at `cursor`, and the cursor after it. Without
    /// records: none, and the same cursor.
    pub fn at(&self, cursor: Cursor) -> (Vec<usize>, Cursor) {
        let per_epoch = self.per_epoch();
        if per_epoch == 0 {
            return (Vec::new(), cursor);
        }
        // A cursor behind an epoch's last micro-batch stands before the next epoch's first.
        let epoch = cursor.epoch + cursor.micro_batch / per_epoch;
        let micro_batch = cursor.micro_batch % per_epoch;
        let mut cached = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, order) = match cached.take() {
            Some(known) if known.0 == epoch => cached.insert(known),
            _ => cached.insert((epoch, self.shuffled(epoch))),
        };
        let from = micro_batch as usize * self.batch_size;
        let to = (from + self.batch_size).min(self.records);
        let records = order[from..to].iter().map(|i| *i as usize).collect();
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
        (records, after)
    }

    fn shuffled(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.records as u32).collect();
        Stream::new(self.seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
        order
    }
}

/// Right-pads the records (with token 0, masked) into a batch with shifted targets.
pub fn collate(records: &[&Record]) -> TokenBatch {
    let longest = records.iter().map(|r| r.ids.len()).max().unwrap_or(0);
    let mut batch = TokenBatch {
        input_ids: Vec::with_capacity(records.len()),
        targets: Vec::with_capacity(records.len()),
    };
    for record in records {
        let mut ids = record.ids.clone();
        ids.resize(longest, 0);
        let next = record.ids.iter().zip(&record.trained).skip(1);
        let mut targets: Vec<Option<u32>> =
            next.map(|(id, trained)| trained.then_some(*id)).collect();
        targets.resize(longest, None);
        batch.input_ids.push(ids);
        batch.targets.push(targets);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let batches = Batches::new(7, 4, 10);
        let (first, second) = (epoch(&batches, 0), epoch(&batches, 1));
        assert_eq!(batches.per_epoch(), 3);
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let mut flat: Vec<usize> = first.concat();
        flat.sort_unstable();
        assert_eq!(flat, (0..10).collect::<Vec<_>>());
        assert_ne!(first, second);
    }

    #[test]
    fn the_order_depends_on_the_cursor_alone() {
        let walked = Batches::new(7, 3, 11);
        let third = epoch(&walked, 3);
        for (i, expected) in third.iter().enumerate() {
            let fresh = Batches::new(7, 3, 11);
            let cursor = Cursor {
                epoch: 3,
                micro_batch: i as u64,
            };
            assert_eq!(&fresh.at(cursor).0, expected);
        }
        assert_ne!(epoch(&Batches::new(8, 3, 11), 3), third);
        // Behind the last micro-batch stands the next epoch.
        let behind = Cursor {
            epoch: 2,
            micro_batch: 4,
        };
        assert_eq!(walked.at(behind).0, third[0]);
    }

    #[test]
    fn targets_are_the_next_tokens_that_are_trained_on() {
        let record = |ids: &[u32], trained: &[bool]| Record {
            origin: String::new(),
            format: "text",
            ids: ids.to_vec(),
            trained: trained.to_vec(),
            truncated: false,
        };
        let long = record(&[5, 6, 7, 8], &[true, false, true, true]);
        let short = record(&[9, 3], &[false, true]);
        let batch = collate(&[&long, &short]);
        assert_eq!(batch.input_ids, [vec![5, 6, 7, 8], vec![9, 3, 0, 0]]);
        assert_eq!(
            batch.targets,
            [
                vec![None, Some(7), Some(8), None],
                vec![Some(3), None, None, None]
            ]
        );
    }
}
