//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), on the host.
//!
//! An adapter is small beside its base, so its gradients, moments and update live in host memory in
//! f32 on every device: the arithmetic is the same everywhere, and moments are exported as they are.
//! The order of operations is torch's `AdamW` (single tensor), scalars in f64.

use anyhow::{Context, Result, ensure};
use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::model::{LoraSet, Part};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// How the modules of image bases' text encoders begin.
const TEXT_ENCODER: &str = "text_encoder";

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
        // As PEFT's `create_loraplus_optimizer` groups them: all vectors go with B.
        let scalars = |rate: f64| {
            let of = |rate| Scalars::new(rate, rates.weight_decay, self.updates);
            (of(rate), of(rate * rates.loraplus_ratio))
        };
        let (others, encoders) = (scalars(rates.learning_rate), scalars(rates.text_encoder));
        set.parameters()
            .into_par_iter()
            .zip(&gradients.0)
            .zip(&mut self.exp_avg.0)
            .zip(&mut self.exp_avg_sq.0)
            .try_for_each(|(((parameter, gradient), m), v)| {
                let (slow, fast) = match parameter.module.starts_with(TEXT_ENCODER) {
                    true => &encoders,
                    false => &others,
                };
                let scalars = match parameter.part {
                    Part::A => slow,
                    Part::B | Part::Magnitude => fast,
                };
                scalars.update(parameter.var, gradient, m, v)
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::{LoraPair, LoraSpec};

    /// One pair: A of two numbers, B of one.
    fn set() -> LoraSet {
        let var =
            |numbers: &[f32], shape| Var::from_vec(numbers.to_vec(), shape, &Device::Cpu).unwrap();
        let pair = LoraPair {
            module: "m".into(),
            a: var(&[1.0, -2.0], (1, 2)),
            b: var(&[0.5], (1, 1)),
            magnitude: None,
            scale: 1.0,
        };
        LoraSet::from_pairs(vec![pair], LoraSpec::lora(1))
    }

    fn gradients() -> Values {
        Values(vec![vec![3.0, 0.0], vec![-4.0]])
    }

    #[test]
    fn clipping_scales_the_norm_of_all_gradients_together() {
        // |(3, 0, -4)| = 5.
        let mut clipped = gradients();
        assert_eq!(clip(&mut clipped, 1.0), 5.0);
        assert!((clipped.norm() - 1.0).abs() < 1e-6);
        let mut untouched = gradients();
        assert_eq!(clip(&mut untouched, 10.0), 5.0);
        assert_eq!(untouched, gradients());
        // `max_grad_norm: 0` means never.
        assert_eq!(clip(&mut untouched, 0.0), 5.0);
        assert_eq!(untouched, gradients());
    }

    #[test]
    fn the_first_update_moves_each_number_by_its_rate_against_the_gradients_sign() {
        // At the first step m / sqrt(v) is the gradient's sign, whatever its size.
        let set = set();
        let rates = Rates {
            learning_rate: 0.01,
            text_encoder: 0.01,
            loraplus_ratio: 16.0,
            weight_decay: 0.1,
        };
        AdamW::new(&set).update(&set, &gradients(), rates).unwrap();
        let Values(values) = Values::of(&set).unwrap();
        let (a, b) = (&values[0], &values[1]);
        for (ours, expected) in [
            // Decay is of the weight by rate * decay, before the step.
            (a[0], 1.0 * (1.0 - 0.01 * 0.1) - 0.01),
            (a[1], -2.0 * (1.0 - 0.01 * 0.1)),
            // LoRA+: B's rate is 16 times A's, for decay as well.
            (b[0], 0.5 * (1.0 - 0.16 * 0.1) + 0.16),
        ] {
            assert!(
                (f64::from(ours) - expected).abs() < 1e-6,
                "{ours} {expected}"
            );
        }
    }
}
