//! What a run learns and from what: text by cross-entropy ([`super::text`]), pictures by denoising
//! ([`super::image`]). The loop knows no more of either than this.

use std::ops::{AddAssign, Range};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use candle_core::Tensor;

use crate::adapter::Written;
use crate::config::{ExportFormat, RunConfig};
use crate::data::Cursor;
use crate::model::{Active, DropoutKey, LoraSet};
use crate::ops::LossSum;
use crate::protocol::EventKind;

/// A base with the data it is trained on.
pub(super) trait Objective {
    /// The base as the config names it.
    fn base_name(&self) -> &str;

    /// What is told of base and adapter once they are in memory.
    fn model_event(&self, set: &LoraSet) -> EventKind;

    /// Micro-batches of one epoch.
    fn per_epoch(&self) -> u64;

    /// The micro-batch at a cursor: a function of the cursor alone.
    ///
    /// # Errors
    /// Data that can no longer be read.
    fn take(&self, cursor: Cursor) -> Result<Taken>;

    /// Records that are held out.
    fn held_out_count(&self) -> u64;

    /// All that is held out, in the order it is best computed in.
    ///
    /// # Errors
    /// Data that can no longer be read.
    fn held_out(&self) -> Result<Box<dyn Batch>>;

    /// The adapter that a config asks for, as it is before the first step.
    ///
    /// # Errors
    /// Targets that the base does not have; the device fails.
    fn untrained(&self, config: &RunConfig) -> Result<LoraSet>;

    /// Reads an adapter of any format for this base.
    ///
    /// # Errors
    /// No adapter, or one of another base.
    fn read_adapter(&self, path: &Path) -> Result<LoraSet>;

    /// Gives `set`, whose numbers were read from an adapter of LoRA, the magnitudes of DoRA with
    /// which it acts as before.
    ///
    /// # Errors
    /// The device fails.
    fn add_magnitudes(&self, set: &mut LoraSet) -> Result<()>;

    /// The adapter's files in a checkpoint, name and bytes; [`Objective::read_adapter`] reads them.
    /// `step`: how far the adapter is trained.
    ///
    /// # Errors
    /// The device fails.
    fn checkpoint_files(
        &self,
        set: &LoraSet,
        config: &RunConfig,
        step: u64,
    ) -> Result<Vec<(&'static str, Vec<u8>)>>;

    /// Writes the adapter in one format into `folder`. Its bytes depend on adapter, config, base and
    /// format alone.
    ///
    /// # Errors
    /// A format this adapter has no form in; another folder in the way; the disk fails.
    fn export(
        &self,
        set: &LoraSet,
        config: &RunConfig,
        step: u64,
        format: ExportFormat,
        folder: &Path,
    ) -> Result<Written>;

    /// What base and adapters make of a line of `sample_prompts`. `go_on` is asked now and then;
    /// what was made until it says no is of no use.
    ///
    /// # Errors
    /// A line that cannot be read; the device fails.
    fn sample(
        &self,
        prompt: &str,
        config: &RunConfig,
        adapters: &[Active<'_>],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Made>;

    /// Bytes that one operation of such a sample may take for a moment.
    ///
    /// # Errors
    /// A line that cannot be read.
    fn sample_bytes(&self, prompt: &str, config: &RunConfig) -> Result<u64>;

    /// What to lower where not even a single record fits into memory.
    fn smaller_record(&self) -> &'static str;
}

/// A micro-batch, and where the next one begins.
pub(super) struct Taken {
    pub batch: Box<dyn Batch>,
    pub after: Cursor,
}

/// Records that can be computed together or in pieces, with the same sums.
pub(super) trait Batch {
    fn rows(&self) -> usize;

    /// What its rows count in the throughput.
    fn volume(&self) -> Volume;

    /// The rows from `from` on, `most` at most, that one pass can take.
    fn piece(&self, from: usize, most: usize) -> Range<usize>;

    /// Bytes that one operation on these rows may take for a moment.
    fn momentary_bytes(&self, rows: &Range<usize>) -> u64;

    /// # Errors
    /// The device fails (memory).
    fn loss(&self, rows: Range<usize>, adapters: &[Active<'_>]) -> Result<Sums>;

    /// Forward and backward. `dropout.tokens_before` is the sum of [`Pass::computed`] of the pieces
    /// before this one. With `recompute` activations are computed again in backward.
    ///
    /// # Errors
    /// The device fails (memory).
    fn loss_and_gradients(
        &self,
        rows: Range<usize>,
        set: &LoraSet,
        dropout: Option<DropoutKey>,
        recompute: bool,
    ) -> Result<Pass>;
}

/// How much a micro-batch holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Volume {
    /// Tokens that are not padding; 0 in image runs.
    pub tokens: u64,
    /// Pictures; 0 in text runs.
    pub images: u64,
}

impl AddAssign for Volume {
    fn add_assign(&mut self, other: Volume) {
        self.tokens += other.tokens;
        self.images += other.images;
    }
}

/// Sums over rows: the loss, and what it is divided by (trained tokens, or pictures).
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub loss: LossSum,
    pub weight: u64,
}

impl Sums {
    pub fn add(&mut self, other: Sums) -> Result<()> {
        self.loss.add(other.loss)?;
        self.weight += other.weight;
        Ok(())
    }
}

/// Forward and backward over a piece.
pub(super) struct Pass {
    pub sums: Sums,
    /// Tokens (or pictures) computed, by which dropout of the next piece is keyed.
    pub computed: u64,
    /// Gradients of the sum, by the set's parameters.
    pub gradients: Vec<Tensor>,
}

/// A sample.
#[derive(Clone)]
pub(super) enum Made {
    Text(String),
    /// A PNG file.
    Picture(Arc<Vec<u8>>),
}

/// Behind the first bad record: how many more there are.
pub(super) fn and_more(bad: usize) -> String {
    match bad {
        0 => String::new(),
        n => format!(" (and {n} more; `loradeck check` lists them all)"),
    }
}
