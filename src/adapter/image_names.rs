//! The modules of Stable Diffusion under the names that file formats give them.
//!
//! diffusers counts blocks from its configuration (`down_blocks.1.attentions.0`), the original
//! code counts layers (`input_blocks.4.1`); kohya takes either and puts underscores for the dots.
//! Source: diffusers' `loaders/single_file_utils.py` and `lora_conversion_utils.py`.

use std::collections::HashMap;

use super::model::Family;

/// Residual blocks and attentions of a block that goes down; one that goes up has one more.
const LAYERS_PER_BLOCK: usize = 2;
/// Transformer blocks of an attention, at most (SDXL's middle has 10).
const DEPTH: usize = 10;
/// Layers of a CLIP text encoder, at most (SDXL's second has 32).
const TEXT_LAYERS: usize = 32;

/// The part of a pipeline that a module lies in.
pub(super) const UNET: &str = "unet.";
pub(super) const TEXT_ENCODER: &str = "text_encoder.";
pub(super) const TEXT_ENCODER_2: &str = "text_encoder_2.";

/// A module of the UNet: diffusers' name and the original's, both without a component.
struct Name {
    diffusers: String,
    original: String,
}

/// Modules inside an attention; both name them alike.
fn attention_leaves() -> Vec<String> {
    let mut leaves = vec!["proj_in".to_owned(), "proj_out".to_owned()];
    for depth in 0..DEPTH {
        for leaf in [
            "attn1.to_q",
            "attn1.to_k",
            "attn1.to_v",
            "attn1.to_out.0",
            "attn2.to_q",
            "attn2.to_k",
            "attn2.to_v",
            "attn2.to_out.0",
            "ff.net.0.proj",
            "ff.net.2",
        ] {
            leaves.push(format!("transformer_blocks.{depth}.{leaf}"));
        }
    }
    leaves
}

/// Modules inside a residual block: diffusers' name, the original's.
const RESNET_LEAVES: [(&str, &str); 4] = [
    ("conv1", "in_layers.2"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
];

/// Every module of a UNet that an adapter can have.
fn unet(family: Family) -> Vec<Name> {
    let blocks = if family == Family::Sdxl { 3 } else { 4 };
    // Whether the block that goes down (counted from the outside) has attentions.
    let attends = |depth: usize| match family {
        Family::Sdxl => depth > 0,
        _ => depth + 1 < blocks,
    };
    let mut names = Vec::new();
    let mut add = |diffusers: String, original: String| {
        names.push(Name {
            diffusers,
            original,
        });
    };
    let leaves = attention_leaves();
    let residual = |diffusers: String, original: String| {
        RESNET_LEAVES.map(|(d, o)| (format!("{diffusers}.{d}"), format!("{original}.{o}")))
    };
    let attention = |diffusers: String, original: String| -> Vec<(String, String)> {
        let each = leaves.iter();
        each.map(|leaf| (format!("{diffusers}.{leaf}"), format!("{original}.{leaf}")))
            .collect()
    };
    for (diffusers, original) in [
        ("conv_in", "input_blocks.0.0"),
        ("conv_out", "out.2"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
    ] {
        add(diffusers.to_owned(), original.to_owned());
    }
    let per_down = LAYERS_PER_BLOCK + 1;
    for block in 0..blocks {
        for layer in 0..LAYERS_PER_BLOCK {
            let at = format!("input_blocks.{}", block * per_down + layer + 1);
            let down = format!("down_blocks.{block}");
            let pairs = residual(format!("{down}.resnets.{layer}"), format!("{at}.0"));
            pairs.into_iter().for_each(|(d, o)| add(d, o));
            if attends(block) {
                let pairs = attention(format!("{down}.attentions.{layer}"), format!("{at}.1"));
                pairs.into_iter().for_each(|(d, o)| add(d, o));
            }
        }
        if block + 1 < blocks {
            add(
                format!("down_blocks.{block}.downsamplers.0.conv"),
                format!("input_blocks.{}.0.op", (block + 1) * per_down),
            );
        }
    }
    for (layer, at) in [(0, 0), (1, 2)] {
        let pairs = residual(
            format!("mid_block.resnets.{layer}"),
            format!("middle_block.{at}"),
        );
        pairs.into_iter().for_each(|(d, o)| add(d, o));
    }
    attention(
        "mid_block.attentions.0".to_owned(),
        "middle_block.1".to_owned(),
    )
    .into_iter()
    .for_each(|(d, o)| add(d, o));
    for block in 0..blocks {
        let has_attention = attends(blocks - 1 - block);
        for layer in 0..=LAYERS_PER_BLOCK {
            let at = format!("output_blocks.{}", block * per_down + layer);
            let up = format!("up_blocks.{block}");
            let pairs = residual(format!("{up}.resnets.{layer}"), format!("{at}.0"));
            pairs.into_iter().for_each(|(d, o)| add(d, o));
            if has_attention {
                let pairs = attention(format!("{up}.attentions.{layer}"), format!("{at}.1"));
                pairs.into_iter().for_each(|(d, o)| add(d, o));
            }
        }
        if block + 1 < blocks {
            add(
                format!("up_blocks.{block}.upsamplers.0.conv"),
                format!(
                    "output_blocks.{}.{}.conv",
                    block * per_down + LAYERS_PER_BLOCK,
                    if has_attention { 2 } else { 1 }
                ),
            );
        }
    }
    names
}

/// Every module of a text encoder that an adapter can have.
pub(super) fn text_encoder() -> Vec<String> {
    let mut names = Vec::new();
    for layer in 0..TEXT_LAYERS {
        for leaf in [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
            "mlp.fc1",
            "mlp.fc2",
        ] {
            names.push(format!("text_model.encoder.layers.{layer}.{leaf}"));
        }
    }
    names
}

/// diffusers' names of the UNet's modules with the original's, without components.
pub(super) fn original_unet_names(family: Family) -> HashMap<String, String> {
    let each = unet(family).into_iter();
    each.map(|name| (name.diffusers, name.original)).collect()
}

/// The components of a family and what kohya puts before the names of their modules.
fn components(family: Family) -> &'static [(&'static str, &'static str)] {
    match family {
        Family::Sdxl => &[
            (UNET, "lora_unet_"),
            (TEXT_ENCODER, "lora_te1_"),
            (TEXT_ENCODER_2, "lora_te2_"),
        ],
        _ => &[(UNET, "lora_unet_"), (TEXT_ENCODER, "lora_te_")],
    }
}

/// Kohya's names of all modules of a family: diffusers' name with its component, by kohya's. Both
/// spellings of the UNet's are known.
pub(super) fn by_kohya_name(family: Family) -> HashMap<String, String> {
    let mut names = HashMap::new();
    for &(component, prefix) in components(family) {
        if component == UNET {
            for name in unet(family) {
                let module = format!("{component}{}", name.diffusers);
                for spelling in [&name.diffusers, &name.original] {
                    let key = format!("{prefix}{}", spelling.replace('.', "_"));
                    names.insert(key, module.clone());
                }
            }
        } else {
            for name in text_encoder() {
                let key = format!("{prefix}{}", name.replace('.', "_"));
                names.insert(key, format!("{component}{name}"));
            }
        }
    }
    names
}

/// What kohya's trainer calls the modules of a family: the original's names for SDXL's UNet,
/// diffusers' for the others. By diffusers' name with its component.
pub(super) fn kohya_names(family: Family) -> HashMap<String, String> {
    let mut names = HashMap::new();
    for &(component, prefix) in components(family) {
        let mut add = |module: &str, spelling: &str| {
            let key = format!("{prefix}{}", spelling.replace('.', "_"));
            names.insert(format!("{component}{module}"), key);
        };
        match component {
            UNET => unet(family).iter().for_each(|name| {
                let original = family == Family::Sdxl;
                let spelling = if original {
                    &name.original
                } else {
                    &name.diffusers
                };
                add(&name.diffusers, spelling);
            }),
            _ => text_encoder().iter().for_each(|name| add(name, name)),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use candle_core::Device;

    use super::*;
    use crate::model::diffusion::{self, Kind, published};
    use crate::model::{LoraSet, LoraSpec};

    #[test]
    fn the_originals_names_are_those_of_the_published_checkpoints() {
        let sd = original_unet_names(Family::Sd1);
        for (diffusers, original) in [
            (
                "down_blocks.0.attentions.0.proj_in",
                "input_blocks.1.1.proj_in",
            ),
            (
                "down_blocks.2.attentions.1.proj_out",
                "input_blocks.8.1.proj_out",
            ),
            (
                "down_blocks.3.resnets.1.conv2",
                "input_blocks.11.0.out_layers.3",
            ),
            ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
            (
                "mid_block.resnets.1.time_emb_proj",
                "middle_block.2.emb_layers.1",
            ),
            ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
            ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
            (
                "up_blocks.3.attentions.2.proj_in",
                "output_blocks.11.1.proj_in",
            ),
            (
                "up_blocks.1.resnets.0.conv_shortcut",
                "output_blocks.3.0.skip_connection",
            ),
        ] {
            assert_eq!(sd[diffusers], original);
        }
        let xl = original_unet_names(Family::Sdxl);
        for (diffusers, original) in [
            (
                "down_blocks.1.attentions.0.transformer_blocks.1.ff.net.2",
                "input_blocks.4.1.transformer_blocks.1.ff.net.2",
            ),
            (
                "down_blocks.2.attentions.1.proj_in",
                "input_blocks.8.1.proj_in",
            ),
            (
                "up_blocks.0.attentions.2.proj_in",
                "output_blocks.2.1.proj_in",
            ),
            ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
            (
                "up_blocks.1.attentions.0.proj_in",
                "output_blocks.3.1.proj_in",
            ),
            ("add_embedding.linear_2", "label_emb.0.2"),
        ] {
            assert_eq!(xl[diffusers], original);
        }
        assert!(!sd.contains_key("up_blocks.0.attentions.0.proj_in"));
        assert!(!xl.contains_key("down_blocks.0.attentions.0.proj_in"));
    }

    #[test]
    fn kohya_spells_sdxl_as_the_original_and_the_others_as_diffusers() {
        let module = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0";
        assert_eq!(
            kohya_names(Family::Sd1)[module],
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"
        );
        assert_eq!(
            kohya_names(Family::Sdxl)[module],
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0"
        );
        let encoder = "text_encoder.text_model.encoder.layers.11.mlp.fc1";
        assert_eq!(
            kohya_names(Family::Sd2)[encoder],
            "lora_te_text_model_encoder_layers_11_mlp_fc1"
        );
        assert_eq!(
            kohya_names(Family::Sdxl)["text_encoder_2.text_model.encoder.layers.31.mlp.fc2"],
            "lora_te2_text_model_encoder_layers_31_mlp_fc2"
        );
    }

    /// tests/tools/make_kohya_names.py: kohya's own `create_network`.
    #[test]
    fn an_export_with_kohyas_default_targets_has_exactly_the_keys_of_create_network() {
        let text = include_str!("../../tests/fixtures/kohya_names.json");
        let theirs: HashMap<String, Vec<String>> = serde_json::from_str(text).unwrap();
        for (key, kind, count) in [("sd1", Kind::Sd1, 264), ("sdxl", Kind::Sdxl, 986)] {
            assert_eq!(theirs[key].len(), count);
            let keys = |name: &String| {
                ["lora_down.weight", "lora_up.weight", "alpha"].map(|part| format!("{name}.{part}"))
            };
            let expected: BTreeSet<String> = theirs[key].iter().flat_map(keys).collect();
            let base = published::base(kind);
            // `all-linear` with `train_text_encoder` is kohya's default.
            let targets = diffusion::match_image_targets(&base, true, &[], true).unwrap();
            let shapes = targets
                .iter()
                .map(|t| (t.module.clone(), t.inputs, t.outputs));
            let shapes: Vec<_> = shapes.collect();
            let set = LoraSet::new(&shapes, LoraSpec::lora(1), 7, &Device::Cpu).unwrap();
            let family = crate::adapter::image_family(kind);
            let adapter = crate::adapter::from_image_set(&set, family, &targets, "base").unwrap();
            let bytes = crate::adapter::kohya_file(adapter).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let ours: BTreeSet<String> = file.names().into_iter().map(str::to_owned).collect();
            let difference: Vec<_> = ours.symmetric_difference(&expected).take(5).collect();
            assert!(ours == expected, "{key}: {difference:?}");
        }
    }

    #[test]
    fn no_two_modules_share_a_kohya_name_and_both_spellings_are_read() {
        for family in [Family::Sd1, Family::Sd2, Family::Sdxl] {
            let read = by_kohya_name(family);
            let written = kohya_names(family);
            let mut distinct: Vec<&String> = written.values().collect();
            distinct.sort();
            distinct.dedup();
            assert_eq!(distinct.len(), written.len());
            for (module, key) in &written {
                assert_eq!(&read[key], module);
            }
        }
        assert_eq!(
            by_kohya_name(Family::Sdxl)["lora_unet_down_blocks_1_attentions_0_proj_in"],
            by_kohya_name(Family::Sdxl)["lora_unet_input_blocks_4_1_proj_in"]
        );
    }
}
