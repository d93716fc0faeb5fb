//! What a run on pictures should be given, read off its base and its folder.

use std::collections::BTreeSet;

use anyhow::Result;

use super::super::check::examine::available_memory;
use super::advice::{BATCHES, SAFE, load};
use crate::config::RunConfig;
use crate::data::images::{self, ImageDataset};
use crate::model::diffusion::{self, Description, Training};
use crate::protocol::ImageStatistics;
use crate::train::image_adapter_plan;
use crate::ui::home::desk::{Advice, Row, Suggestion, Why};
use crate::ui::text;

/// Pictures that a run sees in all, each as often as the others; what people train a style with.
const SEEN: u64 = 2000;
/// No picture is shown more often than this.
const EPOCHS: u64 = 100;

/// `sources`: the lines of the config that name base and data.
///
/// # Errors
/// One of them cannot be read.
pub(super) fn advise_images(sources: &str, base_model: &str) -> Result<Suggestion> {
    let base = diffusion::describe(base_model)?;
    let side = base.side as u64;
    let loaded = load(&format!("{sources}resolution: {side}\n"))?;
    let data = images::load(&loaded.config, &|_, _| {})?;
    let statistics = data.statistics(None);
    let found = statistics.images.as_deref().cloned().unwrap_or_default();
    let (batch_size, recompute) = batch(&loaded.config, &base, &found)?;
    let rows = found.rows.max(1);
    let epochs = (SEEN / rows).clamp(1, EPOCHS);
    let steps = (rows * epochs / batch_size.value).max(1);
    let times = 10.min(steps);
    let every = Advice {
        value: (steps / times).max(1),
        why: Why::Times { times },
    };
    Ok(Suggestion {
        base: format!(
            "{}, {} in {}, made for {side}x{side}",
            base.kind.name(),
            text::short(base.parameters as f64),
            base.dtype,
        ),
        data: describe_data(&found),
        quantised: false,
        row: Row::Pixels {
            resolution: Advice {
                value: side,
                why: Why::Side { side },
            },
            trigger_word: trigger_word(&data, &found),
            recompute,
        },
        gradient_accumulation_steps: Advice {
            value: 1,
            why: Why::StepOf {
                records: batch_size.value,
            },
        },
        batch_size,
        epochs: Advice {
            value: epochs,
            why: Why::Pictures {
                pictures: found.images,
                seen: rows * epochs,
            },
        },
        eval_steps: every.clone(),
        save_steps: every,
        prompt: prompt(&data),
    })
}

/// "80 pictures in 3 buckets, 240 rows an epoch; captions: 78 metadata.csv, 2 no caption".
fn describe_data(found: &ImageStatistics) -> String {
    let captions = found.captions.iter();
    let captions: Vec<String> = captions.map(|(rule, n)| format!("{n} {rule}")).collect();
    format!(
        "{} pictures in {} buckets, {} rows an epoch; captions: {}",
        text::count(found.images),
        found.buckets.len(),
        text::count(found.rows),
        captions.join(", ")
    )
}

/// The words that all captions have in common, or that kohya's folder names tell.
fn trigger_word(data: &ImageDataset, found: &ImageStatistics) -> Option<String> {
    let shared = found.tags.first();
    let shared = shared.filter(|(_, images)| found.images > 1 && *images == found.images);
    let of_folder = || data.items.iter().find_map(|item| item.class.clone());
    shared.map(|(tag, _)| tag.clone()).or_else(of_folder)
}

/// The first caption, with a seed.
fn prompt(data: &ImageDataset) -> Option<String> {
    let mut captions = data.items.iter().map(|item| item.caption.trim());
    let caption = captions.find(|caption| !caption.is_empty())?;
    Some(format!("{} --d 42", caption.replace(" --", " ")))
}

/// The largest micro-batch that is safe, and whether it needs recomputation.
fn batch(
    config: &RunConfig,
    base: &Description,
    found: &ImageStatistics,
) -> Result<(Advice<u64>, bool)> {
    let Some(available) = available_memory() else {
        let why = Why::Unknown;
        return Ok((Advice { value: 1, why }, true));
    };
    let (targets, spec) = image_adapter_plan(config, base)?;
    let shapes: Vec<(String, usize, usize)> = targets
        .into_iter()
        .map(|target| (target.module, target.inputs, target.outputs))
        .collect();
    let modules: BTreeSet<String> = shapes.iter().map(|(name, ..)| name.clone()).collect();
    let area = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
    let sizes = found.buckets.iter().map(|b| (b.width, b.height));
    let side = base.side as u32;
    let bucket = sizes.max_by_key(|size| area(*size)).unwrap_or((side, side));
    let bytes = |images: u64, recompute: bool| {
        let training = Training {
            modules: &modules,
            parameters: spec.parameter_count(&shapes),
            images: images as usize,
            bucket,
            sample: Some((side, side)),
            recompute,
            train_text_encoder: false,
            device_bytes: None,
        };
        diffusion::memory_estimate(base, &training).total()
    };
    let safe = |bytes: u64| bytes as f64 <= SAFE * available as f64;
    let recompute = !safe(bytes(1, false));
    let most = found.buckets.iter().map(|b| b.rows).max().unwrap_or(1);
    let usual = BATCHES.into_iter().skip(1);
    let value = usual
        .filter(|batch| *batch <= most.max(1))
        .find(|batch| safe(bytes(*batch, recompute)))
        .unwrap_or(1);
    let next = bytes(value * 2, recompute);
    let why = Why::Fits {
        bytes: bytes(value, recompute),
        available,
        more: (!safe(next)).then_some(next),
    };
    Ok((Advice { value, why }, recompute))
}
