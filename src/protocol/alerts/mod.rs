//! What deserves a person's attention, told from the events alone: each rule is a fold with a
//! condition that raises its alert and another, some way off, that clears it.

mod loss;

use serde::{Deserialize, Serialize};

use loss::LossWatch;

use super::{ConfigEntry, Event, EventKind, GpuReading, GpuStatus, HostReading, StepMetrics};

/// Share of a GPU's memory above which the next step may not fit, and below which all is well.
const MEMORY_FULL: f64 = 0.95;
const MEMORY_FINE: f64 = 0.93;
/// Degrees Celsius: most cards hold their clocks back from about 90.
const HOT: u32 = 87;
const COOL: u32 = 83;
/// Bytes left on the disk below which the next checkpoints may not fit.
const DISK_LOW: u64 = 2 << 30;
/// ... and checkpoints for which there should be room.
const DISK_CHECKPOINTS: u64 = 3;
/// Finite steps after which a non-finite one is history.
const RECOVERED: u64 = 50;

/// Steps before the loss's usual range is known.
const WARM_UP: u64 = 40;
/// The fast average this many deviations above the slow one, and by this factor, is a spike.
const SPIKE_DEVIATIONS: f64 = 3.0;
const SPIKE_FACTOR: f64 = 1.3;

/// Turns between swings within `TURN_STEPS` that make an oscillation, and that no longer do.
const TURNS: usize = 3;
const FEW_TURNS: usize = 1;

/// A plateau: no gain of this share in so many steps (or this share of the run).
const GAIN: f64 = 0.01;
const PLATEAU_STEPS: u64 = 200;
const PLATEAU_SHARE: u64 = 5;
/// A learning rate below this share of its peak is meant to change little.
const DECAYED: f64 = 0.3;

/// Held-out loss this much above its best, so often in a row, is rising ...
const RISE: f64 = 1.02;
const RISES: u32 = 3;
/// ... while the training loss falls, to this share of what it was then.
const FALL: f64 = 0.95;

/// Something is wrong, or soon will be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "alert", rename_all = "snake_case")]
pub enum Alert {
    /// Updates were skipped: loss or gradient was not finite.
    NonFinite {
        in_a_row: u32,
        remedy: Remedy,
    },
    Spike {
        loss: f64,
        usual: f64,
        remedy: Remedy,
    },
    Oscillation {
        low: f64,
        high: f64,
        remedy: Remedy,
    },
    Plateau {
        steps: u64,
        loss: f64,
        remedy: Remedy,
    },
    /// The held-out loss rises while the training loss falls.
    Overfitting {
        eval: f64,
        best: f64,
        remedy: Remedy,
    },
    GpuMemory {
        index: u32,
        percent: u32,
        remedy: Remedy,
    },
    DiskLow {
        bytes: u64,
        remedy: Remedy,
    },
    Temperature {
        index: u32,
        celsius: u32,
        remedy: Remedy,
    },
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "remedy", rename_all = "snake_case")]
pub enum Remedy {
    /// A key that can be set during the run.
    Set {
        key: String,
        value: String,
    },
    /// Raise the rate, or end: more steps of this kind gain little.
    RaiseOrStop {
        learning_rate: String,
    },
    /// The best held-out loss was at this step.
    StopAndUse {
        step: u64,
    },
    /// The same effective batch in smaller parts, in a new run.
    SmallerBatch {
        batch: u64,
        accumulation: u64,
    },
    /// Micro-batches are of one record already: `key: value` in a new run.
    Restart {
        key: String,
        value: String,
    },
    FreeDisk,
    Cool,
}

impl Alert {
    pub fn remedy(&self) -> &Remedy {
        match self {
            Alert::NonFinite { remedy, .. }
            | Alert::Spike { remedy, .. }
            | Alert::Oscillation { remedy, .. }
            | Alert::Plateau { remedy, .. }
            | Alert::Overfitting { remedy, .. }
            | Alert::GpuMemory { remedy, .. }
            | Alert::DiskLow { remedy, .. }
            | Alert::Temperature { remedy, .. } => remedy,
        }
    }

    /// Whether two alerts are about the same thing.
    fn is_like(&self, other: &Alert) -> bool {
        let device = |a: &Alert| match a {
            Alert::GpuMemory { index, .. } | Alert::Temperature { index, .. } => *index,
            _ => 0,
        };
        std::mem::discriminant(self) == std::mem::discriminant(other)
            && device(self) == device(other)
    }
}

/// An alert that has not been cleared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveAlert {
    pub time: f64,
    pub step: u64,
    pub alert: Alert,
}

/// The fold of all rules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alerts {
    active: Vec<ActiveAlert>,
    settings: Settings,
    loss: LossWatch,
    eval: EvalWatch,
    step: u64,
    total_steps: u64,
    checkpoint_bytes: u64,
}

/// Keys that remedies name, as the run has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Settings {
    learning_rate: f64,
    max_grad_norm: Option<f64>,
    batch_size: u64,
    accumulation: u64,
    sequence_len: u64,
    gradient_checkpointing: bool,
    keeps_all_checkpoints: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct EvalWatch {
    /// Step, held-out loss, training loss then.
    best: Option<(u64, f64, f64)>,
    worse_in_a_row: u32,
}

impl Alerts {
    /// What has not been cleared, the newest last.
    pub fn active(&self) -> &[ActiveAlert] {
        &self.active
    }

    /// Takes an event in; returns what it raises.
    pub fn apply(&mut self, event: &Event) -> Vec<Alert> {
        let mut raised = Vec::new();
        match &event.kind {
            EventKind::Started { config, .. } => {
                *self = Alerts {
                    settings: Settings::read(config),
                    ..Alerts::default()
                };
            }
            EventKind::Resumed { step, .. } => {
                self.loss = LossWatch::default();
                self.eval = EvalWatch::default();
                self.step = *step;
                self.active.clear();
            }
            EventKind::ConfigChanged { changes, .. } => {
                for change in changes.iter().filter(|c| c.applies != "restart") {
                    self.settings.set(&change.key, &change.new);
                }
            }
            EventKind::Plan { total_steps, .. } => self.total_steps = *total_steps,
            EventKind::Checkpoint { bytes, .. } => self.checkpoint_bytes = *bytes,
            EventKind::Step(metrics) => raised.extend(self.on_step(metrics)),
            EventKind::NonFinite { step, in_a_row, .. } => {
                self.loss.last_non_finite = Some(*step);
                let remedy = if self.settings.max_grad_norm == Some(0.0) {
                    Remedy::set("max_grad_norm", "1")
                } else {
                    self.settings.slower()
                };
                raised.push(Alert::NonFinite {
                    in_a_row: *in_a_row,
                    remedy,
                });
            }
            EventKind::Eval { step, loss, .. } => raised.extend(self.on_eval(*step, loss.0)),
            EventKind::Hardware { gpu, host } => {
                if let GpuStatus::Present { gpus } = gpu {
                    for gpu in gpus.iter().filter(|g| g.in_use) {
                        raised.extend(self.on_gpu(gpu));
                    }
                }
                raised.extend(self.on_host(host));
            }
            EventKind::Phase { phase, .. } if phase.is_end() => self.active.clear(),
            EventKind::Finished { .. } => self.active.clear(),
            _ => {}
        }
        let mut new = Vec::new();
        for alert in raised {
            match self.active.iter_mut().find(|a| a.alert.is_like(&alert)) {
                // Newer numbers of what is known already.
                Some(known) => known.alert = alert,
                None => {
                    self.active.push(ActiveAlert {
                        time: event.time,
                        step: self.step,
                        alert: alert.clone(),
                    });
                    new.push(alert);
                }
            }
        }
        new
    }

    fn clear(&mut self, of: impl Fn(&Alert) -> bool) {
        self.active.retain(|a| !of(&a.alert));
    }

    fn on_step(&mut self, metrics: &StepMetrics) -> Vec<Alert> {
        self.step = metrics.step;
        let step = metrics.step;
        if metrics.learning_rate.is_finite() {
            self.loss.peak_rate = self.loss.peak_rate.max(metrics.learning_rate);
        }
        if self
            .loss
            .last_non_finite
            .is_some_and(|last| step >= last + RECOVERED)
        {
            self.loss.last_non_finite = None;
            self.clear(|a| matches!(a, Alert::NonFinite { .. }));
        }
        if !metrics.loss.0.is_finite() {
            return Vec::new();
        }
        let (deviation, usual) = (self.loss.variance.sqrt(), self.loss.slow);
        self.loss.push(step, metrics.loss.0);
        if self.loss.count <= WARM_UP {
            return Vec::new();
        }
        let mut raised = Vec::new();
        raised.extend(self.spike(deviation, usual));
        raised.extend(self.oscillation());
        raised.extend(self.plateau(step, metrics.learning_rate));
        raised
    }

    fn spike(&mut self, deviation: f64, usual: f64) -> Option<Alert> {
        let loss = self.loss.fast;
        if loss > usual + SPIKE_DEVIATIONS * deviation && loss > SPIKE_FACTOR * usual {
            return Some(Alert::Spike {
                loss,
                usual,
                remedy: self.settings.slower(),
            });
        }
        if loss < usual + deviation {
            self.clear(|a| matches!(a, Alert::Spike { .. }));
        }
        None
    }

    fn oscillation(&mut self) -> Option<Alert> {
        let turns = &self.loss.swings.turns;
        if turns.len() <= FEW_TURNS {
            self.clear(|a| matches!(a, Alert::Oscillation { .. }));
            return None;
        }
        let values = || turns.iter().map(|t| t.1);
        let (low, high) = (
            values().fold(f64::INFINITY, f64::min),
            values().fold(f64::NEG_INFINITY, f64::max),
        );
        (turns.len() >= TURNS).then(|| Alert::Oscillation {
            low,
            high,
            remedy: self.settings.slower(),
        })
    }

    fn plateau(&mut self, step: u64, rate: f64) -> Option<Alert> {
        let slow = self.loss.slow;
        let gained = self
            .loss
            .best
            .is_none_or(|(_, best)| slow < best - GAIN * best.abs());
        if gained {
            self.loss.best = Some((step, slow));
            self.clear(|a| matches!(a, Alert::Plateau { .. }));
            return None;
        }
        let steps = step.saturating_sub(self.loss.best?.0);
        let long = PLATEAU_STEPS.max(self.total_steps / PLATEAU_SHARE);
        if rate < DECAYED * self.loss.peak_rate {
            self.clear(|a| matches!(a, Alert::Plateau { .. }));
            return None;
        }
        (steps >= long).then(|| Alert::Plateau {
            steps,
            loss: slow,
            remedy: Remedy::RaiseOrStop {
                learning_rate: rate_text(self.settings.learning_rate * 2.0),
            },
        })
    }

    fn on_eval(&mut self, step: u64, loss: f64) -> Option<Alert> {
        if !loss.is_finite() {
            return None;
        }
        // Before the first step there is no training loss to compare.
        let train = (self.loss.count > 0).then_some(self.loss.slow)?;
        let Some((best_step, best, train_then)) = self.eval.best else {
            self.eval.best = Some((step, loss, train));
            return None;
        };
        if loss < best {
            self.eval.best = Some((step, loss, train));
        }
        if loss <= best * RISE {
            self.eval.worse_in_a_row = 0;
            self.clear(|a| matches!(a, Alert::Overfitting { .. }));
            return None;
        }
        self.eval.worse_in_a_row += 1;
        let rises = self.eval.worse_in_a_row >= RISES;
        (rises && train < FALL * train_then).then_some(Alert::Overfitting {
            eval: loss,
            best,
            remedy: Remedy::StopAndUse { step: best_step },
        })
    }

    fn on_gpu(&mut self, gpu: &GpuReading) -> Vec<Alert> {
        let index = gpu.index;
        let mut raised = Vec::new();
        if gpu.memory_total > 0 {
            let share = gpu.memory_used as f64 / gpu.memory_total as f64;
            if share > MEMORY_FULL {
                raised.push(Alert::GpuMemory {
                    index,
                    percent: (share * 100.0).floor() as u32,
                    remedy: self.settings.smaller(),
                });
            } else if share < MEMORY_FINE {
                self.clear(|a| matches!(a, Alert::GpuMemory { index: i, .. } if *i == index));
            }
        }
        if let Some(celsius) = gpu.temperature {
            let held = gpu.throttling.iter().any(|t| t.starts_with("thermal"));
            if celsius >= HOT || held {
                raised.push(Alert::Temperature {
                    index,
                    celsius,
                    remedy: Remedy::Cool,
                });
            } else if celsius <= COOL {
                self.clear(|a| matches!(a, Alert::Temperature { index: i, .. } if *i == index));
            }
        }
        raised
    }

    fn on_host(&mut self, host: &HostReading) -> Option<Alert> {
        // A disk that cannot be read is told as one of no bytes.
        if host.disk_total == 0 {
            return None;
        }
        let least = DISK_LOW.max(self.checkpoint_bytes * DISK_CHECKPOINTS);
        if host.disk_free < least {
            return Some(Alert::DiskLow {
                bytes: host.disk_free,
                remedy: if self.settings.keeps_all_checkpoints {
                    Remedy::set("keep_checkpoints", "2")
                } else {
                    Remedy::FreeDisk
                },
            });
        }
        if host.disk_free > least + least / 8 {
            self.clear(|a| matches!(a, Alert::DiskLow { .. }));
        }
        None
    }
}

impl Remedy {
    fn set(key: &str, value: &str) -> Remedy {
        Remedy::Set {
            key: key.into(),
            value: value.into(),
        }
    }
}

impl Settings {
    fn read(config: &[ConfigEntry]) -> Settings {
        let mut settings = Settings::default();
        for entry in config {
            settings.set(&entry.key, &entry.value);
        }
        settings
    }

    fn set(&mut self, key: &str, value: &str) {
        let number = || value.parse::<f64>().unwrap_or(0.0);
        match key {
            "learning_rate" => self.learning_rate = number(),
            "max_grad_norm" => self.max_grad_norm = Some(number()),
            "batch_size" => self.batch_size = number() as u64,
            "gradient_accumulation_steps" => self.accumulation = number() as u64,
            "sequence_len" => self.sequence_len = number() as u64,
            // `auto` recomputes on a GPU, which is where memory runs out.
            "gradient_checkpointing" => self.gradient_checkpointing = value != "false",
            "keep_checkpoints" => self.keeps_all_checkpoints = number() == 0.0,
            _ => {}
        }
    }

    fn slower(&self) -> Remedy {
        Remedy::set("learning_rate", &rate_text(self.learning_rate / 2.0))
    }

    fn smaller(&self) -> Remedy {
        let restart = |key: &str, value: String| Remedy::Restart {
            key: key.into(),
            value,
        };
        if self.batch_size > 1 {
            let batch = self.batch_size / 2;
            Remedy::SmallerBatch {
                batch,
                accumulation: (self.batch_size * self.accumulation.max(1)).div_ceil(batch),
            }
        } else if !self.gradient_checkpointing {
            restart("gradient_checkpointing", "true".into())
        } else {
            restart("sequence_len", (self.sequence_len / 2).max(1).to_string())
        }
    }
}

/// A learning rate as people write it: `1e-4`, `2.5e-5`.
fn rate_text(rate: f64) -> String {
    let text = format!("{rate:.1e}");
    text.replace(".0e", "e")
}
