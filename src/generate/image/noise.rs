//! How much noise a timestep has, for training and sampling.

use crate::error::input_error;
use anyhow::Result;

/// The noise of each training timestep, as sigmas: a noised latent is `(x + sigma noise)` times
/// `1 / sqrt(sigma^2 + 1)`, which the variance-preserving papers write as
/// `sqrt(alpha_bar) x + sqrt(1 - alpha_bar) noise`.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseLevels {
    alpha_bars: Vec<f64>,
}

impl NoiseLevels {
    /// Betas from `start` to `end`, in equal steps of their square roots (Stable Diffusion's
    /// `scaled_linear`) or of themselves, in f32 as diffusers computes them.
    ///
    /// # Errors
    /// No timesteps, or betas that are none.
    pub fn new(train_steps: usize, start: f64, end: f64, scaled_linear: bool) -> Result<Self> {
        if train_steps < 2 || !(0.0 < start && start <= end && end < 1.0) {
            return Err(input_error(format!(
                "the base's scheduler has {train_steps} timesteps with betas from {start} to {end}, which is no noise schedule"
            )));
        }
        let of = |beta: f64| if scaled_linear { beta.sqrt() } else { beta };
        let (from, to) = (of(start), of(end));
        let mut alpha_bar = 1.0f32;
        let alpha_bars = (0..train_steps)
            .map(|i| {
                let at = from + (to - from) * i as f64 / (train_steps - 1) as f64;
                let beta = if scaled_linear { at * at } else { at };
                alpha_bar *= 1.0 - beta as f32;
                f64::from(alpha_bar)
            })
            .collect();
        Ok(NoiseLevels { alpha_bars })
    }

    /// Timesteps that were trained on, from 0.
    pub fn steps(&self) -> usize {
        self.alpha_bars.len()
    }

    /// The share of a latent's variance that is left, `alpha_bar`.
    pub fn alpha_bar(&self, timestep: usize) -> f64 {
        self.alpha_bars[timestep]
    }

    /// Signal-to-noise ratio.
    pub fn snr(&self, timestep: usize) -> f64 {
        let alpha_bar = self.alpha_bar(timestep);
        alpha_bar / (1.0 - alpha_bar)
    }

    /// Noise over signal, between timesteps linearly.
    pub fn sigma(&self, timestep: f64) -> f64 {
        let of = |t: usize| (1.0 / self.snr(t)).sqrt();
        let last = self.steps() - 1;
        let below = (timestep.max(0.0).floor() as usize).min(last);
        let above = (below + 1).min(last);
        let share = timestep - below as f64;
        of(below) + (of(above) - of(below)) * share.clamp(0.0, 1.0)
    }
}
