//! Telling the formats apart.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::model::Adapter;
use super::write::IMAGE_FILE;
use super::{diffusers, gguf, kohya, peft, safetensors_file};
use crate::error::input_error;

/// Reads an adapter: a PEFT folder, a GGUF adapter, a kohya or diffusers file, or a folder with one
/// of these files alone.
///
/// # Errors
/// Nothing there, no adapter, a damaged file: one sentence.
pub fn open(path: &Path) -> Result<Adapter> {
    let file = path.display().to_string();
    let metadata =
        std::fs::metadata(path).map_err(|e| input_error(format!("{file} cannot be read: {e}")))?;
    if metadata.is_dir() {
        if path.join(peft::CONFIG).is_file() || path.join(peft::WEIGHTS).is_file() {
            return peft::read(path);
        }
        return open_file(&only_file(path)?);
    }
    open_file(path)
}

fn open_file(path: &Path) -> Result<Adapter> {
    if path
        .file_name()
        .is_some_and(|n| n == peft::WEIGHTS || n == peft::CONFIG)
    {
        return peft::read(path.parent().unwrap_or(Path::new(".")));
    }
    let file = path.display().to_string();
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut f| f.read_exact(&mut magic));
    if read.is_ok() && &magic == b"GGUF" {
        return gguf::read(path);
    }
    if path
        .extension()
        .is_some_and(|e| e == "pt" || e == "ckpt" || e == "bin")
    {
        return Err(input_error(format!(
            "{file} is a pickle, an old format that can run code: save the adapter as safetensors \
             first"
        )));
    }
    let content = safetensors_file::read(path)?;
    let has = |is_key: fn(&str) -> bool| content.tensors.keys().any(|key| is_key(key));
    if has(kohya::is_key) {
        kohya::read(content, &file)
    } else if has(diffusers::is_key) {
        diffusers::read(content, &file)
    } else if has(|key| key.starts_with(peft::PREFIX)) {
        Err(input_error(format!(
            "{file} holds a PEFT adapter's tensors without its {}: name the folder with both files",
            peft::CONFIG
        )))
    } else {
        let first = content.tensors.keys().next();
        Err(input_error(format!(
            "{file} is no adapter that can be read (PEFT folders, GGUF adapters, kohya's and \
             diffusers' files can): {}",
            first.map_or("it is empty".to_owned(), |key| format!(
                "its first tensor is {key}"
            ))
        )))
    }
}

/// The one file of a folder that may be an adapter.
fn only_file(folder: &Path) -> Result<PathBuf> {
    for name in [diffusers::FILE, IMAGE_FILE] {
        let file = folder.join(name);
        if file.is_file() {
            return Ok(file);
        }
    }
    let entries = std::fs::read_dir(folder)
        .map_err(|e| input_error(format!("{} cannot be read: {e}", folder.display())))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|e| e == "safetensors" || e == "gguf")
        })
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(file), true) => Ok(file),
        (Some(_), false) => Err(input_error(format!(
            "{} holds several files that may be adapters: name one of them",
            folder.display()
        ))),
        (None, _) => Err(input_error(format!(
            "{} holds no adapter: neither {}, nor a .safetensors or .gguf file",
            folder.display(),
            peft::CONFIG
        ))),
    }
}
