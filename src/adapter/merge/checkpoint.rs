//! Merging into a single-file Stable Diffusion checkpoint, whose tensors have the names of the
//! original code.
//!
//! Source: diffusers' `loaders/single_file_utils.py`.

use std::collections::HashSet;

use anyhow::Result;

use super::update::Slot;
use super::{Job, Weighted, safetensors, updates};
use crate::adapter::image_names::{TEXT_ENCODER, TEXT_ENCODER_2, UNET, original_unet_names};
use crate::adapter::model::Family;
use crate::error::input_error;

/// Where a checkpoint keeps a UNet.
const UNET_PREFIX: &str = "model.diffusion_model.";
/// Where it keeps text encoders in transformers' form: Stable Diffusion 1's, XL's first.
const CLIP: [&str; 2] = [
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.",
];
/// Where it keeps text encoders in OpenCLIP's form: Stable Diffusion 2's, XL's second.
const OPEN_CLIP: [&str; 2] = [
    "cond_stage_model.model.transformer.resblocks.",
    "conditioner.embedders.1.model.transformer.resblocks.",
];
/// A moving average of the weights, in checkpoints that are meant for training on.
const AVERAGE: &str = "model_ema.";

/// # Errors
/// As [`super::merge`].
pub(super) fn merge(job: &mut Job<'_, '_>, adapters: &[Weighted]) -> Result<()> {
    let file = job.base.display().to_string();
    let (tensors, _) = safetensors::header(job.base)?;
    let names: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    if !names.iter().any(|name| name.starts_with(UNET_PREFIX)) {
        return Err(input_error(format!(
            "{file} is no Stable Diffusion checkpoint: it has no tensors {UNET_PREFIX}*"
        )));
    }
    let has = |start: &str| names.iter().any(|name| name.starts_with(start));
    let family = match () {
        () if has("conditioner.embedders.1.") => Family::Sdxl,
        () if has("cond_stage_model.model.") => Family::Sd2,
        () => Family::Sd1,
    };
    let unet = original_unet_names(family);
    let updates = updates(adapters, |adapter, module, _| {
        let slot = if let Some(name) = module.strip_prefix(UNET) {
            unet.get(name)
                .map(|name| whole(format!("{UNET_PREFIX}{name}.weight")))
        } else {
            let (second, name) = match module.strip_prefix(TEXT_ENCODER_2) {
                Some(name) => (true, name),
                None => (false, module.trim_start_matches(TEXT_ENCODER)),
            };
            text_encoder(family, second, name, &names)
        };
        slot.filter(|slot| names.contains(slot.tensor.as_str()))
            .ok_or_else(|| {
                input_error(format!(
                    "the adapter ({}) is of another base: {file} is {} and has no {module}",
                    adapter.family.name(),
                    family.name()
                ))
            })
    })?;
    if has(AVERAGE) {
        job.notes.push(format!(
            "{file} also holds a moving average of its weights ({AVERAGE}*), which only training \
             reads: it stays as it is"
        ));
    }
    let (input, output) = (job.base.to_owned(), job.output.to_owned());
    safetensors::merge(job, &input, &output, &updates)
}

fn whole(tensor: String) -> Slot {
    Slot {
        tensor,
        index: 0,
        heads: None,
    }
}

/// Where a module of a text encoder lies; `name` is transformers'.
fn text_encoder(family: Family, second: bool, name: &str, names: &HashSet<&str>) -> Option<Slot> {
    let open_clip = match (family, second) {
        (Family::Sd2, false) => OPEN_CLIP[0],
        (Family::Sdxl, true) => OPEN_CLIP[1],
        _ => {
            let prefix = CLIP[usize::from(family == Family::Sdxl)];
            let short = name.strip_prefix("text_model.").unwrap_or(name);
            let spellings = [name, short].map(|name| format!("{prefix}{name}.weight"));
            let found = spellings.into_iter().find(|t| names.contains(t.as_str()));
            return found.map(whole);
        }
    };
    let rest = name.strip_prefix("text_model.encoder.layers.")?;
    let (layer, leaf) = rest.split_once('.')?;
    let at = |tensor: &str| format!("{open_clip}{layer}.{tensor}");
    // Query, key and value lie in one matrix, one after another.
    Some(match leaf {
        "self_attn.q_proj" => fused(at("attn.in_proj_weight"), 0),
        "self_attn.k_proj" => fused(at("attn.in_proj_weight"), 1),
        "self_attn.v_proj" => fused(at("attn.in_proj_weight"), 2),
        "self_attn.out_proj" => whole(at("attn.out_proj.weight")),
        "mlp.fc1" => whole(at("mlp.c_fc.weight")),
        "mlp.fc2" => whole(at("mlp.c_proj.weight")),
        _ => return None,
    })
}

fn fused(tensor: String, index: usize) -> Slot {
    Slot {
        tensor,
        index,
        heads: None,
    }
}
