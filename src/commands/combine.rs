//! `loradeck combine`.

use anyhow::{Context, Result};

use super::{adapters, fetch};
use crate::adapter::{self, Dtype, ExportOptions, Format};
use crate::cli::CombineArgs;
use crate::model;
use crate::printable::say;

/// Makes one adapter of several.
pub fn run(args: CombineArgs) -> Result<u8> {
    let dtype = args.dtype.as_deref().map(Dtype::parse).transpose()?;
    let asked = args.format.as_deref().map(adapters::parse_format);
    let asked = asked.transpose()?;
    let mut weighted = Vec::new();
    for word in &args.lora {
        let (path, strength) = adapters::split_strength(word)?;
        let found = adapters::open(&path).with_context(|| format!("--lora {word}"))?;
        weighted.push((found.adapter, strength));
    }
    let strengths: Vec<f64> = weighted.iter().map(|(_, strength)| *strength).collect();
    adapters::warn_of_strengths(&strengths);
    let first = &weighted[0].0;
    let keys = first.parts.values().find_map(|part| part.keys.as_ref());
    let format = asked.unwrap_or(keys.map_or(Format::Peft, |keys| keys.format));
    let mut combined = adapter::concatenate(&weighted)?;
    let full = combined.rank();
    let mut told = format!("rank {full}, exact");
    if let Some(rank) = args.rank {
        let reduced = adapter::reduce_rank(&combined, rank)?;
        told = format!(
            "rank {} of {full}; {:.3} % of the update is lost",
            reduced.adapter.rank(),
            100.0 * reduced.error
        );
        if !reduced.worst.1.is_empty() {
            told += &format!(
                ", most in {} ({:.3} %)",
                reduced.worst.1,
                100.0 * reduced.worst.0
            );
        }
        combined = reduced.adapter;
    }
    let base = args.base.as_deref().map(fetch::base).transpose()?;
    let base = base.as_deref().map(model::describe).transpose()?;
    let options = ExportOptions {
        dtype,
        base: base.as_ref().map(|base| &base.config),
    };
    let written = adapter::write(combined, format, &args.output, &options)?;
    // What is written stays written when nobody reads these lines.
    say(&format!(
        "combined {} adapters into {} ({}, {} bytes): {told}",
        args.lora.len(),
        written.path.display(),
        adapters::size(written.bytes),
        written.bytes
    ));
    for note in &written.notes {
        say(&format!("  {note}"));
    }
    Ok(0)
}
