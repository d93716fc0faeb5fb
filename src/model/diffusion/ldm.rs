//! Single-file checkpoints in the original code's layout: which kind they are, their
//! hyperparameters by the shapes of their tensors, and their tensors as diffusers has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;

use super::config::{Addition, ClipConfig, Kind, TIME_IDS, UNetBlock, UNetConfig, VaeConfig};
use super::names;
use crate::error::input_error;
use crate::model::source::Stored;
use crate::ops::Activation;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
/// What a text encoder's tensors begin with.
const SD1_TEXT: &str = "cond_stage_model.transformer.";
const SD2_TEXT: &str = "cond_stage_model.model.";
const SDXL_TEXT: &str = "conditioner.embedders.0.transformer.";
const SDXL_TEXT_2: &str = "conditioner.embedders.1.model.";

/// A checkpoint, taken apart.
pub(super) struct Checkpoint {
    pub kind: Kind,
    pub unet: UNetConfig,
    pub text: Vec<ClipConfig>,
    pub vae: VaeConfig,
    /// By diffusers' names with the component before them.
    pub tensors: BTreeMap<String, Stored>,
}

/// Whether a tensor is of a part that is used: not the averaged weights, nor the training's state.
pub(super) fn wanted(name: &str) -> bool {
    [UNET, VAE, SD1_TEXT, SD2_TEXT, SDXL_TEXT, SDXL_TEXT_2]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        && ["weight", "bias", "positional_embedding", "text_projection"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// Whether the names are those of such a checkpoint.
pub(super) fn is_checkpoint<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|name| name.starts_with(UNET))
}

/// The tensors of one part of the file.
struct Part<'a> {
    file: &'a str,
    prefix: &'static str,
    tensors: BTreeMap<&'a str, &'a Stored>,
}

impl<'a> Part<'a> {
    fn of(file: &'a str, all: &'a BTreeMap<String, Stored>, prefix: &'static str) -> Self {
        let own = all.iter().filter_map(|(name, stored)| {
            let name = name.strip_prefix(prefix)?;
            Some((name, stored))
        });
        Part {
            file,
            prefix,
            tensors: own.collect(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The sizes of a tensor.
    fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let shape = self.tensors.get(name).map(|stored| &stored.shape[..]);
        shape.and_then(|shape| shape.try_into().ok()).ok_or_else(|| {
            input_error(format!(
                "{} lacks the tensor {}{name}, or has it in another shape; it is incomplete, or \
                 of a kind that is not supported",
                self.file, self.prefix
            ))
        })
    }

    /// How many there are of something numbered from 0.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..)
            .take_while(|&index| {
                let name = name(index);
                self.tensors
                    .range(&*name..)
                    .next()
                    .is_some_and(|(found, _)| found.starts_with(&name))
            })
            .count()
    }
}

/// # Errors
/// Tensors that are missing, a kind that is not supported.
pub(super) fn read(file: &str, all: BTreeMap<String, Stored>) -> Result<Checkpoint> {
    let unet = Part::of(file, &all, UNET);
    let kind = kind(file, &all)?;
    let mut unet_config = unet_config(&unet, kind)?;
    unet_config.check(file)?;
    let vae = Part::of(file, &all, VAE);
    let vae_config = vae_config(&vae, kind)?;
    let mut tensors = BTreeMap::new();
    for (name, stored) in &unet.tensors {
        if let Some(name) = names::unet(name, unet_config.layers_per_block) {
            tensors.insert(format!("unet.{name}"), (*stored).clone());
        }
    }
    for (name, stored) in &vae.tensors {
        if let Some(name) = names::vae(name, vae_config.blocks.len()) {
            tensors.insert(format!("vae.{name}"), (*stored).clone());
        }
    }
    let part = |prefix| Part::of(file, &all, prefix);
    let text = match kind {
        Kind::Sd1 => vec![clip(&part(SD1_TEXT), &mut tensors)?],
        Kind::Sd2 => vec![open_clip(
            &part(SD2_TEXT),
            "text_encoder.",
            false,
            &mut tensors,
        )?],
        Kind::Sdxl => vec![
            clip(&part(SDXL_TEXT), &mut tensors)?,
            open_clip(&part(SDXL_TEXT_2), "text_encoder_2.", true, &mut tensors)?,
        ],
    };
    let pooled = text.last().and_then(|config| config.projection);
    if let (Some(addition), Some(pooled)) = (&mut unet_config.addition, pooled) {
        addition.time_features = addition.inputs.saturating_sub(pooled) / TIME_IDS;
    }
    Ok(Checkpoint {
        kind,
        unet: unet_config,
        text,
        vae: vae_config,
        tensors,
    })
}

fn kind(file: &str, all: &BTreeMap<String, Stored>) -> Result<Kind> {
    let has = |prefix: &str| {
        let first = all.range(prefix.to_owned()..).next();
        first.is_some_and(|(name, _)| name.starts_with(prefix))
    };
    if has("conditioner.embedders.1.model.") && has("model.diffusion_model.label_emb.") {
        return match has("conditioner.embedders.0.transformer.") {
            true => Ok(Kind::Sdxl),
            false => Err(input_error(format!(
                "{file} is of a kind that is not supported: it has only the second text encoder"
            ))),
        };
    }
    if has("conditioner.embedders.0.model.") {
        return Err(input_error(format!(
            "{file} is SDXL's refiner; train an adapter on the SDXL base instead"
        )));
    }
    if has(SD2_TEXT) {
        return Ok(Kind::Sd2);
    }
    if has(SD1_TEXT) {
        return Ok(Kind::Sd1);
    }
    Err(input_error(format!(
        "{file} has a UNet but no text encoder of Stable Diffusion 1, 2 or XL; name the full \
         checkpoint, not only its UNet"
    )))
}

fn unet_config(part: &Part<'_>, kind: Kind) -> Result<UNetConfig> {
    let [_, in_channels, ..] = part.shape::<4>("input_blocks.0.0.weight")?;
    let [out_channels, ..] = part.shape::<4>("out.2.weight")?;
    let inputs = part.count(|i| format!("input_blocks.{i}."));
    let first_down = (1..inputs).find(|i| part.has(&format!("input_blocks.{i}.0.op.weight")));
    let layers_per_block = first_down.map_or(inputs.saturating_sub(1), |index| index - 1);
    if layers_per_block == 0 || !inputs.is_multiple_of(layers_per_block + 1) {
        return Err(input_error(format!(
            "{}: {inputs} input blocks are no UNet that is known",
            part.file
        )));
    }
    let depth = |place: &str| part.count(|i| format!("{place}.1.transformer_blocks.{i}."));
    let heads = |channels: usize| match kind {
        Kind::Sd1 => 8,
        // Heads of 64 features.
        Kind::Sd2 | Kind::Sdxl => (channels / 64).max(1),
    };
    let mut blocks = Vec::new();
    for block in 0..inputs / (layers_per_block + 1) {
        let place = format!("input_blocks.{}", block * (layers_per_block + 1) + 1);
        let [channels, ..] = part.shape::<4>(&format!("{place}.0.out_layers.3.weight"))?;
        blocks.push(UNetBlock {
            channels,
            depth: depth(&place),
            heads: heads(channels),
        });
    }
    let middle = "middle_block.1";
    let projection = part.tensors.get(&*format!("{middle}.proj_in.weight"));
    let [_, context] =
        part.shape::<2>(&format!("{middle}.transformer_blocks.0.attn2.to_k.weight"))?;
    let addition = match kind {
        Kind::Sdxl => {
            let [_, inputs] = part.shape::<2>("label_emb.0.0.weight")?;
            Some(inputs)
        }
        _ => None,
    };
    let config = UNetConfig {
        in_channels,
        out_channels,
        groups: groups(
            &blocks
                .iter()
                .map(|block| block.channels)
                .collect::<Vec<_>>(),
        ),
        blocks,
        layers_per_block,
        middle_depth: depth("middle_block"),
        context,
        linear_projection: projection.is_some_and(|stored| stored.shape.len() == 2),
        eps: 1e-5,
        // How many are the pooled text's is known with the text encoder.
        addition: addition.map(|inputs| Addition {
            time_features: inputs / TIME_IDS,
            inputs,
        }),
    };
    match config
        .blocks
        .iter()
        .all(|block| block.channels.is_multiple_of(block.heads))
    {
        true => Ok(config),
        false => Err(input_error(format!(
            "{}: channels {:?} do not divide into heads",
            part.file, config.blocks
        ))),
    }
}

/// 32 groups, as all published ones have, or what divides a toy's channels.
fn groups(channels: &[usize]) -> usize {
    [32, 16, 8, 4, 2, 1]
        .into_iter()
        .find(|groups| {
            channels
                .iter()
                .all(|channels| channels.is_multiple_of(*groups))
        })
        .unwrap_or(1)
}

fn vae_config(part: &Part<'_>, kind: Kind) -> Result<VaeConfig> {
    let count = part.count(|i| format!("encoder.down.{i}.block."));
    let mut blocks = Vec::new();
    for block in 0..count {
        let [channels, ..] =
            part.shape::<4>(&format!("encoder.down.{block}.block.0.conv2.weight"))?;
        blocks.push(channels);
    }
    if blocks.is_empty() {
        return Err(input_error(format!(
            "{} has no VAE; name the full checkpoint",
            part.file
        )));
    }
    let [latent_channels, ..] = part.shape::<4>("post_quant_conv.weight")?;
    Ok(VaeConfig {
        latent_channels,
        groups: groups(&blocks),
        blocks,
        layers_per_block: part.count(|i| format!("encoder.down.0.block.{i}.")),
        scaling_factor: match kind {
            Kind::Sdxl => 0.13025,
            _ => 0.18215,
        },
    })
}

/// A text encoder in transformers' names, as `text_encoder.`.
fn clip(part: &Part<'_>, tensors: &mut BTreeMap<String, Stored>) -> Result<ClipConfig> {
    // Some tools leave `text_model.` out.
    let prefix = match part.has("text_model.embeddings.token_embedding.weight") {
        true => "text_model.",
        false => "",
    };
    let name = |rest: &str| format!("{prefix}{rest}");
    let [vocab_size, width] = part.shape(&name("embeddings.token_embedding.weight"))?;
    let [positions, _] = part.shape(&name("embeddings.position_embedding.weight"))?;
    let [intermediate, _] = part.shape(&name("encoder.layers.0.mlp.fc1.weight"))?;
    let layers = part.count(|i| name(&format!("encoder.layers.{i}.")));
    for (own, stored) in &part.tensors {
        if let Some(rest) = own.strip_prefix(prefix) {
            tensors.insert(format!("text_encoder.text_model.{rest}"), (*stored).clone());
        }
    }
    Ok(ClipConfig {
        vocab_size,
        width,
        intermediate,
        layers,
        // Heads of 64 features.
        heads: (width / 64).max(1),
        positions,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        projection: None,
    })
}

/// A text encoder in OpenCLIP's names. Without a projection (SD2) it ends before its last layer,
/// which the UNet never sees.
fn open_clip(
    part: &Part<'_>,
    component: &str,
    projected: bool,
    tensors: &mut BTreeMap<String, Stored>,
) -> Result<ClipConfig> {
    let [vocab_size, width] = part.shape("token_embedding.weight")?;
    let [positions, _] = part.shape("positional_embedding")?;
    let [intermediate, _] = part.shape("transformer.resblocks.0.mlp.c_fc.weight")?;
    let stored_layers = part.count(|i| format!("transformer.resblocks.{i}."));
    let layers = stored_layers - usize::from(!projected && stored_layers > 1);
    for (own, stored) in &part.tensors {
        if let Some(rest) = names::open_clip(own) {
            tensors.insert(format!("{component}text_model.{rest}"), (*stored).clone());
        }
    }
    for layer in 0..stored_layers {
        for (fused, end) in [("in_proj_weight", "weight"), ("in_proj_bias", "bias")] {
            let fused = format!("transformer.resblocks.{layer}.attn.{fused}");
            let Some(stored) = part.tensors.get(&*fused) else {
                return Err(input_error(format!(
                    "{} lacks the tensor {}{fused}",
                    part.file, part.prefix
                )));
            };
            for (index, which) in ["q", "k", "v"].into_iter().enumerate() {
                let name = format!(
                    "{component}text_model.encoder.layers.{layer}.self_attn.{which}_proj.{end}"
                );
                tensors.insert(name, third(part.file, &fused, stored, index)?);
            }
        }
    }
    let projection = match part.tensors.get("text_projection") {
        Some(stored) if projected => {
            let stored = transposed(part.file, stored)?;
            let outputs = stored.shape[0];
            tensors.insert(format!("{component}text_projection.weight"), stored);
            Some(outputs)
        }
        _ => None,
    };
    Ok(ClipConfig {
        vocab_size,
        width,
        intermediate,
        layers,
        heads: (width / 64).max(1),
        positions,
        activation: Activation::Gelu,
        eps: 1e-5,
        projection,
    })
}

/// A third of the rows of a fused tensor.
fn third(file: &str, name: &str, stored: &Stored, index: usize) -> Result<Stored> {
    let rows = stored.shape.first().copied().unwrap_or(0);
    if rows == 0 || !rows.is_multiple_of(3) {
        return Err(input_error(format!(
            "{file}: the tensor {name} of shape {:?} is no query, key and value",
            stored.shape
        )));
    }
    let mut part = stored.clone();
    part.shape[0] = rows / 3;
    let numbers: usize = part.shape.iter().product();
    part.start += index * numbers * stored.encoding.type_size();
    Ok(part)
}

/// A dense matrix with rows and columns exchanged, in memory of its own.
fn transposed(file: &str, stored: &Stored) -> Result<Stored> {
    let [rows, columns] = stored.shape[..] else {
        return Err(input_error(format!(
            "{file}: the text projection is of shape {:?}, not a matrix",
            stored.shape
        )));
    };
    let size = stored.encoding.type_size();
    let whole: &[u8] = (*stored.bytes).as_ref();
    let bytes = &whole[stored.start..stored.start + rows * columns * size];
    let mut out = vec![0; bytes.len()];
    for row in 0..rows {
        for column in 0..columns {
            let from = (row * columns + column) * size;
            let to = (column * rows + row) * size;
            out[to..to + size].copy_from_slice(&bytes[from..from + size]);
        }
    }
    Ok(Stored {
        bytes: Arc::new(out),
        start: 0,
        shape: vec![columns, rows],
        ..stored.clone()
    })
}
