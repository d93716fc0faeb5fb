//! Which Stable Diffusion an image adapter is for.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::image_names::{TEXT_ENCODER_2, UNET, original_unet_names};
use super::model::{Family, Part};

/// The family that a file's metadata names, by the rules that the tools read it with: kohya's
/// `ss_base_model_version` and `ss_v2`, then `modelspec.architecture`.
pub(super) fn from_metadata(metadata: &BTreeMap<String, String>) -> Option<Family> {
    let get = |key: &str| metadata.get(key).map(String::as_str);
    if let Some(version) = get("ss_base_model_version") {
        if version.starts_with("sdxl_") {
            return Some(Family::Sdxl);
        }
        if version.starts_with("sd_v2") || get("ss_v2") == Some("True") {
            return Some(Family::Sd2);
        }
        if version.starts_with("sd_v1") || version.starts_with("sd_1") {
            return Some(Family::Sd1);
        }
    }
    if get("ss_v2") == Some("True") {
        return Some(Family::Sd2);
    }
    let architecture = get("modelspec.architecture")?;
    [
        ("stable-diffusion-xl", Family::Sdxl),
        ("stable-diffusion-v2", Family::Sd2),
        ("stable-diffusion-v1", Family::Sd1),
    ]
    .into_iter()
    .find(|(name, _)| architecture.starts_with(name))
    .map(|(_, family)| family)
}

/// The family by the modules adapted: their names tell SDXL's UNet from the others', the size of
/// what their cross-attention reads tells the others apart.
pub(super) fn from_parts(parts: &BTreeMap<String, Part>) -> Family {
    if parts.keys().any(|name| name.starts_with(TEXT_ENCODER_2)) {
        return Family::Sdxl;
    }
    let context = parts
        .iter()
        .find(|(name, _)| name.ends_with("attn2.to_k") || name.ends_with("attn2.to_v"))
        .map(|(_, part)| part.inputs());
    match context {
        Some(2048) => return Family::Sdxl,
        Some(1024) => return Family::Sd2,
        Some(768) => return Family::Sd1,
        _ => {}
    }
    let own = |family: Family| -> HashSet<String> {
        let names: HashMap<String, String> = original_unet_names(family);
        names.into_keys().collect()
    };
    let (sd, xl) = (own(Family::Sd1), own(Family::Sdxl));
    let deep = |name: &str| {
        name.split_once("transformer_blocks.")
            .is_some_and(|(_, rest)| !rest.starts_with("0."))
    };
    let is_xl = parts
        .keys()
        .filter_map(|name| name.strip_prefix(UNET))
        .any(|name| deep(name) || (xl.contains(name) && !sd.contains(name)));
    if is_xl {
        return Family::Sdxl;
    }
    // The second version made these linear; the first has 1x1 convolutions.
    let linear_projection = parts.iter().any(|(name, part)| {
        name.starts_with(UNET) && name.ends_with(".proj_in") && part.a.shape.len() == 2
    });
    match linear_projection {
        true => Family::Sd2,
        false => Family::Sd1,
    }
}
