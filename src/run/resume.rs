//! Whether a run begins, goes on, or is finished.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::config::{self, RunConfig};
use crate::error::input_error;
use crate::protocol::{ConfigChange, PhaseName, RunState};
use crate::train::checkpoint;

use super::folder::{RunFolder, live_runner};
use super::runner::already_running;
use super::status::load_state;

/// What `--resume` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeMode {
    /// From the newest checkpoint that is whole.
    Auto,
    /// Anew; the old folder is renamed.
    Never,
    /// From this checkpoint.
    From(PathBuf),
}

impl ResumeMode {
    /// From the option's text.
    pub fn new(text: &str) -> Self {
        match text {
            "auto" => ResumeMode::Auto,
            "never" => ResumeMode::Never,
            path => ResumeMode::From(PathBuf::from(path)),
        }
    }
}

/// What to do with a run's folder.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing is left to be done; a sentence.
    Finished(String),
    Start {
        checkpoint: Option<PathBuf>,
        /// What a person should know.
        notes: Vec<String>,
    },
}

/// Decides how a run with this config goes on in its folder.
///
/// # Errors
/// A runner is alive; a key has changed that would make it another run; no such checkpoint.
pub fn decide(folder: &RunFolder, wanted: &RunConfig, mode: &ResumeMode) -> Result<Decision> {
    if let Some(pid) = live_runner(folder) {
        return Err(already_running(folder, Some(pid)));
    }
    match mode {
        ResumeMode::Never => never(folder),
        ResumeMode::From(path) => {
            let text = path.display();
            // Absolute: the runner may have another working directory one day.
            let named = folder.checkpoints().join(path);
            let path = fs::canonicalize(path).or_else(|_| fs::canonicalize(named));
            let path = path.map_err(|_| {
                input_error(format!(
                    "there is no checkpoint {text} (--resume takes auto, never or a checkpoint's folder)"
                ))
            })?;
            let state = checkpoint::verify(&path)
                .map_err(|e| input_error(format!("cannot go on from {}: {e:#}", path.display())))?;
            refuse_other_run(folder, wanted)?;
            let note = format!("goes on after step {} from {}", state.step, path.display());
            Ok(Decision::Start {
                checkpoint: Some(path),
                notes: vec![note],
            })
        }
        ResumeMode::Auto => auto(folder, wanted),
    }
}

fn never(folder: &RunFolder) -> Result<Decision> {
    let mut notes = Vec::new();
    if folder.has_run() {
        let old = set_aside(folder.root())?;
        notes.push(format!("the old run is now in {}", old.display()));
    }
    Ok(Decision::Start {
        checkpoint: None,
        notes,
    })
}

/// Renames a run's folder to the first free `<name>.old-1`, `<name>.old-2`, ...
fn set_aside(root: &Path) -> Result<PathBuf> {
    let mut number = 1;
    loop {
        let mut name = root.as_os_str().to_owned();
        name.push(format!(".old-{number}"));
        let old = PathBuf::from(name);
        if !old.exists() {
            fs::rename(root, &old).with_context(|| {
                format!("cannot rename {} to {}", root.display(), old.display())
            })?;
            return Ok(old);
        }
        number += 1;
    }
}

fn auto(folder: &RunFolder, wanted: &RunConfig) -> Result<Decision> {
    if !folder.has_run() {
        return Ok(Decision::Start {
            checkpoint: None,
            notes: Vec::new(),
        });
    }
    refuse_other_run(folder, wanted)?;
    let state = load_state(folder)?;
    let newest = checkpoint::newest(&folder.checkpoints())?;
    let mut notes = newest.warnings;
    if state.phase == PhaseName::Done && !goes_further(folder, wanted) {
        return Ok(Decision::Finished(finished(folder, &state)));
    }
    let checkpoint = match newest.checkpoint {
        Some(found) => {
            notes.push(format!(
                "resumes after step {} from {}",
                found.state.step,
                found.path.display()
            ));
            Some(found.path)
        }
        // To start over unasked would be to lose the run.
        None if !notes.is_empty() => {
            return Err(input_error(format!(
                "no checkpoint of the run {} is whole: {}; put one back, or train anew with \
                 `--resume never`, which keeps the old folder under another name",
                folder.root().display(),
                notes.join("; ")
            )));
        }
        None => {
            notes.push("the run has no checkpoint yet and starts from its first step".to_owned());
            None
        }
    };
    Ok(Decision::Start { checkpoint, notes })
}

/// Whether a finished run has been given more steps since.
fn goes_further(folder: &RunFolder, wanted: &RunConfig) -> bool {
    stored(folder).is_some_and(|stored| {
        config::diff(&stored, wanted)
            .iter()
            .any(|c| c.key == "epochs" || c.key == "max_steps")
    })
}

fn finished(folder: &RunFolder, state: &RunState) -> String {
    let path = folder.root().display();
    let exports: Vec<&str> = state.exports.iter().map(|e| e.path.as_str()).collect();
    let exports = if exports.is_empty() {
        String::new()
    } else {
        format!("; its adapter: {}", exports.join(", "))
    };
    format!(
        "the run {path} is finished ({} steps){exports}. `--resume never` trains anew, more epochs \
         go on from here",
        state.last.step
    )
}

/// The config as the run was started with.
fn stored(folder: &RunFolder) -> Option<RunConfig> {
    config::load(&folder.config(), &[]).ok().map(|l| l.config)
}

/// Refuses a config that differs from the run's in more than a resume can take over.
fn refuse_other_run(folder: &RunFolder, wanted: &RunConfig) -> Result<()> {
    let Some(stored) = stored(folder) else {
        return Ok(()); // data moved away, say: the trainer compares with the checkpoint
    };
    let changes = config::restart_keys_differ(&stored, wanted);
    if changes.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = changes.iter().map(change_line).collect();
    Err(input_error(format!(
        "the run {} was started with other values, and going on would make it another run:\n{}\n\
         put them back, choose another output_dir, or train anew with `--resume never`",
        folder.root().display(),
        lines.join("\n")
    )))
}

fn change_line(change: &ConfigChange) -> String {
    format!("  {}: {} -> {}", change.key, change.old, change.new)
}
