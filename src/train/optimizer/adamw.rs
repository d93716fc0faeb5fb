//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), on the host; and what
//! a checkpoint holds of it on every device. The order of operations is torch's `AdamW` (single
//! tensor), scalars in f64.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::{BETA1, BETA2, EPSILON, Group, Rates, Scalars};
use crate::model::{LoraSet, Variable};

/// Numbers of one kind (gradients, a moment) for every parameter, in the set's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Values(pub Vec<Vec<f32>>);

impl Values {
    /// Zeros in the shape of `set`.
    pub fn zeros(set: &LoraSet) -> Self {
        let parameters = set.parameters().into_iter();
        Values(parameters.map(|p| vec![0.0; p.var.elem_count()]).collect())
    }

    /// The values of the adapter itself.
    pub fn of(set: &LoraSet) -> Result<Self> {
        let parameters = set.parameters().into_iter();
        let values: Result<_> = parameters.map(|p| host(p.var.as_tensor())).collect();
        Ok(Values(values?))
    }

    /// Adds the gradients of a micro-batch.
    pub fn add(&mut self, gradients: &[Tensor]) -> Result<()> {
        ensure!(
            gradients.len() == self.0.len(),
            "{} gradients for {} parameters",
            gradients.len(),
            self.0.len()
        );
        for (sum, gradient) in self.0.iter_mut().zip(gradients) {
            add_assign(sum, &host(gradient)?)?;
        }
        Ok(())
    }

    /// Multiplies everything by `factor`.
    pub fn scale(&mut self, factor: f32) {
        for value in self.0.iter_mut().flatten() {
            *value *= factor;
        }
    }

    /// Square root of the sum of all squares, summed in f64 in a fixed order.
    pub fn norm(&self) -> f64 {
        let sum_of_squares =
            |v: &Vec<f32>| v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        self.0.iter().map(sum_of_squares).sum::<f64>().sqrt()
    }

    pub fn all_finite(&self) -> bool {
        self.0.iter().flatten().all(|x| x.is_finite())
    }
}

/// Scales gradients down to `max_norm` and returns the norm before, as torch's
/// `clip_grad_norm_`: coefficient `max_norm / (norm + 1e-6)`, never above 1. A `max_norm` of 0
/// leaves them as they are.
pub fn clip(gradients: &mut Values, max_norm: f64) -> f64 {
    let norm = gradients.norm();
    let coefficient = max_norm / (norm + 1e-6);
    if max_norm > 0.0 && coefficient < 1.0 {
        gradients.scale(coefficient as f32);
    }
    norm
}

/// The moments and the number of updates made.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// Updates made so far; skipped steps do not count.
    pub updates: u64,
    /// First moment, torch's `exp_avg`.
    pub exp_avg: Values,
    /// Second moment, torch's `exp_avg_sq`.
    pub exp_avg_sq: Values,
}

impl AdamW {
    pub fn new(set: &LoraSet) -> Self {
        AdamW {
            updates: 0,
            exp_avg: Values::zeros(set),
            exp_avg_sq: Values::zeros(set),
        }
    }

    /// One update of the adapter in place.
    pub fn update(&mut self, set: &LoraSet, gradients: &Values, rates: Rates) -> Result<()> {
        self.updates += 1;
        let updates = self.updates;
        set.parameters()
            .into_par_iter()
            .zip(&gradients.0)
            .zip(&mut self.exp_avg.0)
            .zip(&mut self.exp_avg_sq.0)
            .try_for_each(|(((parameter, gradient), m), v)| {
                let rate = rates.of(Group::of(&parameter));
                let scalars = Scalars::new(rate, rates.weight_decay, updates);
                scalars.update(parameter.var, gradient, m, v)
            })
    }
}

impl Scalars {
    fn update(&self, var: &Variable, gradient: &[f32], m: &mut [f32], v: &mut [f32]) -> Result<()> {
        let mut values = host(var.as_tensor())?;
        for (((x, &g), m), v) in values.iter_mut().zip(gradient).zip(m).zip(v) {
            *x *= self.decay;
            *m += (g - *m) * (1.0 - BETA1) as f32;
            *v = *v * BETA2 as f32 + g * g * (1.0 - BETA2) as f32;
            let denominator = v.sqrt() / self.bias_correction2_sqrt + EPSILON as f32;
            *x -= self.step_size * (*m / denominator);
        }
        set_values(var, values)
    }
}

/// Copies values into a variable of the same number of elements.
pub fn set_values(var: &Variable, values: Vec<f32>) -> Result<()> {
    let tensor = Tensor::from_vec(values, var.shape(), var.device())?;
    var.set(&tensor).context("updating the adapter")
}

fn host(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?)
}

fn add_assign(sum: &mut [f32], addend: &[f32]) -> Result<()> {
    ensure!(
        sum.len() == addend.len(),
        "a gradient has {} numbers, its adapter {}",
        addend.len(),
        sum.len()
    );
    for (s, a) in sum.iter_mut().zip(addend) {
        *s += a;
    }
    Ok(())
}
