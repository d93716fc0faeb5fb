//! Pictures as the VAE sees them: means and logarithms of variances, made once and kept on disk.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use crate::data::images::{Array, Cache, ImageDataset};
use crate::model::diffusion::{Grid, Source, VaeEncoder};

/// A picture's latent distribution.
pub(super) struct Latent {
    /// In latent pixels.
    pub height: usize,
    pub width: usize,
    /// `[height * width, channels]`.
    pub mean: Vec<f32>,
    pub log_variance: Vec<f32>,
}

/// Gives the latents of a dataset's pictures.
pub(super) struct Latents {
    cache: Rc<Cache>,
    /// Of the VAE's weights.
    weights: blake3::Hash,
    device: Device,
    /// Open while it is needed: always, where nothing is kept on disk.
    encoder: RefCell<Option<VaeEncoder>>,
}

impl Latents {
    pub fn new(cache: Rc<Cache>, weights: blake3::Hash, device: &Device) -> Self {
        Latents {
            cache,
            weights,
            device: device.clone(),
            encoder: RefCell::new(None),
        }
    }

    /// Makes what is not on disk yet, and frees the encoder: not for a cache that keeps nothing. `told(done, total)` after each picture.
    ///
    /// # Errors
    /// A picture that cannot be read, or that has no place for a latent; the disk fails.
    pub fn prepare(
        &self,
        data: &ImageDataset,
        flips: bool,
        source: &Source,
        told: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        let total = data.items.len() * (1 + usize::from(flips));
        let mut done = 0;
        for item in 0..data.items.len() {
            for &flip in if flips { &[false, true][..] } else { &[false] } {
                self.get(data, item, flip, source)?;
                done += 1;
                told(done, total)?;
            }
        }
        *self.encoder.borrow_mut() = None;
        Ok(())
    }

    /// The latent of a picture, mirrored or not.
    ///
    /// # Errors
    /// As [`Latents::prepare`].
    pub fn get(
        &self,
        data: &ImageDataset,
        item: usize,
        flip: bool,
        source: &Source,
    ) -> Result<Latent> {
        let key = data.latent_key(item, flip, self.weights.as_bytes());
        let compute = || self.encode(data, item, flip, source);
        let arrays = self.cache.get_or(&key, compute)?;
        let [mean, log_variance]: [Array; 2] = arrays
            .try_into()
            .ok()
            .context("the cache holds another kind of latent")?;
        Ok(Latent {
            height: mean.shape[0],
            width: mean.shape[1],
            mean: mean.data,
            log_variance: log_variance.data,
        })
    }

    /// Mean and logarithm of the variance, each `[height, width, channels]`.
    fn encode(
        &self,
        data: &ImageDataset,
        item: usize,
        flip: bool,
        source: &Source,
    ) -> Result<Vec<Array>> {
        let pixels = data.decode(item, flip)?;
        let (height, width) = (pixels.height as usize, pixels.width as usize);
        let reduction = source.description().vae.reduction();
        let rows = Tensor::from_vec(pixels.data, (height * width, 3), &self.device)?;
        let grid = Grid {
            images: 1,
            height,
            width,
        };
        if self.encoder.borrow().is_none() {
            *self.encoder.borrow_mut() = Some(source.vae_encoder(&self.device)?);
        }
        let encoder = self.encoder.borrow();
        let encoder = encoder.as_ref().context("the VAE is not open")?;
        let (mean, log_variance) = encoder.encode(&rows, grid)?;
        let array = |tensor: &Tensor| -> Result<Array> {
            let channels = tensor.dim(1)?;
            let flat = tensor.to_dtype(DType::F32)?.flatten_all()?;
            Ok(Array {
                shape: vec![height / reduction, width / reduction, channels],
                data: flat.to_vec1()?,
            })
        };
        Ok(vec![array(&mean)?, array(&log_variance)?])
    }
}
