//! `loradeck merge`.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::quantized::GgmlDType;

use super::{adapters, fetch};
use crate::adapter;
use crate::cli::MergeArgs;
use crate::error::input_error;
use crate::printable::{complain, say};
use crate::run::signals;

/// Merges adapters into a base.
pub fn run(args: MergeArgs) -> Result<u8> {
    let gguf_type = args.dtype.as_deref().map(parse_type).transpose()?;
    let mut weighted = Vec::new();
    for word in &args.lora {
        let (path, strength) = adapters::split_strength(word)?;
        let found = adapters::open(&path).with_context(|| format!("--lora {word}"))?;
        weighted.push((found.adapter, strength));
    }
    let strengths: Vec<f64> = weighted.iter().map(|(_, strength)| *strength).collect();
    adapters::warn_of_strengths(&strengths);
    let base = fetch::base(&args.base)?;
    let base = Path::new(&base);
    let mut bar = Bar::new(adapter::base_bytes(base)?);
    // What is half written is deleted on the way out.
    let stopped = Arc::new(AtomicI32::new(0));
    let by = stopped.clone();
    signals::handle(move |signal| by.store(signal, Ordering::Relaxed))?;
    let merged = adapter::merge(base, weighted, &args.output, gguf_type, &mut |bytes| {
        if stopped.load(Ordering::Relaxed) != 0 {
            bail!("stopped; nothing was written");
        }
        bar.advance(bytes);
        Ok(())
    });
    bar.clear();
    let merged = match (merged, stopped.load(Ordering::Relaxed)) {
        (Err(error), signal) if signal != 0 => {
            complain(&format!("loradeck: {error:#}"));
            return Ok(128 + signal as u8);
        }
        (merged, _) => merged?,
    };
    // What is written stays written when nobody reads these lines.
    say(&format!(
        "merged {} tensors into {} ({}, {} bytes)",
        merged.tensors,
        merged.path.display(),
        adapters::size(merged.bytes),
        merged.bytes
    ));
    say(&format!(
        "  rounding error: {:.2e} of the merged weights, {:.2e} of what the adapters add",
        merged.loss.of_weights(),
        merged.loss.of_update()
    ));
    for note in &merged.notes {
        say(&format!("  {note}"));
    }
    if merged.loss.of_update() > 0.5 {
        complain(
            "loradeck: warning: rounding loses much of what the adapters add; a wider type (such \
             as --dtype f16 for a GGUF) keeps it",
        );
    }
    Ok(0)
}

/// The types that the merged tensors of a GGUF can have.
fn parse_type(word: &str) -> Result<GgmlDType> {
    match word {
        "f16" => Ok(GgmlDType::F16),
        "bf16" => Ok(GgmlDType::BF16),
        "f32" => Ok(GgmlDType::F32),
        "q8_0" => Ok(GgmlDType::Q8_0),
        _ => Err(input_error(format!(
            "--dtype {word} is no type for merged tensors; there are f16, q8_0, bf16 and f32"
        ))),
    }
}

/// One line of progress on a terminal.
struct Bar {
    done: u64,
    total: u64,
    shown: Option<Instant>,
    terminal: bool,
}

impl Bar {
    fn new(total: u64) -> Self {
        Bar {
            done: 0,
            total,
            shown: None,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        let due = self
            .shown
            .is_none_or(|at| at.elapsed() > Duration::from_millis(200));
        if self.terminal && due {
            self.shown = Some(Instant::now());
            let percent = 100.0 * self.done as f64 / self.total.max(1) as f64;
            eprint!(
                "\rmerging {:3.0} % of {} ",
                percent.min(100.0),
                adapters::size(self.total)
            );
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            eprint!("\r{:40}\r", "");
        }
    }
}
