//! Which modules of an image base get adapters.

use anyhow::Result;

use super::adapters::{TEXT_ENCODERS, UNET};
use super::modules::Module;
use super::source::Description;
use super::{clip, plan};
use crate::error::input_error;

/// A module that gets an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTarget {
    /// diffusers' name with the component: `unet.mid_block.attentions.0.proj_in`.
    pub module: String,
    /// Of a convolution times the numbers of its kernel.
    pub inputs: usize,
    pub outputs: usize,
    /// The size of a convolution's kernel (1 or 3); `None`: a linear.
    pub kernel: Option<usize>,
}

/// Names of the same part of a transformer: the UNet's, the text encoder's, and how language models
/// call it.
const ALIKE: [&[&str]; 6] = [
    &["to_q", "q_proj"],
    &["to_k", "k_proj"],
    &["to_v", "v_proj"],
    &["to_out.0", "to_out", "out_proj", "o_proj"],
    &["ff.net.0.proj", "fc1"],
    &["ff.net.2", "fc2"],
];

/// The modules that get adapters, in the base's order: with `all_linear` all of the UNet's
/// transformers (attention, feed-forward and the projections around them), else those whose name
/// is, or ends in a dot and, one of `names`: `to_q`, `attn2.to_k`, `proj_in`, `conv1`, ... Parts of
/// attention and feed-forward also go by the text encoder's names (`q_proj`, `fc1`) and mean both.
/// Modules of the text encoders are left out unless `train_text_encoder`.
///
/// # Errors
/// A name that fits no module, nothing left of the UNet or of the text encoders.
pub fn match_image_targets(
    base: &Description,
    all_linear: bool,
    names: &[String],
    train_text_encoder: bool,
) -> Result<Vec<ImageTarget>> {
    let unet = targets(UNET, plan::modules(&base.unet));
    let text = text_targets(base);
    if !all_linear {
        for name in names {
            let mut known = unet.iter().chain(&text);
            if !known.any(|target| fits(&target.module, name)) {
                return Err(unknown(name));
            }
        }
    }
    let named = |target: &ImageTarget| names.iter().any(|name| fits(&target.module, name));
    let wanted = |target: &ImageTarget| match all_linear {
        true => target.module.contains(".attentions.") || !target.module.starts_with(UNET),
        false => named(target),
    };
    let mut chosen: Vec<ImageTarget> = unet.into_iter().filter(wanted).collect();
    if train_text_encoder {
        let before = chosen.len();
        chosen.extend(text.into_iter().filter(wanted));
        if chosen.len() == before {
            return Err(input_error(
                "train_text_encoder is set, but none of target_modules is a part of the text \
                 encoder; name q_proj, k_proj, v_proj, out_proj, fc1 or fc2 as well",
            ));
        }
    }
    match chosen.is_empty() {
        true => Err(input_error(
            "target_modules leave no module of the UNet to adapt; name at least one, or set \
             train_text_encoder for those of the text encoder",
        )),
        false => Ok(chosen),
    }
}

/// All modules that an adapter can have, in the base's order.
pub fn adaptable_modules(base: &Description) -> Vec<ImageTarget> {
    let mut all = targets(UNET, plan::modules(&base.unet));
    all.extend(text_targets(base));
    all
}

fn text_targets(base: &Description) -> Vec<ImageTarget> {
    let mut all = Vec::new();
    for (config, component) in base.text.iter().zip(TEXT_ENCODERS) {
        let mut modules = clip::modules(config);
        modules.retain(|module| module.name != "text_projection");
        all.extend(targets(component, modules));
    }
    all
}

fn targets(component: &str, modules: Vec<Module>) -> Vec<ImageTarget> {
    let target = |module: Module| {
        let (inputs, outputs, kernel) = module.adapted()?;
        Some(ImageTarget {
            module: format!("{component}{}", module.name),
            inputs,
            outputs,
            kernel,
        })
    };
    modules.into_iter().filter_map(target).collect()
}

/// Whether a name, or another of the same part, is the module's or its end after a dot.
fn fits(module: &str, name: &str) -> bool {
    let ends = |name: &str| {
        let end = module.strip_suffix(name);
        end.is_some_and(|before| before.is_empty() || before.ends_with('.')) && !name.is_empty()
    };
    let alike = ALIKE.iter().find(|alike| alike.contains(&name));
    ends(name) || alike.is_some_and(|alike| alike.iter().any(|name| ends(name)))
}

fn unknown(name: &str) -> anyhow::Error {
    const KNOWN: [&str; 15] = [
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "proj_in",
        "proj_out",
        "ff.net.0.proj",
        "ff.net.2",
        "conv1",
        "conv2",
        "conv_shortcut",
        "time_emb_proj",
        "downsamplers.0.conv",
        "upsamplers.0.conv",
        "all-linear",
    ];
    let near = KNOWN
        .iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.5)
        .map_or(String::new(), |(_, known)| {
            format!(" (did you mean '{known}'?)")
        });
    input_error(format!(
        "target_modules: '{name}' fits no module of the base{near}; there are {}, also with the \
         path before them, such as attn2.to_k",
        KNOWN.join(", ")
    ))
}
