//! The log's lines: what happened as data, so that a deck can say it in its own language.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Alert, Level, Num, Remedy};

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    pub time: f64,
    pub step: u64,
    pub level: Level,
    pub entry: LogEntry,
}

/// What a line says. `Display` says it in English; paths are as seen from the run's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum LogEntry {
    Started {
        pid: u32,
    },
    Resumed {
        step: u64,
        checkpoint: String,
    },
    Skipped {
        step: u64,
        loss: Num,
        in_a_row: u32,
    },
    Evaluated {
        step: u64,
        loss: Num,
        seconds: f64,
    },
    Saved {
        checkpoint: String,
    },
    Exported {
        format: String,
        path: String,
    },
    Changed {
        source: String,
        key: String,
        old: String,
        new: String,
        /// "live", "checkpoint" or "restart".
        applies: String,
    },
    /// An edited config file that was not taken.
    Broken {
        source: String,
        error: String,
    },
    Answered {
        sender: String,
        command: String,
        message: String,
    },
    Alert {
        alert: Alert,
    },
    Finished {
        steps: u64,
    },
    /// In the words of whoever said it.
    Said {
        text: String,
    },
}

impl fmt::Display for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogEntry::Started { pid } => write!(f, "runner started, pid {pid}"),
            LogEntry::Resumed { step, checkpoint } => {
                write!(f, "resumed after step {step} from {checkpoint}")
            }
            LogEntry::Skipped {
                step,
                loss,
                in_a_row,
            } => write!(
                f,
                "step {step} skipped: loss or gradient is not finite (loss {}, {in_a_row} in a row)",
                loss.0
            ),
            LogEntry::Evaluated {
                step,
                loss,
                seconds,
            } => write!(
                f,
                "held-out loss {:.4} at step {step} ({seconds:.1} s)",
                loss.0
            ),
            LogEntry::Saved { checkpoint } => write!(f, "checkpoint {checkpoint}"),
            LogEntry::Exported { format, path } => write!(f, "exported {format} to {path}"),
            LogEntry::Changed {
                source,
                key,
                old,
                new,
                applies,
            } => write!(f, "{source}: {key} {old} -> {new} ({applies})"),
            LogEntry::Broken { source, error } => {
                write!(f, "{source}: {error} (the old values stay)")
            }
            LogEntry::Answered {
                sender,
                command,
                message,
            } => write!(f, "{command}: {message} ({sender})"),
            LogEntry::Alert { alert } => alert.fmt(f),
            LogEntry::Finished { steps } => write!(f, "finished after {steps} steps"),
            LogEntry::Said { text } => f.write_str(text),
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Alert::NonFinite { in_a_row, .. } => {
                write!(f, "loss or gradient is not finite ({in_a_row} in a row)")?;
            }
            Alert::Spike { loss, usual, .. } => {
                write!(f, "the loss spikes: {loss:.3}, usually {usual:.3}")?;
            }
            Alert::Oscillation { low, high, .. } => {
                write!(f, "the loss oscillates between {low:.3} and {high:.3}")?;
            }
            Alert::Plateau { steps, loss, .. } => {
                write!(f, "the loss has stayed at {loss:.3} for {steps} steps")?;
            }
            Alert::Overfitting { eval, best, .. } => write!(
                f,
                "the held-out loss rises ({best:.3} to {eval:.3}) while the training loss falls"
            )?,
            Alert::GpuMemory { index, percent, .. } => {
                write!(f, "GPU {index}: {percent} % of the memory is used")?;
            }
            Alert::DiskLow { bytes, .. } => {
                write!(f, "the disk has {} MiB left", bytes >> 20)?;
            }
            Alert::Temperature { index, celsius, .. } => {
                write!(f, "GPU {index} is at {celsius} degrees")?;
            }
        }
        write!(f, ": {}", self.remedy())
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::Set { key, value } => write!(f, "try {key} {value}"),
            Remedy::RaiseOrStop { learning_rate } => write!(
                f,
                "try learning_rate {learning_rate} or a higher lora_rank, or stop here"
            ),
            Remedy::StopAndUse { step } => write!(
                f,
                "stop and use the checkpoint nearest step {step}; next time fewer epochs or more \
                 lora_dropout"
            ),
            Remedy::SmallerBatch {
                batch,
                accumulation,
            } => write!(
                f,
                "start anew with batch_size {batch} and gradient_accumulation_steps {accumulation}"
            ),
            Remedy::Restart { key, value } => write!(f, "start anew with {key} {value}"),
            Remedy::FreeDisk => f.write_str("free some space, or delete old checkpoints"),
            Remedy::Cool => f.write_str(
                "look after fans and airflow, or lower the power limit with nvidia-smi -pl",
            ),
        }
    }
}
