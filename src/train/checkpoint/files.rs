//! Finding checkpoints again, and telling whole ones from damaged ones.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{CHECKPOINTS, STATE_FILE, State, step_of};
use crate::error::input_error;

/// A checkpoint that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub path: PathBuf,
    pub state: State,
}

/// What [`newest`] found.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    pub checkpoint: Option<Checkpoint>,
    /// One sentence for each damaged checkpoint that was passed over.
    pub warnings: Vec<String>,
}

/// Checkpoints in `folder` by step, oldest first, not verified; none when it does not exist.
///
/// # Errors
/// The folder exists and cannot be read.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => {
            return Err(e).with_context(|| format!("reading the folder {}", folder.display()));
        }
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading the folder {}", folder.display()))?;
        let step = entry.file_name().to_str().and_then(step_of);
        if let Some(step) = step
            && entry.path().is_dir()
        {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a checkpoint's `state.json` alone.
///
/// # Errors
/// No checkpoint lies there, or its `state.json` is damaged or of another version.
pub fn read(checkpoint: &Path) -> Result<State> {
    let path = checkpoint.join(STATE_FILE);
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "{} is not a checkpoint: {} cannot be read",
            checkpoint.display(),
            path.display()
        )
    })?;
    State::from_json(&text).with_context(|| format!("in {}", checkpoint.display()))
}

/// Reads a checkpoint's state and holds every file against its checksum.
///
/// # Errors
/// One sentence with the file that is missing or damaged.
pub fn verify(checkpoint: &Path) -> Result<State> {
    let state = read(checkpoint)?;
    for (file, expected) in &state.files {
        let path = checkpoint.join(file);
        let bytes = fs::metadata(&path)
            .with_context(|| format!("{} is missing", path.display()))?
            .len();
        if bytes != expected.bytes {
            bail!(
                "{} has {bytes} bytes, it was written with {}",
                path.display(),
                expected.bytes
            );
        }
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_mmap(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        if hasher.finalize().to_hex().as_str() != expected.blake3 {
            bail!("{} does not match its checksum", path.display());
        }
    }
    Ok(state)
}

/// The newest checkpoint in `folder` that is whole.
///
/// # Errors
/// The folder cannot be read. Damaged checkpoints are warnings, not errors.
pub fn newest(folder: &Path) -> Result<Newest> {
    let mut found = Newest::default();
    for (_, path) in list(folder)?.into_iter().rev() {
        match verify(&path) {
            Ok(state) => {
                found.checkpoint = Some(Checkpoint { path, state });
                break;
            }
            Err(e) => found.warnings.push(format!(
                "the checkpoint {} is damaged and was passed over: {e:#}",
                path.display()
            )),
        }
    }
    Ok(found)
}

/// The checkpoint that a person means by a path: a checkpoint's folder itself, or the newest whole
/// one of a run's folder.
///
/// # Errors
/// Neither lies there, or the run has no whole checkpoint yet.
pub fn find(path: &Path) -> Result<Newest> {
    if path.join(STATE_FILE).is_file() {
        let state = verify(path).map_err(|e| {
            input_error(format!(
                "the checkpoint {} is damaged: {e:#}",
                path.display()
            ))
        })?;
        return Ok(Newest {
            checkpoint: Some(Checkpoint {
                path: path.to_owned(),
                state,
            }),
            warnings: Vec::new(),
        });
    }
    let folder = path.join(CHECKPOINTS);
    if !folder.is_dir() {
        return Err(input_error(format!(
            "{} is neither a run's folder nor a checkpoint's",
            path.display()
        )));
    }
    let mut found = newest(&folder)?;
    if found.checkpoint.is_none() && !list(&folder)?.is_empty() {
        // A live run may have deleted the one that was being read, for a newer one.
        found = newest(&folder)?;
    }
    if found.checkpoint.is_none() {
        let mut sentence = format!("the run {} has no whole checkpoint", path.display());
        for warning in &found.warnings {
            sentence += &format!("; {warning}");
        }
        return Err(input_error(sentence));
    }
    Ok(found)
}

/// What the names of half-made folders hold, here and in `adapter/folder.rs`.
const MARKS: [&str; 4] = [".tmp-", ".deleted-", ".new-", ".old-"];

/// Deletes what a killed runner left half written or half deleted in a folder of checkpoints or of
/// exports: their hidden entries. Only for the one runner that holds the run's lock.
///
/// # Errors
/// The folder cannot be read or a leftover cannot be deleted.
pub fn remove_leftovers(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(removed);
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("reading the folder {}", folder.display()))?
            .path();
        let hidden = path
            .file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| n.starts_with('.') && MARKS.iter().any(|mark| n.contains(mark)));
        if !hidden {
            continue;
        }
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
        if is_folder {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        }
        .with_context(|| format!("deleting the leftover {}", path.display()))?;
        removed.push(path);
    }
    Ok(removed)
}

/// Sets the checkpoints after `step` aside: a run that goes on from `step` leaves them behind, and
/// must not come back to them later. Returns their new paths.
///
/// # Errors
/// One cannot be renamed.
pub fn set_aside_after(folder: &Path, step: u64) -> Result<Vec<PathBuf>> {
    list(folder)?
        .into_iter()
        .filter(|(other, _)| *other > step)
        .map(|(_, path)| set_aside(&path))
        .collect()
}

/// Renames a checkpoint to the first free `set-aside-step-000100`, `set-aside-step-000100-2`, ...
pub(super) fn set_aside(checkpoint: &Path) -> Result<PathBuf> {
    let (Some(folder), Some(name)) = (checkpoint.parent(), checkpoint.file_name()) else {
        bail!("{} is not a checkpoint", checkpoint.display());
    };
    let name = format!("set-aside-{}", name.to_string_lossy());
    let mut aside = folder.join(&name);
    let mut number = 2;
    while aside.exists() {
        aside = folder.join(format!("{name}-{number}"));
        number += 1;
    }
    fs::rename(checkpoint, &aside)
        .with_context(|| format!("renaming {} to {}", checkpoint.display(), aside.display()))?;
    Ok(aside)
}
