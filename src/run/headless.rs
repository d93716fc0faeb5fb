//! Plain progress lines for a run without a deck.

use std::io::Write;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::Result;

use crate::protocol::{Event, EventKind, Level, Num, PhaseName, RunState, StepMetrics};

use crate::printable::printable;

use super::hub::Hub;

/// Events that may wait for a slow stdout; later ones are left out.
const EVENTS: usize = 4096;
/// Least seconds between two step lines.
const STEP_SECONDS: f64 = 2.0;
/// Characters of a sample on its line.
const SAMPLE_CHARS: usize = 160;

/// Starts printing on stdout; the thread ends with the hub. Whether anybody reads is of no
/// importance to the run.
///
/// # Errors
/// The system refuses a thread.
pub fn start(hub: &Hub) -> Result<JoinHandle<()>> {
    let (tap, events) = mpsc::sync_channel(EVENTS);
    hub.tap(tap);
    let state = hub.state().map(|s| *s).unwrap_or_default();
    let thread = thread::Builder::new()
        .name("progress".into())
        .spawn(move || {
            let mut lines = Lines::new(state);
            let mut out = std::io::stdout();
            for event in events {
                for line in lines.of(&event) {
                    // A closed stdout is no reason to stop.
                    let _ = writeln!(out, "{}", printable(&line));
                }
                let _ = out.flush();
            }
        })?;
    Ok(thread)
}

/// Turns events into lines.
pub struct Lines {
    state: RunState,
    last_step_line: f64,
}

impl Lines {
    /// `state` is the fold of what came before.
    pub fn new(state: RunState) -> Self {
        Lines {
            state,
            last_step_line: 0.0,
        }
    }

    /// The lines of an event; most have none.
    pub fn of(&mut self, event: &Event) -> Vec<String> {
        let phase = self.state.phase;
        self.state.apply(event);
        match &event.kind {
            EventKind::Started {
                program,
                run,
                run_dir,
                pid,
                ..
            } => vec![format!(
                "loradeck {program}: run {run}, pid {pid}, in {run_dir}"
            )],
            EventKind::Resumed {
                step, checkpoint, ..
            } => vec![format!("resumed after step {step} from {checkpoint}")],
            EventKind::Phase {
                phase: new,
                detail,
                error,
            } => match (new, error) {
                // The error itself goes to stderr.
                (PhaseName::Failed, _) => Vec::new(),
                (PhaseName::Loading, _) if !detail.is_empty() => vec![format!("loading: {detail}")],
                (PhaseName::Pausing | PhaseName::Paused, _) if *new != phase => {
                    vec![new.as_str().to_owned()]
                }
                (PhaseName::Stopped, _) => {
                    let by = if detail.is_empty() {
                        String::new()
                    } else {
                        format!(" {detail}")
                    };
                    let step = self.state.last.step;
                    if by.contains("at step") {
                        vec![format!("stopped{by}")]
                    } else {
                        vec![format!("stopped{by} after step {step}")]
                    }
                }
                _ => Vec::new(),
            },
            EventKind::Model {
                device,
                base,
                adapter,
            } => vec![format!(
                "base {} ({}, {} parameters, {} {}) on {device}; adapter: rank {}, {} modules, {} parameters",
                base.name,
                base.architecture,
                thousands(base.parameters),
                base.format,
                base.dtype,
                adapter.rank,
                adapter.modules,
                thousands(adapter.parameters),
            )],
            EventKind::Data { statistics: s } => {
                let (what, tokens) = match s.images {
                    Some(_) => ("pictures", "tokens of captions"),
                    None => ("records", "tokens"),
                };
                vec![format!(
                    "data: {} {what} to train on, {} held out, {} {tokens}",
                    thousands(s.train_records),
                    thousands(s.eval_records),
                    thousands(s.tokens),
                )]
            }
            EventKind::Plan {
                total_steps,
                steps_per_epoch,
            } => vec![format!(
                "{total_steps} steps, {steps_per_epoch} to an epoch"
            )],
            EventKind::Step(metrics) => self.step(event.time, metrics),
            EventKind::Eval {
                step,
                loss,
                base_loss,
                ..
            } => {
                let base = base_loss
                    .or(self.state.base_eval_loss)
                    .map_or(String::new(), |b| format!(" (bare base {})", number(b)));
                vec![format!(
                    "step {step}: held-out loss {}{base}",
                    number(*loss)
                )]
            }
            EventKind::Sample { step, samples, .. } => samples
                .iter()
                .map(|s| {
                    let made = match &s.image {
                        Some(png) => format!("samples/{png}"),
                        None => format!("{:?}", shortened(&s.text)),
                    };
                    format!("step {step}: sample {:?} -> {made}", shortened(&s.prompt))
                })
                .collect(),
            EventKind::ConfigChanged { .. } | EventKind::Ack { .. } => self.newest_log_line(event),
            EventKind::Message(message) => {
                let level = match message.level {
                    Level::Info => "",
                    Level::Warning => "warning: ",
                    Level::Error => "error: ",
                };
                vec![format!("{level}{}", message.text)]
            }
            EventKind::NonFinite { .. }
            | EventKind::Checkpoint { .. }
            | EventKind::Export { .. } => self.newest_log_line(event),
            EventKind::Finished { step, seconds } => summary(&self.state, *step, *seconds),
            EventKind::Hardware { .. } | EventKind::CheckpointDeleted { .. } => Vec::new(),
        }
    }

    fn step(&mut self, time: f64, metrics: &StepMetrics) -> Vec<String> {
        let ends = metrics.step == 1 || metrics.step == self.state.total_steps;
        if !ends && time - self.last_step_line < STEP_SECONDS {
            return Vec::new();
        }
        self.last_step_line = time;
        let throughput = &self.state.throughput;
        let speed = match (
            throughput.tokens_per_second(),
            throughput.images_per_second(),
        ) {
            (Some(tokens), _) => format!("  {tokens:.0} tokens/s"),
            (None, Some(images)) => format!("  {images:.2} images/s"),
            (None, None) => String::new(),
        };
        let eta = self
            .state
            .eta_seconds()
            .map_or(String::new(), |s| format!("  {} left", duration(s)));
        vec![format!(
            "step {}/{}  epoch {:.2}  loss {}  lr {:.3e}  grad norm {}{speed}{eta}",
            metrics.step,
            self.state.total_steps,
            metrics.epoch,
            number(metrics.loss),
            metrics.learning_rate,
            number(metrics.grad_norm),
        )]
    }

    /// What the fold wrote into its log for this event.
    fn newest_log_line(&self, event: &Event) -> Vec<String> {
        self.state
            .log
            .iter()
            .rev()
            .take_while(|l| l.time == event.time)
            .take(match &event.kind {
                EventKind::ConfigChanged {
                    changes, errors, ..
                } => changes.len() + errors.len(),
                _ => 1,
            })
            .map(|l| l.entry.to_string())
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect()
    }
}

/// How a run has ended, for who watched it.
pub fn ending(state: &RunState) -> Vec<String> {
    match state.phase {
        PhaseName::Done => summary(state, state.last.step, state.time - state.first_started),
        PhaseName::Failed => {
            let error = state.error.as_deref().unwrap_or("for an unknown reason");
            vec![format!("failed after step {}: {error}", state.last.step)]
        }
        phase => vec![format!("{} after step {}", phase.as_str(), state.last.step)],
    }
}

fn summary(state: &RunState, step: u64, seconds: f64) -> Vec<String> {
    let mut line = format!("done: {step} steps in {}", duration(seconds));
    if let Some(last) = state.eval_loss() {
        line += &format!(", held-out loss {}", number(Num(last)));
        if let Some(base) = state.base_eval_loss {
            line += &format!(" (bare base {})", number(base));
        }
    }
    let mut lines = vec![line];
    let exports = state.exports.iter();
    lines.extend(exports.map(|e| format!("adapter ({}): {}", e.format, e.path)));
    lines
}

/// Four decimals, or what it is instead of a number.
fn number(value: Num) -> String {
    if value.0.is_finite() {
        format!("{:.4}", value.0)
    } else {
        value.0.to_string()
    }
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(c);
    }
    text
}

/// `3725.0` as `1h02m`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= SAMPLE_CHARS {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(SAMPLE_CHARS).collect();
    short.push('…');
    short
}
