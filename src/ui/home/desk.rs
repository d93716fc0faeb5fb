//! What home asks of the rest of the house. The answers are made of plain data, so that home knows
//! nothing of bases, data sets or processes; `commands` fills them in.

use std::path::{Path, PathBuf};

use crate::protocol::{PhaseName, QueueState, RunCurves};

/// Answers home's questions. Every call may take its time: it is made on a thread of home's own.
pub trait Desk: Send + Sync {
    /// What there is now: runs, configs, the queue.
    ///
    /// # Errors
    /// The folder of runs cannot be listed.
    fn look(&self) -> Result<Overview, String>;
    /// Checks a config file with all it names.
    fn check(&self, config: &Path) -> Checked;
    /// Checks a config's text, as [`Desk::check`] would a file that holds it.
    fn check_text(&self, text: &str) -> Checked;
    /// What a run on this base and data should be given.
    ///
    /// # Errors
    /// One sentence: why base or data cannot be read.
    fn suggest(&self, base: &str, data: &str) -> Result<Suggestion, String>;
    /// What differs between runs.
    ///
    /// # Errors
    /// One of them cannot be read.
    fn compare(&self, runs: &[PathBuf]) -> Result<Comparison, String>;
    /// Does something; a sentence for the person, or why it cannot be done.
    ///
    /// # Errors
    /// Why it cannot be done.
    fn act(&self, deed: &Deed) -> Result<Outcome, String>;
}

/// What [`Desk::act`] does.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// Starts the run of a config, or goes on with it.
    Start(PathBuf),
    /// Deletes a run's folder.
    Delete(PathBuf),
    /// Adds a config to the queue, and starts the queue where it stands still.
    Queue(PathBuf),
    /// Moves a waiting entry one place earlier or later.
    Shift {
        entry: u64,
        earlier: bool,
    },
    /// Takes an entry's turn away.
    Skip(u64),
    /// Puts an entry whose turn is over at the end once more.
    Again(u64),
    StartQueue,
    /// Ends the queue: with the present run, or after it.
    StopQueue {
        now: bool,
    },
    /// Forgets what is over.
    ClearQueue,
    /// Writes a new config.
    Write {
        path: PathBuf,
        text: String,
    },
}

/// What a deed has led to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Done,
    /// A run was started or is under way: its folder.
    Started(PathBuf),
}

/// Everything on home's first screen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overview {
    /// Where the runs lie, as the person named it.
    pub folder: String,
    /// Newest first.
    pub runs: Vec<RunLine>,
    pub configs: Vec<ConfigLine>,
    pub queue: Vec<QueueLine>,
    /// Whether a process works through the queue.
    pub queue_runs: bool,
    /// The queue ends after the present run.
    pub queue_ends: bool,
}

/// A run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunLine {
    pub folder: PathBuf,
    pub name: String,
    pub phase: PhaseName,
    pub alive: bool,
    pub step: u64,
    pub total_steps: u64,
    pub loss: Option<f64>,
    pub eval: Option<f64>,
    /// The loss from the first step to the last, at most 64 values.
    pub curve: Vec<f64>,
    /// Seconds since the Unix epoch: of the first start, and of the last event.
    pub started: f64,
    pub changed: f64,
    pub error: Option<String>,
    pub base: String,
    pub data: String,
    pub config: Option<PathBuf>,
    pub revision: Option<String>,
    pub exports: Vec<String>,
}

/// A config file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigLine {
    pub path: PathBuf,
    /// Changes whenever the file does.
    pub stamp: u64,
}

/// A queued run.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueLine {
    pub id: u64,
    pub config: PathBuf,
    pub run_dir: PathBuf,
    pub state: QueueState,
    pub error: Option<String>,
    pub started: Option<f64>,
    pub ended: Option<f64>,
}

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checked {
    pub errors: Vec<Finding>,
    pub warnings: Vec<Finding>,
    pub facts: Option<Facts>,
}

/// Something wrong with a config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finding {
    /// From 1; 0: of no line.
    pub line: usize,
    pub key: String,
    pub text: String,
    /// How to mend it; may be empty.
    pub fix: String,
}

/// What a run of a config would be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub run_dir: PathBuf,
    pub base: String,
    pub base_parameters: u64,
    pub adapter_parameters: u64,
    pub records: u64,
    pub steps: u64,
    pub memory: Option<Memory>,
}

/// How much memory a run takes, by purpose, in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    pub weights: u64,
    pub adapter: u64,
    pub optimizer: u64,
    pub activations: u64,
    pub logits: u64,
    /// What the machine can give; `None` where it does not tell.
    pub available: Option<u64>,
    pub fit: Option<Fit>,
    /// While pictures are encoded or decoded, of the whole process; 0 in text runs.
    pub pictures: u64,
    pub rows: Rows,
    /// The whole for other `batch_size`s.
    pub batches: Vec<(u64, u64, Option<Fit>)>,
}

impl Memory {
    pub fn total(&self) -> u64 {
        let training =
            self.weights + self.adapter + self.optimizer + self.activations + self.logits;
        training.max(self.pictures)
    }
}

/// The largest row that the data has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    Tokens(u64),
    /// Width and height of a picture.
    Pixels(u32, u32),
}

impl Default for Rows {
    fn default() -> Self {
        Rows::Tokens(0)
    }
}

/// How an estimate fits what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Safe,
    Tight,
    Exceeds,
}

/// A value for a key, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice<T> {
    pub value: T,
    pub why: Why,
}

/// Why a value is suggested.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// The longest record has so many tokens.
    Longest { tokens: u64 },
    /// 95 % of the records fit; the longest does not.
    Most { tokens: u64, longest: u64 },
    /// It takes so much of what is there; the next larger one would take `more`.
    Fits {
        bytes: u64,
        available: u64,
        more: Option<u64>,
    },
    /// The machine does not tell what it has.
    Unknown,
    /// So many records a step.
    StepOf { records: u64 },
    /// The data has so many records.
    Records { records: u64 },
    /// So many times during the run.
    Times { times: u64 },
    /// The base was made for pictures of this side.
    Side { side: u64 },
    /// The data has so many pictures, and each step of all is worth so many.
    Pictures { pictures: u64, seen: u64 },
}

/// How long rows of text, or how large pictures should be.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    Tokens(Advice<u64>),
    Pixels {
        resolution: Advice<u64>,
        /// The words that call the adapter, where data or folder tell some.
        trigger_word: Option<String>,
        /// Whether not even a single picture fits without computing activations again.
        recompute: bool,
    },
}

/// What a run on some base and data should be given.
#[derive(Clone, Debug, PartialEq)]
pub struct Suggestion {
    /// "llama, 135M parameters in Q4_1".
    pub base: String,
    /// "144 records (messages), 38,211 tokens".
    pub data: String,
    /// Whether the base's weights are quantised.
    pub quantised: bool,
    pub row: Row,
    pub batch_size: Advice<u64>,
    pub gradient_accumulation_steps: Advice<u64>,
    pub epochs: Advice<u64>,
    pub eval_steps: Advice<u64>,
    pub save_steps: Advice<u64>,
    /// A question or a caption out of the data.
    pub prompt: Option<String>,
}

/// Several runs side by side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    pub runs: Vec<ComparedRun>,
    /// Keys whose values differ, with each run's value; `None` where it has no such key.
    pub keys: Vec<(String, Vec<Option<String>>)>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ComparedRun {
    pub name: String,
    pub curves: RunCurves,
    pub last_loss: Option<f64>,
    pub eval: Option<f64>,
    pub tokens_per_second: Option<f64>,
    /// Seconds from the first start to the last event.
    pub seconds: f64,
    pub peak_memory: u64,
    pub revision: Option<String>,
    pub program: String,
}
