//! The optimizer: sums of gradients, clipping, AdamW, where the adapter is.
//!
//! On the CPU numbers lie by parameter and everything is known at once ([`AdamW`]). On a GPU they lie
//! in flat buffers, nobody waits for the device within a step, and what a step came to is read when
//! the next one has been launched ([`device`]).

mod adamw;
mod device;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use anyhow::{Context, Result};
use candle_core::Tensor;

pub use adamw::{AdamW, Values, clip};
use device::DeviceAdamW;

use crate::model::{LoraSet, Parameter, Part};
use crate::ops::{self, LossSum};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// How the modules of image bases' text encoders begin.
const TEXT_ENCODER: &str = "text_encoder";

/// Rates of one update.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub learning_rate: f64,
    /// Of the adapters of an image base's text encoders.
    pub text_encoder: f64,
    /// Learning rate of B (and of DoRA's magnitude) over A's (LoRA+, arXiv:2402.12354).
    pub loraplus_ratio: f64,
    pub weight_decay: f64,
}

/// Parameters that have the same rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    text_encoder: bool,
    /// As PEFT's `create_loraplus_optimizer` groups them: all vectors go with B.
    fast: bool,
}

impl Group {
    fn of(parameter: &Parameter<'_>) -> Group {
        Group {
            text_encoder: parameter.module.starts_with(TEXT_ENCODER),
            fast: match parameter.part {
                Part::A => false,
                Part::B | Part::Magnitude => true,
            },
        }
    }
}

impl Rates {
    fn of(&self, group: Group) -> f64 {
        let rate = match group.text_encoder {
            true => self.text_encoder,
            false => self.learning_rate,
        };
        match group.fast {
            true => rate * self.loraplus_ratio,
            false => rate,
        }
    }
}

/// What is the same for every number of a group in one update.
struct Scalars {
    decay: f32,
    step_size: f32,
    bias_correction2_sqrt: f32,
}

impl Scalars {
    fn new(learning_rate: f64, weight_decay: f64, updates: u64) -> Self {
        let t = updates as f64;
        Scalars {
            decay: (1.0 - learning_rate * weight_decay) as f32,
            step_size: (learning_rate / (1.0 - BETA1.powf(t))) as f32,
            bias_correction2_sqrt: (1.0 - BETA2.powf(t)).sqrt() as f32,
        }
    }
}

/// The sums of a step that an update is made of.
pub struct StepSums {
    pub loss: LossSum,
    /// What sums are divided by: trained tokens, or pictures.
    pub weight: u64,
}

/// What a step came to: means, and the norm of the gradients before they were clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOutcome {
    pub loss: f64,
    pub norm: f64,
}

impl StepOutcome {
    /// Whether an update was made of it.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.norm.is_finite()
    }
}

/// The optimizer of a run, where the adapter is.
pub enum Optimizer {
    Host(HostOptimizer),
    Device(DeviceAdamW),
}

impl Optimizer {
    /// Goes on from the moments of `state`. On a GPU the numbers of `set` move into one buffer.
    ///
    /// # Errors
    /// The device fails.
    pub fn new(set: &mut LoraSet, state: AdamW) -> Result<Self> {
        let numbers = set.pairs.first().map(|pair| pair.a.as_tensor());
        Ok(match numbers.is_some_and(ops::runs_kernels) {
            true => Optimizer::Device(DeviceAdamW::new(set, &state)?),
            false => Optimizer::Host(HostOptimizer {
                state,
                gradients: Values(Vec::new()),
                outcome: None,
            }),
        })
    }

    /// Forgets the gradients of the step before.
    ///
    /// # Errors
    /// The device fails.
    pub fn begin(&mut self, set: &LoraSet) -> Result<()> {
        match self {
            Optimizer::Host(host) => host.gradients = Values::zeros(set),
            Optimizer::Device(device) => device.begin()?,
        }
        Ok(())
    }

    /// Adds the gradients of a pass, by the set's parameters.
    ///
    /// # Errors
    /// Gradients of another set; the device fails.
    pub fn add(&mut self, gradients: &[Tensor]) -> Result<()> {
        match self {
            Optimizer::Host(host) => host.gradients.add(gradients),
            Optimizer::Device(device) => device.add(gradients),
        }
    }

    /// One update of `set` by the mean of the step's gradients, clipped to `max_norm` (0: not), unless
    /// loss or norm are not finite. [`Optimizer::outcome`] tells.
    ///
    /// # Errors
    /// The device fails.
    pub fn update(
        &mut self,
        set: &LoraSet,
        sums: &StepSums,
        max_norm: f64,
        rates: Rates,
    ) -> Result<()> {
        match self {
            Optimizer::Host(host) => host.update(set, sums, max_norm, rates),
            Optimizer::Device(device) => device.update(sums, max_norm, rates),
        }
    }

    /// What the last update came to, once. On a GPU this waits until it was made.
    ///
    /// # Errors
    /// No update was begun; the device fails.
    pub fn outcome(&mut self) -> Result<StepOutcome> {
        match self {
            Optimizer::Host(host) => host.outcome.take().context("no update was begun"),
            Optimizer::Device(device) => device.outcome(),
        }
    }

    /// Whether outcomes are better read once the next step was launched.
    pub fn is_late(&self) -> bool {
        matches!(self, Optimizer::Device(_))
    }

    /// Updates made so far, as far as outcomes were read.
    pub fn updates(&self) -> u64 {
        match self {
            Optimizer::Host(host) => host.state.updates,
            Optimizer::Device(device) => device.updates(),
        }
    }

    /// The moments, by the set's parameters. Outcomes must have been read.
    ///
    /// # Errors
    /// The device fails.
    pub fn state(&self) -> Result<Cow<'_, AdamW>> {
        Ok(match self {
            Optimizer::Host(host) => Cow::Borrowed(&host.state),
            Optimizer::Device(device) => Cow::Owned(device.state()?),
        })
    }
}

/// Everything in host memory.
pub struct HostOptimizer {
    state: AdamW,
    gradients: Values,
    outcome: Option<StepOutcome>,
}

impl HostOptimizer {
    fn update(
        &mut self,
        set: &LoraSet,
        sums: &StepSums,
        max_norm: f64,
        rates: Rates,
    ) -> Result<()> {
        let mut gradients = std::mem::replace(&mut self.gradients, Values(Vec::new()));
        let loss = sums.loss.value()? / sums.weight as f64;
        gradients.scale((1.0 / sums.weight as f64) as f32);
        let norm = clip(&mut gradients, max_norm);
        let outcome = StepOutcome { loss, norm };
        if outcome.is_finite() {
            self.state.update(set, &gradients, rates)?;
        }
        self.outcome = Some(outcome);
        Ok(())
    }
}
