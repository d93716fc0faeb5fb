//! The bases that are compiled into the program.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::config::DecoderConfig;
use super::diffusion::{self, Component};
use super::source::{Source, TokenizerFiles, is_parameter, read_safetensors};
use super::tokenizer::{Parts, Tokenizer};
use crate::error::input_error;

const TINY_LLAMA: &str = "tiny-llama";

const CONFIG: &str = include_str!("builtin/tiny-llama/config.json");
const GENERATION: &str = include_str!("builtin/tiny-llama/generation_config.json");
const TOKENIZER: &str = include_str!("builtin/tiny-llama/tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("builtin/tiny-llama/tokenizer_config.json");
const WEIGHTS: &[u8] = include_bytes!("builtin/tiny-llama/model.safetensors");

const TINY_SD: &str = "tiny-sd";

macro_rules! component {
    ($name:literal, $weights:literal) => {
        Component {
            name: $name,
            config: include_str!(concat!("builtin/tiny-sd/", $name, "/config.json")),
            weights: vec![(
                Arc::new(include_bytes!(concat!(
                    "builtin/tiny-sd/",
                    $name,
                    "/",
                    $weights
                ))),
                concat!("builtin:tiny-sd/", $name).to_owned(),
            )],
        }
    };
}

/// A built-in image base.
///
/// # Errors
/// There is none of that name.
pub(super) fn open_image(name: &str) -> Result<diffusion::Source> {
    if name != TINY_SD {
        return Err(unknown(name));
    }
    diffusion::Source::from_parts(diffusion::Parts {
        name: format!("builtin:{TINY_SD}"),
        format: "builtin",
        scheduler: include_str!("builtin/tiny-sd/scheduler/scheduler_config.json"),
        components: vec![
            component!("unet", "diffusion_pytorch_model.safetensors"),
            component!("vae", "diffusion_pytorch_model.safetensors"),
            component!("text_encoder", "model.safetensors"),
        ],
        vocabulary: (
            include_str!("builtin/tiny-sd/tokenizer/vocab.json"),
            include_str!("builtin/tiny-sd/tokenizer/merges.txt"),
        ),
    })
}

/// Whether there is a built-in image base of that name.
pub(super) fn is_image(name: &str) -> bool {
    name == TINY_SD
}

fn unknown(name: &str) -> anyhow::Error {
    input_error(format!(
        "there is no built-in base '{name}'; there are builtin:{TINY_LLAMA}, for text, and \
         builtin:{TINY_SD}, for images"
    ))
}

/// # Errors
/// There is no such built-in base.
pub(super) fn open(name: &str) -> Result<Source> {
    if name != TINY_LLAMA {
        return Err(unknown(name));
    }
    let mut tensors = BTreeMap::new();
    let name = format!("builtin:{TINY_LLAMA}");
    read_safetensors(Arc::new(WEIGHTS), &name, is_parameter, &mut tensors)?;
    Ok(Source {
        config: DecoderConfig::from_json(CONFIG, &name)?,
        name,
        format: "builtin",
        tensors,
        files: Vec::new(),
        tokenizer: TokenizerFiles::Builtin,
        notes: Vec::new(),
        quantization: None,
        mapped: Vec::new(),
    })
}

pub(super) fn tokenizer() -> Result<Tokenizer> {
    let json = |text| serde_json::from_str(text).context("the built-in base is damaged");
    Tokenizer::from_parts(Parts {
        tokenizer: TOKENIZER,
        file: "the built-in tokenizer",
        config: json(TOKENIZER_CONFIG)?,
        model: json(CONFIG)?,
        generation: json(GENERATION)?,
        template: None,
    })
}
