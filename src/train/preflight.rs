//! What must hold before the first step: nothing is trained that cannot be saved.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Folders, Plan};
use crate::adapter::{self, Family, Format};
use crate::config::{ExportFormat, RunConfig, TaskType};
use crate::error::input_error;

/// What `state.json`, `adapter_config.json` and headers take at most.
const OVERHEAD: u64 = 256 * 1024;

/// Checks export formats, folders and space. Returns warnings.
///
/// # Errors
/// A format that this adapter has no form in, a folder that cannot be written, too little space.
pub(super) fn check(
    config: &RunConfig,
    size: AdapterSize,
    plan: Plan,
    folders: &Folders,
) -> Result<Vec<String>> {
    formats(config)?;
    for folder in [&folders.checkpoints, &folders.samples, &folders.exports] {
        writable(folder)?;
    }
    Ok(space(config, size, plan, &folders.checkpoints)?.warnings)
}

/// Whether the adapter that a config trains can be written in all of its export formats.
///
/// # Errors
/// One sentence with the first that it cannot be written in.
pub(super) fn formats(config: &RunConfig) -> Result<()> {
    let family = match config.task_type {
        TaskType::TextGeneration => Family::Text,
        // All families of image models have the same formats.
        TaskType::TextToImage => Family::Sd1,
    };
    for &format in &config.export_formats {
        adapter::check_format(family, config.use_dora, adapter_format(format))?;
    }
    Ok(())
}

/// The format that a word of the config names.
pub fn adapter_format(format: ExportFormat) -> Format {
    match format {
        ExportFormat::Peft => Format::Peft,
        ExportFormat::Diffusers => Format::Diffusers,
        ExportFormat::Kohya => Format::Kohya,
        ExportFormat::Gguf => Format::Gguf,
    }
}

fn writable(folder: &Path) -> Result<()> {
    let probe = folder.join(format!(".write-test-{}", std::process::id()));
    fs::create_dir_all(folder)
        .and_then(|()| File::create(&probe))
        .and_then(|mut file| file.write_all(b"loradeck"))
        .and_then(|()| fs::remove_file(&probe))
        .map_err(|e| {
            input_error(format!(
                "output_dir: {} cannot be written ({e}): choose another output_dir or mend its permissions",
                folder.display()
            ))
        })
}

/// Numbers of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterSize {
    pub trained: u64,
    /// In a file, which holds once for each layer what layers share.
    pub written: u64,
}

/// What a run will need where its folder lies.
#[derive(Clone, Debug)]
pub struct Preflight {
    pub checkpoint_bytes: u64,
    /// Checkpoints that will be there at once, at most.
    pub checkpoints: u64,
    pub export_bytes: u64,
    pub free_bytes: u64,
    pub warnings: Vec<String>,
}

/// Proves, before a run's folder exists, that its checkpoints and exports can be written. Leaves
/// nothing behind.
///
/// # Errors
/// As the check before the first step: formats, a folder that cannot be written, too little space.
pub fn preflight(config: &RunConfig, size: AdapterSize, plan: Plan) -> Result<Preflight> {
    formats(config)?;
    let there = config
        .output_dir
        .ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("/"));
    writable(there)?;
    space(config, size, plan, there)
}

/// `at`: a folder on the disk that the run writes to.
fn space(config: &RunConfig, size: AdapterSize, plan: Plan, at: &Path) -> Result<Preflight> {
    let stat = rustix::fs::statvfs(at)
        .with_context(|| format!("asking for the space left at {}", at.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // The adapter's numbers and two moments of what is trained, in f32.
    let one = 4 * (size.written + 2 * size.trained) + OVERHEAD;
    let exports = (4 * size.written + OVERHEAD) * config.export_formats.len() as u64;
    // A new checkpoint is whole before an old one goes.
    let least = 2 * one + exports;
    if free < least {
        return Err(input_error(format!(
            "output_dir: {} has {} free, two checkpoints and an export of this adapter need {}: free some space or choose another output_dir",
            at.display(),
            mebibytes(free),
            mebibytes(least)
        )));
    }
    let scheduled = plan.total_steps.div_ceil(config.save_steps.max(1));
    let kept = config
        .keep_checkpoints
        .map_or(scheduled, |keep| scheduled.min(keep as u64 + 1));
    let all = kept.saturating_mul(one).saturating_add(exports);
    let warnings = if free < all {
        vec![format!(
            "{kept} checkpoints of this run need {}, {} has {} free: set keep_checkpoints or a larger save_steps",
            mebibytes(all),
            at.display(),
            mebibytes(free)
        )]
    } else {
        Vec::new()
    };
    Ok(Preflight {
        checkpoint_bytes: one,
        checkpoints: kept,
        export_bytes: exports,
        free_bytes: free,
        warnings,
    })
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}
