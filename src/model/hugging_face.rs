//! A Hugging Face folder: `config.json`, one or several safetensors files, `tokenizer.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use anyhow::Result;
use serde_json::Value;

use super::config::DecoderConfig;
use super::source::{Source, TokenizerFiles, is_parameter, map, read_safetensors, read_text};
use crate::error::input_error;

/// # Errors
/// A file that is missing or damaged; an architecture that is not supported.
pub(super) fn open(folder: &Path) -> Result<Source> {
    let config_file = folder.join("config.json");
    if !config_file.exists() {
        return Err(input_error(format!(
            "{} is no base: it has no config.json (a Hugging Face folder needs config.json, \
             model.safetensors and tokenizer.json)",
            folder.display()
        )));
    }
    let config = DecoderConfig::from_json(
        &read_text(&config_file)?,
        &config_file.display().to_string(),
    )?;
    let mut files = vec![config_file];
    let mut tensors = BTreeMap::new();
    let mut mapped = Vec::new();
    for name in weight_files(folder, "model")? {
        let path = folder.join(name);
        let bytes = map(&path)?;
        mapped.push(bytes.clone());
        read_safetensors(
            bytes,
            &path.display().to_string(),
            is_parameter,
            &mut tensors,
        )?;
        files.push(path);
    }
    let tokenizer = folder.join("tokenizer.json");
    if tokenizer.exists() {
        files.push(tokenizer);
    }
    Ok(Source {
        name: folder.display().to_string(),
        format: "safetensors",
        config,
        tensors,
        files,
        tokenizer: TokenizerFiles::Folder(folder.to_owned()),
        notes: Vec::new(),
        quantization: None,
        mapped,
    })
}

/// The names of the files with weights, in alphabetical order: `STEM.safetensors`, the parts of
/// `STEM.safetensors.index.json`, or `STEM.fp16.safetensors`.
///
/// # Errors
/// There are none; the index is damaged.
pub(super) fn weight_files(folder: &Path, stem: &str) -> Result<BTreeSet<String>> {
    let single = format!("{stem}.safetensors");
    let index = folder.join(format!("{single}.index.json"));
    if index.exists() {
        let file = index.display();
        let json: Value = serde_json::from_str(&read_text(&index)?)
            .map_err(|e| input_error(format!("{file} is not valid JSON: {e}")))?;
        let map = json.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| input_error(format!("{file} has no `weight_map`")))?;
        return map
            .iter()
            .map(|(tensor, name)| match name.as_str() {
                Some(name) if is_plain_name(name) => Ok(name.to_owned()),
                _ => Err(input_error(format!(
                    "{file}: the file of the tensor {tensor} is {name}, not a file name"
                ))),
            })
            .collect();
    }
    for name in [single.clone(), format!("{stem}.fp16.safetensors")] {
        if folder.join(&name).exists() {
            return Ok(BTreeSet::from([name]));
        }
    }
    let old = match stem {
        "model" => "pytorch_model.bin",
        _ => "diffusion_pytorch_model.bin",
    };
    let hint = match folder.join(old).exists() {
        true => format!("; {old} must be converted to safetensors first"),
        false => String::new(),
    };
    Err(input_error(format!(
        "{} has neither {single} nor {single}.index.json{hint}",
        folder.display()
    )))
}

/// Whether a name from an index stays inside its folder.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()
}
