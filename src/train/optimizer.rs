//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), on the host.
//!
//! An adapter is small beside its base, so its gradients, moments and update live in host memory in
//! f32 on every device: the arithmetic is the same everywhere, and moments are exported as they are.
//! The order of operations is torch's `AdamW` (single tensor), scalars in f64.

use anyhow::{Context, Result, ensure};
use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::model::LoraSet;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Numbers of one kind (gradients, a moment) for A and B of every pair, in the set's order.
#[derive(Clone, Debug, PartialEq)]
pub struct PairValues(pub Vec<(Vec<f32>, Vec<f32>)>);

impl PairValues {
    /// Zeros in the shape of `set`.
    pub fn zeros(set: &LoraSet) -> Self {
        let zeros = |v: &Var| vec![0.0; v.elem_count()];
        PairValues(
            set.pairs
                .iter()
                .map(|p| (zeros(&p.a), zeros(&p.b)))
                .collect(),
        )
    }

    /// The values of the adapter itself.
    pub fn of(set: &LoraSet) -> Result<Self> {
        let pairs: Result<_> = set
            .pairs
            .iter()
            .map(|p| Ok((host(p.a.as_tensor())?, host(p.b.as_tensor())?)))
            .collect();
        Ok(PairValues(pairs?))
    }

    /// Adds the gradients of a micro-batch.
    pub fn add(&mut self, gradients: &[(Tensor, Tensor)]) -> Result<()> {
        ensure!(
            gradients.len() == self.0.len(),
            "{} gradients for {} adapters",
            gradients.len(),
            self.0.len()
        );
        for ((a, b), (da, db)) in self.0.iter_mut().zip(gradients) {
            add_assign(a, &host(da)?)?;
            add_assign(b, &host(db)?)?;
        }
        Ok(())
    }

    /// Multiplies everything by `factor`.
    pub fn scale(&mut self, factor: f32) {
        for value in self.iter_mut() {
            *value *= factor;
        }
    }

    /// Square root of the sum of all squares, summed in f64 in a fixed order.
    pub fn norm(&self) -> f64 {
        let sum_of_squares =
            |v: &[f32]| v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        self.0
            .iter()
            .map(|(a, b)| sum_of_squares(a) + sum_of_squares(b))
            .sum::<f64>()
            .sqrt()
    }

    pub fn all_finite(&self) -> bool {
        let finite = |v: &[f32]| v.iter().all(|x| x.is_finite());
        self.0.iter().all(|(a, b)| finite(a) && finite(b))
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut f32> {
        self.0
            .iter_mut()
            .flat_map(|(a, b)| a.iter_mut().chain(b.iter_mut()))
    }
}

/// Scales gradients down to `max_norm` and returns the norm before, as torch's
/// `clip_grad_norm_`: coefficient `max_norm / (norm + 1e-6)`, never above 1.
pub fn clip(gradients: &mut PairValues, max_norm: f64) -> f64 {
    let norm = gradients.norm();
    let coefficient = max_norm / (norm + 1e-6);
    if coefficient < 1.0 {
        gradients.scale(coefficient as f32);
    }
    norm
}

/// Rates of one update.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub learning_rate: f64,
    /// B's learning rate over A's (LoRA+, arXiv:2402.12354).
    pub loraplus_ratio: f64,
    pub weight_decay: f64,
}

/// The moments and the number of updates made.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// Updates made so far; skipped steps do not count.
    pub updates: u64,
    /// First moment, torch's `exp_avg`.
    pub exp_avg: PairValues,
    /// Second moment, torch's `exp_avg_sq`.
    pub exp_avg_sq: PairValues,
}

impl AdamW {
    pub fn new(set: &LoraSet) -> Self {
        AdamW {
            updates: 0,
            exp_avg: PairValues::zeros(set),
            exp_avg_sq: PairValues::zeros(set),
        }
    }

    /// One update of the adapter in place.
    pub fn update(&mut self, set: &LoraSet, gradients: &PairValues, rates: Rates) -> Result<()> {
        self.updates += 1;
        let rate_b = rates.learning_rate * rates.loraplus_ratio;
        let for_a = Scalars::new(rates.learning_rate, rates.weight_decay, self.updates);
        let for_b = Scalars::new(rate_b, rates.weight_decay, self.updates);
        set.pairs
            .par_iter()
            .zip(&gradients.0)
            .zip(&mut self.exp_avg.0)
            .zip(&mut self.exp_avg_sq.0)
            .try_for_each(|(((pair, (da, db)), (ma, mb)), (va, vb))| {
                for_a.update(&pair.a, da, ma, va)?;
                for_b.update(&pair.b, db, mb, vb)
            })
    }
}

/// What is the same for every number of a tensor in one update.
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

    fn update(&self, var: &Var, gradient: &[f32], m: &mut [f32], v: &mut [f32]) -> Result<()> {
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
pub fn set_values(var: &Var, values: Vec<f32>) -> Result<()> {
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
