//! What the fold keeps of single events, and the speed it makes of the steps.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{CheckpointReason, SampleText, StepMetrics};

/// Steps over which speed is averaged.
const THROUGHPUT_STEPS: usize = 20;

/// Speed over the last steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// The newest last.
    recent: VecDeque<Pace>,
    /// Time of the last event from which the next step's wall time counts.
    pub(super) since: f64,
}

/// A step's part in the throughput.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Pace {
    tokens: u64,
    images: u64,
    /// Of computation.
    seconds: f64,
    /// Without pauses.
    wall: f64,
}

impl Throughput {
    /// Takes a step in; returns its wall seconds.
    pub(super) fn step(&mut self, time: f64, metrics: &StepMetrics) -> f64 {
        let wall = (time - self.since).max(metrics.seconds);
        self.since = time;
        self.recent.push_back(Pace {
            tokens: metrics.tokens,
            images: metrics.images,
            seconds: metrics.seconds,
            wall,
        });
        if self.recent.len() > THROUGHPUT_STEPS {
            self.recent.pop_front();
        }
        wall
    }

    /// Tokens that are not padding, per second of computation; `None` in image runs.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.per_second(|pace| pace.tokens)
    }

    /// Pictures per second of computation; `None` in text runs.
    pub fn images_per_second(&self) -> Option<f64> {
        self.per_second(|pace| pace.images)
    }

    fn per_second(&self, count: impl Fn(&Pace) -> u64) -> Option<f64> {
        let seconds: f64 = self.recent.iter().map(|pace| pace.seconds).sum();
        let counted: u64 = self.recent.iter().map(count).sum();
        (seconds > 0.0 && counted > 0).then(|| counted as f64 / seconds)
    }

    /// Wall seconds a step takes, evals and saves included, pauses not.
    pub fn seconds_per_step(&self) -> Option<f64> {
        let n = self.recent.len();
        (n > 0).then(|| self.recent.iter().map(|pace| pace.wall).sum::<f64>() / n as f64)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleLine {
    pub step: u64,
    pub sample: SampleText,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointLine {
    pub step: u64,
    pub time: f64,
    pub path: String,
    pub bytes: u64,
    pub reason: CheckpointReason,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportLine {
    pub step: u64,
    pub time: f64,
    pub format: String,
    pub path: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AckLine {
    pub time: f64,
    pub id: u64,
    pub sender: String,
    pub command: String,
    pub ok: bool,
    pub message: String,
}

/// What one GPU did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuHistory {
    pub index: u32,
    /// Memory used and percent of utilisation, the newest last.
    pub readings: VecDeque<(u64, u32)>,
}
