//! llama.cpp's adapter: a GGUF file with `general.type` = "adapter".
//!
//! Source: llama.cpp's `convert_lora_to_gguf.py` and `llama-adapter.cpp`. One alpha serves all
//! parts, a part's scale is alpha / r, and an alpha of 0 means a scale of 1.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::quantized::GgmlDType;

use super::model::{Adapter, Family, Format, Keys, Part, Rows};
use super::numbers::{Dtype, Numbers};
use crate::error::input_error;
use crate::model::gguf::{Header, encoding_id};
use crate::model::{gguf_architecture, gguf_module, hugging_face_module, interleaves_heads};

const A: &str = ".weight.lora_a";
const B: &str = ".weight.lora_b";
const ALPHA: &str = "adapter.lora.alpha";
const ALIGNMENT: usize = 32;

/// Numbers of kinds in GGUF's metadata.
const FLOAT: u32 = 6;
const TEXT: u32 = 8;

/// The file of an adapter whose parts all have the scale alpha / r for one alpha, with rows in
/// llama.cpp's order.
///
/// # Errors
/// A module that llama.cpp has no name for.
pub(super) fn to_bytes(adapter: &Adapter, architecture: &str) -> Result<Vec<u8>> {
    let alpha = adapter.parts.values().next().map_or(0.0, |p| p.alpha);
    let mut tensors: BTreeMap<String, &Numbers> = BTreeMap::new();
    for (module, part) in &adapter.parts {
        let name = gguf_module(module).ok_or_else(|| {
            input_error(format!("llama.cpp has no name for {module} that is known"))
        })?;
        tensors.insert(format!("{name}{A}"), &part.a);
        tensors.insert(format!("{name}{B}"), &part.b);
    }
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(4u64.to_le_bytes());
    for (key, value) in [
        ("general.architecture", gguf_architecture(architecture)),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
    ] {
        put_text(&mut bytes, key);
        bytes.extend(TEXT.to_le_bytes());
        put_text(&mut bytes, value);
    }
    put_text(&mut bytes, ALPHA);
    bytes.extend(FLOAT.to_le_bytes());
    bytes.extend((alpha as f32).to_le_bytes());
    let mut offset = 0usize;
    for (name, numbers) in &tensors {
        put_text(&mut bytes, name);
        bytes.extend((numbers.shape.len() as u32).to_le_bytes());
        for &size in numbers.shape.iter().rev() {
            bytes.extend((size as u64).to_le_bytes());
        }
        let encoding = match numbers.dtype {
            Dtype::F32 => GgmlDType::F32,
            Dtype::F16 => GgmlDType::F16,
            Dtype::Bf16 => GgmlDType::BF16,
        };
        bytes.extend(encoding_id(encoding).to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset = (offset + numbers.bytes.len()).next_multiple_of(ALIGNMENT);
    }
    for numbers in tensors.values() {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(&numbers.bytes);
    }
    Ok(bytes)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Reads an adapter; its rows stay in llama.cpp's order.
///
/// # Errors
/// A damaged file, one that is no LoRA adapter, modules that are not known.
pub(super) fn read(path: &Path) -> Result<Adapter> {
    let file = path.display().to_string();
    let bytes =
        std::fs::read(path).map_err(|e| input_error(format!("{file} cannot be read: {e}")))?;
    let header =
        Header::parse(&bytes).map_err(|e| input_error(format!("{file} cannot be used: {e:#}")))?;
    let kind = header.text("general.type").unwrap_or("model");
    if kind != "adapter" {
        return Err(input_error(format!(
            "{file} is a {kind}, not an adapter (general.type is not \"adapter\")"
        )));
    }
    let kind = header.text("adapter.type").unwrap_or("unknown");
    if kind != "lora" {
        return Err(input_error(format!(
            "{file} is an adapter of type {kind}; only lora is supported"
        )));
    }
    let architecture = header.text("general.architecture").unwrap_or("unknown");
    // llama.cpp reads 0 and nothing alike.
    let alpha = header.number(ALPHA).unwrap_or(0.0);
    let mut adapter = Adapter::new(Family::Text);
    let numbers = |name: &str| tensor(&bytes, &header, name, &file);
    for name in &header.order {
        let (part, other) = match (name.strip_suffix(A), name.strip_suffix(B)) {
            (Some(part), _) => (part, format!("{part}{B}")),
            (_, Some(part)) => (part, format!("{part}{A}")),
            _ => {
                return Err(input_error(format!(
                    "{file}: the tensor {name} is neither an A nor a B of LoRA, which alone are \
                     supported"
                )));
            }
        };
        let module = hugging_face_module(part, architecture).ok_or_else(|| {
            input_error(format!("{file}: it adapts {part}, which is not known here"))
        })?;
        if !header.tensors.contains_key(&other) {
            return Err(input_error(format!(
                "{file} has only one of A and B for {part}"
            )));
        }
        if module == "model.embed_tokens" {
            return Err(input_error(format!(
                "{file} adapts the token embedding, which is not supported"
            )));
        }
        if name.ends_with(B) {
            continue;
        }
        let (a, b) = (numbers(name)?, numbers(&other)?);
        let rank = a.shape.first().copied().unwrap_or(0);
        let read = Part {
            alpha: if alpha == 0.0 { rank as f64 } else { alpha },
            a,
            b,
            magnitude: None,
            keys: Some(Keys {
                format: Format::Gguf,
                a: name.clone(),
                b: other,
                alpha: None,
            }),
        };
        read.check(&file, &module)?;
        adapter.parts.insert(module, read);
    }
    if adapter.parts.is_empty() {
        return Err(input_error(format!("{file} holds no adapter")));
    }
    if interleaves_heads(architecture) {
        adapter.rows = Rows::LlamaCpp;
    }
    adapter.architecture = Some(architecture.to_owned());
    Ok(adapter)
}

fn tensor(bytes: &[u8], header: &Header, name: &str, file: &str) -> Result<Numbers> {
    let info = &header.tensors[name];
    let dtype = match info.encoding {
        GgmlDType::F32 => Dtype::F32,
        GgmlDType::F16 => Dtype::F16,
        GgmlDType::BF16 => Dtype::Bf16,
        other => {
            return Err(input_error(format!(
                "{file}: {name} is quantised as {other:?}; F32, F16 and BF16 are supported"
            )));
        }
    };
    let length = info.shape.iter().product::<usize>() * dtype.size();
    let end = info.start.checked_add(length);
    let range = end.and_then(|end| bytes.get(info.start..end));
    let range = range.ok_or_else(|| {
        input_error(format!(
            "{file} ends before its tensors do; it is incomplete"
        ))
    })?;
    Ok(Numbers {
        dtype,
        shape: info.shape.clone(),
        bytes: range.to_vec(),
    })
}
