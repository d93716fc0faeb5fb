//! The fold: everything a deck, `status` or a replay knows of a run, from its events alone.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    AckLine, AdapterInfo, Alerts, BaseInfo, CheckpointLine, ConfigEntry, DataStatistics, Event,
    EventKind, ExportLine, GpuHistory, GpuStatus, HostReading, Level, LogEntry, LogLine, Num,
    PhaseName, SampleLine, Series, StepMetrics, Throughput,
};

/// Lines of log, acks and samples kept for the panes; the event log has them all.
const LOG_LINES: usize = 500;
const ACKS: usize = 50;
const SAMPLES: usize = 200;
/// Readings of the machine kept for the history lines.
const HARDWARE_HISTORY: usize = 240;
/// Marks of a kind, and held-out losses, that are kept.
const MARKS: usize = 2048;

/// State of a run after `seq` events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub seq: u64,
    /// Time of the last event.
    pub time: f64,
    pub protocol: u32,
    pub program: String,
    pub run: String,
    pub run_dir: String,
    pub pid: u32,
    pub config: Vec<ConfigEntry>,
    pub config_path: Option<String>,
    /// Of the first runner, and of the present one.
    pub first_started: f64,
    pub started: f64,
    pub resumes: u32,

    pub phase: PhaseName,
    pub phase_detail: String,
    pub phase_since: f64,
    pub error: Option<String>,

    pub device: String,
    pub base: BaseInfo,
    pub adapter: AdapterInfo,
    pub data: Option<DataStatistics>,

    pub total_steps: u64,
    pub steps_per_epoch: u64,
    /// Metrics of the last step; `step` is 0 before the first.
    pub last: StepMetrics,
    pub throughput: Throughput,

    pub loss: Series,
    pub learning_rate: Series,
    pub grad_norm: Series,
    pub tokens_per_second: Series,
    /// Tokens seen, and seconds spent on steps (evals and saves included, pauses not).
    pub tokens: Series,
    pub seconds: Series,
    /// Held-out losses by step; of thousands every second, fourth, ..., with the first and the last.
    pub evals: Vec<(u64, Num)>,
    pub base_eval_loss: Option<Num>,
    pub marks: Marks,

    pub samples: VecDeque<SampleLine>,
    pub checkpoints: Vec<CheckpointLine>,
    pub exports: Vec<ExportLine>,

    pub gpu: Option<GpuStatus>,
    pub host: Option<HostReading>,
    pub gpu_history: Vec<GpuHistory>,
    /// Percent of all cores, resident bytes of the runner.
    pub host_history: VecDeque<(f32, u64)>,

    pub acks: VecDeque<AckLine>,
    pub log: VecDeque<LogLine>,
    pub alerts: Alerts,
}

/// Steps at which something happened, for marks in the charts: the last of each kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Marks {
    pub non_finite: VecDeque<u64>,
    pub pauses: VecDeque<u64>,
    pub config_changes: VecDeque<u64>,
    pub resumes: VecDeque<u64>,
    /// Updates that were skipped, also those whose marks are no longer kept.
    #[serde(default)]
    pub skipped: u64,
}

impl Marks {
    fn truncate_after(&mut self, step: u64) {
        let known = self.non_finite.len();
        for marks in [
            &mut self.non_finite,
            &mut self.pauses,
            &mut self.config_changes,
            &mut self.resumes,
        ] {
            marks.retain(|&s| s <= step);
        }
        self.skipped -= (known - self.non_finite.len()) as u64;
    }
}

fn mark(marks: &mut VecDeque<u64>, step: u64) {
    marks.push_back(step);
    if marks.len() > MARKS {
        marks.pop_front();
    }
}

impl RunState {
    /// Folds one event in. Pure: depends on nothing but the state and the event. An event that
    /// was already folded (`seq` not above the state's) changes nothing.
    pub fn apply(&mut self, event: &Event) {
        if event.seq <= self.seq {
            return;
        }
        self.seq = event.seq;
        self.time = event.time;
        let time = event.time;
        match &event.kind {
            EventKind::Started {
                protocol,
                program,
                run,
                run_dir,
                pid,
                config,
                config_path,
            } => {
                if self.first_started == 0.0 {
                    self.first_started = time;
                }
                self.started = time;
                self.protocol = *protocol;
                self.program = program.clone();
                self.run = run.clone();
                self.run_dir = run_dir.clone();
                self.pid = *pid;
                self.config = config.clone();
                self.config_path = config_path.clone();
                self.error = None;
                self.throughput = Throughput::default();
                self.enter(PhaseName::Loading, "", time);
                self.log(time, Level::Info, LogEntry::Started { pid: *pid });
            }
            EventKind::Resumed {
                step,
                epoch,
                total_tokens,
                checkpoint,
            } => {
                self.resumes += 1;
                for series in [
                    &mut self.loss,
                    &mut self.learning_rate,
                    &mut self.grad_norm,
                    &mut self.tokens_per_second,
                    &mut self.tokens,
                    &mut self.seconds,
                ] {
                    series.truncate_after(*step);
                }
                self.evals.retain(|(s, _)| s <= step);
                self.samples.retain(|s| s.step <= *step);
                self.checkpoints.retain(|c| c.step <= *step);
                self.marks.truncate_after(*step);
                mark(&mut self.marks.resumes, *step);
                if self.last.step != *step {
                    self.last = StepMetrics {
                        step: *step,
                        epoch: *epoch,
                        loss: Num(self.loss.last().map_or(f64::NAN, |l| l.1)),
                        learning_rate: self.learning_rate.last().map_or(0.0, |l| l.1),
                        grad_norm: Num(self.grad_norm.last().map_or(f64::NAN, |l| l.1)),
                        total_tokens: *total_tokens,
                        ..StepMetrics::default()
                    };
                }
                let entry = LogEntry::Resumed {
                    step: *step,
                    checkpoint: self.in_run(checkpoint),
                };
                self.log(time, Level::Info, entry);
            }
            EventKind::Phase {
                phase,
                detail,
                error,
            } => {
                if *phase == PhaseName::Paused && self.phase != PhaseName::Paused {
                    mark(&mut self.marks.pauses, self.last.step);
                }
                self.enter(*phase, detail, time);
                if let Some(error) = error {
                    self.error = Some(error.clone());
                    self.log(
                        time,
                        Level::Error,
                        LogEntry::Said {
                            text: error.clone(),
                        },
                    );
                }
            }
            EventKind::Model {
                device,
                base,
                adapter,
            } => {
                self.device = device.clone();
                self.base = base.clone();
                self.adapter = adapter.clone();
            }
            EventKind::Data { statistics } => self.data = Some(statistics.clone()),
            EventKind::Plan {
                total_steps,
                steps_per_epoch,
            } => {
                self.total_steps = *total_steps;
                self.steps_per_epoch = *steps_per_epoch;
            }
            EventKind::Step(metrics) => {
                let wall = self.throughput.step(time, metrics);
                let spent = self.seconds.last().map_or(0.0, |s| s.1);
                self.seconds.push(metrics.step, spent + wall);
                self.tokens.push(metrics.step, metrics.total_tokens as f64);
                self.loss.push(metrics.step, metrics.loss.0);
                self.learning_rate.push(metrics.step, metrics.learning_rate);
                self.grad_norm.push(metrics.step, metrics.grad_norm.0);
                if metrics.seconds > 0.0 && metrics.tokens > 0 {
                    self.tokens_per_second
                        .push(metrics.step, metrics.tokens as f64 / metrics.seconds);
                }
                self.last = metrics.clone();
            }
            EventKind::NonFinite {
                step,
                loss,
                in_a_row,
                ..
            } => {
                mark(&mut self.marks.non_finite, *step);
                self.marks.skipped += 1;
                let entry = LogEntry::Skipped {
                    step: *step,
                    loss: *loss,
                    in_a_row: *in_a_row,
                };
                self.log(time, Level::Warning, entry);
            }
            EventKind::Eval {
                step,
                loss,
                base_loss,
                seconds,
                ..
            } => {
                self.evals.retain(|(s, _)| s != step);
                self.evals.push((*step, *loss));
                if self.evals.len() > MARKS {
                    // Every second one of so long a curve says as much; the first and the last stay.
                    let mut odd = true;
                    self.evals.retain(|_| {
                        odd = !odd;
                        !odd
                    });
                }
                if base_loss.is_some() {
                    self.base_eval_loss = *base_loss;
                }
                let entry = LogEntry::Evaluated {
                    step: *step,
                    loss: *loss,
                    seconds: *seconds,
                };
                self.log(time, Level::Info, entry);
            }
            EventKind::Sample { step, samples, .. } => {
                for sample in samples {
                    self.samples.push_back(SampleLine {
                        step: *step,
                        sample: sample.clone(),
                    });
                    if self.samples.len() > SAMPLES {
                        self.samples.pop_front();
                    }
                }
            }
            EventKind::Checkpoint {
                step,
                path,
                bytes,
                reason,
                ..
            } => {
                self.checkpoints.retain(|c| c.path != *path);
                self.checkpoints.push(CheckpointLine {
                    step: *step,
                    time,
                    path: path.clone(),
                    bytes: *bytes,
                    reason: *reason,
                });
                let entry = LogEntry::Saved {
                    checkpoint: self.in_run(path),
                };
                self.log(time, Level::Info, entry);
            }
            EventKind::CheckpointDeleted { path } => {
                self.checkpoints.retain(|c| c.path != *path);
            }
            EventKind::Export {
                step,
                format,
                path,
                bytes,
            } => {
                self.exports.retain(|e| e.path != *path);
                self.exports.push(ExportLine {
                    step: *step,
                    time,
                    format: format.clone(),
                    path: path.clone(),
                    bytes: *bytes,
                });
                let entry = LogEntry::Exported {
                    format: format.clone(),
                    path: self.in_run(path),
                };
                self.log(time, Level::Info, entry);
            }
            EventKind::Hardware { gpu, host } => {
                if let GpuStatus::Present { gpus } = gpu {
                    for g in gpus {
                        let known = self.gpu_history.iter().position(|h| h.index == g.index);
                        let at = known.unwrap_or_else(|| {
                            self.gpu_history.push(GpuHistory {
                                index: g.index,
                                ..GpuHistory::default()
                            });
                            self.gpu_history.len() - 1
                        });
                        let readings = &mut self.gpu_history[at].readings;
                        readings.push_back((g.memory_used, g.utilization.unwrap_or(0)));
                        if readings.len() > HARDWARE_HISTORY {
                            readings.pop_front();
                        }
                    }
                }
                self.host_history.push_back((host.cpu, host.memory_run));
                if self.host_history.len() > HARDWARE_HISTORY {
                    self.host_history.pop_front();
                }
                self.gpu = Some(gpu.clone());
                self.host = Some(host.clone());
            }
            EventKind::ConfigChanged {
                source,
                changes,
                errors,
            } => {
                for change in changes {
                    if change.applies != "restart"
                        && let Some(entry) = self.config.iter_mut().find(|e| e.key == change.key)
                    {
                        entry.value = change.new.clone();
                        entry.source = source.clone();
                    }
                    let entry = LogEntry::Changed {
                        source: source.clone(),
                        key: change.key.clone(),
                        old: change.old.clone(),
                        new: change.new.clone(),
                        applies: change.applies.clone(),
                    };
                    self.log(time, Level::Info, entry);
                }
                if changes.iter().any(|c| c.applies != "restart") {
                    mark(&mut self.marks.config_changes, self.last.step);
                }
                for error in errors {
                    let entry = LogEntry::Broken {
                        source: source.clone(),
                        error: error.clone(),
                    };
                    self.log(time, Level::Warning, entry);
                }
            }
            EventKind::Ack {
                id,
                sender,
                command,
                ok,
                message,
            } => {
                self.acks.push_back(AckLine {
                    time,
                    id: *id,
                    sender: sender.clone(),
                    command: command.clone(),
                    ok: *ok,
                    message: message.clone(),
                });
                if self.acks.len() > ACKS {
                    self.acks.pop_front();
                }
                let level = if *ok { Level::Info } else { Level::Warning };
                let entry = LogEntry::Answered {
                    sender: sender.clone(),
                    command: command.clone(),
                    message: message.clone(),
                };
                self.log(time, level, entry);
            }
            EventKind::Message(message) => {
                let entry = LogEntry::Said {
                    text: message.text.clone(),
                };
                self.log(time, message.level, entry);
            }
            EventKind::Finished { step, .. } => {
                self.enter(PhaseName::Done, "", time);
                // A `max_steps` set below the step in progress ends the run after that step.
                self.total_steps = *step;
                self.log(time, Level::Info, LogEntry::Finished { steps: *step });
            }
        }
        for alert in self.alerts.apply(event) {
            self.log(time, Level::Warning, LogEntry::Alert { alert });
        }
    }

    fn enter(&mut self, phase: PhaseName, detail: &str, time: f64) {
        // Time spent paused or loading is not the next step's.
        if matches!(
            self.phase,
            PhaseName::Paused | PhaseName::Loading | PhaseName::Pausing
        ) {
            self.throughput.since = time;
        }
        if self.phase != phase {
            self.phase_since = time;
        }
        self.phase = phase;
        self.phase_detail = detail.to_owned();
    }

    fn log(&mut self, time: f64, level: Level, entry: LogEntry) {
        self.log.push_back(LogLine {
            time,
            step: self.last.step,
            level,
            entry,
        });
        if self.log.len() > LOG_LINES {
            self.log.pop_front();
        }
    }

    /// A path as seen from the run's folder: the log's lines are narrow.
    fn in_run(&self, path: &str) -> String {
        path.strip_prefix(&self.run_dir)
            .map_or(path, |rest| rest.trim_start_matches('/'))
            .to_owned()
    }

    /// Last held-out loss.
    pub fn eval_loss(&self) -> Option<f64> {
        self.evals.last().map(|(_, loss)| loss.0)
    }

    /// Seconds to the last step at the present speed; `None` before the first step and at an end.
    pub fn eta_seconds(&self) -> Option<f64> {
        if self.phase.is_end() {
            return None;
        }
        let left = self.total_steps.checked_sub(self.last.step)?;
        Some(self.throughput.seconds_per_step()? * left as f64)
    }
}
