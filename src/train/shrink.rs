//! What a run does when memory runs out: smaller pieces of a micro-batch, a pause, or a stop.
//!
//! A micro-batch stays what it is (the same records, the same place in the data): it is computed in
//! pieces, whose sums of losses and gradients are those of the whole. Half the pieces' size is the
//! same as half the `batch_size` with twice the `gradient_accumulation_steps`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use super::memory::{Room, room};
use super::objective::{Batch, Sums};
use super::trainer::{Flow, Interrupt, Trainer};
use crate::config::OnOom;
use crate::model::DropoutKey;
use crate::ops::heap::{self, OutOfMemory, Watch};
use crate::protocol::{CheckpointReason, Level};

/// How long a look at the machine's limits holds: what this process takes is counted all the time.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Least address space kept for the moment when an allocation is refused.
const LEAST_RESERVE: u64 = 32 << 20;

/// In which pieces micro-batches are computed. Part of a checkpoint once memory has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// Records computed at once, at most.
    pub records: usize,
    /// Whether activations are computed again in backward.
    pub recompute: bool,
}

impl Pieces {
    /// The next smaller way to compute a piece of `records` records that did not fit: half of it,
    /// and a single record with less kept in memory. `None`: there is none.
    fn smaller(self, records: usize) -> Option<Pieces> {
        match records {
            0 | 1 if self.recompute => None,
            0 | 1 => Some(Pieces {
                recompute: true,
                ..self
            }),
            n => Some(Pieces {
                records: n.div_ceil(2),
                ..self
            }),
        }
    }
}

/// What was being done, for the sentence.
#[derive(Clone, Copy)]
pub(super) enum Work {
    Step,
    Eval,
    Sample,
}

/// Whether an error says that memory ran out.
pub(super) fn is_out_of_memory(error: &anyhow::Error) -> bool {
    heap::says_out_of_memory(&format!("{error:#}"))
}

/// Does work on up to `momentary` bytes at a time within what the machine's limits leave. Memory
/// that runs out is an error.
pub(super) fn watched<T>(momentary: u64, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let headroom = room_now().bytes.saturating_sub(momentary);
    let watch = Watch::new(
        usize::try_from(headroom).unwrap_or(usize::MAX),
        momentary.max(LEAST_RESERVE) as usize,
    );
    let done = work();
    drop(watch);
    done
}

/// Work that takes `bytes` in plain collections, which cannot fail in between: it is not begun when
/// they would not fit.
///
/// # Errors
/// [`OutOfMemory`], or what the work returns.
pub(super) fn admitted<T>(bytes: u64, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let room = room_now();
    if room.bytes < bytes {
        let bytes = bytes as usize;
        return Err(anyhow!(OutOfMemory { bytes }).context(format!("memory, under {}", room.limit)));
    }
    watched(bytes, work)
}

/// When the limits were read, what was in use then, and what they left.
static LAST: Mutex<Option<(Instant, usize, Room)>> = Mutex::new(None);

/// What is left now. The limits are read again only now and then, and what was allocated since is
/// taken off.
fn room_now() -> Room {
    let mut last = LAST.lock().unwrap_or_else(|e| e.into_inner());
    let live = heap::live_bytes();
    match &*last {
        Some((when, then, room)) if when.elapsed() < LOOK_EVERY => Room {
            bytes: room
                .bytes
                .saturating_sub(live.saturating_sub(*then) as u64)
                .saturating_add(then.saturating_sub(live) as u64),
            limit: room.limit.clone(),
        },
        _ => {
            let room = room();
            *last = Some((Instant::now(), live, room.clone()));
            room
        }
    }
}

impl Trainer<'_> {
    /// Adds loss and gradients of a micro-batch to the optimizer's, in pieces that fit into memory.
    pub fn compute(&mut self, batch: &dyn Batch, dropout: Option<DropoutKey>) -> Flow<Sums> {
        let mut sums = Sums::default();
        let (mut done, mut tokens_before) = (0, 0);
        while done < batch.rows() {
            let piece = batch.piece(done, self.pieces.records);
            let records = piece.len();
            let dropout = dropout.map(|key| DropoutKey {
                tokens_before,
                ..key
            });
            let computed = watched(batch.momentary_bytes(&piece), || {
                batch.loss_and_gradients(piece, &self.set, dropout, self.pieces.recompute)
            });
            match computed {
                Ok(pass) => {
                    self.optimizer.add(&pass.gradients)?;
                    sums.add(pass.sums)?;
                    tokens_before += pass.computed;
                    done += records;
                }
                Err(e) => self.out_of_memory(e, records, Work::Step)?,
            }
        }
        Ok(sums)
    }

    /// Does what `on_oom` says after a piece of `records` records did not fit, and returns when it is
    /// to be tried again. Other errors are passed on.
    pub fn out_of_memory(&mut self, error: anyhow::Error, records: usize, work: Work) -> Flow<()> {
        if !is_out_of_memory(&error) {
            return Err(error.into());
        }
        self.settle()?;
        let during = match work {
            Work::Step => format!("in step {}", self.progress.step + 1),
            Work::Eval => "in an eval".to_owned(),
            Work::Sample => "in a sample".to_owned(),
        };
        let records_text = match records {
            1 => "1 record".to_owned(),
            n => format!("{n} records at once"),
        };
        let what = format!(
            "memory ran out {during} with {records_text} ({error:#}; the tightest limit is {})",
            room_now().limit
        );
        heap::give_back();
        *LAST.lock().unwrap_or_else(|e| e.into_inner()) = None;
        match (self.config.on_oom, self.pieces.smaller(records)) {
            (OnOom::Shrink, Some(smaller)) => {
                self.pieces = smaller;
                let how = match records {
                    0 | 1 => "activations are computed again in backward, as with \
                              `gradient_checkpointing: true`"
                        .to_owned(),
                    _ => format!(
                        "micro-batches are computed {} at a time, with as much more accumulation",
                        smaller.records
                    ),
                };
                self.message(
                    Level::Warning,
                    format!(
                        "{what}: from now on {how}; the gradient stays the same. {}",
                        self.what_to_change(records)
                    ),
                );
                Ok(())
            }
            (OnOom::Stop, _) => {
                self.try_save(CheckpointReason::Stop)?;
                Err(Interrupt::Failed(anyhow!(
                    "{what}, and on_oom is stop; the last checkpoint is whole. {}",
                    self.what_to_change(records)
                )))
            }
            _ => self.pause_for(&format!(
                "{what}. {}; or free memory and resume to try again",
                self.what_to_change(records)
            )),
        }
    }

    fn what_to_change(&self, records: usize) -> String {
        let config = &self.config;
        match records {
            0 | 1 => self.objective.smaller_record().to_owned(),
            _ if config.packing => {
                "To begin with less another time, lower batch_size, or sequence_len".to_owned()
            }
            n => format!(
                "To begin with less another time: batch_size: {}, gradient_accumulation_steps: {}",
                n.div_ceil(2),
                config.gradient_accumulation_steps * config.batch_size.div_ceil(n.div_ceil(2))
            ),
        }
    }

    /// The pieces as a checkpoint keeps them: none where the config's own are used.
    pub fn pieces_to_keep(&self) -> Option<Pieces> {
        (self.pieces != self.configured_pieces).then_some(self.pieces)
    }

    /// Says so when a checkpoint's smaller pieces are used.
    pub fn tell_pieces(&self) {
        if let Some(pieces) = self.pieces_to_keep() {
            let mut how = Vec::new();
            if pieces.records < self.configured_pieces.records {
                how.push(format!(
                    "micro-batches are computed {} at a time",
                    pieces.records
                ));
            }
            if pieces.recompute && !self.configured_pieces.recompute {
                how.push("activations are computed again in backward".to_owned());
            }
            self.message(
                Level::Info,
                format!(
                    "memory ran out before: {} (`on_oom: pause` begins with batch_size again)",
                    how.join(", and ")
                ),
            );
        }
    }
}
