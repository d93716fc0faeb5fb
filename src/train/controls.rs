//! Commands, edited configs and signals, taken in between micro-batches, eval batches and tokens.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::preflight;
use super::trainer::{Flow, Interrupt, Trainer};
use super::{Control, Outcome, Plan, Reporter};
use crate::config::{self, RunConfig};
use crate::protocol::{CheckpointReason, Command, EventKind, Level, PhaseName, StopMode};

/// How often a paused run looks whether a checkpoint is due by time.
const WAKE: Duration = Duration::from_secs(10);

/// The trainer's end of the controls.
pub(super) struct Inbox {
    controls: Receiver<Control>,
}

/// Who asked for what; becomes exactly one `Ack`.
pub(super) struct Asked {
    id: u64,
    sender: String,
    command: Command,
}

impl Inbox {
    pub fn new(controls: Receiver<Control>) -> Self {
        Inbox { controls }
    }

    /// Answers what came too late.
    pub fn refuse_the_rest(&self, reporter: &dyn Reporter) {
        for control in self.controls.try_iter() {
            if let Control::Command {
                id,
                sender,
                command,
            } = control
            {
                let asked = Asked {
                    id,
                    sender,
                    command,
                };
                asked.answer(reporter, false, "the run has ended");
            }
        }
    }
}

impl Asked {
    fn answer(&self, reporter: &dyn Reporter, ok: bool, message: &str) {
        reporter.emit(EventKind::Ack {
            id: self.id,
            sender: self.sender.clone(),
            command: self.command.word(),
            ok,
            message: message.to_owned(),
        });
    }
}

impl Trainer<'_> {
    /// Takes in everything that has arrived; blocks while the run is paused. Returns with the run as
    /// it was, or with the reason to end it.
    pub fn attend(&mut self) -> Flow<()> {
        while let Ok(control) = self.inbox.controls.try_recv() {
            self.settle()?;
            self.handle(control)?;
        }
        self.serve_waiting()?;
        self.save_by_time()
    }

    /// Pauses for a trouble that a person has to look at, and returns once they resume.
    pub fn pause_for(&mut self, sentence: &str) -> Flow<()> {
        self.message(Level::Error, sentence);
        self.pause(sentence, |_| ())
    }

    /// Pauses until `resume`, doing what is asked meanwhile; everything stays in memory.
    fn pause(&mut self, detail: &str, once_paused: impl FnOnce(&Self)) -> Flow<()> {
        self.paused = true;
        let left = self.stage.enter(PhaseName::Paused, detail);
        once_paused(self);
        // An eval that is interrupted by the pause must not keep another from being made now.
        let occupied = std::mem::replace(&mut self.occupied, false);
        while self.paused {
            self.serve_waiting()?;
            // Woken by what arrives, and now and then for a checkpoint that is due by time.
            match self.inbox.controls.recv_timeout(WAKE) {
                Ok(control) => self.handle(control)?,
                Err(RecvTimeoutError::Timeout) => self.save_by_time()?,
                Err(RecvTimeoutError::Disconnected) => return self.abandoned(),
            }
        }
        self.occupied = occupied;
        self.stage.back(left);
        Ok(())
    }

    /// Nobody is left who could resume: keep what there is and end.
    fn abandoned(&mut self) -> Flow<()> {
        self.try_save(CheckpointReason::Stop)?;
        Err(Interrupt::End(Outcome::Stopped))
    }

    fn handle(&mut self, control: Control) -> Flow<()> {
        match control {
            Control::Command {
                id,
                sender,
                command,
            } => self.obey(Asked {
                id,
                sender,
                command,
            }),
            Control::Config(edited) => {
                self.take_config(*edited);
                Ok(())
            }
            Control::Signal { number } => {
                self.try_save(CheckpointReason::Signal)?;
                self.end(
                    Outcome::Signalled(number),
                    &format!("by signal {number} at step {}", self.progress.step),
                )
            }
        }
    }

    fn obey(&mut self, asked: Asked) -> Flow<()> {
        let step = self.progress.step;
        match asked.command.clone() {
            Command::Pause if self.paused => {
                self.stage.withdraw_pause();
                self.ack(&asked, true, format!("already paused at step {step}"));
                Ok(())
            }
            Command::Pause => self.pause(&format!("at step {step}"), |trainer| {
                trainer.ack(&asked, true, format!("paused at step {step}"));
            }),
            Command::Resume => {
                let message = if std::mem::take(&mut self.paused) {
                    format!("resumed at step {step}")
                } else {
                    format!("not paused: the run is at step {step}")
                };
                self.ack(&asked, true, message);
                Ok(())
            }
            Command::Checkpoint => self.checkpoint_asked(&asked),
            Command::Export => {
                let exported = self.export_now();
                self.ack_result(&asked, exported);
                Ok(())
            }
            Command::Eval | Command::Sample { .. } => self.measure_asked(asked),
            Command::Stop { mode } => self.stop_asked(&asked, mode),
            Command::Set { key, value } => {
                let set = self.set_key(&asked.sender, &key, &value);
                self.ack_result(&asked, set.map_err(anyhow::Error::msg));
                Ok(())
            }
            Command::WriteConfig { .. } | Command::EditData { .. } => {
                self.ack(&asked, false, "the runner writes files itself");
                Ok(())
            }
        }
    }

    fn checkpoint_asked(&mut self, asked: &Asked) -> Flow<()> {
        let step = self.progress.step;
        if self.saved_at == Some(step) {
            let message = format!("step {step} was saved already: {}", self.checkpoint_name());
            self.ack(asked, true, message);
            return Ok(());
        }
        match self.try_save(CheckpointReason::Asked) {
            Ok(()) => {
                let message = format!("checkpoint saved: {}", self.checkpoint_name());
                self.ack(asked, true, message);
                Ok(())
            }
            Err(e) => {
                self.ack(asked, false, format!("{e:#}"));
                if self.paused {
                    return Ok(());
                }
                self.pause_for_save(&e)?;
                self.save_or_pause(CheckpointReason::Asked)
            }
        }
    }

    fn stop_asked(&mut self, asked: &Asked, mode: StopMode) -> Flow<()> {
        let step = self.progress.step;
        let message = match mode {
            StopMode::Save => {
                if let Err(e) = self.try_save(CheckpointReason::Stop) {
                    let message = format!(
                        "not stopped, as {e:#}; mend that and stop again, or stop with discard"
                    );
                    self.ack(asked, false, message);
                    return Ok(());
                }
                format!("stopped at step {step}; saved: {}", self.checkpoint_name())
            }
            StopMode::Discard => match self.saved_at {
                Some(saved) if saved == step => {
                    format!("stopped at step {step}, which was saved already")
                }
                Some(saved) => {
                    format!("stopped at step {step}; the last checkpoint is step {saved}")
                }
                None => format!("stopped at step {step}; there is no checkpoint"),
            },
        };
        self.ack(asked, true, message);
        self.end(Outcome::Stopped, &format!("at step {step}"))
    }

    fn end(&mut self, outcome: Outcome, detail: &str) -> Flow<()> {
        self.refuse_waiting("the run has ended");
        self.stage.enter(PhaseName::Stopped, detail);
        Err(Interrupt::End(outcome))
    }

    /// An eval or a sample, now or after the one in progress.
    fn measure_asked(&mut self, asked: Asked) -> Flow<()> {
        if self.occupied {
            self.waiting.push_back(asked);
            return Ok(());
        }
        match asked.command.clone() {
            Command::Eval if self.held_out == 0 => {
                let message = "there are no held-out records: eval_split is 0";
                self.ack(&asked, false, message);
            }
            Command::Eval => {
                let evaluated = self.evaluate();
                let sentence = evaluated
                    .as_ref()
                    .ok()
                    .map(|loss| format!("held-out loss {loss:.4} at step {}", self.progress.step));
                self.ack_unless_ended(&asked, sentence);
                evaluated?;
            }
            Command::Sample { prompt } => {
                let prompts = match prompt {
                    Some(prompt) => vec![prompt],
                    None => self.config.sample_prompts.clone(),
                };
                if prompts.is_empty() {
                    let message = "no prompt was given, and sample_prompts is empty";
                    self.ack(&asked, false, message);
                    return Ok(());
                }
                let sampled = self.sample(&prompts);
                let sentence = sampled.as_ref().ok().map(|()| {
                    let what = match prompts.len() {
                        1 => "1 prompt".to_owned(),
                        n => format!("{n} prompts"),
                    };
                    format!("sampled {what} at step {}", self.progress.step)
                });
                self.ack_unless_ended(&asked, sentence);
                sampled?;
            }
            _ => {}
        }
        Ok(())
    }

    fn serve_waiting(&mut self) -> Flow<()> {
        while !self.occupied {
            let Some(asked) = self.waiting.pop_front() else {
                break;
            };
            self.measure_asked(asked)?;
        }
        Ok(())
    }

    pub fn refuse_waiting(&mut self, why: &str) {
        for asked in std::mem::take(&mut self.waiting) {
            self.ack(&asked, false, why);
        }
    }

    /// `set key=value`: the sentence that answers it.
    fn set_key(&mut self, sender: &str, key: &str, value: &str) -> Result<String, String> {
        let wanted = config::set_live(&self.config, key, value)?;
        preflight::formats(&wanted).map_err(|e| format!("{e:#}"))?;
        let changes = config::diff(&self.config, &wanted);
        let Some(change) = changes.first() else {
            return Ok(format!("{key} is {value} already"));
        };
        let sentence = format!("{} is {} now (was {})", change.key, change.new, change.old);
        self.reporter.emit(EventKind::ConfigChanged {
            source: sender.to_owned(),
            changes,
            errors: Vec::new(),
        });
        self.adopt(wanted);
        Ok(sentence)
    }

    /// The edited config file, which the runner has validated and reported.
    fn take_config(&mut self, edited: RunConfig) {
        let mut wanted = self.config.clone();
        config::apply_live(&mut wanted, &edited);
        if let Err(e) = preflight::formats(&wanted) {
            self.message(Level::Warning, format!("{e:#}; the old formats stay"));
            wanted.export_formats = self.config.export_formats.clone();
        }
        self.adopt(wanted);
    }

    fn adopt(&mut self, config: RunConfig) {
        self.config = config;
        let plan = Plan::new(&self.config, self.objective.per_epoch());
        if plan != self.plan {
            self.plan = plan;
            self.reporter.emit(plan.event());
        }
    }

    fn ack(&self, asked: &Asked, ok: bool, message: impl AsRef<str>) {
        asked.answer(self.reporter, ok, message.as_ref());
    }

    /// Answers work that a stop may have cut short.
    fn ack_unless_ended(&self, asked: &Asked, sentence: Option<String>) {
        match sentence {
            Some(sentence) => self.ack(asked, true, sentence),
            None => self.ack(asked, false, "not finished, as the run has ended"),
        }
    }

    fn ack_result(&self, asked: &Asked, result: anyhow::Result<String>) {
        match result {
            Ok(message) => self.ack(asked, true, message),
            Err(e) => self.ack(asked, false, format!("{e:#}")),
        }
    }
}
