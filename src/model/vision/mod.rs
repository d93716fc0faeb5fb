//! Models that look at pictures: BLIP, which says what is on them, and CLIP's image tower, which puts
//! them into the space of its texts. Both only compute forward, in f32.

mod blip;
mod blip_text;
mod clip;
mod layers;
mod preprocessing;
mod tower;
mod weights;

pub use blip::{Blip, Speech};
pub use clip::{ClipVision, embed_texts, unit};
pub use preprocessing::{Preprocessing, Size};
pub use weights::fingerprint;

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::source::read_text;
use crate::error::input_error;

/// What a folder's config.json says that the model is: "blip", "clip".
///
/// # Errors
/// There is none, or it says nothing.
pub fn vision_model_type(folder: &Path) -> Result<String> {
    let config = json(&folder.join("config.json"))?;
    let kind = config.get("model_type").and_then(Value::as_str);
    kind.map(str::to_owned).ok_or_else(|| {
        input_error(format!(
            "{} does not say what model it is (`model_type` is missing)",
            folder.join("config.json").display()
        ))
    })
}

fn json(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Err(input_error(format!(
            "{} is missing: a BLIP or CLIP model is a Hugging Face folder with config.json, \
             model.safetensors and tokenizer files",
            path.display()
        )));
    }
    serde_json::from_str(&read_text(path)?)
        .map_err(|e| input_error(format!("{} is not valid JSON: {e}", path.display())))
}

/// Numbers of a config, with the values that transformers gives where they are absent.
struct Section<'a> {
    value: &'a Value,
    file: String,
}

impl Section<'_> {
    fn size(&self, key: &str, default: usize) -> Result<usize> {
        match self.value.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .filter(|n| (1..=1 << 24).contains(n))
                .map(|n| n as usize)
                .ok_or_else(|| self.wrong(key)),
        }
    }

    fn id(&self, key: &str, default: u32) -> Result<u32> {
        match self.value.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                let id = value.as_u64().and_then(|n| u32::try_from(n).ok());
                id.ok_or_else(|| self.wrong(key))
            }
        }
    }

    fn real(&self, key: &str, default: f64) -> Result<f64> {
        match self.value.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(key)),
        }
    }

    fn activation(&self, default: &str) -> Result<layers::Activation> {
        let word = self.value.get("hidden_act").and_then(Value::as_str);
        match word.unwrap_or(default) {
            "gelu" => Ok(layers::Activation::Gelu),
            "quick_gelu" => Ok(layers::Activation::QuickGelu),
            other => Err(input_error(format!(
                "{}: the activation {other} is not supported",
                self.file
            ))),
        }
    }

    fn wrong(&self, key: &str) -> anyhow::Error {
        input_error(format!("{}: `{key}` is not a number that fits", self.file))
    }
}
