//! Samples of an image run: a picture for every line of `sample_prompts`.

use std::sync::Arc;

use anyhow::Result;

use super::Image;
use crate::config::RunConfig;
use crate::generate::image::{Drawing, Painter, parameters};
use crate::model::Active;
use crate::train::export::portable_name;
use crate::train::objective::Made;

/// A line of `sample_prompts`: what it leaves out comes from the config.
///
/// # Errors
/// A line that cannot be read.
pub(super) fn drawing(line: &str, config: &RunConfig) -> Result<Drawing> {
    Drawing::new(config.resolution / 8 * 8, config.seed).with_line(line)
}

/// Draws a line's picture. The VAE's decoder is in memory only while it is used.
pub(super) fn draw(
    image: &Image,
    line: &str,
    config: &RunConfig,
    adapters: &[Active<'_>],
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Made> {
    let drawing = drawing(line, config)?;
    let described = image.described();
    let encode = |text: &str| match image.trains_text {
        true => image.texts.encode_adapted(&image.source, text, adapters),
        false => image.texts.encode(&image.source, text),
    };
    let (positive, negative) = (encode(&drawing.prompt)?, encode(&drawing.negative)?);
    if !image.trains_text && !image.captions_vary {
        image.texts.close();
    }
    let painter = Painter {
        unet: &image.unet,
        levels: &image.denoising.levels,
        kind: described.kind,
        prediction: described.prediction,
        reduction: described.vae.reduction(),
        scaling_factor: described.vae.scaling_factor,
    };
    let latent = painter.latent(&drawing, &positive, &negative, adapters, go_on)?;
    let Some(latent) = latent else {
        return Ok(Made::Picture(Arc::default()));
    };
    let decoder = image.source.vae_decoder(&image.device)?;
    let picture = painter.picture(&drawing, &latent, &decoder)?;
    let text = parameters(&drawing, &portable_name(&described.name), &[]);
    Ok(Made::Picture(Arc::new(picture.to_png(&text)?)))
}
