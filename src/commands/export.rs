//! `loradeck export`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cli::ExportArgs;
use crate::error::input_error;
use crate::train::checkpoint::{self, CHECKPOINTS};
use crate::train::{export_checkpoint, format_name, formats, parse_formats};

/// Writes a run's newest checkpoint, or a given one, in other formats. A live run is not disturbed.
pub fn run(args: ExportArgs) -> Result<u8> {
    let wanted = parse_formats(&args.format)?;
    formats(&wanted)?;
    let found = checkpoint::find(&args.source)?;
    for warning in &found.warnings {
        eprintln!("loradeck: {warning}");
    }
    let checkpoint = found
        .checkpoint
        .context("the run has no checkpoint to export")?;
    for &format in &wanted {
        let folder = match &args.output {
            Some(output) if wanted.len() == 1 => output.clone(),
            Some(output) => output.join(format_name(format)),
            None => {
                let name = format!(
                    "{}-{}",
                    format_name(format),
                    checkpoint::name(checkpoint.state.step)
                );
                exports_of_run(&checkpoint.path)?.join(name)
            }
        };
        let bytes = export_checkpoint(&checkpoint, format, &folder)?;
        // What is written stays written when nobody reads this line.
        let _ = writeln!(
            std::io::stdout(),
            "wrote {} of {} to {} ({bytes} bytes)",
            format_name(format),
            checkpoint.path.display(),
            folder.display()
        );
    }
    Ok(0)
}

/// `exports` of the run that a checkpoint belongs to.
fn exports_of_run(checkpoint: &Path) -> Result<PathBuf> {
    let path = checkpoint
        .canonicalize()
        .with_context(|| format!("opening {}", checkpoint.display()))?;
    path.parent()
        .filter(|folder| folder.ends_with(CHECKPOINTS))
        .and_then(Path::parent)
        .map(|run| run.join("exports"))
        .ok_or_else(|| {
            input_error(format!(
                "{} lies in no run's folder: say where to write with --output DIR",
                checkpoint.display()
            ))
        })
}
