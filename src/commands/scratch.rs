//! A folder for runs that nobody wants to keep.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::train::Folders;
use crate::train::checkpoint::CHECKPOINTS;

/// A run folder in the temporary folder, gone when dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// `purpose`: a word for the folder's name.
    pub fn new(purpose: &str) -> Result<Self> {
        let parent = std::env::temp_dir();
        for attempt in 0..1000 {
            let path = parent.join(format!(
                "loradeck-{purpose}-{}-{attempt}",
                std::process::id()
            ));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    return Err(e).with_context(|| format!("creating {}", path.display()));
                }
            }
        }
        bail!(
            "{} is full of folders of earlier runs: remove loradeck-{purpose}-*",
            parent.display()
        )
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn folders(&self) -> Folders {
        Folders {
            checkpoints: self.0.join(CHECKPOINTS),
            samples: self.0.join("samples"),
            exports: self.0.join("exports"),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in the temporary folder, which the system clears.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
