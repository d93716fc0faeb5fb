//! Writing an adapter in one of the formats.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::convert::{ExportOptions, prepare};
use super::model::{Adapter, Format};
use super::{diffusers, folder, gguf, kohya, peft};
use crate::error::input_error;

/// What [`write`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The folder, or the file where one was named.
    pub path: PathBuf,
    pub bytes: u64,
    /// What was changed to fit the format, a sentence each.
    pub notes: Vec<String>,
}

/// The adapter's file in a checkpoint of an image run: kohya's format, with all its precision.
pub const IMAGE_FILE: &str = "adapter.safetensors";

/// The bytes of kohya's file.
///
/// # Errors
/// A module that the format has no name for; numbers that are not finite.
pub fn kohya_file(adapter: Adapter) -> Result<Vec<u8>> {
    let (adapter, _) = prepare(adapter, Format::Kohya, &ExportOptions::default())?;
    kohya::write(&adapter)
}

/// Writes an adapter in a format: into a folder, or, for the formats of one file, into the
/// `.safetensors` or `.gguf` file that `output` names. What is written is there whole or not at
/// all; its bytes depend on the adapter, the format and the options only.
///
/// # Errors
/// A format that this adapter has no form in; something else in the way; the disk fails.
pub fn write(
    adapter: Adapter,
    format: Format,
    output: &Path,
    options: &ExportOptions<'_>,
) -> Result<Written> {
    let (adapter, notes) = prepare(adapter, format, options)?;
    let files = match format {
        Format::Peft => peft::files(&adapter)?,
        Format::Gguf => {
            let architecture = adapter.architecture.as_deref().unwrap_or("llama");
            vec![("adapter.gguf", gguf::to_bytes(&adapter, architecture)?)]
        }
        Format::Kohya => vec![("lora.safetensors", kohya::write(&adapter)?)],
        Format::Diffusers => vec![(diffusers::FILE, diffusers::write(&adapter))],
    };
    let extension = match format {
        Format::Gguf => "gguf",
        _ => "safetensors",
    };
    let names_file = output
        .extension()
        .is_some_and(|e| e == "gguf" || e == "safetensors");
    if !names_file || output.is_dir() {
        folder::write(output, &files)?;
    } else if format == Format::Peft || output.extension().is_none_or(|e| e != extension) {
        return Err(input_error(format!(
            "--output {}: {} is written as a {}",
            output.display(),
            format.name(),
            match format {
                Format::Peft => "folder".to_owned(),
                _ => format!(".{extension} file"),
            }
        )));
    } else {
        folder::write_file(output, &files[0].1)?;
    }
    Ok(Written {
        path: output.to_owned(),
        bytes: files.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
        notes,
    })
}
