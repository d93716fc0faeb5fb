//! The training loop and what belongs to it: optimizer, schedule, checkpoints.
//!
//! The trainer knows nothing of sockets, files of the event log or terminals. It reports through
//! [`Reporter`] and is steered through [`Control`] messages.

pub mod checkpoint;
mod memory;
pub mod optimizer;
pub mod plan;
pub mod schedule;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

use anyhow::Result;

use crate::config::RunConfig;
use crate::protocol::{Command, EventKind};

/// Where the trainer's events go. Implemented by the runner (and by tests with a Vec).
pub trait Reporter: Send + Sync {
    /// Hands an event to the log; waits only while the log's queue is full.
    fn emit(&self, kind: EventKind);
    /// Waits until everything emitted so far is on disk (called before a checkpoint's rename).
    ///
    /// # Errors
    /// The log cannot be written (full disk): the caller pauses.
    fn sync(&self) -> Result<()>;
}

/// What reaches the trainer from outside, at micro-batch boundaries.
#[derive(Clone, Debug)]
pub enum Control {
    /// Answered by the trainer with an `Ack` event once it has taken effect or is refused.
    Command {
        id: u64,
        sender: String,
        command: Command,
    },
    /// The edited config: live keys are taken over. Already validated; the runner has reported it.
    Config(Box<RunConfig>),
    /// SIGTERM or SIGINT: checkpoint and end.
    Signal { number: i32 },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// By a command.
    Stopped,
    /// By a signal, after a checkpoint.
    Signalled(i32),
}

/// The folders of a run that the trainer writes into.
#[derive(Clone, Debug)]
pub struct Folders {
    pub checkpoints: PathBuf,
    pub samples: PathBuf,
    pub exports: PathBuf,
}

/// Trains until the last step, a stop or an error. `resume` is a checkpoint folder.
pub fn train(
    config: RunConfig,
    resume: Option<&Path>,
    folders: &Folders,
    reporter: &dyn Reporter,
    controls: &Receiver<Control>,
) -> Result<Outcome> {
    let _ = (config, resume, folders, reporter, controls);
    todo!("train room")
}
