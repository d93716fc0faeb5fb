//! CLIP (Radford et al., 2021): pictures and texts in one space.

use std::path::Path;

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use serde_json::Value;

use super::layers::{LayerNorm, Linear};
use super::tower::{Layer, Shape, Style, Tower};
use super::weights::Weights;
use super::{Preprocessing, Section};
use crate::error::input_error;
use crate::model::Tokenizer;

/// Puts pictures where CLIP's text encoder puts what is said of them.
pub struct ClipVision {
    tower: Tower,
    projection: Linear,
    preprocessing: Preprocessing,
    /// What similarities are multiplied by before they are made probabilities.
    scale: f32,
}

/// CLIP's texts, beside its pictures.
pub struct ClipWords {
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
    heads: usize,
    positions: usize,
    words: Tensor,
    places: Tensor,
    layers: Vec<Layer>,
    norm: LayerNorm,
    projection: Linear,
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

impl ClipWords {
    /// Opens the texts' side of a folder of a whole CLIP model.
    ///
    /// # Errors
    /// Not such a folder, or a damaged one: one sentence.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let (config, file) = config_of(folder)?;
        let weights = Weights::open(folder, device)?;
        let outputs = Section {
            value: &config,
            file: file.clone(),
        }
        .size("projection_dim", 512)?;
        let section = Section {
            value: &config["text_config"],
            file: format!("{file}, text_config"),
        };
        let width = section.size("hidden_size", 512)?;
        let heads = section.size("num_attention_heads", 8)?;
        let count = section.size("num_hidden_layers", 12)?;
        let vocabulary = section.size("vocab_size", 49408)?;
        let positions = section.size("max_position_embeddings", 77)?;
        let shape = Shape {
            width,
            inner: section.size("intermediate_size", 2048)?,
            eps: section.real("layer_norm_eps", 1e-5)?,
            activation: section.activation("quick_gelu")?,
        };
        if width % heads != 0 {
            bail!(section.wrong("num_attention_heads"));
        }
        let at = |part: &str| format!("text_model.{part}");
        let layer = |index: usize| {
            Layer::read(
                &weights,
                &at(&format!("encoder.layers.{index}")),
                &shape,
                Style::Clip,
            )
        };
        let embedding = |part: &str, rows: usize| {
            weights.get(
                &at(&format!("embeddings.{part}_embedding.weight")),
                &[rows, width],
            )
        };
        let tokenizer = Tokenizer::from_folder(folder)?;
        let (Some(begin), Some(&end)) = (tokenizer.bos, tokenizer.eos.first()) else {
            bail!(input_error(format!(
                "{}: its tokenizer names no tokens for the begin and the end of a text",
                folder.display()
            )));
        };
        Ok(ClipWords {
            tokenizer,
            begin,
            end,
            heads,
            positions,
            words: embedding("token", vocabulary)?,
            places: embedding("position", positions)?,
            layers: (0..count).map(layer).collect::<Result<_>>()?,
            norm: LayerNorm::read(&weights, &at("final_layer_norm"), width, shape.eps)?,
            projection: Linear::without_bias(&weights, "text_projection", width, outputs)?,
        })
    }

    /// Token ids of a text, with the first and the last one; what is too long is cut.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = vec![self.begin];
        ids.extend(self.tokenizer.encode(text)?);
        ids.truncate(self.positions - 1);
        ids.push(self.end);
        Ok(ids)
    }

    /// A text as a unit vector.
    ///
    /// # Errors
    /// The tokenizer or the device fails.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>> {
        let ids = self.ids(text)?;
        let index = Tensor::new(ids.as_slice(), self.words.device())?;
        let words = self.words.index_select(&index, 0)?;
        let mut x = (words + self.places.narrow(0, 0, ids.len())?)?;
        for layer in &self.layers {
            x = layer.forward(&x, 1, self.heads, true)?;
        }
        // What comes after a text's end does not reach it, so no padding is needed.
        let last = self.norm.forward(&x.narrow(0, ids.len() - 1, 1)?)?;
        let projected = self.projection.forward(&last)?.to_vec2::<f32>()?;
        Ok(projected.into_iter().next().map(unit).unwrap_or_default())
    }
}

/// The vector at length 1.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector
        .iter_mut()
        .for_each(|x| *x /= length.max(f32::MIN_POSITIVE));
    vector
}
