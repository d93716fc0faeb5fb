//! PEFT's folder: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::model::{Adapter, Family, Format, Keys, Part, most_frequent};
use super::numbers::Numbers;
use super::pattern::Patterns;
use super::safetensors_file;
use crate::error::input_error;

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT's wrapper puts before a module's name; without it PEFT leaves an adapter inert.
pub(super) const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
/// DoRA's; PEFT itself writes it without an end.
const MAGNITUDE: &str = ".lora_magnitude_vector";

/// The files of a PEFT folder, name and bytes.
///
/// # Errors
/// Parts that differ in a way that PEFT's config cannot say.
pub(super) fn files(adapter: &Adapter) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let dora = adapter.is_dora();
    if dora && adapter.parts.values().any(|p| p.magnitude.is_none()) {
        return Err(input_error(
            "only some parts of the adapter are DoRA; a PEFT folder holds all or none",
        ));
    }
    let mut tensors: BTreeMap<String, &Numbers> = BTreeMap::new();
    for (module, part) in &adapter.parts {
        tensors.insert(format!("{PREFIX}{module}{A}"), &part.a);
        tensors.insert(format!("{PREFIX}{module}{B}"), &part.b);
        if let Some(magnitude) = &part.magnitude {
            tensors.insert(format!("{PREFIX}{module}{MAGNITUDE}"), magnitude);
        }
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(vec![
        (CONFIG, config_json(adapter, dora)?),
        (WEIGHTS, safetensors_file::to_bytes(&tensors, &metadata)),
    ])
}

fn config_json(adapter: &Adapter, dora: bool) -> Result<Vec<u8>> {
    let rank = adapter.rank();
    // Bits keep the order of numbers that are not negative.
    let alphas = adapter.parts.values().map(|p| p.alpha.to_bits());
    let alpha = f64::from_bits(most_frequent(alphas).unwrap_or_default());
    let targets = match adapter.target_modules.is_empty() {
        true => adapter.parts.keys().cloned().collect(),
        false => adapter.target_modules.clone(),
    };
    let mut config = json!({
        "base_model_name_or_path": adapter.base_name,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": number(alpha),
        "lora_dropout": adapter.dropout,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": dora,
        "use_rslora": adapter.use_rslora,
    });
    if !adapter.layers_to_transform.is_empty() {
        config["layers_to_transform"] = json!(adapter.layers_to_transform);
    }
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for (module, part) in &adapter.parts {
        if part.rank() != rank {
            ranks.insert(module.clone(), json!(part.rank()));
        }
        if part.alpha != alpha {
            alphas.insert(module.clone(), number(part.alpha));
        }
    }
    for (key, patterns) in [("rank_pattern", ranks), ("alpha_pattern", alphas)] {
        if !patterns.is_empty() {
            config[key] = Value::Object(patterns);
        }
    }
    let mut text = serde_json::to_string_pretty(&config)?;
    text.push('\n');
    Ok(text.into_bytes())
}

/// A whole number without a point, as people write it.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => json!(value as i64),
        false => json!(value),
    }
}

/// Reads a PEFT folder.
///
/// # Errors
/// A file that is missing or damaged; a kind of adapter that is not supported.
pub(super) fn read(folder: &Path) -> Result<Adapter> {
    let config_path = folder.join(CONFIG);
    let config_file = config_path.display().to_string();
    let text = fs::read(&config_path).map_err(|e| {
        input_error(format!(
            "{config_file} cannot be read: {e} (a PEFT adapter is a folder with {CONFIG} and \
             {WEIGHTS})"
        ))
    })?;
    let json: Value = serde_json::from_slice(&text)
        .map_err(|e| input_error(format!("{config_file} is not valid JSON: {e}")))?;
    let config = Config::read(&json, &config_file)?;
    let path = folder.join(WEIGHTS);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        return Err(input_error(format!(
            "{} holds adapter_model.bin, an old format that can run code: save the adapter as \
             safetensors first",
            folder.display()
        )));
    }
    let file = path.display().to_string();
    let content = safetensors_file::read(&path)?;
    let mut adapter = Adapter::new(Family::Text);
    for (module, halves) in by_module(content.tensors, &file)? {
        let (Some(a), Some(b)) = (halves.a, halves.b) else {
            return Err(input_error(format!(
                "{file} has only one of A and B for {module}"
            )));
        };
        let rank = match config.ranks.find(&module) {
            Some(rank) => rank as usize,
            None => config.rank,
        };
        let part = Part {
            a,
            b,
            magnitude: halves.magnitude,
            alpha: config.alphas.find(&module).unwrap_or(config.alpha),
            keys: Some(Keys {
                format: Format::Peft,
                a: format!("{PREFIX}{module}{A}"),
                b: format!("{PREFIX}{module}{B}"),
                alpha: None,
            }),
        };
        part.check(&file, &module)?;
        if part.rank() != rank {
            return Err(input_error(format!(
                "{file}: {module} has rank {}, but {config_file} says r {rank}",
                part.rank()
            )));
        }
        if part.magnitude.is_some() != config.use_dora {
            return Err(input_error(format!(
                "{file}: {module} {} DoRA's magnitude, but {config_file} sets use_dora to {}",
                if config.use_dora { "lacks" } else { "has" },
                config.use_dora
            )));
        }
        adapter.parts.insert(module, part);
    }
    if adapter.parts.is_empty() {
        return Err(input_error(format!("{file} holds no adapter")));
    }
    adapter.use_rslora = config.use_rslora;
    adapter.dropout = config.dropout;
    adapter.target_modules = config.target_modules;
    adapter.layers_to_transform = config.layers_to_transform;
    adapter.base_name = config.base_name;
    adapter.metadata = content.metadata;
    Ok(adapter)
}

struct Config {
    rank: usize,
    ranks: Patterns,
    alpha: f64,
    alphas: Patterns,
    use_rslora: bool,
    use_dora: bool,
    dropout: f64,
    target_modules: Vec<String>,
    layers_to_transform: Vec<usize>,
    base_name: Option<String>,
}

impl Config {
    fn read(json: &Value, file: &str) -> Result<Self> {
        let kind = json.get("peft_type").and_then(Value::as_str);
        if kind != Some("LORA") {
            return Err(input_error(format!(
                "{file} describes an adapter of type {}, only LORA is supported",
                kind.unwrap_or("unknown")
            )));
        }
        // What would change the numbers and is not computed here must not be passed over.
        for (key, inert) in [
            ("fan_in_fan_out", json!(false)),
            ("lora_bias", json!(false)),
            ("use_qalora", json!(false)),
            ("bias", json!("none")),
            ("modules_to_save", json!([])),
            ("target_parameters", json!([])),
            ("trainable_token_indices", json!([])),
            ("layer_replication", json!([])),
        ] {
            match json.get(key) {
                None | Some(Value::Null) => {}
                Some(value) if *value == inert => {}
                Some(value) => {
                    return Err(input_error(format!(
                        "{file} sets {key} to {value}, which is not supported"
                    )));
                }
            }
        }
        let rank = json.get("r").and_then(Value::as_u64).unwrap_or(0) as usize;
        if rank == 0 {
            return Err(input_error(format!("{file} has no rank `r`")));
        }
        let number = |key: &str| json.get(key).and_then(Value::as_f64);
        let yes = |key: &str| json.get(key) == Some(&Value::Bool(true));
        let target_modules = match json.get("target_modules") {
            Some(Value::Array(names)) => names
                .iter()
                .filter_map(|name| Some(name.as_str()?.to_owned()))
                .collect(),
            // A pattern says less than the names that are there.
            _ => Vec::new(),
        };
        let layer = |value: &Value| value.as_u64().map(|layer| layer as usize);
        let layers_to_transform = match json.get("layers_to_transform") {
            Some(Value::Array(layers)) => layers.iter().filter_map(layer).collect(),
            Some(one) => layer(one).into_iter().collect(),
            None => Vec::new(),
        };
        let base_name = json.get("base_model_name_or_path").and_then(Value::as_str);
        Ok(Config {
            rank,
            ranks: Patterns::read(json.get("rank_pattern"), &format!("{file}: rank_pattern"))?,
            alpha: number("lora_alpha").unwrap_or(8.0),
            alphas: Patterns::read(json.get("alpha_pattern"), &format!("{file}: alpha_pattern"))?,
            use_rslora: yes("use_rslora"),
            use_dora: yes("use_dora"),
            dropout: number("lora_dropout").unwrap_or(0.0),
            target_modules,
            layers_to_transform,
            base_name: base_name.filter(|n| !n.is_empty()).map(str::to_owned),
        })
    }
}

#[derive(Default)]
struct Halves {
    a: Option<Numbers>,
    b: Option<Numbers>,
    magnitude: Option<Numbers>,
}

/// A, B and magnitude of every module, by its name in the base.
fn by_module(tensors: BTreeMap<String, Numbers>, file: &str) -> Result<BTreeMap<String, Halves>> {
    let mut found: BTreeMap<String, Halves> = BTreeMap::new();
    for (key, numbers) in tensors {
        let Some(name) = key.strip_prefix(PREFIX) else {
            return Err(input_error(format!(
                "{file} is no PEFT adapter: the key {key} does not begin with {PREFIX}"
            )));
        };
        let name = name
            .strip_suffix(&format!("{MAGNITUDE}.weight"))
            .map_or_else(|| name.to_owned(), |module| format!("{module}{MAGNITUDE}"));
        if let Some(module) = name.strip_suffix(A) {
            found.entry(module.to_owned()).or_default().a = Some(numbers);
        } else if let Some(module) = name.strip_suffix(B) {
            found.entry(module.to_owned()).or_default().b = Some(numbers);
        } else if let Some(module) = name.strip_suffix(MAGNITUDE) {
            found.entry(module.to_owned()).or_default().magnitude = Some(numbers);
        } else {
            return Err(input_error(format!(
                "{file}: the key {key} is no part of LoRA on a linear, which alone is supported"
            )));
        }
    }
    Ok(found)
}
