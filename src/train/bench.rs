//! How fast a config trains, how much memory that takes, and where the time goes.
//!
//! What is measured is the trainer itself: a run of a few steps, without eval and samples. Its
//! reporter switches the measurement of operations on after the warm-up.

use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{Folders, Reporter, open_device, train};
use crate::config::{RunConfig, TaskType};
use crate::ops::{self, profile};
use crate::protocol::{EventKind, PhaseName};

/// What is measured how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Steps before the measurement.
    pub warmup: u64,
    /// Steps of the measurement; at least 1.
    pub steps: u64,
}

/// Seconds of the measured steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepSeconds {
    pub median: f64,
    /// The least that 95 % of the steps did not exceed.
    pub p95: f64,
}

/// A part of the measured steps.
#[derive(Clone, Debug, Serialize)]
pub struct PartShare {
    pub name: &'static str,
    /// Of the steps' time, 0 to 1.
    pub share: f64,
    /// Of one step, on average.
    pub seconds: f64,
}

/// The result, as `bench --json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    pub base: String,
    /// "cpu", "cuda:0".
    pub device: String,
    /// Threads that compute on the CPU.
    pub threads: usize,
    pub batch_size: usize,
    pub gradient_accumulation_steps: usize,
    /// In text runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_len: Option<usize>,
    /// Pixels of a side, in image runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<usize>,
    pub gradient_checkpointing: bool,
    pub steps: u64,
    /// Tokens of a step that are not padding, on average, in text runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_step: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// In image runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images_per_second: Option<f64>,
    pub step_seconds: StepSeconds,
    /// The process's own peak during the steps: VmHWM, on a GPU that of its tensors.
    pub peak_memory_bytes: u64,
    /// From the start of the program until training could begin.
    pub load_seconds: f64,
    /// From the start of the program to the end of the first step.
    pub first_step_seconds: f64,
    /// Of all matrix products of a step, on average.
    pub flops_per_step: f64,
    pub flops_per_second: f64,
    /// What large products alone reach here: of f32 on the CPU, of bf16 on a GPU.
    pub gemm_flops_per_second: f64,
    /// `flops_per_second / gemm_flops_per_second`: 1 would be a step of nothing but products.
    pub gemm_share: f64,
    /// Where the time of a step goes, on the CPU; what is in none of these is `other`.
    pub parts: Vec<PartShare>,
}

/// Measures `config` with a run in `folders`. `on_step` sees each step's number and seconds;
/// `started` is when the program began.
///
/// # Errors
/// As [`train`]; an update that is not finite.
pub fn measure(
    config: &RunConfig,
    plan: Plan,
    folders: &Folders,
    started: Instant,
    on_step: &(dyn Fn(u64, f64) + Sync),
) -> Result<Measurement> {
    let config = alone(config, plan, folders);
    let meter = Meter {
        plan,
        started,
        on_step,
        found: Mutex::default(),
    };
    // Nobody steers a measurement: the sender stays, and says nothing.
    let (_silent, controls) = mpsc::channel();
    train(config.clone(), None, folders, &meter, &controls)?;
    let found = meter
        .found
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    ensure!(
        found.steps.len() as u64 == plan.warmup + plan.steps,
        "only {} of {} steps could be made: loss or gradient was not finite; lower learning_rate",
        found.steps.len(),
        plan.warmup + plan.steps
    );
    found.measurement(&config, plan)
}

/// The config's steps and nothing else.
fn alone(config: &RunConfig, plan: Plan, folders: &Folders) -> RunConfig {
    let mut config = config.clone();
    if let Some(root) = folders.checkpoints.parent() {
        config.output_dir = root.to_owned();
    }
    config.max_steps = Some(plan.warmup + plan.steps);
    config.warmup_steps = config.warmup_steps.min(plan.warmup + plan.steps - 1);
    config.eval_split = 0.0;
    config.sample_prompts = Vec::new();
    config.save_steps = u64::MAX;
    config
}

struct Meter<'a> {
    plan: Plan,
    started: Instant,
    on_step: &'a (dyn Fn(u64, f64) + Sync),
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    device: String,
    load_seconds: Option<f64>,
    first_step_seconds: Option<f64>,
    /// Tokens or pictures, and seconds, of each step, warm-up included.
    steps: Vec<(u64, f64)>,
    peak_memory_bytes: u64,
    profile: profile::Profile,
}

impl Meter<'_> {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> u64 {
        self.found().steps.len() as u64
    }
}

impl Reporter for Meter<'_> {
    fn emit(&self, kind: EventKind) {
        let since_start = self.started.elapsed().as_secs_f64();
        match kind {
            EventKind::Model { device, .. } => self.found().device = device,
            EventKind::Phase {
                phase: PhaseName::Training,
                ..
            } => {
                self.found().load_seconds.get_or_insert(since_start);
                if self.plan.warmup == 0 && self.count() == 0 {
                    profile::start();
                }
            }
            EventKind::Step(step) => {
                let mut found = self.found();
                found.first_step_seconds.get_or_insert(since_start);
                found.steps.push((step.tokens + step.images, step.seconds));
                found.peak_memory_bytes = step.peak_memory_bytes;
                let count = found.steps.len() as u64;
                if count == self.plan.warmup + self.plan.steps {
                    found.profile = profile::stop();
                } else if count == self.plan.warmup {
                    profile::start();
                }
                drop(found);
                (self.on_step)(count, step.seconds);
            }
            _ => {}
        }
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

impl Found {
    fn measurement(self, config: &RunConfig, plan: Plan) -> Result<Measurement> {
        let measured = &self.steps[plan.warmup as usize..];
        let volume: u64 = measured.iter().map(|step| step.0).sum();
        let text = config.task_type == TaskType::TextGeneration;
        let seconds: f64 = measured.iter().map(|step| step.1).sum();
        let per_step = 1.0 / plan.steps as f64;
        let flops_per_second = self.profile.flops as f64 / seconds;
        let on_cpu = self.device == "cpu";
        let gemm = match on_cpu {
            true => ops::product_rate(),
            false => ops::device_product_rate(&open_device(config.device)?)?,
        };
        Ok(Measurement {
            base: config.base_model.clone(),
            threads: rayon::current_num_threads(),
            batch_size: config.batch_size,
            gradient_accumulation_steps: config.gradient_accumulation_steps,
            sequence_len: text.then_some(config.sequence_len),
            resolution: (!text).then_some(config.resolution),
            gradient_checkpointing: config.gradient_checkpointing.unwrap_or(!on_cpu),
            steps: plan.steps,
            tokens_per_step: text.then_some(volume as f64 * per_step),
            tokens_per_second: text.then_some(volume as f64 / seconds),
            images_per_second: (!text).then_some(volume as f64 / seconds),
            step_seconds: step_seconds(measured.iter().map(|step| step.1).collect()),
            peak_memory_bytes: self.peak_memory_bytes,
            load_seconds: self.load_seconds.context("training never began")?,
            first_step_seconds: self.first_step_seconds.context("no step was made")?,
            flops_per_step: self.profile.flops as f64 * per_step,
            flops_per_second,
            gemm_flops_per_second: gemm,
            gemm_share: flops_per_second / gemm,
            parts: match on_cpu {
                true => parts(&self.profile, seconds, per_step),
                false => Vec::new(),
            },
            device: self.device,
        })
    }
}

/// Shares of `seconds`, the largest first, `other` last.
fn parts(profile: &profile::Profile, seconds: f64, per_step: f64) -> Vec<PartShare> {
    let part = |name, of: f64| PartShare {
        name,
        share: of / seconds,
        seconds: of * per_step,
    };
    let mut parts: Vec<PartShare> = profile::Part::ALL
        .iter()
        .zip(profile.seconds)
        .map(|(kind, of)| part(kind.name(), of))
        .collect();
    parts.sort_by(|a, b| b.share.total_cmp(&a.share));
    let known: f64 = profile.seconds.iter().sum();
    parts.push(part("other", (seconds - known).max(0.0)));
    parts
}

/// Percentiles by nearest rank; an even number's median is the mean of the middle two.
fn step_seconds(mut seconds: Vec<f64>) -> StepSeconds {
    seconds.sort_by(f64::total_cmp);
    let count = seconds.len();
    let rank = (count * 95).div_ceil(100).max(1);
    StepSeconds {
        median: (seconds[(count - 1) / 2] + seconds[count / 2]) / 2.0,
        p95: seconds[rank - 1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_steps() {
        let of = |seconds: &[f64]| step_seconds(seconds.to_vec());
        let one = of(&[3.0]);
        assert_eq!((one.median, one.p95), (3.0, 3.0));
        let four = of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((four.median, four.p95), (2.5, 4.0));
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(of(&hundred).p95, 95.0);
    }

    #[test]
    fn shares_add_up_to_the_whole_and_the_largest_comes_first() {
        let mut profile = profile::Profile::default();
        profile.seconds[2] = 6.0;
        profile.seconds[5] = 1.0;
        profile.seconds[0] = 2.0;
        let parts = parts(&profile, 10.0, 0.5);
        assert!((parts.iter().map(|p| p.share).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!((parts[0].name, parts[0].seconds), ("linear", 3.0));
        let last = parts.last().unwrap();
        assert_eq!(last.name, "other");
        assert!((last.share - 0.1).abs() < 1e-12);
    }
}
