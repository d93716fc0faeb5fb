//! A base in a single GGUF file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::quantized::GgmlDType;

use super::config::{Bias, DecoderConfig, LayerAttention, Layers};
use super::family::{Family, NAMES};
use super::gguf::Header;
use super::gguf_names::hugging_face_module;
use super::rope::{RopeScaling, longrope_attention_factor, yarn_attention_factor};
use super::source::{Source, Stored, TokenizerFiles, map};
use crate::error::input_error;
use crate::ops::{Bytes, HostWeight};

/// # Errors
/// A damaged file; an architecture or an encoding that is not supported.
pub(super) fn open(path: &Path) -> Result<Source> {
    let file = path.display().to_string();
    let mapped = map(path)?;
    let bytes: Bytes = mapped.clone();
    let header = Header::parse((*bytes).as_ref())
        .map_err(|e| input_error(format!("{file} cannot be used: {e:#}")))?;
    let architecture = header.text("general.architecture").unwrap_or("unknown");
    let Some(family) = Family::named(architecture) else {
        return Err(input_error(format!(
            "{file} holds a model of the architecture {architecture}, which is not supported: \
             bases must be of the families {NAMES}"
        )));
    };
    let file_of = GgufFile {
        header: &header,
        bytes: &bytes,
        file: &file,
        family,
    };
    let config = file_of.config()?;
    let mut tensors = BTreeMap::new();
    for (name, info) in &header.tensors {
        let Some(name) = hugging_face_name(name, family.name) else {
            continue;
        };
        let module = name.rsplit_once('.').map(|(module, _)| module);
        let heads = module.and_then(|module| config.interleaved_heads(module));
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
        notes: Vec::new(),
        quantization: None,
        mapped: vec![mapped],
    })
}

/// The Hugging Face name of a tensor. Of those that are not known, those in a block keep a name by
/// which they are refused: the model computes something else with them.
fn hugging_face_name(name: &str, architecture: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    match hugging_face_module(module, architecture) {
        Some(module) => Some(format!("{module}.{kind}")),
        // Rotations that old converters stored; they are computed anew.
        None if module.ends_with("attn_rot_embd") => None,
        None => Some(format!("model.layers.{}", name.strip_prefix("blk.")?)),
    }
}

/// A file with its parsed header.
struct GgufFile<'a> {
    header: &'a Header,
    bytes: &'a Bytes,
    /// Named in errors.
    file: &'a str,
    family: &'a Family,
}

impl GgufFile<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family.name)
    }

    fn size(&self, key: &str) -> Result<usize> {
        let missing = || input_error(format!("{} has no metadata {}", self.file, self.key(key)));
        self.optional(key).ok_or_else(missing)
    }

    fn optional(&self, key: &str) -> Option<usize> {
        self.header.size(&self.key(key))
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.header.number(&self.key(key))
    }

    fn has(&self, tensor: &str) -> bool {
        self.header.tensors.contains_key(tensor)
    }

    fn config(&self) -> Result<DecoderConfig> {
        let (file, family) = (self.file, self.family);
        if self.optional("expert_count").is_some_and(|n| n > 0) {
            return Err(input_error(format!(
                "{file} holds a mixture of experts, which is not supported"
            )));
        }
        let heads = self.size("attention.head_count")?;
        let hidden_size = self.size("embedding_length")?;
        let head_dim = self
            .optional("attention.key_length")
            .unwrap_or(hidden_size / heads.max(1));
        let rotary_dim = self.optional("rope.dimension_count").unwrap_or(head_dim);
        let values = self.optional("attention.value_length").unwrap_or(head_dim);
        if values != head_dim || (family.interleaved_in_gguf && rotary_dim != head_dim) {
            return Err(input_error(format!(
                "{file}: heads have {head_dim} features, their values {values}, and {rotary_dim} \
                 are rotated, which is not supported"
            )));
        }
        let embedding = self.header.tensors.get("token_embd.weight");
        let vocab_size = match embedding.map(|t| &t.shape[..]) {
            Some(&[vocab_size, _]) => vocab_size,
            _ => return Err(input_error(format!("{file} has no token embedding"))),
        };
        let context = self.size("context_length")?;
        let first = match family.fused {
            true => "blk.0.attn_qkv.bias",
            false => "blk.0.attn_q.bias",
        };
        let window = self
            .optional("attention.sliding_window")
            .filter(|&window| window > 0);
        let config = DecoderConfig {
            architecture: family.name.to_owned(),
            vocab_size,
            hidden_size,
            intermediate_size: self.size("feed_forward_length")?,
            layers: self.size("block_count")?,
            heads,
            kv_heads: self.optional("attention.head_count_kv").unwrap_or(heads),
            head_dim,
            rms_norm_eps: self
                .number("attention.layer_norm_rms_epsilon")
                .unwrap_or(1e-5),
            rope_theta: self.number("rope.freq_base").unwrap_or(10_000.0),
            rotary_dim,
            rope_scaling: self.rope_scaling(rotary_dim, context)?,
            max_position_embeddings: context,
            tie_word_embeddings: !self.has("output.weight"),
            fused: family.fused,
            bias: Bias {
                qkv: self.has(first),
                output: self.has("blk.0.attn_output.bias"),
                mlp: self.has("blk.0.ffn_down.bias"),
            },
            qk_norm: family.qk_norm,
            attention: LayerAttention {
                windowed: match window {
                    Some(_) => Layers::All,
                    None => Layers::None,
                },
                window,
                // SmolLM3's only pattern; llama.cpp knows it by the architecture, not the file.
                unrotated: match family.name {
                    "smollm3" => Layers::Every(4),
                    _ => Layers::None,
                },
            },
        };
        config.check(file)?;
        Ok(config)
    }

    /// The divisors of the frequencies in a tensor.
    fn factors(&self, name: &str, rotary_dim: usize) -> Result<Option<Vec<f32>>> {
        let Some(info) = self.header.tensors.get(name) else {
            return Ok(None);
        };
        let (file, count) = (self.file, rotary_dim / 2);
        if info.encoding != GgmlDType::F32 || info.shape != [count] || count == 0 {
            return Err(input_error(format!(
                "{file}: {name} must be {count} F32 numbers"
            )));
        }
        let read = HostWeight::new(self.bytes.clone(), info.start, info.encoding, count, 1)
            .and_then(|weight| weight.column());
        read.map(Some)
            .map_err(|e| input_error(format!("{file}: {name}: {e}")))
    }

    fn rope_scaling(&self, rotary_dim: usize, context: usize) -> Result<RopeScaling> {
        if let Some(factors) = self.factors("rope_freqs.weight", rotary_dim)? {
            return Ok(RopeScaling::Factors(factors));
        }
        let original = self.optional("rope.scaling.original_context_length");
        let original = original.unwrap_or(context);
        let (short, long) = (
            self.factors("rope_factors_short.weight", rotary_dim)?,
            self.factors("rope_factors_long.weight", rotary_dim)?,
        );
        if let (Some(short), Some(long)) = (short, long) {
            let own = longrope_attention_factor(context as f64 / original as f64, original);
            return Ok(RopeScaling::LongRope {
                short,
                long,
                attention_factor: self.number("rope.scaling.attn_factor").unwrap_or(own),
                original_max_position_embeddings: original,
            });
        }
        let factor = || {
            self.number("rope.scaling.factor").ok_or_else(|| {
                input_error(format!("{}: its rope scaling has no factor", self.file))
            })
        };
        let kind = self.key("rope.scaling.type");
        match self.header.text(&kind).unwrap_or("none") {
            "none" => match self.number("rope.scale_linear") {
                Some(factor) if factor > 0.0 && factor != 1.0 => Ok(RopeScaling::Linear { factor }),
                _ => Ok(RopeScaling::None),
            },
            "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
            "yarn" => {
                let factor = factor()?;
                let or = |key: &str, own: f64| self.number(key).unwrap_or(own);
                // The file's factor comes on top of yarn's own.
                let own = yarn_attention_factor(factor, 1.0);
                Ok(RopeScaling::Yarn {
                    factor,
                    attention_factor: own * or("rope.scaling.attn_factor", 1.0),
                    beta_fast: or("rope.scaling.yarn_beta_fast", 32.0),
                    beta_slow: or("rope.scaling.yarn_beta_slow", 1.0),
                    original_max_position_embeddings: original,
                    truncate: true,
                })
            }
            other => Err(input_error(format!(
                "{}: rope scaling of type {other} is not supported (none, linear, yarn and \
                 longrope are)",
                self.file
            ))),
        }
    }
}
