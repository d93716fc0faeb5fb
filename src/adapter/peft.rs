//! PEFT's folder: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use super::folder;
use crate::error::input_error;
use crate::model::{DecoderConfig, LoraPair, LoraSet, scale};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT's wrapper puts before a module's name; without it PEFT leaves an adapter inert.
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// Writes a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`); returns its bytes.
/// The folder is written beside its final name, fsynced and renamed. `base_model_name` goes into
/// `base_model_name_or_path`. Bytes depend on the arguments only.
///
/// # Errors
/// A number that is not finite; another folder in the way; the disk fails.
pub fn write_peft(set: &LoraSet, base_model_name: &str, folder: &Path) -> Result<u64> {
    let files = peft_files(set, base_model_name)?;
    folder::write(folder, &files)?;
    Ok(files.iter().map(|(_, bytes)| bytes.len() as u64).sum())
}

/// The files of a PEFT folder, name and bytes, for callers that write a folder of their own.
///
/// # Errors
/// A number that is not finite.
pub fn peft_files(set: &LoraSet, base_model_name: &str) -> Result<[(&'static str, Vec<u8>); 2]> {
    Ok([
        (CONFIG, config_json(set, base_model_name)?),
        (WEIGHTS, weights(set)?),
    ])
}

fn config_json(set: &LoraSet, base_model_name: &str) -> Result<Vec<u8>> {
    let alpha = match set.alpha.fract() == 0.0 && set.alpha.abs() < 1e15 {
        true => json!(set.alpha as i64),
        false => json!(set.alpha),
    };
    let config = json!({
        "base_model_name_or_path": base_model_name,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": set.dropout,
        "peft_type": "LORA",
        "r": set.rank,
        "target_modules": set.target_modules,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": set.use_rslora,
    });
    let mut text = serde_json::to_string_pretty(&config)?;
    text.push('\n');
    Ok(text.into_bytes())
}

fn weights(set: &LoraSet) -> Result<Vec<u8>> {
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for pair in &set.pairs {
        for (end, var) in [(A, &pair.a), (B, &pair.b)] {
            let numbers: Vec<f32> = var
                .as_detached_tensor()
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1()?;
            if let Some(number) = numbers.iter().find(|x| !x.is_finite()) {
                anyhow::bail!(
                    "the adapter is not written: {}{end} holds {number}",
                    pair.module
                );
            }
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.insert(
                format!("{PREFIX}{}{end}", pair.module),
                (var.dims().to_vec(), bytes),
            );
        }
    }
    let mut views = Vec::new();
    for (name, (shape, bytes)) in &tensors {
        views.push((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// Reads a PEFT folder for a base of the given shape; explains what does not fit.
///
/// # Errors
/// A file that is missing or damaged, a kind of adapter that is not supported, modules that the
/// base does not have or has in another shape.
pub fn read_peft(folder: &Path, base: &DecoderConfig, device: &Device) -> Result<LoraSet> {
    let config_path = folder.join(CONFIG);
    let read = |path: &Path| {
        fs::read(path).map_err(|e| {
            input_error(format!(
                "{} cannot be read: {e} (an adapter is a PEFT folder with {CONFIG} and {WEIGHTS})",
                path.display()
            ))
        })
    };
    let config: Value = serde_json::from_slice(&read(&config_path)?)
        .map_err(|e| input_error(format!("{} is not valid JSON: {e}", config_path.display())))?;
    let config = Config::read(&config, &config_path.display().to_string())?;
    let path = folder.join(WEIGHTS);
    let file = path.display().to_string();
    let bytes = read(&path)?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|e| input_error(format!("{file} is damaged or incomplete: {e}")))?;
    let mut found = by_module(&tensors, &file)?;
    let mut pairs = Vec::new();
    for (module, inputs, outputs) in base.linears() {
        let Some((a, b)) = found.remove(&module) else {
            continue;
        };
        let (Some(a), Some(b)) = (a, b) else {
            return Err(input_error(format!(
                "{file} has only one of A and B for {module}"
            )));
        };
        let (a_shape, b_shape) = ([config.rank, inputs], [outputs, config.rank]);
        if a.shape() != a_shape || b.shape() != b_shape {
            return Err(input_error(format!(
                "{file} is of another base or rank: {module} has A {:?} and B {:?}, where this \
                 base and r {} ask for {a_shape:?} and {b_shape:?}",
                a.shape(),
                b.shape(),
                config.rank
            )));
        }
        let var = |view: &TensorView<'_>| -> Result<Var> {
            let numbers = numbers(view, &file)?;
            let tensor = Tensor::from_vec(numbers, view.shape(), device)?;
            Ok(Var::from_tensor(&tensor)?)
        };
        pairs.push(LoraPair {
            a: var(&a)?,
            b: var(&b)?,
            scale: scale(config.alpha, config.rank, config.use_rslora),
            module,
        });
    }
    if let Some(module) = found.keys().next() {
        return Err(input_error(format!(
            "{file} is of another base: it adapts {module}, which this base does not have"
        )));
    }
    if pairs.is_empty() {
        return Err(input_error(format!("{file} holds no adapter")));
    }
    Ok(LoraSet::from_pairs(
        pairs,
        config.rank,
        config.alpha,
        config.use_rslora,
        config.dropout,
        config.target_modules,
    ))
}

struct Config {
    rank: usize,
    alpha: f64,
    use_rslora: bool,
    dropout: f64,
    target_modules: Vec<String>,
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
            ("use_dora", json!(false)),
            ("fan_in_fan_out", json!(false)),
            ("lora_bias", json!(false)),
            ("bias", json!("none")),
            ("alpha_pattern", json!({})),
            ("rank_pattern", json!({})),
            ("modules_to_save", json!([])),
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
        let target_modules = match json.get("target_modules") {
            Some(Value::Array(names)) => names
                .iter()
                .filter_map(|name| Some(name.as_str()?.to_owned()))
                .collect(),
            Some(Value::String(name)) => vec![name.clone()],
            _ => Vec::new(),
        };
        Ok(Config {
            rank,
            alpha: number("lora_alpha").unwrap_or(8.0),
            use_rslora: json.get("use_rslora") == Some(&Value::Bool(true)),
            dropout: number("lora_dropout").unwrap_or(0.0),
            target_modules,
        })
    }
}

type Halves<'a> = (Option<TensorView<'a>>, Option<TensorView<'a>>);

/// A and B of every module, by its name in the base.
fn by_module<'a>(tensors: &SafeTensors<'a>, file: &str) -> Result<BTreeMap<String, Halves<'a>>> {
    let mut found: BTreeMap<String, Halves<'a>> = BTreeMap::new();
    for (key, view) in tensors.iter() {
        let Some(name) = key.strip_prefix(PREFIX) else {
            return Err(input_error(format!(
                "{file} is no PEFT adapter: the key {key} does not begin with {PREFIX}"
            )));
        };
        if let Some(module) = name.strip_suffix(A) {
            found.entry(module.to_owned()).or_default().0 = Some(view);
        } else if let Some(module) = name.strip_suffix(B) {
            found.entry(module.to_owned()).or_default().1 = Some(view);
        } else {
            return Err(input_error(format!(
                "{file}: the key {key} is neither an A nor a B of LoRA, which is not supported"
            )));
        }
    }
    Ok(found)
}

/// The numbers of a tensor as f32.
fn numbers(view: &TensorView<'_>, file: &str) -> Result<Vec<f32>> {
    let bytes = view.data();
    let halves = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    let numbers: Vec<f32> = match view.dtype() {
        Dtype::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => halves.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => halves.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        other => {
            return Err(input_error(format!(
                "{file} holds numbers of type {other:?}; F32, F16 and BF16 are supported"
            )));
        }
    };
    if numbers.iter().any(|x| !x.is_finite()) {
        return Err(input_error(format!(
            "{file} holds numbers that are not finite; the adapter is broken"
        )));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> DecoderConfig {
        DecoderConfig {
            layers: 2,
            ..DecoderConfig::tiny()
        }
    }

    fn set() -> LoraSet {
        let targets = vec!["q_proj".to_owned(), "down_proj".to_owned()];
        let modules = crate::model::match_targets(&base(), false, &targets, None).unwrap();
        LoraSet::new(&modules, 2, 4.0, true, 0.1, targets, 7, &Device::Cpu).unwrap()
    }

    fn all(set: &LoraSet) -> Vec<(String, Vec<f32>, Vec<f32>, f64)> {
        let numbers = |var: &Var| var.flatten_all().unwrap().to_vec1().unwrap();
        set.pairs
            .iter()
            .map(|p| (p.module.clone(), numbers(&p.a), numbers(&p.b), p.scale))
            .collect()
    }

    #[test]
    fn an_adapter_read_back_is_the_one_written_and_its_bytes_are_always_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let (first, second) = (temp.path().join("1"), temp.path().join("2"));
        let set = set();
        let bytes = write_peft(&set, "some/base", &first).unwrap();
        write_peft(&set, "some/base", &second).unwrap();
        let mut total = 0;
        for name in [CONFIG, WEIGHTS] {
            let content = fs::read(first.join(name)).unwrap();
            assert_eq!(content, fs::read(second.join(name)).unwrap());
            total += content.len() as u64;
        }
        assert_eq!(bytes, total);
        let back = read_peft(&first, &base(), &Device::Cpu).unwrap();
        assert_eq!(all(&back), all(&set));
        assert_eq!(
            (back.rank, back.alpha, back.use_rslora, back.dropout),
            (2, 4.0, true, 0.1)
        );
        assert_eq!(back.target_modules, set.target_modules);
    }

    #[test]
    fn a_number_that_is_not_finite_is_never_written() {
        let temp = tempfile::tempdir().unwrap();
        let set = set();
        let b = &set.pairs[1].b;
        b.set(&(b.ones_like().unwrap() / 0.0).unwrap()).unwrap();
        let folder = temp.path().join("x");
        let error = write_peft(&set, "base", &folder).unwrap_err();
        assert!(error.to_string().contains("inf"), "{error}");
        assert!(!folder.exists());
    }

    #[test]
    fn what_does_not_fit_is_explained() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("x");
        write_peft(&set(), "base", &folder).unwrap();
        let error = |base: &DecoderConfig| {
            let error = read_peft(&folder, base, &Device::Cpu).unwrap_err();
            assert_eq!(crate::error::exit_code(&error), 2);
            error.to_string()
        };
        let wider = DecoderConfig {
            hidden_size: 16,
            ..base()
        };
        assert!(error(&wider).contains("another base or rank"));
        let shorter = DecoderConfig {
            layers: 1,
            ..base()
        };
        assert!(error(&shorter).contains("model.layers.1."));
        let config = folder.join(CONFIG);
        let text = fs::read_to_string(&config).unwrap();
        for (from, to, expected) in [
            ("\"LORA\"", "\"LOHA\"", "LOHA"),
            ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
            ("\"r\": 2", "\"r\": 3", "r 3"),
            ("{", "", "not valid JSON"),
        ] {
            fs::write(&config, text.replacen(from, to, 1)).unwrap();
            let error = error(&base());
            assert!(error.contains(expected), "{error}");
        }
        fs::write(&config, text).unwrap();
        let weights = fs::read(folder.join(WEIGHTS)).unwrap();
        fs::write(folder.join(WEIGHTS), &weights[..weights.len() - 1]).unwrap();
        assert!(error(&base()).contains("damaged"));
        fs::remove_file(folder.join(WEIGHTS)).unwrap();
        assert!(error(&base()).contains("cannot be read"));
    }
}
