//! Micro-batches made ahead on a thread of their own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use anyhow::{Context, Result};

use super::{Batches, Cursor, Dataset, collate};
use crate::model::TokenBatch;

/// Micro-batches that lie ready.
const AHEAD: usize = 2;

/// What one pass trains on.
pub struct MicroBatch {
    pub batch: TokenBatch,
    /// Tokens of its records, those beyond the last target included.
    pub tokens: u64,
    /// Where the next one begins.
    pub after: Cursor,
}

/// Hands out the micro-batches of the training data in order, and makes the next ones meanwhile.
///
/// What it hands out is a function of the cursor alone: going on elsewhere only costs what was
/// made ahead.
pub struct Loader {
    data: Arc<Dataset>,
    batches: Arc<Batches>,
    /// What is being made ahead, and the cursor of its first.
    ahead: Option<(Cursor, Receiver<MicroBatch>)>,
}

impl Loader {
    pub fn new(data: Arc<Dataset>, batches: Arc<Batches>) -> Self {
        Loader {
            data,
            batches,
            ahead: None,
        }
    }

    /// The micro-batch at `cursor`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn take(&mut self, cursor: Cursor) -> Result<MicroBatch> {
        let receiver = match self.ahead.take() {
            Some((next, receiver)) if next == cursor => receiver,
            _ => self.start(cursor)?,
        };
        let made = receiver.recv().context("no more batches are made")?;
        self.ahead = Some((made.after, receiver));
        Ok(made)
    }

    /// Begins to make micro-batches from `from` on, until the receiver is dropped.
    fn start(&self, from: Cursor) -> Result<Receiver<MicroBatch>> {
        let (sender, receiver) = sync_channel(AHEAD);
        let (data, batches) = (Arc::clone(&self.data), Arc::clone(&self.batches));
        let make = move || {
            let mut cursor = from;
            loop {
                let made = micro_batch(&data, &batches, cursor);
                let ends = made.after == cursor;
                cursor = made.after;
                if sender.send(made).is_err() || ends {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("batches".into())
            .spawn(make)
            .context("cannot start the thread that makes batches")?;
        Ok(receiver)
    }
}

fn micro_batch(data: &Dataset, batches: &Batches, cursor: Cursor) -> MicroBatch {
    let (indices, after) = batches.at(cursor);
    let records: Vec<_> = indices.iter().map(|&record| &data.train[record]).collect();
    MicroBatch {
        batch: collate(&records),
        tokens: records.iter().map(|record| record.ids.len() as u64).sum(),
        after,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Arrangement, Record};
    use super::*;
    use crate::protocol::DataStatistics;

    fn loader(records: usize) -> (Loader, Arc<Batches>) {
        let record = |i: usize| Record {
            origin: String::new(),
            format: "text",
            ids: vec![i as u32; 2 + i % 5],
            trained: vec![true; 2 + i % 5],
            cut: 0,
        };
        let data = Arc::new(Dataset {
            train: (0..records).map(record).collect(),
            eval: Vec::new(),
            statistics: DataStatistics::default(),
            bad: Vec::new(),
        });
        let lengths = data.train.iter().map(|r| r.ids.len() as u32).collect();
        let arrangement = Arrangement::Packed { row_tokens: 12 };
        let batches = Arc::new(Batches::new(1, 2, arrangement, lengths));
        (Loader::new(data, Arc::clone(&batches)), batches)
    }

    #[test]
    fn what_is_handed_out_depends_on_the_cursor_alone() {
        let (mut loader, batches) = loader(50);
        let mut walked = Vec::new();
        let mut cursor = Cursor::default();
        while cursor.epoch < 2 {
            let made = loader.take(cursor).unwrap();
            assert_eq!(
                made.tokens,
                made.batch.input_ids.iter().map(Vec::len).sum::<usize>() as u64
            );
            walked.push((cursor, made.batch.input_ids));
            cursor = made.after;
        }
        assert_eq!(walked.len() as u64, 2 * batches.per_epoch());
        // Jumping about, as a step that is done over does.
        for (cursor, expected) in walked.iter().rev() {
            assert_eq!(&loader.take(*cursor).unwrap().batch.input_ids, expected);
        }
    }

    #[test]
    fn without_records_there_is_an_end() {
        let (mut loader, _) = loader(0);
        let made = loader.take(Cursor::default()).unwrap();
        assert!(made.batch.input_ids.is_empty());
        assert!(loader.take(made.after).is_err());
    }
}
