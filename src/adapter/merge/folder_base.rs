//! Merging into folders of safetensors files: transformers' and diffusers'.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::update::Slot;
use super::{Job, Updates, Weighted, safetensors, updates};
use crate::adapter::convert::to_hugging_face_rows;
use crate::adapter::image_names::{TEXT_ENCODER, TEXT_ENCODER_2, UNET};
use crate::adapter::model::Rows;
use crate::error::input_error;
use crate::model;

/// Other forms of the weights, which would contradict the merged ones, and other data.
const OTHER_WEIGHTS: [&str; 10] = [
    "bin",
    "pt",
    "pth",
    "ckpt",
    "gguf",
    "h5",
    "msgpack",
    "onnx",
    "onnx_data",
    "safetensors",
];

/// # Errors
/// As [`super::merge`].
pub(super) fn hugging_face(job: &mut Job<'_, '_>, mut adapters: Vec<Weighted>) -> Result<()> {
    if adapters.iter().any(|(a, _)| a.rows == Rows::LlamaCpp) {
        let described = model::describe(&job.base.display().to_string())?;
        for (adapter, _) in &mut adapters {
            to_hugging_face_rows(adapter, Some(&described.config))?;
        }
    }
    let mut updates = updates(&adapters, |_, module, _| {
        Ok(Slot {
            tensor: format!("{module}.weight"),
            index: 0,
            heads: None,
        })
    })?;
    let (from, to) = (job.base.to_owned(), job.output.to_owned());
    let weights = weight_files(&from)?;
    if weights.is_empty() {
        return Err(input_error(format!(
            "{} has no .safetensors files; convert its weights to safetensors first",
            from.display()
        )));
    }
    make_folder(&to)?;
    for path in &weights {
        merge_file(job, path, &to, &updates)?;
    }
    updates.retain(|tensor, _| !job.found.contains(tensor));
    super::missing(&updates, &from.display().to_string(), |_| false)?;
    copy_rest(job, &from, &to, false)
}

/// # Errors
/// As [`super::merge`].
pub(super) fn diffusers(job: &mut Job<'_, '_>, adapters: &[Weighted]) -> Result<()> {
    let (from, to) = (job.base.to_owned(), job.output.to_owned());
    make_folder(&to)?;
    for component in [UNET, TEXT_ENCODER, TEXT_ENCODER_2] {
        let folder = from.join(component.trim_end_matches('.'));
        let mine: Vec<Weighted> = adapters
            .iter()
            .map(|(adapter, strength)| {
                let mut adapter = adapter.clone();
                adapter.parts.retain(|name, _| name.starts_with(component));
                (adapter, *strength)
            })
            .collect();
        if mine.iter().all(|(adapter, _)| adapter.parts.is_empty()) {
            continue;
        }
        let weights = match folder.is_dir() {
            true => weight_files(&folder)?,
            false => Vec::new(),
        };
        if weights.is_empty() {
            return Err(input_error(format!(
                "the adapter changes {}, which has no .safetensors files",
                folder.display()
            )));
        }
        let mut names = std::collections::BTreeSet::new();
        for path in &weights {
            let tensors = safetensors::header(path)?.0;
            names.extend(tensors.into_iter().map(|tensor| tensor.name));
        }
        let file = folder.display().to_string();
        let updates = updates(&mine, |_, module, _| {
            let name = &module[component.len()..];
            // Transformers 5 leaves the model's own name out.
            let short = name.strip_prefix("text_model.").unwrap_or(name);
            let tensor = [name, short]
                .map(|name| format!("{name}.weight"))
                .into_iter()
                .find(|tensor| names.contains(tensor));
            Ok(Slot {
                tensor: tensor.ok_or_else(|| {
                    input_error(format!(
                        "the adapter is of another base: {file} has no tensor {name}.weight"
                    ))
                })?,
                index: 0,
                heads: None,
            })
        })?;
        let to = to.join(component.trim_end_matches('.'));
        make_folder(&to)?;
        for path in &weights {
            merge_file(job, path, &to, &updates)?;
        }
    }
    copy_rest(job, &from, &to, true)
}

fn merge_file(job: &mut Job<'_, '_>, path: &Path, folder: &Path, updates: &Updates) -> Result<()> {
    let name = path.file_name().context("a file without a name")?;
    let to = folder.join(name);
    safetensors::merge(job, path, &to, updates)
}

/// The safetensors files of a folder, in alphabetical order.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)
        .map_err(|e| input_error(format!("{} cannot be read: {e}", folder.display())))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() && path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Copies what is not there yet: tokenizers, configurations, other components. Other forms of the
/// weights stay behind: at the top level of a pipeline, and wherever weights were merged.
fn copy_rest(job: &mut Job<'_, '_>, from: &Path, to: &Path, components: bool) -> Result<()> {
    let merged_here = weight_files(to).is_ok_and(|files| !files.is_empty());
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let (Some(name), Some(text)) =
            (path.file_name(), path.file_name().and_then(|n| n.to_str()))
        else {
            continue;
        };
        let target = to.join(name);
        if path.is_dir() {
            if components && !text.starts_with('.') {
                make_folder(&target)?;
                copy_rest(job, &path, &target, true)?;
            }
            continue;
        }
        let other = path.extension().and_then(|e| e.to_str());
        let other = other.is_some_and(|e| OTHER_WEIGHTS.contains(&e));
        let top = components && path.parent() == Some(job.base);
        if target.exists() {
            continue;
        }
        if other && (merged_here || top) {
            job.notes.push(format!("{} was left out", path.display()));
            continue;
        }
        fs::copy(&path, &target).with_context(|| format!("copying {}", path.display()))?;
        File::open(&target)?.sync_all()?;
    }
    File::open(to)?.sync_all()?;
    Ok(())
}

fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

/// Bytes of a folder's safetensors files, those of components too.
pub(super) fn bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for path in weight_files(folder)? {
        bytes += fs::metadata(path)?.len();
    }
    for component in [UNET, TEXT_ENCODER, TEXT_ENCODER_2] {
        let folder = folder.join(component.trim_end_matches('.'));
        if folder.is_dir() {
            for path in weight_files(&folder)? {
                bytes += fs::metadata(path)?.len();
            }
        }
    }
    Ok(bytes)
}
