//! A picture from a text.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::line::Drawing;
use super::noise::NoiseLevels;
use super::sampler::{Sampler, gaussian};
use crate::model::Active;
use crate::model::diffusion::{Grid, Kind, Prediction, TextCondition, UNet, UNetInput, VaeDecoder};

/// Pixels, three bytes each, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub rgb: Vec<u8>,
}

/// What draws.
pub struct Painter<'a> {
    pub unet: &'a UNet,
    pub levels: &'a NoiseLevels,
    pub kind: Kind,
    pub prediction: Prediction,
    /// Pixels of a latent's side.
    pub reduction: usize,
    /// What latents are multiplied by before the UNet sees them.
    pub scaling_factor: f64,
}

impl Painter<'_> {
    /// Draws the latent; `negative` is not read at a scale of 1. `go_on` is asked before each step,
    /// and `None` is returned when it says no.
    ///
    /// One text after the other, so that a picture takes no more memory than a step of training.
    ///
    /// # Errors
    /// An adapter of another base; the device fails.
    pub fn latent(
        &self,
        drawing: &Drawing,
        positive: &TextCondition,
        negative: &TextCondition,
        adapters: &[Active<'_>],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Tensor>> {
        let grid = self.grid(drawing);
        let channels = self.unet.config().in_channels;
        let noise = gaussian(drawing.seed, 0, grid.rows() * channels);
        let mut sampler = Sampler::new(
            drawing.sampler,
            self.prediction,
            self.levels,
            drawing.steps,
            &noise,
            drawing.seed,
        );
        let (height, width) = (drawing.height as f32, drawing.width as f32);
        let time_ids = [[height, width, 0.0, 0.0, height, width]];
        while let Some(timestep) = sampler.timestep() {
            if !go_on() {
                return Ok(None);
            }
            let given = (sampler.model_input(), (grid.rows(), channels));
            let latents = Tensor::from_vec(given.0, given.1, self.unet.device())?;
            let predict = |text: &TextCondition| -> Result<Vec<f32>> {
                let input = UNetInput {
                    latents: &latents,
                    grid,
                    timesteps: &[timestep as f32],
                    time_ids: (self.kind == Kind::Sdxl).then_some(&time_ids[..]),
                };
                let output = self.unet.forward(&input, text, adapters)?;
                Ok(output.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
            };
            let mut output = predict(positive)?;
            if drawing.scale != 1.0 {
                let scale = drawing.scale as f32;
                for (with, without) in output.iter_mut().zip(predict(negative)?) {
                    *with = without + scale * (*with - without);
                }
            }
            sampler.step(&output)?;
        }
        let latent = Tensor::from_vec(
            sampler.latent(),
            (grid.rows(), channels),
            self.unet.device(),
        )?;
        Ok(Some((latent / self.scaling_factor)?))
    }

    /// The picture of a latent.
    ///
    /// # Errors
    /// The device fails.
    pub fn picture(
        &self,
        drawing: &Drawing,
        latent: &Tensor,
        decoder: &VaeDecoder,
    ) -> Result<Picture> {
        let pixels = decoder.decode(latent, self.grid(drawing))?;
        let pixels: Vec<f32> = pixels.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let byte = |x: &f32| ((x.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
        Ok(Picture {
            width: drawing.width,
            height: drawing.height,
            rgb: pixels.iter().map(byte).collect(),
        })
    }

    fn grid(&self, drawing: &Drawing) -> Grid {
        Grid {
            images: 1,
            height: drawing.height / self.reduction,
            width: drawing.width / self.reduction,
        }
    }
}
