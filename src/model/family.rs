//! The families of decoders, and how each one's `config.json` is read: keys and defaults as in
//! transformers' configuration classes.

use anyhow::Result;
use serde_json::{Map, Value};

use super::config::{Bias, DecoderConfig, LayerAttention, Layers};
use super::rope::{RopeScaling, longrope_attention_factor, yarn_attention_factor};
use crate::error::input_error;

/// What is the same for every model of a family.
pub(super) struct Family {
    /// Hugging Face's `model_type`, and, where GGUF has it, llama.cpp's architecture.
    pub name: &'static str,
    /// Whether llama.cpp's converter keeps the rows of q and k in the order of interleaved pairs.
    pub interleaved_in_gguf: bool,
    /// Phi-3: q, k and v are one linear, gate and up are one.
    pub fused: bool,
    pub qk_norm: bool,
    /// Whether q, k and v always have a bias (Qwen2).
    qkv_bias: bool,
    /// Keys that switch biases on.
    attention_bias: bool,
    mlp_bias: bool,
    /// What is assumed of a config.json that does not say.
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    eps: f64,
    theta: f64,
    context: usize,
    tied: bool,
    windows: Windows,
}

/// Where a family's config.json says which layers have a sliding window.
#[derive(Clone, Copy, PartialEq)]
enum Windows {
    None,
    /// `sliding_window` holds for all layers; what is assumed when it is absent.
    All(Option<usize>),
    /// Only with `use_sliding_window`; `layer_types`, or from `max_window_layers` on.
    Upper,
    /// Only with `use_sliding_window`; `layer_types`, or the layers without rotation.
    Unrotated,
}

const LLAMA: Family = Family {
    name: "llama",
    interleaved_in_gguf: true,
    fused: false,
    qk_norm: false,
    qkv_bias: false,
    attention_bias: true,
    mlp_bias: true,
    kv_heads: None,
    head_dim: None,
    eps: 1e-6,
    theta: 10_000.0,
    context: 2048,
    tied: false,
    windows: Windows::None,
};

/// SmolLM 1 and 2 are of the type llama.
const FAMILIES: [Family; 6] = [
    LLAMA,
    Family {
        name: "mistral",
        attention_bias: false,
        mlp_bias: false,
        kv_heads: Some(8),
        context: 4096 * 32,
        windows: Windows::All(Some(4096)),
        ..LLAMA
    },
    Family {
        name: "qwen2",
        interleaved_in_gguf: false,
        qkv_bias: true,
        attention_bias: false,
        mlp_bias: false,
        kv_heads: Some(32),
        context: 32_768,
        windows: Windows::Upper,
        ..LLAMA
    },
    Family {
        name: "qwen3",
        interleaved_in_gguf: false,
        qk_norm: true,
        mlp_bias: false,
        kv_heads: Some(32),
        head_dim: Some(128),
        context: 32_768,
        windows: Windows::Upper,
        ..LLAMA
    },
    Family {
        name: "phi3",
        interleaved_in_gguf: false,
        fused: true,
        attention_bias: false,
        mlp_bias: false,
        eps: 1e-5,
        context: 4096,
        windows: Windows::All(None),
        ..LLAMA
    },
    Family {
        name: "smollm3",
        kv_heads: Some(4),
        theta: 2e6,
        context: 32_768,
        tied: true,
        windows: Windows::Unrotated,
        ..LLAMA
    },
];

/// What the supported families are called.
pub(super) const NAMES: &str = "LLaMA, Mistral, Qwen2, Qwen3, Phi-3, SmolLM2 and SmolLM3 (llama, mistral, qwen2, qwen3, phi3 \
     and smollm3)";

impl Family {
    pub fn named(name: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|family| family.name == name)
    }
}

impl DecoderConfig {
    /// Reads `config.json`. `file` names it in errors.
    ///
    /// # Errors
    /// Another architecture, a variant that is not supported, a missing or senseless value.
    pub(super) fn from_json(text: &str, file: &str) -> Result<Self> {
        let json: Map<String, Value> = serde_json::from_str(text)
            .map_err(|e| input_error(format!("{file} is not valid JSON: {e}")))?;
        let json = Json { json: &json, file };
        let name = json.text("model_type").unwrap_or_default();
        let Some(family) = Family::named(&name) else {
            let found = match name.is_empty() {
                true => json.json.get("architectures").map(Value::to_string),
                false => Some(format!("\"{name}\"")),
            };
            return Err(input_error(format!(
                "{file} describes a model of type {}, which is not supported: bases must be of \
                 the families {NAMES}",
                found.unwrap_or("unknown".to_owned())
            )));
        };
        json.refuse_others(family)?;
        let heads = json.size("num_attention_heads", None)?;
        let hidden_size = json.size("hidden_size", None)?;
        // A family's default is for a key that is absent; null means one per head.
        let kv_heads = match json.json.get("num_key_value_heads") {
            None => family.kv_heads.unwrap_or(heads),
            Some(_) => json.size("num_key_value_heads", Some(heads))?,
        };
        let head_dim = match (json.json.get("head_dim"), family.head_dim) {
            (None, Some(head_dim)) => head_dim,
            _ => json.size("head_dim", Some(hidden_size / heads.max(1)))?,
        };
        let layers = json.size("num_hidden_layers", None)?;
        let context = json.size("max_position_embeddings", Some(family.context))?;
        let rope = json.rope(family, head_dim, context)?;
        let attention_bias = family.attention_bias && json.boolean("attention_bias", false)?;
        let config = DecoderConfig {
            architecture: name,
            vocab_size: json.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: json.size("intermediate_size", None)?,
            layers,
            heads,
            kv_heads,
            head_dim,
            rms_norm_eps: json.number("rms_norm_eps")?.unwrap_or(family.eps),
            rope_theta: rope.theta,
            rotary_dim: rope.dim,
            rope_scaling: rope.scaling,
            max_position_embeddings: context,
            tie_word_embeddings: json.boolean("tie_word_embeddings", family.tied)?,
            fused: family.fused,
            bias: Bias {
                qkv: family.qkv_bias || attention_bias,
                output: attention_bias,
                mlp: family.mlp_bias && json.boolean("mlp_bias", false)?,
            },
            qk_norm: family.qk_norm,
            attention: json.attention(family, layers)?,
        };
        config.check(file)?;
        Ok(config)
    }
}

/// `config.json` with the sentences that its mistakes deserve.
struct Json<'a> {
    json: &'a Map<String, Value>,
    file: &'a str,
}

/// Theta, rotated features of a head, scaling.
struct Rope {
    theta: f64,
    dim: usize,
    scaling: RopeScaling,
}

impl Json<'_> {
    fn text(&self, key: &str) -> Option<String> {
        Some(self.json.get(key)?.as_str()?.to_owned())
    }

    /// A key that is there and not null.
    fn given(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.given(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(input_error(format!("{} has no `{key}`", self.file))),
            (Some(value), _) => value.as_u64().map(|n| n as usize).ok_or_else(|| {
                input_error(format!(
                    "{}: `{key}` is {value}, not a whole number",
                    self.file
                ))
            }),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.given(key) else {
            return Ok(None);
        };
        let number = value.as_f64().ok_or_else(|| {
            input_error(format!("{}: `{key}` is {value}, not a number", self.file))
        })?;
        Ok(Some(number))
    }

    fn boolean(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.given(key) else {
            return Ok(default);
        };
        value.as_bool().ok_or_else(|| {
            input_error(format!(
                "{}: `{key}` is {value}, not true or false",
                self.file
            ))
        })
    }

    fn numbers(&self, key: &str) -> Result<Vec<f32>> {
        let numbers = self.given(key).and_then(Value::as_array).and_then(|list| {
            let number = |value: &Value| value.as_f64().map(|n| n as f32);
            list.iter().map(number).collect()
        });
        numbers.ok_or_else(|| input_error(format!("{} has no list `{key}`", self.file)))
    }

    /// Refuses what would be computed wrongly.
    fn refuse_others(&self, family: &Family) -> Result<()> {
        let mut fine = vec![
            ("hidden_act", Value::String("silu".to_owned())),
            ("quantization_config", Value::Null),
        ];
        if !family.attention_bias && !family.qkv_bias {
            fine.push(("attention_bias", Value::Bool(false)));
        }
        if !family.mlp_bias {
            fine.push(("mlp_bias", Value::Bool(false)));
        }
        for (key, fine) in fine {
            match self.given(key) {
                None => {}
                Some(value) if *value == fine => {}
                Some(value) => {
                    let hint = match key {
                        "quantization_config" => {
                            "; take the model as it was before it was quantised, or a GGUF"
                        }
                        _ => "",
                    };
                    return Err(input_error(format!(
                        "{} sets {key} to {value}, which is not supported (only {fine} is{hint})",
                        self.file
                    )));
                }
            }
        }
        Ok(())
    }

    fn attention(&self, family: &Family, layers: usize) -> Result<LayerAttention> {
        let unrotated = match family.windows {
            Windows::Unrotated => match self.given("no_rope_layers") {
                None => Layers::Every(self.size("no_rope_layer_interval", Some(4))?),
                // Told the other way round: 1 is a layer that is rotated.
                Some(_) => self.listed("no_rope_layers", layers, |v| v.as_u64() == Some(0))?,
            },
            _ => Layers::None,
        };
        let window = match family.windows {
            Windows::None => None,
            Windows::All(absent) => self.window(absent)?,
            _ if !self.boolean("use_sliding_window", false)? => None,
            Windows::Upper => self.window(Some(4096))?,
            Windows::Unrotated => self.window(None)?,
        };
        let windowed = match (window, family.windows) {
            (None, _) | (_, Windows::None) => Layers::None,
            (_, Windows::All(_)) => Layers::All,
            _ if self.given("layer_types").is_some() => {
                self.listed("layer_types", layers, |v| v == "sliding_attention")?
            }
            (_, Windows::Upper) => Layers::From(self.size("max_window_layers", Some(28))?),
            (_, Windows::Unrotated) => unrotated.clone(),
        };
        Ok(LayerAttention {
            window,
            windowed,
            unrotated,
        })
    }

    /// `sliding_window`; null is none.
    fn window(&self, absent: Option<usize>) -> Result<Option<usize>> {
        match self.json.get("sliding_window") {
            None => Ok(absent),
            Some(Value::Null) => Ok(None),
            Some(_) => self.size("sliding_window", None).map(Some),
        }
    }

    /// The layers whose entry in a list is `wanted`.
    fn listed(&self, key: &str, layers: usize, wanted: impl Fn(&Value) -> bool) -> Result<Layers> {
        let list = self.given(key).and_then(Value::as_array);
        let list = list.filter(|list| list.len() >= layers).ok_or_else(|| {
            input_error(format!(
                "{}: `{key}` is no list with an entry for each of {layers} layers",
                self.file
            ))
        })?;
        let chosen = list.iter().take(layers).enumerate();
        Ok(Layers::Listed(
            chosen
                .filter(|(_, v)| wanted(v))
                .map(|(layer, _)| layer)
                .collect(),
        ))
    }

    /// From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).
    fn rope(&self, family: &Family, head_dim: usize, context: usize) -> Result<Rope> {
        let nested = ["rope_parameters", "rope_scaling"]
            .iter()
            .find_map(|key| self.json.get(*key)?.as_object());
        let none = Map::new();
        let file = format!("{}: rope scaling", self.file);
        let rope = Json {
            json: nested.unwrap_or(&none),
            file: &file,
        };
        let either = |key: &str| Ok::<_, anyhow::Error>(rope.number(key)?.or(self.number(key)?));
        let theta = either("rope_theta")?.unwrap_or(family.theta);
        let part = either("partial_rotary_factor")?.unwrap_or(1.0);
        let dim = (head_dim as f64 * part) as usize;
        let number = |key: &str| {
            let number = rope.number(key)?;
            number.ok_or_else(|| input_error(format!("{file} has no `{key}`")))
        };
        // Phi-3 keeps it beside the scaling, and there it wins.
        let original = || {
            let beside = self.given("original_max_position_embeddings").is_some();
            match beside {
                true => self.size("original_max_position_embeddings", None),
                false => rope.size("original_max_position_embeddings", Some(context)),
            }
        };
        let kind = rope.text("rope_type").or_else(|| rope.text("type"));
        let kind = kind.as_deref().unwrap_or("default");
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear {
                factor: number("factor")?,
            },
            "dynamic" => RopeScaling::Dynamic {
                factor: number("factor")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: original()?,
            },
            // Phi-3's first files say "su" or "yarn" and mean this.
            "longrope" | "su" | "yarn" if kind == "longrope" || family.fused => {
                let original_max_position_embeddings = original()?;
                let stretch = match rope.number("factor")? {
                    Some(factor) => factor,
                    None => context as f64 / original_max_position_embeddings as f64,
                };
                let own = longrope_attention_factor(stretch, original_max_position_embeddings);
                RopeScaling::LongRope {
                    short: rope.numbers("short_factor")?,
                    long: rope.numbers("long_factor")?,
                    attention_factor: rope.number("attention_factor")?.unwrap_or(own),
                    original_max_position_embeddings,
                }
            }
            "yarn" => {
                let original_max_position_embeddings = original()?;
                let factor = match rope.number("factor")? {
                    Some(factor) => factor,
                    None => context as f64 / original_max_position_embeddings as f64,
                };
                let scales = (rope.number("mscale")?, rope.number("mscale_all_dim")?);
                let own = match scales {
                    (Some(one), Some(all)) if one != 0.0 && all != 0.0 => {
                        yarn_attention_factor(factor, one) / yarn_attention_factor(factor, all)
                    }
                    _ => yarn_attention_factor(factor, 1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    attention_factor: rope.number("attention_factor")?.unwrap_or(own),
                    beta_fast: rope.number("beta_fast")?.unwrap_or(32.0),
                    beta_slow: rope.number("beta_slow")?.unwrap_or(1.0),
                    original_max_position_embeddings,
                    truncate: rope.boolean("truncate", true)?,
                }
            }
            other => {
                return Err(input_error(format!(
                    "{file} is of type \"{other}\", which is not supported (default, linear, \
                     dynamic, llama3, yarn and longrope are)"
                )));
            }
        };
        Ok(Rope {
            theta,
            dim,
            scaling,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 100, "rope_theta": 5e4}"#;

    fn read(changes: &[(&str, &str)]) -> Result<DecoderConfig> {
        let mut text = CONFIG.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        DecoderConfig::from_json(&text, "config.json")
    }

    #[test]
    fn a_config_is_completed_by_the_reference_implementations_defaults() {
        let config = read(&[]).unwrap();
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
    fn windows_and_rotation_follow_each_familys_keys() {
        let of = |family: &str, more: &str| {
            let name = format!("\"{family}\"");
            let more = format!("\"rope_theta\": 5e4, {more}");
            read(&[("\"llama\"", &name), ("\"rope_theta\": 5e4", &more)])
                .unwrap()
                .attention
        };
        let mistral = read(&[("\"llama\"", "\"mistral\"")]).unwrap().attention;
        assert_eq!(mistral.window(0), Some(4096));
        assert_eq!(of("mistral", "\"sliding_window\": null").window(0), None);
        assert_eq!(of("mistral", "\"sliding_window\": 8").window(1), Some(8));
        assert_eq!(of("qwen2", "\"sliding_window\": 8").window(1), None);
        let upper = of(
            "qwen2",
            "\"sliding_window\": 8, \"use_sliding_window\": true, \"max_window_layers\": 1",
        );
        assert_eq!((upper.window(0), upper.window(1)), (None, Some(8)));
        let listed = of(
            "qwen3",
            "\"sliding_window\": 8, \"use_sliding_window\": true,
             \"layer_types\": [\"sliding_attention\", \"full_attention\"]",
        );
        assert_eq!((listed.window(0), listed.window(1)), (Some(8), None));
        let smol = of("smollm3", "\"x\": 1").unrotated;
        let layers: Vec<usize> = (0..8).filter(|&layer| smol.contains(layer)).collect();
        assert_eq!(layers, [3, 7]);
        let smol = of("smollm3", "\"no_rope_layers\": [0, 1]").unrotated;
        assert!(smol.contains(0) && !smol.contains(1));
    }

    #[test]
    fn phi_3_is_fused_and_rotates_a_part_of_its_heads() {
        let config = read(&[
            ("\"llama\"", "\"phi3\""),
            ("\"rope_theta\": 5e4", "\"partial_rotary_factor\": 0.75"),
        ])
        .unwrap();
        assert_eq!(config.rotary_dim, 12);
        let names: Vec<_> = config.block_linears().iter().map(|l| l.name).collect();
        assert_eq!(
            names,
            [
                "self_attn.qkv_proj",
                "self_attn.o_proj",
                "mlp.gate_up_proj",
                "mlp.down_proj"
            ]
        );
        assert_eq!(config.block_linears()[0].outputs, 64 + 2 * 32);
        assert_eq!(config.block_linears()[2].outputs, 192);
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
                "\"rope_scaling\": {\"type\": \"mrope\"}",
                "mrope",
            ),
            (
                "\"rope_theta\": 5e4",
                "\"rope_scaling\": {\"type\": \"linear\"}",
                "no `factor`",
            ),
            (
                "\"rope_theta\": 5e4",
                "\"rope_scaling\": {\"type\": \"linear\", \"factor\": -2}",
                "positive",
            ),
            (
                "\"rope_theta\": 5e4",
                "\"partial_rotary_factor\": 1.5",
                "24 of a head's 16",
            ),
            (
                "\"rope_theta\": 5e4",
                "\"hidden_act\": \"gelu\"",
                "hidden_act",
            ),
            (
                "\"rope_theta\": 5e4",
                "\"quantization_config\": {\"bits\": 4}",
                "before it was quantised",
            ),
            (
                "\"rope_theta\": 5e4",
                "\"attention_bias\": 3",
                "attention_bias",
            ),
            ("{", "[", "not valid JSON"),
        ] {
            let error = read(&[(from, to)]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(crate::error::exit_code(&error), 2);
        }
    }
}
