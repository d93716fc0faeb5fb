//! Exports: at the end of a run, on command, and by hand from a checkpoint.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;

use super::checkpoint::{self, Checkpoint};
use super::preflight::{format_name, formats};
use super::save::in_run;
use super::shrink::admitted;
use super::trainer::{Flow, Trainer};
use crate::adapter;
use crate::config::ExportFormat;
use crate::model::{self, LoraSet};
use crate::protocol::{EventKind, PhaseName};

/// Writes an adapter in one format into `folder`; returns its bytes. They depend on adapter, format
/// and the base's name alone.
///
/// # Errors
/// A format this adapter has no form in; another folder in the way; the disk fails.
pub fn export(set: &LoraSet, base_name: &str, format: ExportFormat, folder: &Path) -> Result<u64> {
    formats(&[format])?;
    adapter::write_peft(set, &portable_name(base_name), folder)
}

/// Writes a checkpoint's adapter in one format into `folder`; returns its bytes, which are those of
/// the run's own export at that step.
///
/// # Errors
/// As [`export`]; the base that the checkpoint's config names is not there.
pub fn export_checkpoint(
    checkpoint: &Checkpoint,
    format: ExportFormat,
    folder: &Path,
) -> Result<u64> {
    let base = checkpoint.state.base_model()?;
    let described = model::describe(&base).with_context(|| {
        format!(
            "the base of {} cannot be read (the checkpoint itself is a PEFT adapter as it is)",
            checkpoint.path.display()
        )
    })?;
    let set = adapter::read_peft(&checkpoint.path, &described.config, &Device::Cpu)?;
    export(&set, &described.name, format, folder)
}

/// The base's name without the path to it: exports must not depend on where a run lies.
pub(super) fn portable_name(base: &str) -> String {
    Path::new(base)
        .file_name()
        .map_or_else(|| base.to_owned(), |n| n.to_string_lossy().into_owned())
}

impl Trainer<'_> {
    /// The exports at the end of a run; where one fails, pauses and tries again on every resume.
    pub fn export_or_pause(&mut self) -> Flow<()> {
        while let Err(e) = self.export_all("") {
            self.pause_for_save(&e)?;
        }
        Ok(())
    }

    /// Exports the adapter as it is, beside those of other steps; says where.
    pub fn export_now(&mut self) -> Result<String> {
        let suffix = format!("-{}", checkpoint::name(self.progress.step));
        let folders = self.export_all(&suffix)?;
        let names: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        Ok(format!("exported: {}", names.join(", ")))
    }

    /// Every format of `export_formats` into `exports/<format><suffix>`.
    fn export_all(&mut self, suffix: &str) -> Result<Vec<PathBuf>> {
        let left = self.stage.enter(PhaseName::Saving, "export");
        let exported = self
            .config
            .export_formats
            .iter()
            .map(|&format| {
                let name = format!("{}{suffix}", format_name(format));
                let folder = self.folders.exports.join(&name);
                let base = &self.base.description.name;
                // The adapter as bytes, and again in the format's own layout.
                let needed = 4 * 4 * self.set.parameters();
                let bytes = admitted(needed, || export(&self.set, base, format, &folder))
                    .with_context(|| format!("the export {} was not written", folder.display()))?;
                self.reporter.emit(EventKind::Export {
                    step: self.progress.step,
                    format: format_name(format).to_owned(),
                    path: folder.display().to_string(),
                    bytes,
                });
                Ok(in_run(&self.folders.exports).join(name))
            })
            .collect();
        self.stage.back(left);
        exported
    }
}
