//! `loradeck export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{adapters, fetch};
use crate::adapter::{self, Adapter, Dtype, ExportOptions, Format};
use crate::cli::ExportArgs;
use crate::error::input_error;
use crate::model;
use crate::printable::say;
use crate::train::checkpoint::{self, CHECKPOINTS, Checkpoint};

/// Writes an adapter, a checkpoint's or the newest of a run in other formats. A live run is not
/// disturbed.
pub fn run(args: ExportArgs) -> Result<u8> {
    let words = args.format.split(',');
    let formats = words
        .map(adapters::parse_format)
        .collect::<Result<Vec<_>>>()?;
    let dtype = args.dtype.as_deref().map(Dtype::parse).transpose()?;
    let found = adapters::open(&args.source)?;
    let Adapter { family, .. } = found.adapter;
    for &format in &formats {
        adapter::check_format(family, found.adapter.is_dora(), format)?;
    }
    let base_name = match (&args.base, &found.checkpoint) {
        (Some(base), _) => Some(fetch::base(base)?),
        // The base of a run is known, and only GGUF asks for it.
        (None, Some(checkpoint)) if formats.contains(&Format::Gguf) => {
            Some(checkpoint.state.base_model()?)
        }
        _ => None,
    };
    let base = base_name
        .map(|base| model::describe(&base).with_context(|| format!("opening the base {base}")))
        .transpose()?;
    for &format in &formats {
        let output = match &args.output {
            Some(output) if formats.len() == 1 => output.clone(),
            Some(output) => output.join(format.name()),
            None => beside_the_run(&args.source, &found.checkpoint, format)?,
        };
        let options = ExportOptions {
            dtype,
            base: base.as_ref().map(|base| &base.config),
        };
        let written = adapter::write(found.adapter.clone(), format, &output, &options)?;
        // What is written stays written when nobody reads these lines.
        say(&format!(
            "wrote {} of {} to {} ({}, {} bytes)",
            format.name(),
            found.path.display(),
            written.path.display(),
            adapters::size(written.bytes),
            written.bytes
        ));
        for note in &written.notes {
            say(&format!("  {note}"));
        }
    }
    Ok(0)
}

/// `exports/<format>-step-N` of the run that a checkpoint belongs to.
fn beside_the_run(
    source: &Path,
    checkpoint: &Option<Checkpoint>,
    format: Format,
) -> Result<PathBuf> {
    let nowhere = || {
        input_error(format!(
            "{} lies in no run's folder: say where to write with --output",
            source.display()
        ))
    };
    let checkpoint = checkpoint.as_ref().ok_or_else(nowhere)?;
    let path = checkpoint
        .path
        .canonicalize()
        .with_context(|| format!("opening {}", checkpoint.path.display()))?;
    let name = checkpoint::name(checkpoint.state.step);
    path.parent()
        .filter(|folder| folder.ends_with(CHECKPOINTS))
        .and_then(Path::parent)
        .map(|run| {
            run.join("exports")
                .join(format!("{}-{name}", format.name()))
        })
        .ok_or_else(nowhere)
}
