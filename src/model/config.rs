//! Hyperparameters of a LLaMA-like decoder and where `config.json` keeps them.

use anyhow::Result;
use serde_json::{Map, Value};

use crate::error::input_error;

/// Hyperparameters of a LLaMA-like decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// "llama".
    pub architecture: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// One divisor per frequency, as GGUF's `rope_freqs.weight` gives them.
    Factors(Vec<f32>),
}

/// The linears of a block, in the order in which they are used.
pub(super) const LINEARS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// No real decoder has more of anything; a corrupt header may claim it.
const LARGEST: usize = 1 << 24;

impl DecoderConfig {
    /// Every linear of the blocks as `(name, in_features, out_features)`, in order:
    /// `model.layers.0.self_attn.q_proj`, ...
    pub fn linears(&self) -> Vec<(String, usize, usize)> {
        (0..self.layers)
            .flat_map(|layer| {
                (0..LINEARS.len()).map(move |kind| {
                    let (inputs, outputs) = self.linear_shape(kind);
                    let name = format!("model.layers.{layer}.{}", LINEARS[kind]);
                    (name, inputs, outputs)
                })
            })
            .collect()
    }

    /// `(in_features, out_features)` of one of [`LINEARS`].
    pub(super) fn linear_shape(&self, kind: usize) -> (usize, usize) {
        let hidden = self.hidden_size;
        match kind {
            0 => (hidden, self.heads * self.head_dim),
            1 | 2 => (hidden, self.kv_heads * self.head_dim),
            3 => (self.heads * self.head_dim, hidden),
            4 | 5 => (hidden, self.intermediate_size),
            _ => (self.intermediate_size, hidden),
        }
    }

    /// The rotation per position of each pair of a head's features, in f32 as the reference
    /// implementation computes them.
    pub(super) fn rope_frequencies(&self) -> Vec<f32> {
        let plain = (0..self.head_dim / 2).map(|j| {
            let exponent = (2 * j) as f32 / self.head_dim as f32;
            1.0 / (self.rope_theta as f32).powf(exponent)
        });
        match &self.rope_scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / *factor as f32).collect(),
            RopeScaling::Factors(factors) => plain.zip(factors).map(|(f, by)| f / by).collect(),
            // As published with Llama 3.1: long waves are stretched by `factor`, short ones kept,
            // those between blended.
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => plain
                .map(|f| {
                    let frequency = f64::from(f);
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    let turns = *original_max_position_embeddings as f64 / wavelength;
                    let scaled = if turns < *low_freq_factor {
                        frequency / factor
                    } else if turns > *high_freq_factor {
                        frequency
                    } else {
                        let smooth =
                            (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    };
                    scaled as f32
                })
                .collect(),
        }
    }

    /// Reads `config.json`. `file` names it in errors.
    ///
    /// # Errors
    /// Another architecture, a variant that is not supported, a missing or senseless value.
    pub(super) fn from_json(text: &str, file: &str) -> Result<Self> {
        let json: Map<String, Value> = serde_json::from_str(text)
            .map_err(|e| input_error(format!("{file} is not valid JSON: {e}")))?;
        let json = Json { json: &json, file };
        let architecture = json.text("model_type").unwrap_or_default();
        if architecture != "llama" {
            let found = match architecture.is_empty() {
                true => json.json.get("architectures").map(Value::to_string),
                false => Some(format!("\"{architecture}\"")),
            };
            return Err(input_error(format!(
                "{file} describes a model of type {}, which is not supported: bases must be of \
                 the LLaMA architecture (model_type \"llama\")",
                found.unwrap_or("unknown".to_owned())
            )));
        }
        for (key, fine) in [
            ("attention_bias", Value::Bool(false)),
            ("mlp_bias", Value::Bool(false)),
            ("hidden_act", Value::String("silu".to_owned())),
            ("quantization_config", Value::Null),
        ] {
            match json.json.get(key) {
                None | Some(Value::Null) => {}
                Some(value) if *value == fine => {}
                Some(value) => {
                    return Err(input_error(format!(
                        "{file} sets {key} to {value}, which is not supported (only {fine} is)"
                    )));
                }
            }
        }
        let heads = json.size("num_attention_heads", None)?;
        let hidden_size = json.size("hidden_size", None)?;
        let (rope_theta, rope_scaling) = json.rope()?;
        let config = DecoderConfig {
            architecture,
            vocab_size: json.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: json.size("intermediate_size", None)?,
            layers: json.size("num_hidden_layers", None)?,
            heads,
            kv_heads: json.size("num_key_value_heads", Some(heads))?,
            head_dim: json.size("head_dim", Some(hidden_size / heads.max(1)))?,
            rms_norm_eps: json.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            max_position_embeddings: json.size("max_position_embeddings", Some(2048))?,
            tie_word_embeddings: json
                .json
                .get("tie_word_embeddings")
                .and_then(Value::as_bool)
                .unwrap_or(false),
        };
        config.check(file)?;
        Ok(config)
    }

    /// Refuses sizes that no model has, before anything is computed with them.
    pub(super) fn check(&self, file: &str) -> Result<()> {
        let sizes = [
            ("vocabulary", self.vocab_size),
            ("hidden", self.hidden_size),
            ("intermediate", self.intermediate_size),
            ("number of layers", self.layers),
            ("number of attention heads", self.heads),
            ("number of key/value heads", self.kv_heads),
            ("head", self.head_dim),
            ("context", self.max_position_embeddings),
        ];
        for (what, size) in sizes {
            // A context length of a million tokens and more is only a number.
            let largest = if what == "context" { 1 << 40 } else { LARGEST };
            if size == 0 || size > largest {
                return Err(input_error(format!(
                    "{file} says that the model's {what} size is {size}, which cannot be; the \
                     file is damaged or of another kind"
                )));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) || !self.head_dim.is_multiple_of(2) {
            return Err(input_error(format!(
                "{file} says {} attention heads of {} features over {} key/value heads, which do \
                 not divide",
                self.heads, self.head_dim, self.kv_heads
            )));
        }
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !positive(self.rope_theta) || !positive(self.rms_norm_eps) {
            return Err(input_error(format!(
                "{file} says rope_theta {} and rms_norm_eps {}; both must be positive",
                self.rope_theta, self.rms_norm_eps
            )));
        }
        Ok(())
    }
}

/// `config.json` with the sentences that its mistakes deserve.
struct Json<'a> {
    json: &'a Map<String, Value>,
    file: &'a str,
}

impl Json<'_> {
    fn text(&self, key: &str) -> Option<String> {
        Some(self.json.get(key)?.as_str()?.to_owned())
    }

    fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.json.get(key), default) {
            (None | Some(Value::Null), Some(default)) => Ok(default),
            (None | Some(Value::Null), None) => {
                Err(input_error(format!("{} has no `{key}`", self.file)))
            }
            (Some(value), _) => value.as_u64().map(|n| n as usize).ok_or_else(|| {
                input_error(format!(
                    "{}: `{key}` is {value}, not a whole number",
                    self.file
                ))
            }),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| {
                input_error(format!("{}: `{key}` is {value}, not a number", self.file))
            }),
        }
    }

    /// Theta and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and
    /// `rope_scaling` (before).
    fn rope(&self) -> Result<(f64, RopeScaling)> {
        let nested = ["rope_parameters", "rope_scaling"]
            .iter()
            .find_map(|key| self.json.get(*key)?.as_object());
        let mut theta = self.number("rope_theta")?;
        let Some(json) = nested else {
            return Ok((theta.unwrap_or(10_000.0), RopeScaling::None));
        };
        let file = format!("{}: rope scaling", self.file);
        let rope = Json { json, file: &file };
        theta = rope.number("rope_theta")?.or(theta);
        let number = |key: &str| match rope.number(key)? {
            Some(number) if number.is_finite() && number > 0.0 => Ok(number),
            Some(number) => Err(input_error(format!("{file}: `{key}` is {number}"))),
            None => Err(input_error(format!("{file} has no `{key}`"))),
        };
        let kind = rope.text("rope_type").or_else(|| rope.text("type"));
        let scaling = match kind.as_deref().unwrap_or("default") {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear {
                factor: number("factor")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: rope
                    .size("original_max_position_embeddings", None)?,
            },
            other => {
                return Err(input_error(format!(
                    "{file} is of type \"{other}\", which is not supported (default, linear and \
                     llama3 are)"
                )));
            }
        };
        Ok((theta.unwrap_or(10_000.0), scaling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 100, "rope_theta": 5e4}"#;

    #[test]
    fn a_config_is_completed_by_the_reference_implementations_defaults() {
        let config = DecoderConfig::from_json(CONFIG, "config.json").unwrap();
        assert_eq!(config.head_dim, 16);
        assert_eq!(config.rms_norm_eps, 1e-6);
        assert_eq!(config.rope_theta, 5e4);
        assert!(!config.tie_word_embeddings);
        let linears = config.linears();
        assert_eq!(linears.len(), 14);
        assert_eq!(
            linears[8],
            ("model.layers.1.self_attn.k_proj".to_owned(), 64, 32)
        );
    }

    #[test]
    fn what_is_not_supported_is_said_in_a_sentence() {
        for (from, to, expected) in [
            ("\"llama\"", "\"gemma\"", "\"gemma\""),
            ("\"vocab_size\": 100", "\"vocab_size\": -1", "`vocab_size`"),
            ("\"vocab_size\": 100", "\"x\": 1", "no `vocab_size`"),
            ("64", "99999999999", "99999999999"),
            (
                "\"num_key_value_heads\": 2",
                "\"num_key_value_heads\": 3",
                "do not divide",
            ),
            (
                "\"num_attention_heads\": 4",
                "\"num_attention_heads\": 0",
                "size is 0",
            ),
            (
                "\"rope_theta\": 5e4",
                "\"rope_scaling\": {\"type\": \"yarn\"}",
                "yarn",
            ),
            (
                "\"rope_theta\": 5e4",
                "\"attention_bias\": true",
                "attention_bias",
            ),
            ("{", "[", "not valid JSON"),
        ] {
            let error =
                DecoderConfig::from_json(&CONFIG.replacen(from, to, 1), "config.json").unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(crate::error::exit_code(&error), 2);
        }
    }
}
