//! AdamW on a GPU: adapter, gradients and both moments lie in one flat buffer each, an update is a
//! pass over them, and the host waits for none of it.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::adamw::{AdamW, Values};
use super::{BETA1, BETA2, EPSILON, Group, Rates, Scalars, StepOutcome, StepSums};
use crate::model::{LoraSet, Variable};
use crate::ops::optimizer::{AdamWScalars, accumulate, adamw, clear, conclude};
use crate::ops::{LossSum, Mailbox};

/// Parameters begin at multiples of so many numbers, as memory of their own would.
const ALIGNMENT: usize = 64;

pub struct DeviceAdamW {
    updates: u64,
    /// Where each of the set's parameters lies in the buffers. Groups lie one after another.
    places: Vec<Range<usize>>,
    groups: Vec<(Group, Range<usize>)>,
    numbers: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    mailbox: Mailbox,
    /// An update was begun whose outcome nobody read.
    pending: bool,
}

impl DeviceAdamW {
    /// Moves the numbers of `set` into a buffer; its parameters are parts of it from then on.
    ///
    /// # Errors
    /// Moments of another set; the device fails.
    pub fn new(set: &mut LoraSet, state: &AdamW) -> Result<Self> {
        let parameters = set.parameters();
        let device = parameters.first().context("nothing is trained")?.var;
        let device = device.device().clone();
        let mut places = vec![0..0; parameters.len()];
        let mut groups: Vec<(Group, Range<usize>)> = Vec::new();
        let mut order: Vec<usize> = (0..parameters.len()).collect();
        order.sort_by_key(|&index| Group::of(&parameters[index]));
        let mut end = 0;
        for index in order {
            let (parameter, start) = (&parameters[index], end);
            let count = parameter.var.elem_count();
            places[index] = start..start + count;
            end = (start + count).next_multiple_of(ALIGNMENT);
            match (groups.last_mut(), Group::of(parameter)) {
                (Some((group, range)), mine) if *group == mine => range.end = end,
                (_, mine) => groups.push((mine, start..end)),
            }
        }
        let numbers = Tensor::zeros(end, DType::F32, &device)?;
        let mut moved = HashMap::new();
        for (parameter, place) in parameters.iter().zip(&places) {
            let part = Variable::within(&numbers, place.start, parameter.var.shape())?;
            part.set(parameter.var)?;
            moved.insert(parameter.var.id(), part);
        }
        set.replace(&moved);
        Ok(DeviceAdamW {
            updates: state.updates,
            exp_avg: flat(&state.exp_avg, &places, end, &device)?,
            exp_avg_sq: flat(&state.exp_avg_sq, &places, end, &device)?,
            gradients: Tensor::zeros(end, DType::F32, &device)?,
            places,
            groups,
            numbers,
            mailbox: Mailbox::default(),
            pending: false,
        })
    }

    pub fn begin(&self) -> Result<()> {
        Ok(clear(&self.gradients)?)
    }

    pub fn add(&self, gradients: &[Tensor]) -> Result<()> {
        ensure!(
            gradients.len() == self.places.len(),
            "{} gradients for {} parameters",
            gradients.len(),
            self.places.len()
        );
        for (place, gradient) in self.places.iter().zip(gradients) {
            ensure!(
                gradient.elem_count() == place.len(),
                "a gradient has {} numbers, its adapter {}",
                gradient.elem_count(),
                place.len()
            );
            let sum = self.gradients.narrow(0, place.start, place.len())?;
            accumulate(&sum, &gradient.to_dtype(DType::F32)?.contiguous()?)?;
        }
        Ok(())
    }

    pub fn update(&mut self, sums: &StepSums, max_norm: f64, rates: Rates) -> Result<()> {
        // How often an update was made decides how large this one is.
        ensure!(!self.pending, "the outcome of the last update was not read");
        let loss = match &sums.loss {
            LossSum::OnDevice(sum) => sum.clone(),
            LossSum::Known(sum) => Tensor::new(&[*sum], self.numbers.device())?,
        };
        let outcome = conclude(&self.gradients, &loss, sums.weight, max_norm)?;
        for (scalars, range) in self.passes(rates) {
            let part = |buffer: &Tensor| buffer.narrow(0, range.start, range.len());
            adamw(
                &part(&self.numbers)?,
                &part(&self.gradients)?,
                (&part(&self.exp_avg)?, &part(&self.exp_avg_sq)?),
                &outcome,
                scalars,
            )?;
        }
        self.mailbox.post(&outcome)?;
        self.pending = true;
        Ok(())
    }

    /// Groups next to each other that have the same rates are one pass.
    fn passes(&self, rates: Rates) -> Vec<(AdamWScalars, Range<usize>)> {
        let mut passes: Vec<(AdamWScalars, Range<usize>)> = Vec::new();
        for (group, range) in &self.groups {
            let rate = rates.of(*group);
            let of_group = Scalars::new(rate, rates.weight_decay, self.updates + 1);
            let scalars = AdamWScalars {
                decay: of_group.decay,
                step_size: of_group.step_size,
                bias_correction2_sqrt: of_group.bias_correction2_sqrt,
                one_minus_beta1: (1.0 - BETA1) as f32,
                beta2: BETA2 as f32,
                one_minus_beta2: (1.0 - BETA2) as f32,
                epsilon: EPSILON as f32,
            };
            match passes.last_mut() {
                Some((same, before)) if *same == scalars => before.end = range.end,
                _ => passes.push((scalars, range.clone())),
            }
        }
        passes
    }

    pub fn outcome(&mut self) -> Result<StepOutcome> {
        ensure!(std::mem::take(&mut self.pending), "no update was begun");
        let numbers = self.mailbox.read()?;
        let outcome = StepOutcome {
            loss: numbers[0],
            norm: numbers[1],
        };
        if outcome.is_finite() {
            self.updates += 1;
        }
        Ok(outcome)
    }

    pub fn updates(&self) -> u64 {
        self.updates
    }

    pub fn state(&self) -> Result<AdamW> {
        ensure!(!self.pending, "the outcome of the last update was not read");
        let values = |buffer: &Tensor| -> Result<Values> {
            let all: Vec<f32> = buffer.to_vec1()?;
            let parts = self.places.iter().map(|place| all[place.clone()].to_vec());
            Ok(Values(parts.collect()))
        };
        Ok(AdamW {
            updates: self.updates,
            exp_avg: values(&self.exp_avg)?,
            exp_avg_sq: values(&self.exp_avg_sq)?,
        })
    }
}

/// A buffer of `length` numbers with `values` in their places and zeros in between.
fn flat(
    values: &Values,
    places: &[Range<usize>],
    length: usize,
    device: &Device,
) -> Result<Tensor> {
    let mut all = vec![0f32; length];
    ensure!(
        values.0.len() == places.len(),
        "moments of {} parameters for {}",
        values.0.len(),
        places.len()
    );
    for (numbers, place) in values.0.iter().zip(places) {
        ensure!(
            numbers.len() == place.len(),
            "a moment has {} numbers, its adapter {}",
            numbers.len(),
            place.len()
        );
        all[place.clone()].copy_from_slice(numbers);
    }
    Ok(Tensor::from_vec(all, length, device)?)
}
