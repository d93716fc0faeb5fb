//! The base that is compiled into the program.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::config::DecoderConfig;
use super::source::{Source, TokenizerFiles, is_parameter, read_safetensors};
use super::tokenizer::{Parts, Tokenizer};
use crate::error::input_error;

const TINY_LLAMA: &str = "tiny-llama";

const CONFIG: &str = include_str!("builtin/tiny-llama/config.json");
const GENERATION: &str = include_str!("builtin/tiny-llama/generation_config.json");
const TOKENIZER: &str = include_str!("builtin/tiny-llama/tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("builtin/tiny-llama/tokenizer_config.json");
const WEIGHTS: &[u8] = include_bytes!("builtin/tiny-llama/model.safetensors");

/// # Errors
/// There is no such built-in base.
pub(super) fn open(name: &str) -> Result<Source> {
    if name != TINY_LLAMA {
        return Err(input_error(format!(
            "there is no built-in base '{name}'; the only one is builtin:{TINY_LLAMA}"
        )));
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
