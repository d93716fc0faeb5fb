//! `loradeck generate`.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

use super::adapters;
use crate::adapter;
use crate::cli::GenerateArgs;
use crate::error::input_error;
use crate::generate::{SamplingOptions, encode_prompt, generate};
use crate::model::{self, Active, Base, DeviceRequest, LoraSet};
use crate::train::dtype;

/// Prints what a base says to a prompt, or writes the prompt's logits.
pub fn run(args: GenerateArgs) -> Result<u8> {
    check(&args)?;
    let device = model::device(parse_device(&args.device)?)?;
    let base = model::open(&args.base, &device, dtype(None, &device)?)?;
    let adapters = args
        .lora
        .iter()
        .map(|word| open_adapter(word, &base, &device))
        .collect::<Result<Vec<_>>>()?;
    let active: Vec<Active<'_>> = adapters
        .iter()
        .map(|(set, strength)| Active {
            set,
            strength: *strength,
        })
        .collect();
    let strengths: Vec<f64> = adapters.iter().map(|(_, strength)| *strength).collect();
    adapters::warn_of_strengths(&strengths);
    let ids = encode_prompt(&base.tokenizer, None, &args.prompt, args.raw)?;
    match &args.logits {
        Some(file) => write_logits(&base, &active, &ids, file)?,
        None => print_text(&base, &active, &ids, &args)?,
    }
    Ok(0)
}

fn check(args: &GenerateArgs) -> Result<()> {
    let wrong = |what: &str| Err(input_error(what));
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return wrong("--temperature must be a number, 0 (greedy) or more");
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return wrong("--top-p must be above 0 and at most 1");
    }
    if !(args.repetition_penalty > 0.0 && args.repetition_penalty.is_finite()) {
        return wrong("--repetition-penalty must be above 0 (1: none)");
    }
    Ok(())
}

fn parse_device(word: &str) -> Result<DeviceRequest> {
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
fn open_adapter(word: &str, base: &Base, device: &Device) -> Result<(LoraSet, f64)> {
    let (path, strength) = adapters::split_strength(word)?;
    let open = || {
        let found = adapters::open(&path)?;
        let file = found.path.display().to_string();
        adapter::to_lora_set(found.adapter, &base.description.config, device, &file)
    };
    let set = open().with_context(|| format!("--lora {word}"))?;
    Ok((set, strength))
}

fn print_text(
    base: &Base,
    adapters: &[Active<'_>],
    ids: &[u32],
    args: &GenerateArgs,
) -> Result<()> {
    let options = SamplingOptions {
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
    };
    let mut out = io::stdout().lock();
    let mut written = Ok(());
    let (decoder, tokenizer) = (&base.decoder, &base.tokenizer);
    generate(decoder, tokenizer, adapters, ids, &options, &mut |text| {
        written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.is_ok()
    })?;
    match written.and_then(|()| out.write_all(b"\n")) {
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
