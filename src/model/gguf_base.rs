//! A base in a single GGUF file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::quantized::GgmlDType;

use super::config::{DecoderConfig, RopeScaling};
use super::gguf::Header;
use super::gguf_names::hugging_face_module;
use super::source::{Source, Stored, TokenizerFiles, map};
use crate::error::input_error;
use crate::ops::{Bytes, HostWeight};

const ROPE_FACTORS: &str = "rope_freqs.weight";

/// # Errors
/// A damaged file; an architecture or an encoding that is not supported.
pub(super) fn open(path: &Path) -> Result<Source> {
    let file = path.display().to_string();
    let bytes: Bytes = map(path)?;
    let header = Header::parse((*bytes).as_ref())
        .map_err(|e| input_error(format!("{file} cannot be used: {e:#}")))?;
    let config = read_config(&header, &bytes, &file)?;
    let mut tensors = BTreeMap::new();
    for (name, info) in &header.tensors {
        let Some(name) = hugging_face_name(name) else {
            continue;
        };
        let heads = name
            .strip_suffix(".weight")
            .and_then(|module| config.interleaved_heads(module));
        let stored = Stored {
            bytes: bytes.clone(),
            start: info.start,
            encoding: info.encoding,
            shape: info.shape.clone(),
            interleaved_heads: heads,
        };
        tensors.insert(name, stored);
    }
    Ok(Source {
        name: file.clone(),
        format: "gguf",
        config,
        tensors,
        files: vec![path.to_owned()],
        tokenizer: TokenizerFiles::Gguf(Box::new(header), file),
    })
}

/// The Hugging Face name of a LLaMA tensor; tensors of another model stay unknown.
fn hugging_face_name(name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    Some(format!("{}.{kind}", hugging_face_module(module)?))
}

fn read_config(header: &Header, bytes: &Bytes, file: &str) -> Result<DecoderConfig> {
    let architecture = header.text("general.architecture").unwrap_or("unknown");
    if architecture != "llama" {
        return Err(input_error(format!(
            "{file} holds a model of the architecture {architecture}, which is not supported: \
             bases must be of the LLaMA architecture"
        )));
    }
    let size = |key: &str| {
        let key = format!("llama.{key}");
        let missing = || input_error(format!("{file} has no metadata {key}"));
        header.size(&key).ok_or_else(missing)
    };
    let optional = |key: &str| header.size(&format!("llama.{key}"));
    if optional("expert_count").is_some_and(|n| n > 0) {
        return Err(input_error(format!(
            "{file} holds a mixture of experts, which is not supported"
        )));
    }
    let heads = size("attention.head_count")?;
    let hidden_size = size("embedding_length")?;
    let head_dim = optional("attention.key_length").unwrap_or(hidden_size / heads.max(1));
    for (key, expected) in [
        ("rope.dimension_count", head_dim),
        ("attention.value_length", head_dim),
    ] {
        if let Some(found) = optional(key)
            && found != expected
        {
            return Err(input_error(format!(
                "{file}: llama.{key} is {found} while heads have {head_dim} features, which is not \
                 supported"
            )));
        }
    }
    let vocab_size = match header
        .tensors
        .get("token_embd.weight")
        .map(|t| &t.shape[..])
    {
        Some(&[vocab_size, _]) => vocab_size,
        _ => return Err(input_error(format!("{file} has no token embedding"))),
    };
    let config = DecoderConfig {
        architecture: "llama".to_owned(),
        vocab_size,
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        layers: size("block_count")?,
        heads,
        kv_heads: optional("attention.head_count_kv").unwrap_or(heads),
        head_dim,
        rms_norm_eps: header
            .number("llama.attention.layer_norm_rms_epsilon")
            .unwrap_or(1e-5),
        rope_theta: header.number("llama.rope.freq_base").unwrap_or(10_000.0),
        rope_scaling: rope_scaling(header, bytes, head_dim, file)?,
        max_position_embeddings: size("context_length")?,
        tie_word_embeddings: !header.tensors.contains_key("output.weight"),
    };
    config.check(file)?;
    Ok(config)
}

fn rope_scaling(
    header: &Header,
    bytes: &Bytes,
    head_dim: usize,
    file: &str,
) -> Result<RopeScaling> {
    if let Some(info) = header.tensors.get(ROPE_FACTORS) {
        let count = head_dim / 2;
        if info.encoding != GgmlDType::F32 || info.shape != [count] || count == 0 {
            return Err(input_error(format!(
                "{file}: {ROPE_FACTORS} must be {count} F32 numbers"
            )));
        }
        let factors = HostWeight::new(bytes.clone(), info.start, info.encoding, 1, count)
            .map_err(|e| input_error(format!("{file}: {ROPE_FACTORS}: {e}")))?
            .row(0);
        if factors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
            return Err(input_error(format!(
                "{file}: {ROPE_FACTORS} has numbers that are not positive"
            )));
        }
        return Ok(RopeScaling::Factors(factors));
    }
    match header.text("llama.rope.scaling.type").unwrap_or("none") {
        "none" => match header.number("llama.rope.scale_linear") {
            Some(factor) if factor > 0.0 && factor != 1.0 => Ok(RopeScaling::Linear { factor }),
            _ => Ok(RopeScaling::None),
        },
        "linear" => match header.number("llama.rope.scaling.factor") {
            Some(factor) if factor.is_finite() && factor > 0.0 => {
                Ok(RopeScaling::Linear { factor })
            }
            other => Err(input_error(format!(
                "{file}: the factor of its linear rope scaling is {other:?}"
            ))),
        },
        other => Err(input_error(format!(
            "{file}: rope scaling of type {other} is not supported (none and linear are)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_llama_cpp_become_hugging_faces() {
        for (gguf, expected) in [
            (
                "blk.3.attn_output.weight",
                Some("model.layers.3.self_attn.o_proj.weight"),
            ),
            (
                "blk.0.ffn_gate.weight",
                Some("model.layers.0.mlp.gate_proj.weight"),
            ),
            (
                "blk.11.ffn_norm.weight",
                Some("model.layers.11.post_attention_layernorm.weight"),
            ),
            (
                "blk.0.attn_q.bias",
                Some("model.layers.0.self_attn.q_proj.bias"),
            ),
            ("output.weight", Some("lm_head.weight")),
            ("rope_freqs.weight", None),
        ] {
            assert_eq!(hugging_face_name(gguf).as_deref(), expected);
        }
    }
}
