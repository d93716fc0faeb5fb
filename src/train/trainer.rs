//! The training loop.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use super::checkpoint::{BestEval, DataFingerprint};
use super::controls::{Asked, Inbox};
use super::memory::peak_bytes;
use super::objective::{Made, Objective, Sums, Taken, Volume};
use super::optimizer::{Optimizer, Rates, StepOutcome, StepSums};
use super::plan::{self, Plan};
use super::schedule::factor;
use super::setup::Setup;
use super::shrink::Pieces;
use super::stage::Stage;
use super::{Folders, Outcome, Reporter};
use crate::config::{OnOom, RunConfig};
use crate::data::Cursor;
use crate::model::{DropoutKey, LoraSet};
use crate::protocol::{CheckpointReason, EventKind, Level, Message, Num, PhaseName, StepMetrics};

/// Skipped updates in a row after which the run pauses.
const NON_FINITE_LIMIT: u32 = 3;

/// Why the loop is left before its last step.
pub(super) enum Interrupt {
    End(Outcome),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Interrupt {
    fn from(error: anyhow::Error) -> Self {
        Interrupt::Failed(error)
    }
}

/// What anything returns that may take in a stop on its way.
pub(super) type Flow<T> = Result<T, Interrupt>;

/// Where the run stands between two steps: with adapter and moments, what a checkpoint holds. It
/// changes at the end of a step only, so a checkpoint may be written at any time.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub step: u64,
    pub cursor: Cursor,
    pub total_tokens: u64,
    pub non_finite_in_a_row: u32,
    pub base_loss: Option<Num>,
    pub best_eval: Option<BestEval>,
    pub evaluated_at: Option<u64>,
    pub sampled_at: Option<u64>,
}

/// A step that was made as far as the host is concerned.
struct Unsettled {
    epoch: f64,
    learning_rate: f64,
    volume: Volume,
}

pub(super) struct Trainer<'a> {
    pub config: RunConfig,
    pub folders: &'a Folders,
    pub reporter: &'a dyn Reporter,
    pub stage: &'a Stage<'a>,
    pub inbox: &'a mut Inbox,

    pub objective: Rc<dyn Objective>,
    pub fingerprint: DataFingerprint,
    /// Records that are held out.
    pub held_out: u64,
    pub plan: Plan,
    pub set: LoraSet,
    pub optimizer: Optimizer,
    /// The last step, while nobody knows what it came to.
    unsettled: Option<Unsettled>,
    /// Seconds of work since the last step was settled.
    worked: f64,
    pub progress: Progress,
    /// How micro-batches are computed: as configured, or smaller after memory ran out.
    pub pieces: Pieces,
    pub configured_pieces: Pieces,

    /// Step of the newest checkpoint, and when it was written.
    pub saved_at: Option<u64>,
    pub last_save: Instant,
    /// What the bare base makes of prompts.
    pub base_samples: HashMap<String, Made>,
    pub paused: bool,
    /// Inside an eval or a sample: another one that is asked for waits.
    pub occupied: bool,
    pub waiting: VecDeque<Asked>,
}

impl<'a> Trainer<'a> {
    pub fn new(
        config: RunConfig,
        setup: Setup,
        folders: &'a Folders,
        reporter: &'a dyn Reporter,
        stage: &'a Stage<'a>,
        inbox: &'a mut Inbox,
    ) -> Self {
        let configured_pieces = Pieces {
            // A packed row has as many records as fit into it.
            records: match config.packing {
                true => usize::MAX,
                false => config.batch_size.max(1),
            },
            recompute: setup.recompute,
        };
        let kept = setup.state.as_ref().and_then(|s| s.pieces);
        let pieces = match config.on_oom {
            OnOom::Shrink => kept.unwrap_or(configured_pieces),
            OnOom::Pause | OnOom::Stop => configured_pieces,
        };
        let progress = setup.state.map_or_else(Progress::default, |s| Progress {
            step: s.step,
            cursor: s.cursor,
            total_tokens: s.total_tokens,
            non_finite_in_a_row: s.non_finite_in_a_row,
            base_loss: s.base_loss,
            best_eval: s.best_eval,
            evaluated_at: s.evaluated_at,
            sampled_at: s.sampled_at,
        });
        Trainer {
            saved_at: setup.saved_at,
            config,
            folders,
            reporter,
            stage,
            inbox,
            held_out: setup.objective.held_out_count(),
            objective: setup.objective,
            fingerprint: setup.fingerprint,
            plan: setup.plan,
            set: setup.set,
            optimizer: setup.optimizer,
            unsettled: None,
            worked: 0.0,
            progress,
            pieces,
            configured_pieces,
            last_save: Instant::now(),
            base_samples: HashMap::new(),
            paused: false,
            occupied: false,
            waiting: VecDeque::new(),
        }
    }

    /// The whole run, from where `progress` stands to the last step and the exports.
    pub fn run(&mut self) -> Flow<()> {
        let started = Instant::now();
        self.stage.enter(PhaseName::Training, "");
        self.attend()?;
        self.tell_pieces();
        loop {
            // What is due between two steps. After a resume, what was due and not yet done.
            if self.something_is_due() {
                self.settle()?;
            }
            if self.eval_is_due() {
                self.evaluate()?;
            }
            if self.samples_are_due() {
                self.sample_all()?;
            }
            if let Some(reason) = self.checkpoint_is_due() {
                self.save_or_pause(reason)?;
            }
            if self.progress.step >= self.plan.total_steps {
                break;
            }

            // Forward and backward over the micro-batches of the step.
            let step = self.progress.step + 1;
            self.optimizer.begin(&self.set)?;
            let mut sums = Sums::default();
            let mut volume = Volume::default();
            let mut cursor = self.progress.cursor;
            let epoch = cursor.epoch;
            for i in 0..self.config.gradient_accumulation_steps.max(1) {
                // The last step of an epoch has the micro-batches that are left.
                if cursor.epoch != epoch {
                    break;
                }
                self.attend()?;
                let clock = Instant::now();
                let Taken { batch, after } = self.objective.take(cursor)?;
                let dropout = (self.config.lora_dropout > 0.0).then_some(DropoutKey {
                    seed: self.config.seed,
                    step,
                    micro_batch: i as u32,
                    tokens_before: 0,
                });
                sums.add(self.compute(batch.as_ref(), dropout)?)?;
                volume += batch.volume();
                cursor = after;
                self.worked += clock.elapsed().as_secs_f64();
            }
            // A GPU is at work on this step by now: what the last one came to is not waited for long.
            self.settle()?;

            // The update, with the mean over all trained tokens or pictures of the step.
            let clock = Instant::now();
            let rates = self.rates(step);
            let sums = StepSums {
                loss: sums.loss,
                weight: sums.weight,
            };
            self.optimizer
                .update(&self.set, &sums, self.config.max_grad_norm, rates)?;
            self.progress.step = step;
            self.progress.cursor = cursor;
            self.progress.total_tokens += volume.tokens;
            self.unsettled = Some(Unsettled {
                epoch: plan::epoch(self.objective.per_epoch(), cursor),
                learning_rate: rates.learning_rate,
                volume,
            });
            self.worked += clock.elapsed().as_secs_f64();
            if !self.optimizer.is_late() {
                self.settle()?;
            }
        }
        self.export_or_pause()?;
        self.refuse_waiting("the run has ended");
        // Said before `Finished`, so that whoever sees the end has it on disk.
        self.reporter.emit(EventKind::Finished {
            step: self.progress.step,
            seconds: started.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    /// Learns what the last step came to, if nobody did yet, and tells it. Everything but the launch
    /// of another step comes after this. Pauses when updates that are not finite follow one another.
    pub fn settle(&mut self) -> Flow<()> {
        let Some(last) = self.unsettled.take() else {
            return Ok(());
        };
        let clock = Instant::now();
        let outcome = self.optimizer.outcome()?;
        self.worked += clock.elapsed().as_secs_f64();
        let seconds = std::mem::take(&mut self.worked);
        if !outcome.is_finite() {
            self.progress.non_finite_in_a_row += 1;
            return self.report_non_finite(outcome);
        }
        self.progress.non_finite_in_a_row = 0;
        self.reporter.emit(EventKind::Step(StepMetrics {
            step: self.progress.step,
            epoch: last.epoch,
            loss: Num(outcome.loss),
            learning_rate: last.learning_rate,
            grad_norm: Num(outcome.norm),
            tokens: last.volume.tokens,
            images: last.volume.images,
            total_tokens: self.progress.total_tokens,
            seconds,
            peak_memory_bytes: peak_bytes(),
        }));
        Ok(())
    }

    /// Rates of update `step`. `learning_rate` is the schedule's peak, so a change during the run
    /// scales what is left of the schedule.
    fn rates(&self, step: u64) -> Rates {
        let factor = factor(
            self.config.lr_scheduler,
            self.config.warmup_steps,
            self.plan.total_steps,
            step,
        );
        Rates {
            learning_rate: self.config.learning_rate * factor,
            text_encoder: self
                .config
                .text_encoder_lr
                .unwrap_or(self.config.learning_rate)
                * factor,
            loraplus_ratio: self.config.loraplus_ratio,
            weight_decay: self.config.weight_decay,
        }
    }

    /// Reports a skipped update; pauses when they follow one another.
    fn report_non_finite(&mut self, outcome: StepOutcome) -> Flow<()> {
        let in_a_row = self.progress.non_finite_in_a_row;
        self.reporter.emit(EventKind::NonFinite {
            step: self.progress.step,
            loss: Num(outcome.loss),
            grad_norm: Num(outcome.norm),
            in_a_row,
        });
        if in_a_row >= NON_FINITE_LIMIT {
            self.pause_for(&format!(
                "loss or gradient was not finite {in_a_row} times in a row up to step {}, and none of these updates was made: lower learning_rate and resume, or stop and go on from an earlier checkpoint",
                self.progress.step
            ))?;
            self.progress.non_finite_in_a_row = 0;
        }
        Ok(())
    }

    fn something_is_due(&self) -> bool {
        self.eval_is_due()
            || self.samples_are_due()
            || self.checkpoint_is_due().is_some()
            || self.progress.step >= self.plan.total_steps
    }

    fn eval_is_due(&self) -> bool {
        self.held_out > 0
            && self.progress.evaluated_at != Some(self.progress.step)
            && self.is_due(self.config.eval_steps)
    }

    fn samples_are_due(&self) -> bool {
        !self.config.sample_prompts.is_empty()
            && self.progress.sampled_at != Some(self.progress.step)
            && self.is_due(self.config.sample_steps)
    }

    /// Before the first step, every `steps`, and after the last.
    fn is_due(&self, steps: u64) -> bool {
        let step = self.progress.step;
        step.is_multiple_of(steps.max(1)) || step >= self.plan.total_steps
    }

    fn checkpoint_is_due(&self) -> Option<CheckpointReason> {
        let step = self.progress.step;
        if self.saved_at == Some(step) {
            None
        } else if step >= self.plan.total_steps {
            Some(CheckpointReason::End)
        } else {
            // At step 0 there is nothing yet that a checkpoint would keep.
            (step > 0 && step.is_multiple_of(self.config.save_steps.max(1)))
                .then_some(CheckpointReason::Scheduled)
        }
    }

    pub fn message(&self, level: Level, text: impl Into<String>) {
        self.reporter.emit(EventKind::Message(Message {
            level,
            text: text.into(),
        }));
    }
}
