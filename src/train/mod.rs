//! The training loop and what belongs to it: optimizer, schedule, checkpoints.
//!
//! The trainer knows nothing of sockets, files of the event log or terminals. It reports through
//! [`Reporter`] and is steered through [`Control`] messages. The loop itself is `trainer.rs`, to be
//! read from top to bottom.

mod adapter;
pub mod bench;
pub mod checkpoint;
mod controls;
mod device;
mod evaluate;
mod export;
mod image;
mod image_memory;
mod init_from;
mod memory;
mod objective;
pub mod optimizer;
mod plan;
mod preflight;
mod samples;
mod save;
pub mod schedule;
mod setup;
mod shrink;
mod stage;
#[cfg(test)]
mod tests;
mod text;
mod trainer;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

pub use adapter::{AdapterPlan, adapter_plan};
pub use device::{dtype, open_device};
pub use image::image_adapter_plan;
pub use memory::{device_memory, device_uuid};
pub use plan::Plan;
pub use preflight::{AdapterSize, Preflight, adapter_format, preflight};

use crate::config::RunConfig;
use crate::protocol::{Command, EventKind};
use controls::Inbox;
use stage::Stage;
use trainer::{Interrupt, Trainer};

/// Graphs of deep models are dropped recursively: a thread's usual 2 MiB overflow.
const TRAINER_STACK: usize = 64 << 20;
/// How soon the end of the trainer is noticed.
const END_POLL: Duration = Duration::from_millis(20);

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
///
/// All computing happens on a thread of its own with a large stack; the caller's thread takes in
/// `controls` meanwhile, so that *pausing* is shown at once, whatever the trainer is busy with.
///
/// # Errors
/// Input that cannot be trained on (see [`crate::error::input_error`]), and failures of disk or
/// device that a pause cannot mend.
///
/// # Panics
/// Passes on a panic of the trainer's thread.
pub fn train(
    config: RunConfig,
    resume: Option<&Path>,
    folders: &Folders,
    reporter: &dyn Reporter,
    controls: &Receiver<Control>,
) -> Result<Outcome> {
    let stage = &Stage::new(reporter);
    let (forward, inbox) = mpsc::channel();
    thread::scope(|scope| {
        let trainer = thread::Builder::new()
            .name("training".into())
            .stack_size(TRAINER_STACK)
            .spawn_scoped(scope, move || {
                let mut inbox = Inbox::new(inbox);
                let outcome = run(config, resume, folders, reporter, stage, &mut inbox);
                (outcome, inbox)
            })
            .context("cannot start the trainer's thread")?;
        take_in(controls, forward, stage, || trainer.is_finished());
        match trainer.join() {
            Ok((outcome, inbox)) => {
                inbox.refuse_the_rest(reporter);
                outcome
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Passes controls on until the trainer has ended.
fn take_in(
    controls: &Receiver<Control>,
    forward: Sender<Control>,
    stage: &Stage<'_>,
    ended: impl Fn() -> bool,
) {
    loop {
        match controls.recv_timeout(END_POLL) {
            Ok(control) => {
                if let Control::Command { command, .. } = &control
                    && *command == Command::Pause
                {
                    stage.announce_pause();
                }
                // The trainer keeps its end until it is joined, so this arrives.
                let _ = forward.send(control);
            }
            Err(RecvTimeoutError::Timeout) if !ended() => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
}

/// The trainer's thread.
fn run(
    config: RunConfig,
    resume: Option<&Path>,
    folders: &Folders,
    reporter: &dyn Reporter,
    stage: &Stage<'_>,
    inbox: &mut Inbox,
) -> Result<Outcome> {
    let setup = setup::open(&config, resume, folders, reporter, stage)?;
    match Trainer::new(config, setup, folders, reporter, stage, inbox).run() {
        Ok(()) => Ok(Outcome::Done),
        Err(Interrupt::End(outcome)) => Ok(outcome),
        Err(Interrupt::Failed(error)) => Err(error),
    }
}
