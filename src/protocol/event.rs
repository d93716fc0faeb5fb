//! Everything that happens in a run, in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Finding, ImagePreview, ImageStatistics, Num};

/// One line of the event log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 without a hole, across resumes.
    pub seq: u64,
    /// Seconds since the Unix epoch, of the runner's clock.
    pub time: f64,
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// A runner has started on this run folder; first event of every runner.
    Started {
        protocol: u32,
        /// loradeck's version.
        program: String,
        /// Name of the run (last part of its folder).
        run: String,
        run_dir: String,
        pid: u32,
        /// The config's values with their origin, in the order of the documentation.
        config: Vec<ConfigEntry>,
        /// The watched file, when the run was started from one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config_path: Option<String>,
    },
    /// The run goes on from a checkpoint: points after `step` no longer count.
    Resumed {
        step: u64,
        epoch: f64,
        total_tokens: u64,
        checkpoint: String,
    },
    Phase {
        phase: PhaseName,
        /// What exactly, for a person: "reading the base", "held-out loss".
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
        /// Set with `failed`: one sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Base and adapter are in memory.
    Model {
        device: String,
        base: BaseInfo,
        adapter: AdapterInfo,
    },
    /// The data has been read and tokenised.
    Data { statistics: DataStatistics },
    /// Steps of the whole run; repeated when `max_steps` or `epochs` changes.
    Plan {
        total_steps: u64,
        steps_per_epoch: u64,
    },
    /// One optimizer update.
    Step(StepMetrics),
    /// The update was skipped: loss or gradient was not finite.
    NonFinite {
        step: u64,
        loss: Num,
        grad_norm: Num,
        /// Skipped updates in a row, this one included.
        in_a_row: u32,
    },
    Eval {
        step: u64,
        /// Mean held-out loss per token, natural logarithm.
        loss: Num,
        /// Held-out loss of the bare base, without the adapter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base_loss: Option<Num>,
        records: u64,
        seconds: f64,
    },
    Sample {
        step: u64,
        samples: Vec<SampleText>,
        seconds: f64,
    },
    Checkpoint {
        step: u64,
        path: String,
        bytes: u64,
        reason: CheckpointReason,
        seconds: f64,
    },
    /// An older checkpoint was deleted, as `keep_checkpoints` asks.
    CheckpointDeleted { path: String },
    Export {
        step: u64,
        format: String,
        path: String,
        bytes: u64,
    },
    /// Readings of the machine, every few seconds.
    Hardware { gpu: GpuStatus, host: HostReading },
    /// The config file was edited, or a live key was set by a command.
    ConfigChanged {
        /// Who: "config file" or a sender.
        source: String,
        changes: Vec<ConfigChange>,
        /// Why nothing was changed: the file is broken.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        errors: Vec<String>,
    },
    /// The answer to a command.
    Ack {
        id: u64,
        sender: String,
        /// The command's word, with its argument.
        command: String,
        ok: bool,
        message: String,
    },
    /// A line for the log pane.
    Message(Message),
    /// The run has ended well.
    Finished { step: u64, seconds: f64 },
}

impl EventKind {
    /// Whether a slow watcher may miss it: only metrics, which come again.
    pub fn droppable(&self) -> bool {
        matches!(self, EventKind::Step(_) | EventKind::Hardware { .. })
    }
}

/// Where a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    #[default]
    Loading,
    Training,
    /// Asked to pause; the micro-batch in progress still runs.
    Pausing,
    Paused,
    Evaluating,
    Sampling,
    Saving,
    Done,
    Failed,
    /// Ended before its last step, by a person or a signal.
    Stopped,
}

impl PhaseName {
    pub fn as_str(self) -> &'static str {
        match self {
            PhaseName::Loading => "loading",
            PhaseName::Training => "training",
            PhaseName::Pausing => "pausing",
            PhaseName::Paused => "paused",
            PhaseName::Evaluating => "evaluating",
            PhaseName::Sampling => "sampling",
            PhaseName::Saving => "saving",
            PhaseName::Done => "done",
            PhaseName::Failed => "failed",
            PhaseName::Stopped => "stopped",
        }
    }

    /// Whether no runner is expected to be alive.
    pub fn is_end(self) -> bool {
        matches!(
            self,
            PhaseName::Done | PhaseName::Failed | PhaseName::Stopped
        )
    }
}

/// One value of the config as the run uses it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigEntry {
    pub key: String,
    /// As YAML, on one line.
    pub value: String,
    /// "line 3", "default", "--set", "from the base".
    pub source: String,
    /// When a change acts: "live", "checkpoint" or "restart".
    pub applies: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigChange {
    pub key: String,
    pub old: String,
    pub new: String,
    /// "live" (acts now), "checkpoint" (from the next one) or "restart" (ignored until then).
    pub applies: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaseInfo {
    /// As written in the config.
    pub name: String,
    /// "llama".
    pub architecture: String,
    /// "safetensors", "gguf" or "builtin".
    pub format: String,
    /// "F32", "Q4_1", ... of most weights.
    pub dtype: String,
    pub parameters: u64,
    pub layers: u64,
    pub hidden_size: u64,
    pub vocabulary: u64,
    /// Bytes of the weights in memory.
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AdapterInfo {
    pub rank: u64,
    pub alpha: f64,
    pub target_modules: Vec<String>,
    /// Number of A/B pairs.
    pub modules: u64,
    pub parameters: u64,
}

/// What the data holds, of text records in tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataStatistics {
    pub train_records: u64,
    pub eval_records: u64,
    /// Format -> records: `messages`, `sharegpt`, `alpaca`, `prompt/completion`, `text`.
    pub formats: BTreeMap<String, u64>,
    pub files: u64,
    pub tokens: u64,
    /// Tokens that count in the loss.
    pub trained_tokens: u64,
    pub min_length: u64,
    pub median_length: u64,
    pub p95_length: u64,
    pub max_length: u64,
    /// Records cut at `sequence_len`.
    pub truncated: u64,
    /// Tokens that this left out.
    #[serde(default)]
    pub cut_tokens: u64,
    /// Exact duplicates beyond the first.
    pub duplicates: u64,
    /// Bad records left out because of `skip_bad_records`.
    pub skipped: u64,
    pub lengths: Vec<LengthBucket>,
    /// With `packing` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<PackingStatistics>,
    /// Of image data only: its records are images, its tokens those of captions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Box<ImageStatistics>>,
    /// Text files whose records are held out because of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out_files: Vec<String>,
    /// What was found, each with its records, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// What is odd and names no record.
    pub warnings: Vec<String>,
}

impl DataStatistics {
    /// Short enough for an event.
    pub fn told(mut self) -> Self {
        self.findings = self.findings.into_iter().map(Finding::told).collect();
        self
    }
}

/// The rows that an epoch's training records are packed into.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PackingStatistics {
    pub rows: u64,
    /// Tokens of a row at most.
    pub row_tokens: u64,
    /// Tokens in all rows together.
    pub tokens: u64,
}

impl PackingStatistics {
    /// How full the rows are, from 0 to 1.
    pub fn filled(&self) -> f64 {
        self.tokens as f64 / (self.rows * self.row_tokens).max(1) as f64
    }
}

/// One bar of the histogram of token lengths: `from <= length < to`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthBucket {
    pub from: u64,
    pub to: u64,
    pub count: u64,
}

/// A record as the model sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordPreview {
    pub index: usize,
    /// "train.jsonl:17".
    pub origin: String,
    pub format: String,
    pub tokens: u64,
    pub trained_tokens: u64,
    pub truncated: bool,
    /// "train" or "eval".
    pub split: String,
    pub segments: Vec<RecordSegment>,
    /// Of image data only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImagePreview>,
}

/// Neighbouring tokens that are all trained on, or all masked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordSegment {
    pub text: String,
    pub trained: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counts from 1.
    pub step: u64,
    /// Passes over the data so far, fractional.
    pub epoch: f64,
    /// Mean loss per trained token, natural logarithm; of an image run, per picture.
    pub loss: Num,
    pub learning_rate: f64,
    /// L2 norm of all adapter gradients before clipping.
    pub grad_norm: Num,
    /// Tokens of this step that are not padding.
    pub tokens: u64,
    /// The same, of all steps so far.
    pub total_tokens: u64,
    /// Pictures of this step; 0 in text runs, as tokens are in image runs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub images: u64,
    /// Wall seconds of this step's computation, without pauses, evals and saves.
    pub seconds: f64,
    /// The process's own peak (VmHWM; on a GPU the allocator's), in bytes.
    pub peak_memory_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleText {
    pub prompt: String,
    /// Empty where the sample is a picture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The same prompt through the bare base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_text: Option<String>,
    /// Name of the PNG in the run's `samples/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The bare base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_image: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointReason {
    Scheduled,
    /// Five minutes have passed since the last one.
    Time,
    Asked,
    Signal,
    Stop,
    End,
}

/// What NVML says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum GpuStatus {
    /// No NVIDIA driver, or its library cannot be opened.
    NoNvml {
        reason: String,
    },
    /// The driver is there, and lists no device.
    NoDevice,
    /// It answered before, and no longer does.
    Lost {
        reason: String,
    },
    Present {
        gpus: Vec<GpuReading>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuReading {
    pub index: u32,
    pub name: String,
    pub uuid: String,
    pub memory_total: u64,
    pub memory_used: u64,
    /// Bytes used by the runner's process; absent where NVML cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_run: Option<u64>,
    /// Percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization: Option<u32>,
    /// Degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<u32>,
    /// Watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit: Option<f64>,
    /// MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_clock: Option<u32>,
    /// Why the clock is held back: "power cap", "thermal".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttling: Vec<String>,
    /// Whether this run trains on it.
    #[serde(default)]
    pub in_use: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostReading {
    /// Percent of all cores together.
    pub cpu: f32,
    pub cores: u32,
    /// Percent of one core used by the runner.
    pub run_cpu: f32,
    pub memory_total: u64,
    pub memory_used: u64,
    /// Resident bytes of the runner.
    pub memory_run: u64,
    /// Bytes left where the run folder lies.
    pub disk_free: u64,
    pub disk_total: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub level: Level,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    Warning,
    Error,
}
