//! Writing a folder or a file so that it is either there whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::error::input_error;

/// Writes `files` (name, bytes) as `folder`: beside its final name first, synced to disk, then
/// renamed. A folder of the same kind that is already there is replaced.
///
/// # Errors
/// Something else lies there; the disk fails or is full (nothing is left behind then).
pub(super) fn write(folder: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let name = folder.file_name().and_then(|name| name.to_str());
    let name =
        name.ok_or_else(|| input_error(format!("{} is no name for a folder", folder.display())))?;
    refuse_foreign(folder, files)?;
    let parent = parent(folder);
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let beside =
        |mark: &str| -> PathBuf { parent.join(format!(".{name}.{mark}-{}", std::process::id())) };
    let (new, old) = (beside("new"), beside("old"));
    // Left over from a process of the same number that was killed: ours, and incomplete.
    let _ = fs::remove_dir_all(&new);
    let written = write_files(&new, files)
        .and_then(|()| put_in_place(&new, folder, &old))
        .and_then(|()| Ok(File::open(parent)?.sync_all()?));
    if written.is_err() {
        let _ = fs::remove_dir_all(&new);
    }
    written.with_context(|| format!("{} cannot be written", folder.display()))
}

/// Writes one file: beside its final name first, synced to disk, then renamed. A file that is
/// already there is replaced.
///
/// # Errors
/// The disk fails or is full (nothing is left behind then).
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = Unfinished::beside(path)?;
    let write = || -> Result<()> {
        let mut file = File::create(new.path())?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(())
    };
    write().with_context(|| format!("{} cannot be written", path.display()))?;
    new.finish()
}

/// A file or folder in the making, under a hidden name beside its final one; deleted when dropped
/// before [`Unfinished::finish`].
pub(super) struct Unfinished {
    /// The hidden name.
    path: PathBuf,
    last: PathBuf,
}

impl Unfinished {
    /// Makes the folder that `path` lies in, and chooses the hidden name.
    ///
    /// # Errors
    /// `path` is no name for a file; the folder cannot be made.
    pub fn beside(path: &Path) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name =
            name.ok_or_else(|| input_error(format!("{} is no name for a file", path.display())))?;
        let parent = parent(path);
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        let new = parent.join(format!(".{name}.new-{}", std::process::id()));
        remove(&new);
        Ok(Unfinished {
            path: new,
            last: path.to_owned(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its final name. Its content must be synced already.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn finish(self) -> Result<()> {
        let rename = || -> Result<()> {
            fs::rename(&self.path, &self.last)?;
            Ok(File::open(parent(&self.last))?.sync_all()?)
        };
        rename().with_context(|| format!("{} cannot be written", self.last.display()))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Deletes a leftover, if there is one.
fn remove(path: &Path) {
    let _ = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A folder is only replaced when it holds nothing but what would be written.
fn refuse_foreign(folder: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(folder).map_err(|e| {
        input_error(format!(
            "{} is in the way of the folder to write: {e}",
            folder.display()
        ))
    })?;
    for entry in entries {
        let found = entry?.file_name();
        if !files.iter().any(|(name, _)| found == *name) {
            return Err(input_error(format!(
                "{} holds {}, which is not of an export; name a new or empty folder",
                folder.display(),
                found.to_string_lossy()
            )));
        }
    }
    Ok(())
}

fn write_files(folder: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    fs::create_dir(folder)?;
    for (name, bytes) in files {
        let mut file = File::create(folder.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Gives `new` its final name; what lay there goes.
fn put_in_place(new: &Path, folder: &Path, old: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(fs::rename(new, folder)?);
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        // One step, so that at no moment neither is there. Not every file system can.
        if renameat_with(CWD, new, CWD, folder, RenameFlags::EXCHANGE).is_ok() {
            fs::remove_dir_all(new)?;
            return Ok(());
        }
    }
    let _ = fs::remove_dir_all(old);
    fs::rename(folder, old)?;
    if let Err(e) = fs::rename(new, folder) {
        fs::rename(old, folder)?;
        return Err(e.into());
    }
    Ok(fs::remove_dir_all(old)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_whole_and_nothing_is_left_beside_it() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("deep/export");
        for content in [b"first".to_vec(), b"second".to_vec()] {
            write(&folder, &[("a.json", content.clone())]).unwrap();
            assert_eq!(fs::read(folder.join("a.json")).unwrap(), content);
        }
        assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_with_something_of_the_users_is_never_replaced() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("thesis.txt"), "years of work").unwrap();
        let error = write(temp.path(), &[("a.json", vec![])]).unwrap_err();
        assert!(error.to_string().contains("thesis.txt"), "{error}");
        assert_eq!(
            fs::read_to_string(temp.path().join("thesis.txt")).unwrap(),
            "years of work"
        );
        let file = temp.path().join("thesis.txt");
        assert!(write(&file, &[("a.json", vec![])]).is_err());
    }
}
