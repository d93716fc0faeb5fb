//! Adapters as people name them on the command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::adapter::{self, Adapter, Format};
use crate::error::input_error;
use crate::printable::complain;
use crate::train::checkpoint::{self, CHECKPOINTS, Checkpoint, STATE_FILE};

/// An adapter that was found.
pub(super) struct Found {
    pub adapter: Adapter,
    /// Where it was read from: the path named, or the checkpoint of a run.
    pub path: PathBuf,
    /// The checkpoint, where it is one.
    pub checkpoint: Option<Checkpoint>,
}

/// Opens an adapter of any format, a checkpoint, or the newest checkpoint of a run; damaged ones
/// that were passed over are said on stderr.
pub(super) fn open(path: &Path) -> Result<Found> {
    if path.join(STATE_FILE).is_file() || path.join(CHECKPOINTS).is_dir() {
        let found = checkpoint::find(path)?;
        for warning in &found.warnings {
            complain(&format!("loradeck: {warning}"));
        }
        let checkpoint = found.checkpoint.context("the run has no checkpoint")?;
        return Ok(Found {
            adapter: adapter::open(&checkpoint.path)?,
            path: checkpoint.path.clone(),
            checkpoint: Some(checkpoint),
        });
    }
    Ok(Found {
        adapter: adapter::open(path)?,
        path: path.to_owned(),
        checkpoint: None,
    })
}

/// Splits `ADAPTER:0.8`; without a strength it is 1.
pub(super) fn split_strength(word: &str) -> Result<(PathBuf, f64)> {
    if let Some((path, weight)) = word.rsplit_once(':')
        && !Path::new(word).exists()
        && !path.is_empty()
    {
        return match weight.parse::<f64>() {
            Ok(strength) if strength.is_finite() => Ok((PathBuf::from(path), strength)),
            _ => Err(input_error(format!(
                "'{weight}' in {word} is no strength: write a number, as in {path}:0.8"
            ))),
        };
    }
    Ok((PathBuf::from(word), 1.0))
}

/// Warns on stderr where adapters together act more than each was trained to.
pub(super) fn warn_of_strengths(strengths: &[f64]) {
    if let Some(warning) = strength_warning(strengths) {
        complain(&format!("loradeck: warning: {warning}"));
    }
}

/// The sentence, where the strengths deserve one.
pub(super) fn strength_warning(strengths: &[f64]) -> Option<String> {
    let sum: f64 = strengths.iter().map(|s| s.abs()).sum();
    // 0.7 + 0.3 is a little more than 1.
    (sum > 1.0 + 1e-9).then(|| {
        format!(
            "the strengths add up to {:.2}, above 1.0: the adapters may distort what the base \
             knows; lower them if the output degrades",
            sum
        )
    })
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1024.0 * 1024.0 * 1024.0 => format!("{:.2} GiB", b / (1024.0 * 1024.0 * 1024.0)),
        b if b >= 1024.0 * 1024.0 => format!("{:.1} MiB", b / (1024.0 * 1024.0)),
        b => format!("{:.1} KiB", b / 1024.0),
    }
}

/// Reads the word of a format.
pub(super) fn parse_format(word: &str) -> Result<Format> {
    let found = Format::ALL.into_iter().find(|f| f.name() == word.trim());
    found.ok_or_else(|| {
        input_error(format!(
            "'{}' is not an export format; there are {}",
            word.trim(),
            Format::ALL.map(Format::name).join(", ")
        ))
    })
}
