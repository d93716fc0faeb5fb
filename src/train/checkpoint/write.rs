//! Writing a checkpoint, its moments, and deleting old ones.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::files::set_aside;
use super::{FileSum, LATEST, OPTIMIZER_FILE, STATE_FILE, State, name};
use crate::model::{LoraSet, Parameter};
use crate::train::optimizer::{AdamW, Values};

/// A checkpoint on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub path: PathBuf,
    pub bytes: u64,
}

/// Writes a checkpoint into `folder`: `adapter` is the adapter's files by name. `state.files` and `state.checksum` are filled in here;
/// `before_rename` runs when everything is on disk under the temporary name.
///
/// A checkpoint of the same step, which an abandoned run may have left, is set aside.
///
/// # Errors
/// Anything that cannot be written, a full disk first of all. What was there before stays, and the
/// temporary folder is deleted.
pub fn write(
    folder: &Path,
    set: &LoraSet,
    optimizer: &AdamW,
    state: &State,
    adapter: Vec<(&'static str, Vec<u8>)>,
    before_rename: &mut dyn FnMut() -> Result<()>,
) -> Result<Written> {
    let name = name(state.step);
    let temporary = folder.join(format!(".{name}.tmp-{}", std::process::id()));
    let written = fill(&temporary, set, optimizer, state, adapter)
        .and_then(|bytes| {
            before_rename()?;
            put_in_place(folder, &temporary, &name)?;
            Ok(Written {
                path: folder.join(&name),
                bytes,
            })
        })
        .with_context(|| {
            format!(
                "the checkpoint {} was not saved",
                folder.join(&name).display()
            )
        });
    if written.is_err() {
        // The error that matters is the one above; a leftover is deleted by the next start.
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

/// Writes everything into the temporary folder and onto the disk; returns its bytes.
fn fill(
    temporary: &Path,
    set: &LoraSet,
    optimizer: &AdamW,
    state: &State,
    adapter: Vec<(&'static str, Vec<u8>)>,
) -> Result<u64> {
    ensure!(
        Values::of(set)?.all_finite()
            && optimizer.exp_avg.all_finite()
            && optimizer.exp_avg_sq.all_finite(),
        "the adapter holds numbers that are not finite"
    );
    if temporary.exists() {
        fs::remove_dir_all(temporary)
            .with_context(|| format!("deleting the leftover {}", temporary.display()))?;
    }
    fs::create_dir_all(temporary)
        .with_context(|| format!("making the folder {}", temporary.display()))?;
    for (name, bytes) in adapter {
        let path = temporary.join(name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    write_moments(set, optimizer, &temporary.join(OPTIMIZER_FILE))?;

    let mut files = BTreeMap::new();
    let mut bytes = 0;
    for entry in fs::read_dir(temporary)? {
        let entry = entry?;
        let content = fs::read(entry.path())?;
        bytes += content.len() as u64;
        files.insert(
            entry.file_name().to_string_lossy().into_owned(),
            FileSum {
                bytes: content.len() as u64,
                blake3: blake3::hash(&content).to_hex().to_string(),
            },
        );
        File::open(entry.path())?.sync_all()?;
    }
    let json = State {
        files,
        ..state.clone()
    }
    .to_json()?;
    let path = temporary.join(STATE_FILE);
    fs::write(&path, &json).with_context(|| format!("writing {}", path.display()))?;
    File::open(&path)?.sync_all()?;
    sync_folder(temporary)?;
    Ok(bytes + json.len() as u64)
}

fn put_in_place(folder: &Path, temporary: &Path, name: &str) -> Result<()> {
    let path = folder.join(name);
    if path.exists() {
        set_aside(&path)?;
    }
    fs::rename(temporary, &path)
        .with_context(|| format!("renaming {} to {}", temporary.display(), path.display()))?;
    sync_folder(folder)?;
    point_latest(folder, name);
    Ok(())
}

/// Points `latest` at `name`. A convenience for people: file systems without links go without.
fn point_latest(folder: &Path, name: &str) {
    let link = folder.join(format!(".{LATEST}.tmp-{}", std::process::id()));
    let _ = fs::remove_file(&link);
    if std::os::unix::fs::symlink(name, &link).is_ok()
        && fs::rename(&link, folder.join(LATEST)).is_err()
    {
        let _ = fs::remove_file(&link);
    }
}

/// Deletes a checkpoint. It loses its name first, so a kill leaves no half one behind.
///
/// # Errors
/// It cannot be renamed or deleted.
pub fn delete(checkpoint: &Path) -> Result<()> {
    let (Some(folder), Some(name)) = (checkpoint.parent(), checkpoint.file_name()) else {
        bail!("{} is not a checkpoint", checkpoint.display());
    };
    let doomed = folder.join(format!(
        ".{}.deleted-{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    fs::rename(checkpoint, &doomed)
        .and_then(|()| fs::remove_dir_all(&doomed))
        .with_context(|| format!("deleting the checkpoint {}", checkpoint.display()))
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .with_context(|| format!("writing the folder {} to disk", folder.display()))
}

/// Names of a parameter's moments: `exp_avg.model.layers.0.self_attn.q_proj.lora_A`.
fn moment_name(moment: &str, parameter: &Parameter<'_>) -> String {
    format!("{moment}.{}.{}", parameter.module, parameter.part.name())
}

fn write_moments(set: &LoraSet, optimizer: &AdamW, path: &Path) -> Result<()> {
    let mut blobs: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (moment, values) in [
        ("exp_avg", &optimizer.exp_avg),
        ("exp_avg_sq", &optimizer.exp_avg_sq),
    ] {
        for (parameter, numbers) in set.parameters().iter().zip(&values.0) {
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            let name = moment_name(moment, parameter);
            blobs.push((name, parameter.var.dims().to_vec(), bytes));
        }
    }
    let views = blobs
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((
                name.as_str(),
                TensorView::new(Dtype::F32, shape.clone(), bytes)?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    fs::write(path, safetensors::serialize(views, None)?)
        .with_context(|| format!("writing {}", path.display()))
}

/// Reads the moments of a checkpoint for the parameters of `set`.
///
/// # Errors
/// The file is missing, damaged, or of another adapter.
pub fn read_moments(checkpoint: &Path, set: &LoraSet, updates: u64) -> Result<AdamW> {
    let path = checkpoint.join(OPTIMIZER_FILE);
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let tensors = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("{} is damaged", path.display()))?;
    let one = |moment: &str, parameter: &Parameter<'_>| -> Result<Vec<f32>> {
        let (name, shape) = (moment_name(moment, parameter), parameter.var.dims());
        let view = tensors
            .tensor(&name)
            .with_context(|| format!("{} has no {name}", path.display()))?;
        ensure!(
            view.dtype() == Dtype::F32 && view.shape() == shape,
            "{name} in {} is of another adapter: shape {:?}, expected {shape:?}",
            path.display(),
            view.shape()
        );
        Ok(view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&b| f32::from_le_bytes(b))
            .collect())
    };
    let read = |moment: &str| -> Result<Values> {
        let parameters = set.parameters();
        let values: Result<_> = parameters.iter().map(|p| one(moment, p)).collect();
        Ok(Values(values?))
    };
    Ok(AdamW {
        updates,
        exp_avg: read("exp_avg")?,
        exp_avg_sq: read("exp_avg_sq")?,
    })
}
