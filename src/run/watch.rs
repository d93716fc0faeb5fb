//! Watching the config file: an edit during the run is checked, compared and taken over.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use notify::{RecursiveMode, Watcher};

use crate::config::{self, LoadedConfig, RunConfig};
use crate::protocol::{EventKind, Level};
use crate::train::Reporter;

use super::control::Gate;
use super::hub::Hub;

/// Network volumes tell nobody of changes.
const POLL_EVERY: Duration = Duration::from_secs(2);
/// An editor's save is several changes in a row.
const SETTLE: Duration = Duration::from_millis(100);
const SOURCE: &str = "config file";

/// Starts the watcher. It ends when the returned sender is dropped.
///
/// # Errors
/// The system refuses a thread.
pub fn start(loaded: &LoadedConfig, sets: Vec<String>, gate: Gate, hub: Hub) -> Result<Sender<()>> {
    let (changed, changes) = mpsc::channel();
    let watched = Watched {
        path: loaded.path.clone(),
        text: Some(loaded.text.clone()),
        config: loaded.config.clone(),
        broken: false,
        sets,
        gate,
        hub,
    };
    // The parent folder is watched, since editors save by renaming. Where that cannot be done, the
    // polling has to do.
    let parent = watched.path.parent().map(Path::to_owned);
    let (notify_sender, name) = (
        changed.clone(),
        watched.path.file_name().map(|n| n.to_owned()),
    );
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|e| e.paths.iter().any(|p| p.file_name() == name.as_deref())) {
            let _ = notify_sender.send(());
        }
    });
    let watcher = watcher.ok().and_then(|mut watcher| {
        watcher
            .watch(parent.as_deref()?, RecursiveMode::NonRecursive)
            .ok()?;
        Some(watcher)
    });
    let (stop, stopped) = mpsc::channel::<()>();
    thread::Builder::new()
        .name("config-watch".into())
        .spawn(move || {
            let _watcher = watcher;
            let _polls_go_on = changed;
            let mut watched = watched;
            while stopped.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
                match changes.recv_timeout(POLL_EVERY) {
                    Ok(()) => {
                        thread::sleep(SETTLE);
                        while changes.try_recv().is_ok() {}
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                watched.look();
            }
        })?;
    Ok(stop)
}

struct Watched {
    path: PathBuf,
    /// Its text at the last look; `None` while it is missing.
    text: Option<String>,
    /// What the file said when it was last right.
    config: RunConfig,
    broken: bool,
    sets: Vec<String>,
    gate: Gate,
    hub: Hub,
}

impl Watched {
    fn look(&mut self) {
        let text = fs::read_to_string(&self.path).ok();
        if text == self.text {
            return;
        }
        if text.is_none() {
            // Between the two halves of a save it is missing for an instant.
            thread::sleep(SETTLE);
            if fs::metadata(&self.path).is_ok() {
                return self.look();
            }
            self.text = None;
            let path = self.path.display();
            let text = format!("the config file {path} is gone; its values stay");
            return self.hub.message(Level::Warning, text);
        }
        self.text = text;
        match config::load(&self.path, &self.sets) {
            Ok(edited) => {
                let changes = config::diff(&self.config, &edited.config);
                self.config = edited.config;
                if changes.is_empty() {
                    if std::mem::take(&mut self.broken) {
                        let text = "the config file is right again; it changes nothing";
                        self.hub.message(Level::Info, text);
                    } else if !self.sets.is_empty() {
                        let sets = self.sets.join(", ");
                        let text = format!("the config file changes nothing: --set {sets} wins");
                        self.hub.message(Level::Info, text);
                    }
                    return;
                }
                self.broken = false;
                self.hub.emit(EventKind::ConfigChanged {
                    source: SOURCE.to_owned(),
                    changes: changes.clone(),
                    errors: Vec::new(),
                });
                self.gate.edited(&changes, &self.config);
            }
            Err(problems) => {
                self.broken = true;
                self.hub.emit(EventKind::ConfigChanged {
                    source: SOURCE.to_owned(),
                    changes: Vec::new(),
                    errors: problems.iter().map(ToString::to_string).collect(),
                });
            }
        }
    }
}
