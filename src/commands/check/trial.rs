//! The whole pipeline on the real base and data, in a scratch folder: two steps, a checkpoint, a
//! sample, an export, then one more step from that checkpoint.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

use super::examine::Report;
use crate::commands::scratch::Scratch;
use crate::config::{RunConfig, TaskType};
use crate::protocol::{EventKind, PhaseName};
use crate::train::checkpoint;
use crate::train::{Outcome, Reporter, train};

/// One part of a trial.
pub(in crate::commands) struct Step {
    pub name: &'static str,
    /// What came out, or why nothing did.
    pub outcome: Result<String, String>,
    pub seconds: f64,
    /// Whether it opens the trial.
    pub first: bool,
}

/// Runs the trial; `on_step` sees each part as it is done. Ends at the first that fails.
pub(super) fn run(report: &Report, mut on_step: impl FnMut(&Step)) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let Some(loaded) = &report.loaded else {
        return steps;
    };
    let mut add = |name: &'static str, outcome: Result<String, String>, seconds: f64| {
        let first = steps.is_empty();
        steps.push(Step {
            name,
            outcome,
            seconds,
            first,
        });
        if let Some(step) = steps.last() {
            on_step(step);
        }
    };
    let begun = Instant::now();
    let scratch = match Scratch::new("try") {
        Ok(scratch) => scratch,
        Err(error) => {
            let seconds = begun.elapsed().as_secs_f64();
            add("scratch folder", Err(format!("{error:#}")), seconds);
            return steps;
        }
    };
    let config = small(&loaded.config, scratch.path());
    let first = pass(&scratch, &config, None);
    if first.tell(&mut add) {
        let resumed = newest_checkpoint(&scratch).map(|checkpoint| {
            let longer = RunConfig {
                max_steps: Some(3),
                sample_prompts: Vec::new(),
                ..config.clone()
            };
            pass(&scratch, &longer, Some(&checkpoint))
        });
        match resumed {
            Ok(pass) => pass.tell_resume(&mut add),
            Err(error) => add("resume", Err(format!("{error:#}")), 0.0),
        }
    }
    steps
}

/// The config's run cut to two steps that do everything once.
fn small(config: &RunConfig, scratch: &Path) -> RunConfig {
    let mut small = config.clone();
    small.output_dir = scratch.to_owned();
    small.max_steps = Some(2);
    small.warmup_steps = 0;
    small.gradient_accumulation_steps = config.gradient_accumulation_steps.min(2);
    small.save_steps = 2;
    small.keep_checkpoints = None;
    if small.eval_split > 0.0 {
        small.eval_split = 1.0;
    }
    small.eval_steps = 2;
    small.sample_steps = 2;
    small.sample_prompts =
        vec![
            config
                .sample_prompts
                .first()
                .cloned()
                .unwrap_or_else(|| match config.task_type {
                    TaskType::TextGeneration => "Hello.".to_owned(),
                    TaskType::TextToImage => "a picture".to_owned(),
                }),
        ];
    small
}

fn pass(scratch: &Scratch, config: &RunConfig, resume: Option<&Path>) -> Pass {
    let log = Log::default();
    // Nobody steers a trial: the sender stays, and says nothing.
    let (_silent, controls) = mpsc::channel();
    let begun = Instant::now();
    let result = train(config.clone(), resume, &scratch.folders(), &log, &controls);
    Pass {
        begun,
        seconds: begun.elapsed().as_secs_f64(),
        result,
        events: log.0.into_inner().unwrap_or_else(PoisonError::into_inner),
    }
}

fn newest_checkpoint(scratch: &Scratch) -> Result<PathBuf> {
    let found = checkpoint::newest(&scratch.folders().checkpoints)?;
    let newest = found
        .checkpoint
        .context("the two steps left no whole checkpoint")?;
    Ok(newest.path)
}

/// Keeps a pass's events with their times.
#[derive(Default)]
struct Log(Mutex<Vec<(Instant, EventKind)>>);

impl Reporter for Log {
    fn emit(&self, kind: EventKind) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push((Instant::now(), kind));
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// One call of the trainer.
struct Pass {
    begun: Instant,
    seconds: f64,
    result: Result<Outcome>,
    events: Vec<(Instant, EventKind)>,
}

impl Pass {
    /// Seconds from the event before to this one.
    fn seconds_of(&self, index: usize) -> f64 {
        let before = match index.checked_sub(1) {
            Some(before) => self.events[before].0,
            None => self.begun,
        };
        (self.events[index].0 - before).as_secs_f64()
    }

    /// Reports the first pass part by part; whether all went well.
    fn tell(&self, add: &mut dyn FnMut(&'static str, Result<String, String>, f64)) -> bool {
        let ready = self
            .events
            .iter()
            .rposition(|(_, e)| matches!(e, EventKind::Plan { .. }));
        if let Some(index) = ready {
            let seconds = (self.events[index].0 - self.begun).as_secs_f64();
            add("open base and data", Ok(String::new()), seconds);
        }
        self.tell_steps(add, "two steps", 2);
        for (index, (_, event)) in self.events.iter().enumerate() {
            match event {
                EventKind::Eval {
                    step,
                    loss,
                    seconds,
                    ..
                } if *step > 0 => {
                    let loss = format!("held-out loss {:.4}", loss.0);
                    add("eval", Ok(loss), *seconds);
                }
                EventKind::Sample {
                    step,
                    samples,
                    seconds,
                } if *step > 0 => {
                    let made = samples.first().map(|sample| match &sample.image {
                        Some(file) => format!("a picture, {file}"),
                        None => format!("{:?}", sample.text.trim()),
                    });
                    let none = || "none was made: look at the warnings".to_owned();
                    add("sample", made.ok_or_else(none), *seconds);
                }
                EventKind::Checkpoint { bytes, seconds, .. } => {
                    add("checkpoint", Ok(format!("{bytes} bytes")), *seconds);
                }
                EventKind::Export { format, bytes, .. } => {
                    let text = format!("{format}, {bytes} bytes");
                    add("export", Ok(text), self.seconds_of(index));
                }
                _ => {}
            }
        }
        self.tell_failure(add)
    }

    /// Reports the second pass.
    fn tell_resume(&self, add: &mut dyn FnMut(&'static str, Result<String, String>, f64)) {
        let resumed = self.events.iter().find_map(|(_, event)| match event {
            EventKind::Resumed { step, .. } => Some(*step),
            _ => None,
        });
        if resumed == Some(2) {
            self.tell_steps(add, "resume, one more step", 1);
        }
        if self.tell_failure(add) && resumed != Some(2) {
            let why = "the trainer did not go on from step 2".to_owned();
            add("resume", Err(why), self.seconds);
        }
    }

    fn tell_steps(
        &self,
        add: &mut dyn FnMut(&'static str, Result<String, String>, f64),
        name: &'static str,
        expected: usize,
    ) {
        let mut losses = Vec::new();
        let mut seconds = 0.0;
        for (_, event) in &self.events {
            if let EventKind::Step(metrics) = event {
                losses.push(format!("{:.4}", metrics.loss.0));
                seconds += metrics.seconds;
            }
        }
        if losses.len() == expected {
            add(name, Ok(format!("loss {}", losses.join(", "))), seconds);
        } else if self.result.is_ok() {
            let skipped = self
                .events
                .iter()
                .any(|(_, e)| matches!(e, EventKind::NonFinite { .. }));
            let why = if skipped {
                "the loss is not finite: the base or the data hold something odd".to_owned()
            } else {
                format!("{} steps were made, not {expected}", losses.len())
            };
            add(name, Err(why), seconds);
        }
    }

    /// Whether the trainer ended well; reports why not.
    fn tell_failure(&self, add: &mut dyn FnMut(&'static str, Result<String, String>, f64)) -> bool {
        let phase = self.events.iter().rev().find_map(|(_, event)| match event {
            EventKind::Phase { phase, .. } if !phase.is_end() => Some(*phase),
            _ => None,
        });
        match &self.result {
            Ok(Outcome::Done) => true,
            Ok(_) => {
                let why = "the trainer stopped before its last step".to_owned();
                add("train", Err(why), self.seconds);
                false
            }
            Err(error) => {
                let doing = phase.unwrap_or(PhaseName::Loading).as_str();
                add(doing, Err(format!("{error:#}")), self.seconds);
                false
            }
        }
    }
}
