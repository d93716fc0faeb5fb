//! `loradeck generate` with an image base.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::adapters;
use super::generate::parse_device;
use crate::adapter;
use crate::cli::GenerateArgs;
use crate::error::input_error;
use crate::generate::image::{Drawing, NoiseLevels, Painter, SamplerKind, parameters};
use crate::model::diffusion::{Source, TextCondition, adaptable_modules};
use crate::model::{self, Active, LoraSet};
use crate::printable::say;
use crate::train::dtype;

/// Draws pictures and writes them as PNG files that say how they were made.
pub(super) fn run(args: &GenerateArgs) -> Result<u8> {
    if args.logits.is_some() {
        return Err(input_error(
            "--logits is for language models, and the base draws pictures",
        ));
    }
    let device = model::device(parse_device(&args.device)?)?;
    let dtype = dtype(None, &device)?;
    let source = Source::open(&args.base)?;
    let described = source.description();
    let drawing = drawing(args, described.side)?;
    let files = files(&args.drawing.output, args.drawing.count)?;

    let (family, modules) = (
        adapter::image_family(described.kind),
        adaptable_modules(described),
    );
    let mut loaded: Vec<(String, f64, LoraSet)> = Vec::new();
    for word in &args.lora {
        let (path, strength) = adapters::split_strength(word)?;
        let found = adapters::open(&path).with_context(|| format!("--lora {word}"))?;
        let file = found.path.display().to_string();
        let set = adapter::to_image_set(found.adapter, family, &modules, &device, &file)?;
        loaded.push((adapter_name(&path), strength, set));
    }
    let strengths: Vec<f64> = loaded.iter().map(|(_, strength, _)| *strength).collect();
    adapters::warn_of_strengths(&strengths);
    let active: Vec<Active<'_>> = loaded
        .iter()
        .map(|(_, strength, set)| Active {
            set,
            strength: *strength,
        })
        .collect();

    // The parts of the base are in memory one after another.
    let (positive, negative) = {
        let (tokenizer, encoders) = (source.tokenizer()?, source.text_encoders(&device, dtype)?);
        let encode = |text: &str| -> Result<TextCondition> {
            let chunks = tokenizer.chunks(text, MAX_CHUNKS)?;
            encoders.encode(&[chunks], 0, &active)
        };
        (encode(&drawing.prompt)?, encode(&drawing.negative)?)
    };
    let noise = &described.noise;
    let levels = NoiseLevels::new(
        noise.train_steps,
        noise.beta_start,
        noise.beta_end,
        noise.scaled_linear,
    )?;
    let unet = source.unet(&device, dtype)?;
    let painter = Painter {
        unet: &unet,
        levels: &levels,
        kind: described.kind,
        prediction: described.prediction,
        reduction: described.vae.reduction(),
        scaling_factor: described.vae.scaling_factor,
    };
    let decoder = source.vae_decoder(&device)?;
    let names: Vec<(String, f64)> = loaded
        .iter()
        .map(|(name, strength, _)| (name.clone(), *strength))
        .collect();
    for (number, file) in files.iter().enumerate() {
        let drawing = Drawing {
            seed: drawing.seed.wrapping_add(number as u64),
            ..drawing.clone()
        };
        let latent = painter.latent(&drawing, &positive, &negative, &active, &mut || true)?;
        let latent = latent.context("the picture was not finished")?;
        let picture = painter.picture(&drawing, &latent, &decoder)?;
        let text = parameters(&drawing, &adapter_name(Path::new(&described.name)), &names);
        fs::write(file, picture.to_png(&text)?)
            .with_context(|| format!("writing {}", file.display()))?;
        say(&format!(
            "{} ({}x{}, seed {})",
            file.display(),
            drawing.width,
            drawing.height,
            drawing.seed
        ));
    }
    Ok(0)
}

/// Chunks of 75 tokens that a prompt may have.
const MAX_CHUNKS: usize = 8;

/// What is to be drawn: the options, and the prompt's own where it has some.
fn drawing(args: &GenerateArgs, side: usize) -> Result<Drawing> {
    let given = &args.drawing;
    let sampler = SamplerKind::named(&given.sampler).ok_or_else(|| {
        input_error(format!(
            "--sampler {} is not known: ddim, dpm++_2m and euler_a are",
            given.sampler
        ))
    })?;
    Drawing {
        prompt: String::new(),
        negative: given.negative.clone().unwrap_or_default(),
        width: given.width.unwrap_or(side),
        height: given.height.unwrap_or(side),
        seed: args.sampling.seed,
        steps: given.steps,
        scale: given.scale,
        sampler,
    }
    .with_line(&args.prompt)
}

/// The name of a file or folder without what tells its format.
fn adapter_name(path: &Path) -> String {
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    name.strip_suffix(".safetensors")
        .unwrap_or(&name)
        .to_owned()
}

/// `picture.png`, or `picture-1.png`, `picture-2.png`, ...
fn files(output: &Path, count: u64) -> Result<Vec<PathBuf>> {
    if output
        .extension()
        .is_none_or(|e| !e.eq_ignore_ascii_case("png"))
    {
        return Err(input_error(format!(
            "--output {} is no PNG: name a .png file",
            output.display()
        )));
    }
    if !(1..=10_000).contains(&count) {
        return Err(input_error(format!(
            "--count {count} cannot be drawn; give 1 to 10000"
        )));
    }
    if let Some(folder) = output.parent().filter(|f| !f.as_os_str().is_empty()) {
        fs::create_dir_all(folder)
            .with_context(|| format!("making the folder {}", folder.display()))?;
    }
    if count == 1 {
        return Ok(vec![output.to_owned()]);
    }
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    let numbered = (1..=count).map(|n| output.with_file_name(format!("{stem}-{n}.png")));
    Ok(numbered.collect())
}
