//! `loradeck generate`.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

use super::{adapters, fetch, generate_image};
use crate::adapter;
use crate::cli::{GenerateArgs, SamplingArgs};
use crate::error::input_error;
use crate::generate::{Loaded, SamplingOptions, encode_prompt, generate};
use crate::model::diffusion::is_image_base;
use crate::model::{self, Active, Base, DeviceRequest};
use crate::printable::write_out;
use crate::train::dtype;

/// Prints what a base says to a prompt, or writes the prompt's logits.
pub fn run(args: GenerateArgs) -> Result<u8> {
    let args = GenerateArgs {
        base: fetch::base(&args.base)?,
        ..args
    };
    if is_image_base(&args.base) {
        return generate_image::run(&args);
    }
    let options = sampling(&args.sampling)?;
    let (base, device) = open_base(&args.base, &args.device)?;
    let open =
        |word: &String| open_loaded(word, &base, &device).with_context(|| format!("--lora {word}"));
    let loaded = args.lora.iter().map(open).collect::<Result<Vec<_>>>()?;
    let active: Vec<Active<'_>> = loaded
        .iter()
        .map(|adapter| Active {
            set: &adapter.set,
            strength: adapter.strength,
        })
        .collect();
    let strengths: Vec<f64> = loaded.iter().map(|adapter| adapter.strength).collect();
    adapters::warn_of_strengths(&strengths);
    let ids = encode_prompt(&base.tokenizer, None, &args.prompt, args.raw)?;
    match &args.logits {
        Some(file) => write_logits(&base, &active, &ids, file)?,
        None => print_text(&base, &active, &ids, &options)?,
    }
    Ok(0)
}

/// The sampling settings, checked.
pub(super) fn sampling(args: &SamplingArgs) -> Result<SamplingOptions> {
    let options = SamplingOptions {
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
    };
    match options.problem() {
        Some((key, why)) => Err(input_error(format!("--{key} {why}"))),
        None => Ok(options),
    }
}

/// A base on the device that was asked for.
pub(super) fn open_base(base: &str, device: &str) -> Result<(Base, Device)> {
    let device = model::device(parse_device(device)?)?;
    let base = model::open(&fetch::base(base)?, &device, dtype(None, &device)?)?;
    Ok((base, device))
}

pub(super) fn parse_device(word: &str) -> Result<DeviceRequest> {
    match (word, word.strip_prefix("cuda:").map(str::parse)) {
        ("auto", _) => Ok(DeviceRequest::Auto),
        ("cpu", _) => Ok(DeviceRequest::Cpu),
        ("cuda", _) => Ok(DeviceRequest::Cuda(0)),
        (_, Some(Ok(index))) => Ok(DeviceRequest::Cuda(index)),
        _ => Err(input_error(format!(
            "--device {word} is not a device: give auto, cpu or cuda:0"
        ))),
    }
}

/// Opens `ADAPTER` or `ADAPTER:0.8` for a base.
pub(super) fn open_loaded(word: &str, base: &Base, device: &Device) -> Result<Loaded> {
    let (path, strength) = adapters::split_strength(word)?;
    let found = adapters::open(&path)?;
    let file = found.path.display().to_string();
    let set = adapter::to_lora_set(found.adapter, &base.description.config, device, &file)?;
    Ok(Loaded {
        name: path.display().to_string(),
        set,
        strength,
    })
}

fn print_text(
    base: &Base,
    adapters: &[Active<'_>],
    ids: &[u32],
    options: &SamplingOptions,
) -> Result<()> {
    let mut written = Ok(());
    let (decoder, tokenizer) = (&base.decoder, &base.tokenizer);
    generate(decoder, tokenizer, adapters, ids, options, &mut |text| {
        written = write_out(text);
        written.is_ok()
    })?;
    match written.and_then(|()| write_out("\n")) {
        // Who reads has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to stdout"),
    }
}

/// `input_ids` i64 `[T]` and `logits` f32 `[T, V]` of the prompt.
fn write_logits(base: &Base, adapters: &[Active<'_>], ids: &[u32], file: &Path) -> Result<()> {
    let logits = base.decoder.logits(&[ids.to_vec()], adapters)?.squeeze(0)?;
    let numbers: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let tensors = HashMap::from([
        ("input_ids", Tensor::new(numbers, &Device::Cpu)?),
        ("logits", logits.to_device(&Device::Cpu)?.contiguous()?),
    ]);
    candle_core::safetensors::save(&tensors, file)
        .with_context(|| format!("writing {}", file.display()))
}
