//! The person's own editor on a text, with the terminal given away meanwhile.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::app::{App, Msg};
use super::event_loop::now;

/// How often the editor's end is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Opens a text under a file name, and takes in what the run says until the editor is left: the
/// deck must not fall behind. Returns the text as it was left, or why there is none, and whether
/// the terminal is gone.
pub fn edit(
    app: &mut App,
    name: &str,
    text: &str,
    messages: &Receiver<Msg>,
) -> (Result<String, String>, bool) {
    let lang = app.lang;
    let told = |e: std::io::Error| lang.no_editor(e);
    let file = match Scratch::create(name, text) {
        Ok(file) => file,
        Err(e) => return (Err(told(e)), false),
    };
    let mut child = match start(&file.path) {
        Ok(child) => child,
        Err(e) => return (Err(told(e)), false),
    };
    let mut ended = false;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(e) => return (Err(told(e)), ended),
        }
        match messages.recv_timeout(LOOK) {
            // What was typed was for the editor.
            Ok(Msg::Input(_)) => {}
            Ok(Msg::End) => ended = true,
            Ok(message) => drop(app.update(now(), message)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => ended = true,
        }
        if ended {
            // The editor has lost the same terminal and ends by itself.
            let _ = child.try_wait();
            return (Err(String::new()), true);
        }
    };
    let read = match status.success() {
        true => fs::read_to_string(&file.path).map_err(|e| app.lang.no_editor(e)),
        false => Err(app.lang.no_editor(status)),
    };
    (read, false)
}

/// `$VISUAL`, `$EDITOR` or `vi`, which may have arguments.
pub(super) fn start(path: &Path) -> std::io::Result<Child> {
    let editor = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.trim().is_empty()))
        .unwrap_or_else(|| "vi".to_owned());
    Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(path)
        .spawn()
}

/// A file for the editor in a folder of its own, both gone when this is dropped.
struct Scratch {
    folder: PathBuf,
    path: PathBuf,
}

impl Scratch {
    fn create(name: &str, text: &str) -> std::io::Result<Scratch> {
        use std::os::unix::fs::DirBuilderExt;
        let stem = format!("loradeck-edit-{}-{:x}", std::process::id(), now().to_bits());
        let folder = std::env::temp_dir().join(stem);
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let path = folder.join(name);
        let scratch = Scratch { folder, path };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&scratch.path)?;
        file.write_all(text.as_bytes())?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
