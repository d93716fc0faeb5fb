//! Training data: reading, chat templates, tokenising with a loss mask, statistics, seeded batches.

use anyhow::Result;

use crate::config::RunConfig;
use crate::model::{TokenBatch, Tokenizer};
use crate::protocol::{DataStatistics, RecordPreview};

/// A tokenised record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// "train.jsonl:17".
    pub origin: String,
    pub format: &'static str,
    pub ids: Vec<u32>,
    /// Whether each token counts in the loss.
    pub trained: Vec<bool>,
    pub truncated: bool,
}

/// A record that could not be used.
#[derive(Clone, Debug, PartialEq)]
pub struct BadRecord {
    pub file: String,
    pub line: usize,
    pub reason: String,
}

/// The data of a run, read, tokenised and split.
pub struct Dataset {
    pub train: Vec<Record>,
    pub eval: Vec<Record>,
    pub statistics: DataStatistics,
    pub bad: Vec<BadRecord>,
}

/// Reads and tokenises everything `train_data_dir` names (a file or a folder). Bad records are
/// listed in `bad`; whether they end the run is the caller's choice (`skip_bad_records`).
///
/// # Errors
/// Nothing usable at all: no file, no record, unreadable folder, a chat template that fails.
pub fn load(config: &RunConfig, tokenizer: &Tokenizer) -> Result<Dataset> {
    let _ = (config, tokenizer);
    todo!("data room")
}

impl Dataset {
    /// Records `from..from + count` (train first, then eval) as the model sees them.
    pub fn preview(&self, tokenizer: &Tokenizer, from: usize, count: usize) -> Vec<RecordPreview> {
        let _ = (tokenizer, from, count);
        todo!("data room")
    }
}

/// Where the next micro-batch comes from: all a checkpoint needs to go on reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursor {
    pub epoch: u64,
    /// Micro-batches of this epoch already used.
    pub micro_batch: u64,
}

/// The order of training: a pure function of seed, epoch and position.
pub struct Batches {
    _private: (),
}

impl Batches {
    pub fn new(seed: u64, batch_size: usize, records: usize) -> Self {
        let _ = (seed, batch_size, records);
        todo!("data room")
    }
    /// Micro-batches of one epoch (the last may be smaller).
    pub fn per_epoch(&self) -> u64 {
        todo!("data room")
    }
    /// Indices of the records of the micro-batch at `cursor`, and the cursor after it.
    pub fn at(&self, cursor: Cursor) -> (Vec<usize>, Cursor) {
        let _ = cursor;
        todo!("data room")
    }
}

/// Right-pads the records into a batch with shifted targets.
pub fn collate(records: &[&Record]) -> TokenBatch {
    let _ = records;
    todo!("data room")
}

/// The chat-template rendering of a user's prompt, ready for generation; the prompt itself when
/// the base has no template.
pub fn render_prompt(
    tokenizer: &Tokenizer,
    template: Option<&str>,
    prompt: &str,
) -> Result<String> {
    let _ = (tokenizer, template, prompt);
    todo!("data room")
}
