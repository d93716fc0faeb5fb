//! Notices that the run's folder was deleted or moved away under a live runner.
//!
//! The lock goes with the folder, so a second runner may start on the same path; then two of them
//! would write checkpoints into one folder. The one that came first ends. As long as nobody came, the
//! run goes on: its next checkpoint makes the folder anew and is the only copy of its work.

use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::printable::complain;
use crate::protocol::{EventKind, Level, PhaseName};
use crate::train::Reporter;

use super::folder::{Lock, RunFolder};
use super::hub::Hub;

const EVERY: Duration = Duration::from_millis(500);

/// Starts looking. It ends when the returned sender is dropped.
///
/// # Errors
/// The lock's file cannot be read, or the system refuses a thread.
pub fn start(folder: &RunFolder, lock: &Lock, hub: Hub) -> Result<Sender<()>> {
    let (stop, stopped) = mpsc::channel::<()>();
    let (path, ours) = (folder.lock(), lock.identity()?);
    let root = folder.root().display().to_string();
    thread::Builder::new()
        .name("eviction".into())
        .spawn(move || {
            let mut told = false;
            while stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Disconnected) {
                match std::fs::metadata(&path) {
                    Ok(found) if (found.dev(), found.ino()) == ours => {}
                    Ok(_) => evicted(&root, &hub),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound && !told => {
                        told = true;
                        let text = format!(
                            "the run folder {root} was deleted or moved away: the run goes on and \
                             saves its checkpoints into a new one, but its log is lost; stop it, or \
                             start it again there, which ends this runner"
                        );
                        hub.message(Level::Error, text);
                    }
                    // A network file system that hangs for a while proves nothing.
                    Err(_) => {}
                }
            }
        })?;
    Ok(stop)
}

/// Ends the process without touching the folder, `run.json` or the socket: they are another's now.
fn evicted(root: &str, hub: &Hub) -> ! {
    let error = format!(
        "the run folder {root} was deleted or moved away, and another runner has started there: this \
         one ends"
    );
    complain(&format!("loradeck: {error}"));
    hub.emit(EventKind::Phase {
        phase: PhaseName::Failed,
        detail: String::new(),
        error: Some(error),
    });
    // What decks still get to see; the log itself is gone.
    let _ = hub.sync();
    std::process::exit(1)
}
