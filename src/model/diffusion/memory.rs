//! How much memory training on pictures will take, from the shapes of the base alone.
//!
//! Counted is what the passes of this house keep: a frozen layer keeps nothing for its backward, a norm
//! its input, an attention q, k, v and what it gives, and a layer with an adapter its input besides.

use std::collections::BTreeSet;

use super::adapters::UNET;
use super::config::{UNetConfig, VaeConfig};
use super::modules::{Module, ModuleKind};
use super::plan::{self, Step, StepKind};
use super::source::Description;
use super::{clip, vae};
use crate::model::MemoryEstimate;

/// What a run asks for.
#[derive(Clone, Debug)]
pub struct Training<'a> {
    /// Names of the modules that have adapters.
    pub modules: &'a BTreeSet<String>,
    /// Numbers that are trained.
    pub parameters: u64,
    /// Pictures of a micro-batch.
    pub images: usize,
    /// Width and height of the largest bucket, pixels.
    pub bucket: (u32, u32),
    /// Width and height of the largest sample, pixels; `None`: nothing is sampled.
    pub sample: Option<(u32, u32)>,
    /// Whether activations are computed again in the backward.
    pub recompute: bool,
    pub train_text_encoder: bool,
    /// Bytes of an activation, and of a weight where weights are not kept as in their file; `None`:
    /// f32 activations beside weights as they are (the CPU).
    pub device_bytes: Option<u64>,
}

/// The program's code and buffers and the tokenizer's tables, as measured on the CPU.
const PROGRAM: u64 = 40 << 20;
/// Bytes of f32.
const FLOAT: u64 = 4;

/// Bytes by purpose, and the peak before the first step and while a sample is decoded.
pub fn memory_estimate(base: &Description, training: &Training<'_>) -> MemoryEstimate {
    let stored = base.bytes.div_ceil(base.parameters.max(1));
    let weight = training.device_bytes.unwrap_or(stored);
    let number = training.device_bytes.unwrap_or(FLOAT);
    let unet = parameters(&plan::modules(&base.unet)) * weight;
    let text: u64 = base
        .text
        .iter()
        .map(|config| parameters(&clip::modules(config)) * weight)
        .sum();
    let (encoder, decoder): (Vec<Module>, Vec<Module>) = vae::modules(&base.vae)
        .into_iter()
        .partition(|module| module.name.starts_with("encoder.") || module.name == "quant_conv");
    let reduction = base.vae.reduction() as u64;
    let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
    let rows = training.images as u64 * pixels(training.bucket) / (reduction * reduction);
    // The VAE is computed in f32 everywhere, a picture at a time.
    let vae_number = if training.device_bytes.is_some() {
        FLOAT
    } else {
        weight
    };
    let encoding = parameters(&encoder) * vae_number
        + FLOAT * pixels(training.bucket) * widest_of_encoder(&base.vae);
    let adapter = 3 * FLOAT * training.parameters;
    let optimizer = 2 * FLOAT * training.parameters;
    // While a sample is decoded the mapped pages are let go of; what was rearranged stays.
    let held = match training.device_bytes {
        Some(_) => unet,
        None => convolutions(&plan::modules(&base.unet)) * weight,
    };
    let decoding = training.sample.map_or(0, |size| {
        let decoder = parameters(&decoder) * vae_number;
        let picture = FLOAT * pixels(size) * widest_of_decoder(&base.vae);
        held + adapter + optimizer + decoder + picture
    });
    let (text_weights, text_kept) = match training.train_text_encoder {
        true => (text, FLOAT * training.images as u64 * kept_by_text(base)),
        false => (0, 0),
    };
    MemoryEstimate {
        program: PROGRAM,
        weights: unet + text_weights,
        adapter,
        optimizer,
        activations: number * rows_kept(&base.unet, training, rows) * 9 / 8 + text_kept,
        logits: 0,
        pictures: PROGRAM + encoding.max(text).max(decoding),
    }
}

fn parameters(modules: &[Module]) -> u64 {
    modules.iter().map(Module::parameters).sum()
}

/// Of convolutions of more than 1x1, which are copied into another order.
fn convolutions(modules: &[Module]) -> u64 {
    let copied = modules
        .iter()
        .filter(|module| matches!(module.kind, ModuleKind::Convolution { size, .. } if size > 1));
    copied.map(Module::parameters).sum()
}

/// Numbers that a step keeps, in rows of its own resolution.
struct Kept {
    /// Its output, the next step's input.
    output: u64,
    /// On its tape besides.
    tape: u64,
    /// For a moment in its backward.
    momentary: u64,
}

fn kept(step: &Step, unet: &UNetConfig, modules: &BTreeSet<String>) -> Kept {
    let adapted = |part: &str| {
        let name = match step.name.is_empty() || part.is_empty() {
            true => format!("{UNET}{}{part}", step.name),
            false => format!("{UNET}{}.{part}", step.name),
        };
        u64::from(modules.contains(&name))
    };
    let of = |n: usize| n as u64;
    match step.kind {
        StepKind::In => Kept {
            output: of(unet.blocks[0].channels),
            tape: 0,
            momentary: of(unet.blocks[0].channels),
        },
        StepKind::Out => Kept {
            output: of(unet.out_channels),
            tape: 0,
            momentary: 2 * of(unet.blocks[0].channels),
        },
        StepKind::Residual { inputs, outputs } => {
            let (inputs, outputs) = (of(inputs), of(outputs));
            let joined = if step.takes { inputs } else { 0 };
            Kept {
                output: outputs,
                tape: joined + outputs + adapted("conv1") * inputs + adapted("conv2") * outputs,
                momentary: 2 * inputs + outputs,
            }
        }
        StepKind::Project { channels } => Kept {
            output: of(channels),
            tape: adapted("proj_in") * of(channels),
            momentary: 2 * of(channels),
        },
        StepKind::Unproject { channels } => Kept {
            output: of(channels),
            tape: 0,
            momentary: of(channels),
        },
        StepKind::Transform { channels, .. } => {
            let any = |parts: &[&str]| parts.iter().map(|part| adapted(part)).max().unwrap_or(0);
            // Both attentions' q, what they give and their sums; k and v of the own; the gates.
            let always = 2 + 2 + 2 + 2 + 8;
            let inputs = any(&["attn1.to_q", "attn1.to_k", "attn1.to_v"])
                + adapted("attn2.to_q")
                + adapted("ff.net.0.proj")
                + 4 * adapted("ff.net.2");
            Kept {
                output: of(channels),
                tape: of(channels) * (always + inputs),
                momentary: 12 * of(channels),
            }
        }
        StepKind::Down { channels } => Kept {
            output: of(channels),
            tape: 4 * adapted("") * of(channels),
            momentary: 4 * of(channels),
        },
        StepKind::Up { channels } => Kept {
            output: of(channels),
            tape: adapted("") * of(channels),
            momentary: 2 * of(channels),
        },
    }
}

/// Numbers that a pass keeps at its peak, where `rows` are the latents' pixels of all pictures.
fn rows_kept(unet: &UNetConfig, training: &Training<'_>, rows: u64) -> u64 {
    let steps = plan::steps(unet);
    let modules = training.modules;
    let learns = |step: &Step| {
        let of_step = plan::step_modules(unet, step);
        of_step
            .iter()
            .any(|module| modules.contains(&format!("{UNET}{}", module.name)))
    };
    let first = steps.iter().position(learns).unwrap_or(0);
    let (mut rows, mut sum, mut most) = (rows, 0, 0);
    for (index, step) in steps.iter().enumerate() {
        match step.kind {
            StepKind::Down { .. } => rows = rows.div_ceil(4),
            StepKind::Up { .. } => rows *= 4,
            _ => {}
        }
        let kept = kept(step, unet, modules);
        if index >= first || step.keeps_output {
            sum += rows * kept.output;
        }
        if index < first {
            continue;
        }
        match training.recompute {
            true => most = most.max(rows * (kept.tape + kept.momentary)),
            false => {
                sum += rows * kept.tape;
                most = most.max(rows * kept.momentary);
            }
        }
    }
    sum + most
}

/// Numbers for each picture's caption of 77 tokens that trained text encoders keep.
fn kept_by_text(base: &Description) -> u64 {
    let of = |config: &super::config::ClipConfig| {
        let layer = 12 * config.width + 2 * config.intermediate;
        (config.positions * config.layers * layer) as u64
    };
    base.text.iter().map(of).sum()
}

/// Numbers for each of a picture's pixels: a residual block of the outermost level, with its input,
/// both norms' outputs and what its convolutions give.
fn widest_of_encoder(vae: &VaeConfig) -> u64 {
    4 * vae.blocks[0] as u64
}

/// The same of the decoder, whose outermost level begins with the channels of the one within.
fn widest_of_decoder(vae: &VaeConfig) -> u64 {
    let (outer, inner) = (vae.blocks[0], vae.blocks[1.min(vae.blocks.len() - 1)]);
    (2 * inner + 2 * outer) as u64
}

#[cfg(test)]
mod tests {
    use super::super::config::Kind;
    use super::super::source::describe;
    use super::*;

    fn estimate(change: impl Fn(&mut Training<'_>)) -> MemoryEstimate {
        let base = describe("builtin:tiny-sd").unwrap();
        assert_eq!(base.kind, Kind::Sd1);
        let targets = super::super::match_image_targets(&base, true, &[], false).unwrap();
        let modules: BTreeSet<String> = targets.into_iter().map(|target| target.module).collect();
        let mut training = Training {
            modules: &modules,
            parameters: 1000,
            images: 4,
            bucket: (64, 64),
            sample: None,
            recompute: false,
            train_text_encoder: false,
            device_bytes: None,
        };
        change(&mut training);
        memory_estimate(&base, &training)
    }

    #[test]
    fn more_pictures_and_larger_ones_take_more_and_recomputation_takes_less() {
        let plain = estimate(|_| {});
        let twice = estimate(|t| t.images = 8);
        assert_eq!(twice.activations, 2 * plain.activations);
        let larger = estimate(|t| t.bucket = (128, 64));
        assert_eq!(larger.activations, 2 * plain.activations);
        let again = estimate(|t| t.recompute = true);
        assert!(2 * again.activations < plain.activations);
        assert_eq!(again.weights, plain.weights);
    }

    #[test]
    fn fewer_adapters_keep_fewer_inputs_and_text_encoders_have_their_share() {
        let all = estimate(|_| {});
        let none = BTreeSet::from(["unet.mid_block.attentions.0.proj_out".to_owned()]);
        let few = memory_estimate(
            &describe("builtin:tiny-sd").unwrap(),
            &Training {
                modules: &none,
                parameters: 1000,
                images: 4,
                bucket: (64, 64),
                sample: None,
                recompute: false,
                train_text_encoder: false,
                device_bytes: None,
            },
        );
        assert!(few.activations < all.activations);
        let text = estimate(|t| t.train_text_encoder = true);
        assert!(text.weights > all.weights && text.activations > all.activations);
        let half = estimate(|t| t.device_bytes = Some(2));
        assert_eq!(2 * half.activations, all.activations);
    }

    /// The peaks (VmHWM) of runs with pictures of a side, batch 1 and rank 8, on the CPU, on the f32
    /// checkpoint of tests/tools/make_full_checkpoint.py.
    #[test]
    fn the_peaks_measured_at_full_size_are_foreseen_within_a_tenth() {
        let mut base = super::super::published::base(Kind::Sd1);
        base.bytes = 4 * base.parameters;
        let names = ["to_q", "to_k", "to_v", "to_out.0"].map(str::to_owned);
        let targets = super::super::match_image_targets(&base, false, &names, false).unwrap();
        let parameters = targets
            .iter()
            .map(|t| 8 * (t.inputs + t.outputs) as u64)
            .sum();
        let modules: BTreeSet<String> = targets.into_iter().map(|target| target.module).collect();
        for (side, recompute, kibibytes) in [(256, false, 4_108_576), (512, true, 3_837_260)] {
            let training = Training {
                modules: &modules,
                parameters,
                images: 1,
                bucket: (side, side),
                sample: None,
                recompute,
                train_text_encoder: false,
                device_bytes: None,
            };
            let estimated = memory_estimate(&base, &training).total() as f64;
            let ratio = estimated / (1024.0 * f64::from(kibibytes));
            assert!((0.9..1.1).contains(&ratio), "{side}: {ratio}");
        }
    }
}
