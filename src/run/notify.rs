//! `notify_command`: told of alerts and of the run's end, on a thread of its own.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::Result;

use crate::protocol::{Alerts, Event, EventKind, Level, PhaseName};

use super::folder::RunFolder;
use super::hub::Hub;

/// Events that may wait; a later alert is missed rather than the run held up.
const EVENTS: usize = 4096;

/// Starts the thread; it ends with the hub. `command` is the config's, and follows its changes.
///
/// # Errors
/// The system refuses a thread.
pub fn start(hub: &Hub, folder: &RunFolder, command: Option<String>) -> Result<JoinHandle<()>> {
    let (tap, events) = mpsc::sync_channel(EVENTS);
    hub.tap(tap);
    let mut notifier = Notifier {
        run_dir: folder.root().display().to_string(),
        run: folder.name(),
        command,
        alerts: Alerts::default(),
    };
    let telling = hub.clone();
    let thread = thread::Builder::new()
        .name("notify".into())
        .spawn(move || {
            let mut telling = Some(telling);
            while let Ok(event) = events.recv() {
                for message in notifier.messages(&event) {
                    if let Err(e) = notifier.tell(&message)
                        && let Some(hub) = telling.take()
                    {
                        let text = format!("notify_command cannot be started: {e}");
                        hub.message(Level::Warning, text);
                    }
                }
            }
        })?;
    Ok(thread)
}

struct Notifier {
    run: String,
    run_dir: String,
    command: Option<String>,
    alerts: Alerts,
}

/// What the command is told of.
#[derive(Debug, PartialEq)]
struct Notice {
    /// `alert`, `done`, `failed`, `stopped` or `paused`.
    what: &'static str,
    text: String,
}

impl Notifier {
    fn messages(&mut self, event: &Event) -> Vec<Notice> {
        let mut notices: Vec<Notice> = self
            .alerts
            .apply(event)
            .iter()
            .map(|alert| Notice {
                what: "alert",
                text: alert.to_string(),
            })
            .collect();
        match &event.kind {
            EventKind::ConfigChanged { changes, .. } => {
                for change in changes.iter().filter(|c| c.key == "notify_command") {
                    let command = serde_yaml::from_str::<String>(&change.new);
                    self.command = command.ok().filter(|c| c != "none");
                }
            }
            EventKind::Finished { step, .. } => notices.push(Notice {
                what: "done",
                text: format!("finished after {step} steps"),
            }),
            EventKind::Phase {
                phase: phase @ (PhaseName::Failed | PhaseName::Stopped),
                detail,
                error,
            } => notices.push(Notice {
                what: phase.as_str(),
                text: error.clone().unwrap_or_else(|| detail.clone()),
            }),
            _ => {}
        }
        notices
    }

    /// Starts the command with the notice in its environment, and waits for it elsewhere.
    fn tell(&self, notice: &Notice) -> std::io::Result<()> {
        let Some(command) = &self.command else {
            return Ok(());
        };
        let mut child = Command::new("sh")
            .args(["-c", command])
            .env("LORADECK_RUN", &self.run)
            .env("LORADECK_RUN_DIR", &self.run_dir)
            .env("LORADECK_EVENT", notice.what)
            .env("LORADECK_MESSAGE", &notice.text)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        thread::Builder::new()
            .name("notify-end".into())
            .spawn(move || child.wait())?;
        Ok(())
    }
}
