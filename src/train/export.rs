//! Exports: at the end of a run and on command.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::checkpoint;
use super::optimizer::Values;
use super::preflight::adapter_format;
use super::save::in_run;
use super::shrink::admitted;
use super::trainer::{Flow, Trainer};
use crate::config::hub;
use crate::protocol::{EventKind, PhaseName};

/// The base's name without the path to it: exports must not depend on where a run lies. One from
/// Hugging Face's cache has its repository's name, by which PEFT finds it anywhere.
pub(super) fn portable_name(base: &str) -> String {
    let path = Path::new(base);
    hub::name_of_snapshot(path)
        .or_else(|| Some(path.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| base.to_owned())
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
                let format_name = adapter_format(format).name();
                let name = format!("{format_name}{suffix}");
                let folder = self.folders.exports.join(&name);
                // The adapter as bytes, and again in the format's own layout.
                let needed = 4 * 4 * self.set.parameter_count();
                let write = || {
                    ensure!(
                        Values::of(&self.set)?.all_finite(),
                        "the adapter holds numbers that are not finite"
                    );
                    self.objective.export(
                        &self.set,
                        &self.config,
                        self.progress.step,
                        format,
                        &folder,
                    )
                };
                let written = admitted(needed, write)
                    .with_context(|| format!("the export {} was not written", folder.display()))?;
                self.reporter.emit(EventKind::Export {
                    step: self.progress.step,
                    format: format_name.to_owned(),
                    path: folder.display().to_string(),
                    bytes: written.bytes,
                });
                Ok(in_run(&self.folders.exports).join(name))
            })
            .collect();
        self.stage.back(left);
        exported
    }
}

#[cfg(test)]
mod tests {
    use super::portable_name;

    #[test]
    fn an_export_names_its_base_wherever_that_lies() {
        let fetched = "/cache/hub/models--owner--name/snapshots/0123abcd";
        for (base, name) in [
            ("builtin:tiny-llama", "builtin:tiny-llama"),
            ("/models/llama.gguf", "llama.gguf"),
            (fetched, "owner/name"),
        ] {
            assert_eq!(portable_name(base), name);
        }
    }
}
