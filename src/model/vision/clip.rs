//! CLIP's image tower (Radford et al., 2021), and texts beside it, which [`ClipText`] encodes.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use serde_json::Value;

use super::layers::Linear;
use super::tower::{Style, Tower};
use super::weights::Weights;
use super::{Preprocessing, Section};
use crate::error::input_error;
use crate::model::diffusion::{ClipText, open_clip_tokenizer};

/// Puts pictures where CLIP's text encoder puts what is said of them.
pub struct ClipVision {
    tower: Tower,
    projection: Linear,
    preprocessing: Preprocessing,
    /// What similarities are multiplied by before they are made probabilities.
    scale: f32,
}

fn config_of(folder: &Path) -> Result<(Value, String)> {
    let file = folder.join("config.json");
    let config = super::json(&file)?;
    match config.get("model_type").and_then(Value::as_str) {
        Some("clip") => Ok((config, file.display().to_string())),
        _ => Err(input_error(format!(
            "{} is not of a whole CLIP model (with images and texts)",
            file.display()
        ))),
    }
}

impl ClipVision {
    /// Opens the image tower of a folder of a whole CLIP model.
    ///
    /// # Errors
    /// Not such a folder, or a damaged one: one sentence.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let (config, file) = config_of(folder)?;
        let weights = Weights::open(folder, device)?;
        let tower = Tower::read(&weights, &config["vision_config"], &file, Style::Clip)?;
        let section = Section {
            value: &config,
            file,
        };
        let outputs = section.size("projection_dim", 512)?;
        let scale = match weights.has("logit_scale") {
            true => weights.get("logit_scale", &[1])?.to_vec1::<f32>()?[0].exp(),
            // What CLIP's training ends with.
            false => 100.0,
        };
        Ok(ClipVision {
            projection: Linear::without_bias(&weights, "visual_projection", tower.width, outputs)?,
            preprocessing: Preprocessing::read(folder, tower.side, true)?,
            tower,
            scale,
        })
    }

    /// How a picture becomes the numbers that [`ClipVision::embed`] takes.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// What similarities are multiplied by before a softmax.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Pictures, `[3, side, side]` numbers each, as unit vectors.
    ///
    /// # Errors
    /// Another count of numbers; the device fails.
    pub fn embed(&self, pixels: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        if pixels.is_empty() {
            return Ok(Vec::new());
        }
        let states = self.tower.states(pixels)?;
        let first = states.narrow(1, 0, 1)?.squeeze(1)?;
        let projected = self.projection.forward(&self.tower.after(&first)?)?;
        Ok(projected.to_vec2::<f32>()?.into_iter().map(unit).collect())
    }
}

/// Texts where a CLIP puts them, as unit vectors; what is too long is cut.
///
/// # Errors
/// The folder holds no whole CLIP; the device fails.
pub fn embed_texts(folder: &Path, device: &Device, texts: &[String]) -> Result<Vec<Vec<f32>>> {
    let tokenizer = open_clip_tokenizer(folder)?;
    let encoder = ClipText::open(folder, device)?;
    let room = encoder.config().positions.saturating_sub(2);
    let ids = texts.iter().map(|text| {
        let mut words = tokenizer.ids(text)?;
        words.truncate(room);
        Ok([&[tokenizer.bos], &words[..], &[tokenizer.eos]].concat())
    });
    let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
    let rows = encoder.pooled(&ids)?.to_vec2::<f32>()?;
    Ok(rows.into_iter().map(unit).collect())
}

/// The vector at length 1.
pub fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector
        .iter_mut()
        .for_each(|x| *x /= length.max(f32::MIN_POSITIVE));
    vector
}
