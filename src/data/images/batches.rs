//! The order of training on images.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::ImageDataset;
use crate::config::RunConfig;
use crate::data::Cursor;
use crate::random::{Purpose, Stream};

/// An image's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index into [`ImageDataset::items`].
    pub item: usize,
    /// Counts every row of the run from 0: the counter of all that is random about this turn.
    pub draw: u64,
}

/// The order of training: a pure function of seed, epoch and position. Every micro-batch is of one
/// bucket; every epoch has each image as often as it repeats, in as many micro-batches.
pub struct ImageBatches {
    seed: u64,
    batch_size: usize,
    /// The items of each bucket, each as often as it repeats.
    buckets: Vec<Vec<u32>>,
    rows: usize,
    /// The last epoch asked for: items in order, and where each micro-batch ends.
    known: Mutex<Option<(u64, Epoch)>>,
}

#[derive(Clone)]
struct Epoch {
    items: Vec<u32>,
    ends: Vec<u32>,
}

impl ImageBatches {
    /// The order that a config asks for; held-out images have no turn.
    pub fn of(config: &RunConfig, dataset: &ImageDataset) -> Self {
        let mut buckets: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        for (index, item) in dataset.items.iter().enumerate() {
            if dataset.held_out.contains(&index) {
                continue;
            }
            let rows = buckets.entry(item.placement.bucket).or_default();
            rows.extend(std::iter::repeat_n(index as u32, item.repeats as usize));
        }
        Self::new(
            config.seed,
            config.batch_size,
            buckets.into_values().collect(),
        )
    }

    fn new(seed: u64, batch_size: usize, buckets: Vec<Vec<u32>>) -> Self {
        ImageBatches {
            seed,
            batch_size: batch_size.max(1),
            rows: buckets.iter().map(Vec::len).sum(),
            buckets,
            known: Mutex::new(None),
        }
    }

    /// Rows of one epoch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Micro-batches of one epoch (the last of each bucket may be smaller).
    pub fn per_epoch(&self) -> u64 {
        let batches = |bucket: &Vec<u32>| bucket.len().div_ceil(self.batch_size) as u64;
        self.buckets.iter().map(batches).sum()
    }

    /// The rows of the micro-batch at `cursor`, and the cursor after it. Without images: none, and
    /// the same cursor.
    pub fn at(&self, cursor: Cursor) -> (Vec<Row>, Cursor) {
        let per_epoch = self.per_epoch();
        if per_epoch == 0 {
            return (Vec::new(), cursor);
        }
        // A cursor behind an epoch's last micro-batch stands before the next epoch's first.
        let epoch = cursor.epoch + cursor.micro_batch / per_epoch;
        let micro_batch = (cursor.micro_batch % per_epoch) as usize;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let arranged = match &*known {
            Some((at, arranged)) if *at == epoch => arranged,
            _ => &known.insert((epoch, self.arranged(epoch))).1,
        };
        let start = match micro_batch.checked_sub(1) {
            Some(before) => arranged.ends[before],
            None => 0,
        };
        let first = epoch * self.rows as u64;
        let rows = (start..arranged.ends[micro_batch])
            .map(|place| Row {
                item: arranged.items[place as usize] as usize,
                draw: first + u64::from(place),
            })
            .collect();
        let after = match micro_batch as u64 + 1 {
            next if next == per_epoch => Cursor {
                epoch: epoch + 1,
                micro_batch: 0,
            },
            next => Cursor {
                epoch,
                micro_batch: next,
            },
        };
        (rows, after)
    }

    /// Shuffles each bucket, cuts it into micro-batches, and shuffles those.
    fn arranged(&self, epoch: u64) -> Epoch {
        let mut batches: Vec<Vec<u32>> = Vec::new();
        for (index, bucket) in self.buckets.iter().enumerate() {
            let mut items = bucket.clone();
            let stream = index as u32 + 1;
            Stream::new(self.seed, Purpose::Shuffle, epoch, stream).shuffle(&mut items);
            batches.extend(items.chunks(self.batch_size).map(<[u32]>::to_vec));
        }
        Stream::new(self.seed, Purpose::Shuffle, epoch, 0).shuffle(&mut batches);
        let mut arranged = Epoch {
            items: Vec::with_capacity(self.rows),
            ends: Vec::with_capacity(batches.len()),
        };
        for batch in batches {
            arranged.items.extend(batch);
            arranged.ends.push(arranged.items.len() as u32);
        }
        arranged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(seed: u64) -> ImageBatches {
        // Seven images, one of them three times, and three of another shape.
        let first = vec![0, 1, 2, 2, 2, 3, 4, 5, 6];
        ImageBatches::new(seed, 4, vec![first, vec![7, 8, 9]])
    }

    fn epoch(batches: &ImageBatches, epoch: u64) -> Vec<Vec<Row>> {
        let mut cursor = Cursor {
            epoch,
            micro_batch: 0,
        };
        let mut all = Vec::new();
        while cursor.epoch == epoch {
            let (rows, after) = batches.at(cursor);
            all.push(rows);
            cursor = after;
        }
        all
    }

    #[test]
    fn every_image_comes_as_often_as_it_repeats_in_batches_of_one_bucket() {
        let batches = batches(3);
        let (first, second) = (epoch(&batches, 0), epoch(&batches, 1));
        for (number, all) in [&first, &second].into_iter().enumerate() {
            assert_eq!(all.len() as u64, batches.per_epoch());
            assert_eq!(batches.per_epoch(), 4);
            let mut items: Vec<usize> = all.iter().flatten().map(|r| r.item).collect();
            items.sort_unstable();
            assert_eq!(items, [0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9]);
            for rows in all {
                let wide = rows.iter().filter(|r| r.item >= 7).count();
                assert!(wide == 0 || wide == rows.len());
            }
            // Draws count on from epoch to epoch, each used once.
            let draws: Vec<u64> = all.iter().flatten().map(|r| r.draw).collect();
            let from = (number * batches.rows()) as u64;
            assert_eq!(draws, (from..from + 12).collect::<Vec<_>>());
        }
        let order =
            |all: &[Vec<Row>]| -> Vec<usize> { all.iter().flatten().map(|r| r.item).collect() };
        assert_ne!(order(&first), order(&second));
    }

    #[test]
    fn the_order_depends_on_the_cursor_alone() {
        let third = epoch(&batches(3), 3);
        for (micro_batch, expected) in third.iter().enumerate() {
            let cursor = Cursor {
                epoch: 3,
                micro_batch: micro_batch as u64,
            };
            assert_eq!(&batches(3).at(cursor).0, expected);
        }
        let behind = Cursor {
            epoch: 2,
            micro_batch: batches(3).per_epoch(),
        };
        assert_eq!(batches(3).at(behind).0, third[0]);
        assert_ne!(epoch(&batches(4), 3), third);
        assert!(ImageBatches::new(1, 4, Vec::new()).at(behind).0.is_empty());
    }
}
