//! What a run was made from, for `run.json`: commit, device, hashes of base and data.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use anyhow::Result;

use crate::config::{LoadedConfig, TaskType};
use crate::model::{self, diffusion};
use crate::protocol::EventKind;

use super::folder::InfoFile;
use super::hub::Hub;

/// Events kept while the hashes are computed; the device is among the first.
const EVENTS: usize = 256;

/// Finds it out on a thread of its own: hashing a large base takes a while, and nobody waits.
///
/// # Errors
/// The system refuses a thread.
pub fn start(loaded: &LoadedConfig, info: Arc<InfoFile>, hub: &Hub) -> Result<()> {
    let (tap, events) = mpsc::sync_channel(EVENTS);
    hub.tap(tap);
    let config = loaded.config.clone();
    let path = loaded.path.clone();
    thread::Builder::new()
        .name("provenance".into())
        .spawn(move || {
            let git_revision = path.parent().and_then(git_revision);
            // A file that cannot be written now is written with the next change.
            let _ = info.update(|i| i.git_revision = git_revision);
            for event in events {
                if let EventKind::Model { device, .. } = &event.kind {
                    let _ = info.update(|i| i.device = Some(device.clone()));
                    break;
                }
            }
            // After the loading, which reads the same files.
            let mut files = Vec::new();
            let base = match config.task_type {
                TaskType::TextGeneration => model::describe(&config.base_model).map(|b| b.files),
                TaskType::TextToImage => diffusion::describe(&config.base_model).map(|b| b.files),
            };
            files.extend(base.unwrap_or_default());
            collect(&config.train_data_dir, &mut files);
            if let Some(folder) = &config.reg_data_dir {
                collect(folder, &mut files);
            }
            files.extend(config.metadata_path);
            for file in files {
                if let Ok(hash) = hash(&file) {
                    let name = file.display().to_string();
                    let _ = info.update(|i| {
                        i.hashes.insert(name, hash);
                    });
                }
            }
        })?;
    Ok(())
}

/// Every file in a folder and its subfolders, or the file itself; links are not followed.
fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_owned());
        return;
    }
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(|e| e.path());
    for entry in entries {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

/// On one thread: the cores are the trainer's.
fn hash(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The commit of a folder, `-dirty` when it has changes; `None` outside of git or without it.
fn git_revision(folder: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = git(&["rev-parse", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no", "--", "."])?;
    Some(if changes.is_empty() {
        revision
    } else {
        format!("{revision}-dirty")
    })
}
