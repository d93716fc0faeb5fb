//! From noise to a latent, in few steps. Each sampler is held against diffusers' scheduler of the
//! same name on fixed outputs of a model.
//!
//! All of them walk `x = x0 + sigma noise` (Karras et al., arXiv:2206.00364), whose every step is a
//! sum of `x`, the model's idea of `x0` and, for the ancestral one, fresh noise. Latents are small:
//! this is computed on the host in f32, so that one seed gives one picture.

use anyhow::{Result, ensure};

use super::noise::NoiseLevels;
use crate::model::diffusion::Prediction;
use crate::random::{Purpose, Stream};

/// Which sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerKind {
    /// Song et al., arXiv:2010.02502, without added noise; timesteps as Stable Diffusion's.
    Ddim,
    /// DPM-Solver++(2M), Lu et al., arXiv:2211.01095.
    DpmPlusPlus2M,
    /// Euler's steps with noise added after each (k-diffusion's `sample_euler_ancestral`).
    EulerAncestral,
}

impl SamplerKind {
    /// By the word in a prompt's line or on the command line.
    pub fn named(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "ddim" => Some(SamplerKind::Ddim),
            "dpm++_2m" | "dpmpp_2m" | "dpmsolver++" => Some(SamplerKind::DpmPlusPlus2M),
            "euler_a" | "k_euler_a" => Some(SamplerKind::EulerAncestral),
            _ => None,
        }
    }

    /// The name that AUTOMATIC1111 writes into pictures.
    pub fn title(self) -> &'static str {
        match self {
            SamplerKind::Ddim => "DDIM",
            SamplerKind::DpmPlusPlus2M => "DPM++ 2M",
            SamplerKind::EulerAncestral => "Euler a",
        }
    }
}

/// A picture's way from noise.
pub struct Sampler {
    kind: SamplerKind,
    prediction: Prediction,
    /// What the model is told, one for each step.
    timesteps: Vec<f64>,
    /// Noise before each step, and after the last.
    sigmas: Vec<f64>,
    at: usize,
    x: Vec<f32>,
    /// The last step's `x0`.
    previous: Vec<f32>,
    seed: u64,
}

impl Sampler {
    /// Begins with `noise` of unit variance; `seed` gives what is added later.
    pub fn new(
        kind: SamplerKind,
        prediction: Prediction,
        levels: &NoiseLevels,
        steps: usize,
        noise: &[f32],
        seed: u64,
    ) -> Self {
        let steps = steps.clamp(1, levels.steps() - 1);
        let timesteps = timesteps(kind, levels.steps(), steps);
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| levels.sigma(t)).collect();
        sigmas.push(match kind {
            // The schedule's own first noise: Stable Diffusion's `set_alpha_to_one: false`.
            SamplerKind::Ddim => levels.sigma(0.0),
            SamplerKind::DpmPlusPlus2M | SamplerKind::EulerAncestral => 0.0,
        });
        let largest = match kind {
            SamplerKind::EulerAncestral => sigmas[0],
            SamplerKind::Ddim | SamplerKind::DpmPlusPlus2M => (sigmas[0].powi(2) + 1.0).sqrt(),
        };
        Sampler {
            kind,
            prediction,
            timesteps,
            sigmas,
            at: 0,
            x: noise
                .iter()
                .map(|&n| (f64::from(n) * largest) as f32)
                .collect(),
            previous: Vec::new(),
            seed,
        }
    }

    /// The timestep whose model output is wanted next; `None`: all steps are made.
    pub fn timestep(&self) -> Option<f64> {
        self.timesteps.get(self.at).copied()
    }

    /// What the model is given: `x` at unit variance.
    pub fn model_input(&self) -> Vec<f32> {
        let scale = 1.0 / (self.sigmas[self.at].powi(2) + 1.0).sqrt();
        self.x
            .iter()
            .map(|&x| (f64::from(x) * scale) as f32)
            .collect()
    }

    /// Takes the model's output for [`Sampler::model_input`].
    ///
    /// # Errors
    /// An output of another size.
    pub fn step(&mut self, output: &[f32]) -> Result<()> {
        let noise = match self.kind {
            // Step 0 of the stream is the noise that all begins with.
            SamplerKind::EulerAncestral => gaussian(self.seed, self.at as u64 + 1, self.x.len()),
            SamplerKind::Ddim | SamplerKind::DpmPlusPlus2M => Vec::new(),
        };
        self.step_with(output, &noise)
    }

    /// As [`Sampler::step`], with the noise that the ancestral sampler adds.
    pub(super) fn step_with(&mut self, output: &[f32], noise: &[f32]) -> Result<()> {
        ensure!(
            output.len() == self.x.len() && self.at < self.timesteps.len(),
            "the sampler got {} numbers for {}",
            output.len(),
            self.x.len()
        );
        let (sigma, next) = (self.sigmas[self.at], self.sigmas[self.at + 1]);
        let x0 = self.x0(output, sigma);
        match self.kind {
            SamplerKind::Ddim => self.mix(next / sigma, &x0, 1.0 - next / sigma),
            SamplerKind::EulerAncestral => {
                let up = next * (sigma * sigma - next * next).sqrt() / sigma;
                let down = (next * next - up * up).max(0.0).sqrt();
                self.mix(down / sigma, &x0, 1.0 - down / sigma);
                for (x, &n) in self.x.iter_mut().zip(noise) {
                    *x += (f64::from(n) * up) as f32;
                }
            }
            SamplerKind::DpmPlusPlus2M => self.dpm_step(&x0),
        }
        self.previous = x0;
        self.at += 1;
        Ok(())
    }

    /// The latent, once all steps are made.
    pub fn latent(self) -> Vec<f32> {
        let scale = match self.kind {
            SamplerKind::Ddim => 1.0 / (self.sigmas[self.at].powi(2) + 1.0).sqrt(),
            SamplerKind::DpmPlusPlus2M | SamplerKind::EulerAncestral => 1.0,
        };
        self.x
            .iter()
            .map(|&x| (f64::from(x) * scale) as f32)
            .collect()
    }

    /// The second-order step in `lambda = -ln sigma`; the first and the last are of first order.
    fn dpm_step(&mut self, x0: &[f32]) {
        let (sigma, next) = (self.sigmas[self.at], self.sigmas[self.at + 1]);
        let ratio = next / sigma;
        if self.at == 0 || next == 0.0 {
            return self.mix(ratio, x0, 1.0 - ratio);
        }
        let h = (sigma / next).ln();
        let h_before = (self.sigmas[self.at - 1] / sigma).ln();
        let ahead = 0.5 * h / h_before;
        let extrapolated: Vec<f32> = x0
            .iter()
            .zip(&self.previous)
            .map(|(&now, &before)| {
                let (now, before) = (f64::from(now), f64::from(before));
                (now + ahead * (now - before)) as f32
            })
            .collect();
        self.mix(ratio, &extrapolated, 1.0 - ratio);
    }

    /// What the model's output says of the latent without noise.
    fn x0(&self, output: &[f32], sigma: f64) -> Vec<f32> {
        let (of_x, of_output) = match self.prediction {
            Prediction::Epsilon => (1.0, -sigma),
            // Salimans and Ho, arXiv:2202.00512.
            Prediction::V => {
                let square = sigma * sigma + 1.0;
                (1.0 / square, -sigma / square.sqrt())
            }
        };
        let pairs = self.x.iter().zip(output);
        pairs
            .map(|(&x, &o)| (of_x * f64::from(x) + of_output * f64::from(o)) as f32)
            .collect()
    }

    /// `x = a x + b y`.
    fn mix(&mut self, a: f64, y: &[f32], b: f64) {
        for (x, &y) in self.x.iter_mut().zip(y) {
            *x = (a * f64::from(*x) + b * f64::from(y)) as f32;
        }
    }
}

/// The timesteps of `steps` steps, the noisiest first.
fn timesteps(kind: SamplerKind, trained: usize, steps: usize) -> Vec<f64> {
    let last = (trained - 1) as f64;
    (0..steps)
        .rev()
        .map(|i| match kind {
            // `timestep_spacing: leading`, `steps_offset: 1`.
            SamplerKind::Ddim => (i * (trained / steps) + 1) as f64,
            // `linspace` with the least one left out, rounded to even as numpy does.
            SamplerKind::DpmPlusPlus2M => (last * (i + 1) as f64 / steps as f64).round_ties_even(),
            SamplerKind::EulerAncestral if steps == 1 => last,
            SamplerKind::EulerAncestral => last * i as f64 / (steps - 1) as f64,
        })
        .collect()
}

/// `count` numbers of unit variance; `step` 0 is what a picture begins with.
pub fn gaussian(seed: u64, step: u64, count: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Sampling, step, 0);
    stream.gaussian(count)
}
