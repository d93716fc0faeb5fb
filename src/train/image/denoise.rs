//! The loss of denoising: how a latent is noised, what the UNet is to say of it, and how much each
//! picture counts.

use anyhow::Result;
use candle_core::Tensor;

use super::latents::Latent;
use crate::generate::image::NoiseLevels;
use crate::model::diffusion::Prediction;
use crate::ops::{LossSum, Wanted, squared_errors};
use crate::random::{Purpose, Stream};

/// Settings of the objective.
#[derive(Clone, Debug)]
pub(super) struct Denoising {
    pub levels: NoiseLevels,
    pub prediction: Prediction,
    /// What latents are multiplied by.
    pub scaling_factor: f64,
    pub seed: u64,
    /// Hang et al., arXiv:2303.09556.
    pub min_snr_gamma: Option<f64>,
    /// Noise of a whole channel besides each pixel's (Guttenberg, "Diffusion with offset noise",
    /// 2023).
    pub noise_offset: f64,
    /// Weight of regularisation pictures (Ruiz et al., arXiv:2208.12242).
    pub prior_loss_weight: f64,
}

/// A noised latent, `[pixels, channels]`, and what the UNet is to answer.
pub(super) struct Noised {
    pub latent: Vec<f32>,
    pub timestep: f32,
    target: Vec<f32>,
    weight: f64,
}

impl Denoising {
    /// As training sees it the `draw`-th time that a picture is taken: where it lies within its
    /// distribution, timestep and noise follow from seed and draw alone.
    pub fn trained(&self, latent: &Latent, draw: u64, regularization: bool) -> Noised {
        let steps = self.levels.steps() as u32;
        let timestep = Stream::new(self.seed, Purpose::Timestep, draw, 0).below(steps) as usize;
        let count = latent.mean.len();
        let mut stream = Stream::new(self.seed, Purpose::Noise, draw, 0);
        let place = stream.gaussian(count);
        let x = latent
            .mean
            .iter()
            .zip(&latent.log_variance)
            .zip(place)
            .map(|((mean, log_variance), place)| {
                // As diffusers clamps it.
                let deviation = (0.5 * log_variance.clamp(-30.0, 20.0)).exp();
                mean + deviation * place
            })
            .collect();
        let mut noise = stream.gaussian(count);
        if self.noise_offset > 0.0 {
            let channels = count / (latent.height * latent.width).max(1);
            let offsets = stream.gaussian(channels);
            for pixel in noise.chunks_mut(channels.max(1)) {
                for (noise, offset) in pixel.iter_mut().zip(&offsets) {
                    *noise += (self.noise_offset * f64::from(*offset)) as f32;
                }
            }
        }
        let prior = match regularization {
            true => self.prior_loss_weight,
            false => 1.0,
        };
        let weight = prior * self.snr_weight(timestep);
        self.noised(x, &noise, timestep, weight)
    }

    /// As evaluation sees it: the mean, at one of `of` timesteps spread evenly, all alike.
    pub fn evaluated(&self, latent: &Latent, item: u64, number: usize, of: usize) -> Noised {
        let steps = self.levels.steps();
        let timestep = (steps * (2 * number + 1)) / (2 * of);
        // Training's draws count up from 0 and never get there.
        let draw = u64::MAX - (item * of as u64 + number as u64);
        let noise = Stream::new(self.seed, Purpose::Noise, draw, 0).gaussian(latent.mean.len());
        self.noised(latent.mean.clone(), &noise, timestep, 1.0)
    }

    fn noised(&self, x: Vec<f32>, noise: &[f32], timestep: usize, weight: f64) -> Noised {
        let alpha_bar: f64 = self.levels.alpha_bar(timestep);
        let (signal, spread) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        let mix = |a: f64, x: f32, b: f64, noise: f32| {
            (a * f64::from(x) * self.scaling_factor + b * f64::from(noise)) as f32
        };
        let pairs = || x.iter().zip(noise);
        Noised {
            latent: pairs().map(|(&x, &n)| mix(signal, x, spread, n)).collect(),
            target: match self.prediction {
                Prediction::Epsilon => noise.to_vec(),
                Prediction::V => pairs().map(|(&x, &n)| mix(-spread, x, signal, n)).collect(),
            },
            timestep: timestep as f32,
            weight,
        }
    }

    fn snr_weight(&self, timestep: usize) -> f64 {
        let Some(gamma) = self.min_snr_gamma else {
            return 1.0;
        };
        let snr = self.levels.snr(timestep);
        match self.prediction {
            Prediction::Epsilon => snr.min(gamma) / snr,
            Prediction::V => snr.min(gamma) / (snr + 1.0),
        }
    }
}

/// The sum over pictures of the weighted mean squared error, and its gradient with respect to the
/// prediction, in the prediction's shape.
pub(super) fn loss(noised: &[&Noised], prediction: &Tensor) -> Result<(LossSum, Tensor)> {
    let pictures: Vec<Wanted<'_>> = noised
        .iter()
        .map(|picture| Wanted {
            target: &picture.target,
            weight: picture.weight,
        })
        .collect();
    Ok(squared_errors(prediction, &pictures)?)
}
