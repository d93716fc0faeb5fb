//! kohya's file, which AUTOMATIC1111, Forge and ComfyUI read: one safetensors file with an alpha
//! for every module and the training's settings as metadata.
//!
//! Source: kohya-ss/sd-scripts, `networks/lora.py` and `library/train_util.py`
//! (`precalculate_safetensors_hashes`), `library/sai_model_spec.py`.

use std::collections::BTreeMap;

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::family;
use super::image_names::{by_kohya_name, kohya_names};
use super::model::{Adapter, Family, Format, Keys, Part};
use super::numbers::Numbers;
use super::safetensors_file::{Content, to_bytes};
use crate::error::input_error;

const DOWN: &str = ".lora_down.weight";
const UP: &str = ".lora_up.weight";
const ALPHA: &str = ".alpha";

/// Whether a tensor's name is one of this format.
pub(super) fn is_key(key: &str) -> bool {
    key.starts_with("lora_unet_") || key.starts_with("lora_te")
}

/// # Errors
/// Modules of no known family, kinds of adapters that are not LoRA.
pub(super) fn read(content: Content, file: &str) -> Result<Adapter> {
    let modules = module_names(&content, file)?;
    let mut tensors = content.tensors;
    let mut parts = BTreeMap::new();
    for (name, module) in modules {
        let (down, up) = (format!("{name}{DOWN}"), format!("{name}{UP}"));
        let alpha_key = format!("{name}{ALPHA}");
        let (Some(a), Some(b)) = (tensors.remove(&down), tensors.remove(&up)) else {
            return Err(input_error(format!(
                "{file} has only one of lora_down and lora_up for {name}"
            )));
        };
        let alpha = tensors.remove(&alpha_key);
        let rank = a.shape.first().copied().unwrap_or(0) as f64;
        let part = Part {
            a,
            b,
            magnitude: None,
            alpha: alpha.as_ref().map_or(rank, |alpha| effective(alpha, rank)),
            keys: Some(Keys {
                format: Format::Kohya,
                a: down,
                b: up,
                alpha: alpha.map(|alpha| (alpha_key, alpha)),
            }),
        };
        part.check(file, &name)?;
        if parts.insert(module, part).is_some() {
            return Err(input_error(format!("{file} adapts {name} under two names")));
        }
    }
    if let Some(key) = tensors.keys().next() {
        return Err(input_error(format!(
            "{file}: the tensor {key} is no part of LoRA, which alone is supported (not LoCon's \
             mid, LoHa, LoKr or DoRA of LyCORIS)"
        )));
    }
    let guessed = family::from_parts(&parts);
    let family = family::from_metadata(&content.metadata).unwrap_or(guessed);
    Ok(Adapter {
        parts,
        metadata: content.metadata,
        ..Adapter::new(family)
    })
}

/// What a stored alpha means: kohya, AUTOMATIC1111 and ComfyUI all read 0 as "none".
fn effective(alpha: &Numbers, rank: f64) -> f64 {
    match alpha.to_f32().first() {
        Some(&alpha) if alpha != 0.0 => f64::from(alpha),
        _ => rank,
    }
}

/// Kohya's name and the module of every part.
fn module_names(content: &Content, file: &str) -> Result<BTreeMap<String, String>> {
    let mut names: Vec<&str> = Vec::new();
    for key in content.tensors.keys() {
        names.push(key.split_once('.').map_or(key, |(name, _)| name));
    }
    names.dedup();
    let families = match family::from_metadata(&content.metadata) {
        Some(family) => vec![family],
        None => vec![Family::Sd1, Family::Sdxl],
    };
    let mut unknown = "";
    for family in families {
        let table = by_kohya_name(family);
        match names.iter().find(|name| !table.contains_key(**name)) {
            None => {
                let module = |name: &&str| ((*name).to_owned(), table[*name].clone());
                return Ok(names.iter().map(module).collect());
            }
            Some(name) => unknown = name,
        }
    }
    Err(input_error(format!(
        "{file} adapts {unknown}, which is no module of Stable Diffusion 1, 2 or XL"
    )))
}

/// The file of an adapter whose scale is alpha / r.
///
/// # Errors
/// A module that the family does not have.
pub(super) fn write(adapter: &Adapter) -> Result<Vec<u8>> {
    let names = kohya_names(adapter.family);
    let mut alphas: Vec<(String, Numbers)> = Vec::new();
    let mut tensors: BTreeMap<String, &Numbers> = BTreeMap::new();
    for (module, part) in &adapter.parts {
        let keys = match part.keys.as_ref().filter(|k| k.format == Format::Kohya) {
            Some(keys) => keys.clone(),
            None => {
                let name = names.get(module).ok_or_else(|| {
                    input_error(format!(
                        "kohya's format has no name for {module} of {}",
                        adapter.family.name()
                    ))
                })?;
                Keys {
                    format: Format::Kohya,
                    a: format!("{name}{DOWN}"),
                    b: format!("{name}{UP}"),
                    alpha: Some((
                        format!("{name}{ALPHA}"),
                        Numbers::new(&[], &[part.alpha as f32]),
                    )),
                }
            }
        };
        let rank = part.rank() as f64;
        match keys.alpha {
            Some((key, alpha)) if effective(&alpha, rank) == part.alpha => {
                alphas.push((key, alpha))
            }
            Some((key, _)) => alphas.push((key, Numbers::new(&[], &[part.alpha as f32]))),
            None if part.alpha == rank => {}
            None => {
                let key = format!("{}{ALPHA}", keys.a.trim_end_matches(DOWN));
                alphas.push((key, Numbers::new(&[], &[part.alpha as f32])));
            }
        }
        tensors.insert(keys.a, &part.a);
        tensors.insert(keys.b, &part.b);
    }
    for (key, alpha) in &alphas {
        tensors.insert(key.clone(), alpha);
    }
    Ok(to_bytes(&tensors, &metadata(adapter, &tensors)))
}

/// What the file came with, completed by what the tools need to know the family.
fn metadata(adapter: &Adapter, tensors: &BTreeMap<String, &Numbers>) -> BTreeMap<String, String> {
    let kept = |key: &str| key.starts_with("ss_") || key.starts_with("modelspec.");
    let mut metadata: BTreeMap<String, String> = adapter
        .metadata
        .iter()
        .filter(|(key, _)| kept(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let (version, architecture, implementation, resolution) = match adapter.family {
        Family::Sdxl => (
            "sdxl_base_v1-0",
            "stable-diffusion-xl-v1-base/lora",
            "https://github.com/Stability-AI/generative-models",
            "1024x1024",
        ),
        Family::Sd2 => (
            "sd_v2",
            "stable-diffusion-v2-512/lora",
            "https://github.com/Stability-AI/stablediffusion",
            "512x512",
        ),
        _ => (
            "sd_v1",
            "stable-diffusion-v1/lora",
            "https://github.com/CompVis/stable-diffusion",
            "512x512",
        ),
    };
    let v2 = if adapter.family == Family::Sd2 {
        "True"
    } else {
        "False"
    };
    let alpha = adapter.parts.values().next().map_or(0.0, |p| p.alpha);
    let mut complete = |key: &str, value: &str| {
        metadata
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    };
    complete("ss_v2", v2);
    complete("ss_base_model_version", version);
    complete("ss_network_module", "networks.lora");
    complete("ss_network_dim", &adapter.rank().to_string());
    complete("ss_network_alpha", &format!("{alpha:?}"));
    complete("ss_network_args", "{}");
    if let Some(base) = &adapter.base_name {
        complete("ss_sd_model_name", base);
    }
    complete("modelspec.sai_model_spec", "1.0.0");
    complete("modelspec.architecture", architecture);
    complete("modelspec.implementation", implementation);
    complete("modelspec.resolution", resolution);
    // Hashes are over the tensors with the training's metadata alone, so that a title may change.
    metadata.remove("modelspec.hash_sha256");
    let immutable = metadata.iter().filter(|(key, _)| key.starts_with("ss_"));
    let immutable = immutable.map(|(k, v)| (k.clone(), v.clone())).collect();
    let bytes = to_bytes(tensors, &immutable);
    let model_hash = hex(&bytes[data_start(&bytes)..]);
    let legacy = bytes.get(0x10_0000..).unwrap_or_default();
    let legacy_hash = hex(&legacy[..legacy.len().min(0x1_0000)]);
    metadata.insert(
        "modelspec.hash_sha256".to_owned(),
        format!("0x{model_hash}"),
    );
    metadata.insert("sshs_legacy_hash".to_owned(), legacy_hash[..8].to_owned());
    metadata.insert("sshs_model_hash".to_owned(), model_hash);
    metadata
}

/// Where the tensors of a safetensors file begin.
fn data_start(bytes: &[u8]) -> usize {
    let length = bytes
        .first_chunk::<8>()
        .map_or(0, |b| u64::from_le_bytes(*b));
    8 + length as usize
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
