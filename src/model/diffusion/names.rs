//! The original code's names of tensors, as diffusers calls them.
//!
//! The original counts layers (`input_blocks.4.1`), diffusers blocks and what they are made of
//! (`down_blocks.1.attentions.0`). Source: diffusers' `loaders/single_file_utils.py`.

/// A tensor of the UNet, given how many residual blocks a block that goes down has; `None`: it is
/// none that is known.
pub(super) fn unet(name: &str, layers_per_block: usize) -> Option<String> {
    for (original, ours) in [
        ("time_embed.0.", "time_embedding.linear_1."),
        ("time_embed.2.", "time_embedding.linear_2."),
        ("label_emb.0.0.", "add_embedding.linear_1."),
        ("label_emb.0.2.", "add_embedding.linear_2."),
        ("input_blocks.0.0.", "conv_in."),
        ("out.0.", "conv_norm_out."),
        ("out.2.", "conv_out."),
    ] {
        if let Some(rest) = name.strip_prefix(original) {
            return Some(format!("{ours}{rest}"));
        }
    }
    if let Some(rest) = name.strip_prefix("middle_block.") {
        let (part, rest) = numbered(rest)?;
        return match part {
            0 | 2 => Some(format!(
                "mid_block.resnets.{}.{}",
                part / 2,
                residual(rest)?
            )),
            1 => Some(format!("mid_block.attentions.0.{rest}")),
            _ => None,
        };
    }
    let per_down = layers_per_block + 1;
    if let Some(rest) = name.strip_prefix("input_blocks.") {
        let (index, rest) = numbered(rest)?;
        let (part, rest) = numbered(rest)?;
        let before = index.checked_sub(1)?;
        let (block, layer) = (before / per_down, before % per_down);
        let block = format!("down_blocks.{block}");
        return match part {
            0 if layer == layers_per_block => {
                let rest = rest.strip_prefix("op.")?;
                Some(format!("{block}.downsamplers.0.conv.{rest}"))
            }
            0 => Some(format!("{block}.resnets.{layer}.{}", residual(rest)?)),
            1 => Some(format!("{block}.attentions.{layer}.{rest}")),
            _ => None,
        };
    }
    let rest = name.strip_prefix("output_blocks.")?;
    let (index, rest) = numbered(rest)?;
    let (part, rest) = numbered(rest)?;
    let block = format!("up_blocks.{}", index / per_down);
    let layer = index % per_down;
    match (part, rest.strip_prefix("conv.")) {
        (0, None) => Some(format!("{block}.resnets.{layer}.{}", residual(rest)?)),
        (1 | 2, Some(rest)) => Some(format!("{block}.upsamplers.0.conv.{rest}")),
        (1, None) => Some(format!("{block}.attentions.{layer}.{rest}")),
        _ => None,
    }
}

/// The number that a name begins with, and the rest.
fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// A tensor of a residual block of the UNet.
fn residual(name: &str) -> Option<String> {
    [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ]
    .into_iter()
    .find_map(|(original, ours)| Some(format!("{ours}{}", name.strip_prefix(original)?)))
}

/// A tensor of the VAE, given how many blocks it has.
pub(super) fn vae(name: &str, blocks: usize) -> Option<String> {
    if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
        return Some(name.to_owned());
    }
    let (half, rest) = name.split_once('.')?;
    if half != "encoder" && half != "decoder" {
        return None;
    }
    for (original, ours) in [
        ("conv_in.", "conv_in."),
        ("conv_out.", "conv_out."),
        ("norm_out.", "conv_norm_out."),
        ("mid.block_1.", "mid_block.resnets.0."),
        ("mid.block_2.", "mid_block.resnets.1."),
        ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
        ("mid.attn_1.q.", "mid_block.attentions.0.to_q."),
        ("mid.attn_1.k.", "mid_block.attentions.0.to_k."),
        ("mid.attn_1.v.", "mid_block.attentions.0.to_v."),
        ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
    ] {
        if let Some(rest) = rest.strip_prefix(original) {
            return Some(format!("{half}.{ours}{rest}"));
        }
    }
    let (block, rest, sampler) = match rest.strip_prefix("down.") {
        Some(rest) => {
            let (index, rest) = numbered(rest)?;
            (format!("down_blocks.{index}"), rest, "downsample")
        }
        None => {
            let (index, rest) = numbered(rest.strip_prefix("up.")?)?;
            let index = blocks.checked_sub(index + 1)?;
            (format!("up_blocks.{index}"), rest, "upsample")
        }
    };
    if let Some(rest) = rest.strip_prefix("block.") {
        let (layer, rest) = numbered(rest)?;
        let rest = rest.replace("nin_shortcut.", "conv_shortcut.");
        return Some(format!("{half}.{block}.resnets.{layer}.{rest}"));
    }
    let rest = rest.strip_prefix(sampler)?.strip_prefix('.')?;
    Some(format!("{half}.{block}.{sampler}rs.0.{rest}"))
}

/// A tensor of the VAE's attention as older diffusers folders call it, under its present name.
pub(super) fn vae_today(name: &str) -> String {
    for (old, new) in [
        (".query.", ".to_q."),
        (".key.", ".to_k."),
        (".value.", ".to_v."),
        (".proj_attn.", ".to_out.0."),
    ] {
        if name.contains(".attentions.") && name.contains(old) {
            return name.replace(old, new);
        }
    }
    name.to_owned()
}

/// A tensor of OpenCLIP's text encoder, but for those of the fused attention input; without
/// `text_model.`.
pub(super) fn open_clip(name: &str) -> Option<String> {
    for (original, ours) in [
        ("token_embedding.", "embeddings.token_embedding."),
        ("ln_final.", "final_layer_norm."),
    ] {
        if let Some(rest) = name.strip_prefix(original) {
            return Some(format!("{ours}{rest}"));
        }
    }
    if name == "positional_embedding" {
        return Some("embeddings.position_embedding.weight".to_owned());
    }
    let (layer, rest) = numbered(name.strip_prefix("transformer.resblocks.")?)?;
    let within = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
        ("attn.out_proj.", "self_attn.out_proj."),
    ]
    .into_iter()
    .find_map(|(original, ours)| Some(format!("{ours}{}", rest.strip_prefix(original)?)))?;
    Some(format!("encoder.layers.{layer}.{within}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_published_checkpoints_are_those_of_diffusers() {
        for (original, ours) in [
            ("input_blocks.0.0.weight", "conv_in.weight"),
            (
                "input_blocks.4.0.emb_layers.1.bias",
                "down_blocks.1.resnets.0.time_emb_proj.bias",
            ),
            (
                "input_blocks.3.0.op.weight",
                "down_blocks.0.downsamplers.0.conv.weight",
            ),
            (
                "input_blocks.8.1.transformer_blocks.0.norm3.weight",
                "down_blocks.2.attentions.1.transformer_blocks.0.norm3.weight",
            ),
            (
                "middle_block.2.out_layers.0.bias",
                "mid_block.resnets.1.norm2.bias",
            ),
            (
                "output_blocks.2.1.conv.weight",
                "up_blocks.0.upsamplers.0.conv.weight",
            ),
            (
                "output_blocks.5.2.conv.weight",
                "up_blocks.1.upsamplers.0.conv.weight",
            ),
            (
                "output_blocks.11.1.proj_in.weight",
                "up_blocks.3.attentions.2.proj_in.weight",
            ),
            ("out.2.bias", "conv_out.bias"),
        ] {
            assert_eq!(unet(original, 2).unwrap(), ours);
        }
        for (original, ours) in [
            (
                "encoder.down.3.block.1.conv2.bias",
                "encoder.down_blocks.3.resnets.1.conv2.bias",
            ),
            (
                "encoder.down.0.downsample.conv.weight",
                "encoder.down_blocks.0.downsamplers.0.conv.weight",
            ),
            (
                "decoder.up.3.upsample.conv.weight",
                "decoder.up_blocks.0.upsamplers.0.conv.weight",
            ),
            (
                "decoder.up.0.block.0.nin_shortcut.weight",
                "decoder.up_blocks.3.resnets.0.conv_shortcut.weight",
            ),
            (
                "decoder.mid.attn_1.q.weight",
                "decoder.mid_block.attentions.0.to_q.weight",
            ),
            ("post_quant_conv.bias", "post_quant_conv.bias"),
        ] {
            assert_eq!(vae(original, 4).unwrap(), ours);
        }
        for strange in [
            "input_blocks.1",
            "loss.logvar",
            "encoder.up.x.block",
            "decoder.up.9.block.0.conv1.weight",
        ] {
            assert!(
                unet(strange, 2).is_none() && vae(strange, 4).is_none(),
                "{strange}"
            );
        }
    }
}
