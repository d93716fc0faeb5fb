//! diffusers' file, `pytorch_lora_weights.safetensors`.
//!
//! Source: diffusers' `loaders/lora_base.py`. A file without `lora_adapter_metadata` loads with
//! alpha = r, whatever it was trained with, and a tensor for alpha is an error: so the scale is
//! folded into B before it is written here. Old spellings (attention processors) are read.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use super::family;
use super::image_names::{TEXT_ENCODER, TEXT_ENCODER_2, UNET};
use super::model::{Adapter, Format, Keys, Part};
use super::numbers::Numbers;
use super::pattern::Patterns;
use super::safetensors_file::{Content, to_bytes};
use crate::error::input_error;

/// The name under which pipelines look for the file.
pub(super) const FILE: &str = "pytorch_lora_weights.safetensors";
/// Where newer versions keep what PEFT's config says.
const CONFIGS: &str = "lora_adapter_metadata";
/// Ends of A's and B's names: those of the UNet, of text encoders, of PEFT, of old processors.
const ENDS: [(&str, &str); 4] = [
    (".lora.down.weight", ".lora.up.weight"),
    (
        ".lora_linear_layer.down.weight",
        ".lora_linear_layer.up.weight",
    ),
    (".lora_A.weight", ".lora_B.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
];

/// Whether a tensor's name is one of this format.
pub(super) fn is_key(key: &str) -> bool {
    [
        UNET,
        "text_encoder",
        "down_blocks.",
        "mid_block.",
        "up_blocks.",
    ]
    .iter()
    .any(|start| key.starts_with(start))
}

/// # Errors
/// Names that are not of the format, one end without the other.
pub(super) fn read(content: Content, file: &str) -> Result<Adapter> {
    let scales = Scales::read(content.metadata.get(CONFIGS), file)?;
    let mut tensors = content.tensors;
    let mut parts = BTreeMap::new();
    for key in tensors.keys().cloned().collect::<Vec<_>>() {
        let Some((name, up)) = ENDS
            .iter()
            .find_map(|(down, up)| Some((key.strip_suffix(down)?, *up)))
        else {
            continue;
        };
        let up = format!("{name}{up}");
        let (Some(a), Some(b)) = (tensors.remove(&key), tensors.remove(&up)) else {
            return Err(input_error(format!(
                "{file} has only one of A and B for {name}"
            )));
        };
        let alpha = tensors.remove(&format!("{name}.alpha"));
        let module = module_name(name);
        let rank = a.shape.first().copied().unwrap_or(0);
        let stored = alpha.and_then(|alpha| alpha.to_f32().first().copied());
        let part = Part {
            a,
            b,
            magnitude: None,
            alpha: match stored {
                Some(alpha) => f64::from(alpha),
                None => scales.alpha(&module, rank),
            },
            keys: Some(Keys {
                format: Format::Diffusers,
                a: key.clone(),
                b: up,
                alpha: None,
            }),
        };
        part.check(file, name)?;
        parts.insert(module, part);
    }
    if let Some(key) = tensors.keys().next() {
        return Err(input_error(format!(
            "{file}: the tensor {key} is neither an A nor a B of LoRA on Stable Diffusion 1, 2 or \
             XL, which alone are supported"
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

/// The module of a name without its end, with its component.
fn module_name(name: &str) -> String {
    let name = match name.starts_with(UNET) || name.starts_with("text_encoder") {
        true => name.to_owned(),
        false => format!("{UNET}{name}"),
    };
    // Attention processors: `attn1.processor.to_out` is `attn1.to_out.0`.
    let name = match name.split_once(".processor.") {
        Some((attention, "to_out")) => format!("{attention}.to_out.0"),
        Some((attention, leaf)) => format!("{attention}.{leaf}"),
        None => name,
    };
    // Transformers 5 leaves this out.
    for component in [TEXT_ENCODER, TEXT_ENCODER_2] {
        if let Some(rest) = name.strip_prefix(component)
            && rest.starts_with("encoder.")
        {
            return format!("{component}text_model.{rest}");
        }
    }
    name
}

/// What `lora_adapter_metadata` says of the scale, by component.
struct Scales(BTreeMap<String, Scale>);

struct Scale {
    alpha: Option<f64>,
    alphas: Patterns,
    use_rslora: bool,
}

impl Scales {
    fn read(text: Option<&String>, file: &str) -> Result<Self> {
        let mut scales = BTreeMap::new();
        let Some(text) = text else {
            return Ok(Scales(scales));
        };
        let what = format!("{file}: {CONFIGS}");
        let json: Value = serde_json::from_str(text)
            .map_err(|e| input_error(format!("{what} is not valid JSON: {e}")))?;
        for component in [UNET, TEXT_ENCODER, TEXT_ENCODER_2] {
            let get = |key: &str| json.get(format!("{component}{key}"));
            if get("use_dora").and_then(Value::as_bool) == Some(true) {
                return Err(input_error(format!(
                    "{file} is a DoRA adapter of an image model, which is not supported"
                )));
            }
            let scale = Scale {
                alpha: get("lora_alpha").and_then(Value::as_f64),
                alphas: Patterns::read(get("alpha_pattern"), &what)?,
                use_rslora: get("use_rslora").and_then(Value::as_bool) == Some(true),
            };
            scales.insert(component.to_owned(), scale);
        }
        Ok(Scales(scales))
    }

    /// The alpha that, over the rank, is the part's scale.
    fn alpha(&self, module: &str, rank: usize) -> f64 {
        let rank = rank as f64;
        let found = self
            .0
            .iter()
            .find_map(|(component, scale)| Some((module.strip_prefix(component)?, scale)));
        let Some((name, scale)) = found else {
            return rank;
        };
        let alpha = scale.alphas.find(name).or(scale.alpha);
        match alpha {
            Some(alpha) if scale.use_rslora => alpha * rank.sqrt(),
            Some(alpha) => alpha,
            None => rank,
        }
    }
}

/// Whether the file's own metadata will tell the scale: only where it came from such a file and
/// its parts are still those.
pub(super) fn keeps_scale(adapter: &Adapter) -> Result<bool> {
    let scales = Scales::read(adapter.metadata.get(CONFIGS), "the adapter")?;
    let same = |(module, part): (&String, &Part)| scales.alpha(module, part.rank()) == part.alpha;
    Ok(adapter.parts.iter().all(same))
}

/// The file of an adapter whose scale is 1, or told by the metadata it came with.
pub(super) fn write(adapter: &Adapter) -> Vec<u8> {
    let mut tensors: BTreeMap<String, &Numbers> = BTreeMap::new();
    for (module, part) in &adapter.parts {
        let (a, b) = match part.keys.as_ref().filter(|k| k.format == Format::Diffusers) {
            Some(keys) => (keys.a.clone(), keys.b.clone()),
            None => {
                let (down, up) = ENDS[usize::from(!module.starts_with(UNET))];
                (format!("{module}{down}"), format!("{module}{up}"))
            }
        };
        tensors.insert(a, &part.a);
        tensors.insert(b, &part.b);
    }
    let mut metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    if let Some(configs) = adapter.metadata.get(CONFIGS) {
        metadata.insert(CONFIGS.to_owned(), configs.clone());
    }
    to_bytes(&tensors, &metadata)
}
