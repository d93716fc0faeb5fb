//! The process that works through a queue.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::config;
use crate::printable::complain;
use crate::protocol::{Command, PhaseName, QueueState, StopMode};

use super::super::client::Client;
use super::super::folder::{Lock, LockError, RunFolder, live_runner, now};
use super::super::resume::{self, Decision, ResumeMode};
use super::super::start::{self, Request};
use super::super::status::load_state;
use super::{Entry, Queue, Stop};

/// How often the run and the queue's file are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long a run may take to answer that it stops.
const STOP_PATIENCE: Duration = Duration::from_secs(600);

/// Works through the queue of a folder of runs until nothing waits or it is stopped. A run that
/// fails takes nobody's turn but its own.
///
/// # Errors
/// Another process does so already, or the queue's file cannot be read or written.
pub fn work(folder: &Path) -> Result<()> {
    let queue = Queue::new(folder);
    let lock = match Lock::take_file(&folder.join(".queue.lock")) {
        Ok(lock) => lock,
        Err(LockError::Held(_)) => bail!("the queue in {} runs already", folder.display()),
        Err(LockError::Failed(e)) => return Err(e),
    };
    let mut lock = Some(lock);
    loop {
        let entry = queue.edit(|state| {
            let next = match state.stop {
                Some(_) => None,
                None => state
                    .entries
                    .iter()
                    .position(|e| e.state == QueueState::Running)
                    .or_else(|| {
                        let waits = |e: &Entry| e.state == QueueState::Waiting;
                        state.entries.iter().position(waits)
                    }),
            };
            let Some(at) = next else {
                // Within the change: whoever adds an entry after it finds no process, and starts one.
                state.stop = None;
                lock = None;
                return Ok(None);
            };
            // Those whose turn is over or has come stand before those that wait.
            let mut entry = state.entries.remove(at);
            let over = |e: &Entry| e.state.is_over();
            let place = state.entries.iter().take_while(|e| over(e)).count();
            entry.state = QueueState::Running;
            entry.started = entry.started.or(Some(now()));
            state.entries.insert(place, entry.clone());
            Ok(Some(entry))
        })?;
        let Some(entry) = entry else { return Ok(()) };
        complain(&format!("{}: begins", entry.config.display()));
        let (outcome, error) = match run(&queue, &entry) {
            Ok(outcome) => outcome,
            Err(e) => (QueueState::Failed, Some(format!("{e:#}"))),
        };
        complain(&format!(
            "{}: {}{}",
            entry.config.display(),
            outcome.as_str(),
            error
                .as_ref()
                .map_or(String::new(), |e| format!(": {}", e.trim_end()))
        ));
        queue.edit(|state| {
            let entry = state.entry(entry.id)?;
            entry.state = outcome;
            entry.error = error;
            entry.ended = Some(now());
            entry.skip = false;
            if outcome == QueueState::Waiting {
                (entry.started, entry.ended) = (None, None);
            }
            Ok(())
        })?;
    }
}

/// Runs one entry to its end: how it ended, and why when it failed.
fn run(queue: &Queue, entry: &Entry) -> Result<(QueueState, Option<String>)> {
    let loaded =
        config::load(&entry.config, &entry.sets).map_err(|p| config::problems_error(&p))?;
    let folder = RunFolder::new(&loaded.config.output_dir);
    // A runner that is alive was started by an earlier process of this queue, or by a person.
    let mut child = None;
    if live_runner(&folder).is_none() {
        let decision = resume::decide(&folder, &loaded.config, &ResumeMode::Auto)?;
        let Decision::Start { checkpoint, .. } = decision else {
            return Ok((QueueState::Done, None));
        };
        let request = Request {
            run_dir: folder.root().to_owned(),
            config_path: loaded.path.clone(),
            sets: entry.sets.clone(),
            resume: checkpoint,
            argv: std::env::args().collect(),
        };
        let started = start::spawn(&folder, &request)?;
        child = Some(started.map_err(|failed| anyhow!(failed.error))?);
    }
    let mut asked = None;
    loop {
        thread::sleep(LOOK_EVERY);
        if let Some(process) = &mut child
            && process.try_wait()?.is_some()
        {
            child = None;
        }
        if child.is_none() && live_runner(&folder).is_none() {
            break;
        }
        if asked.is_none() {
            asked = wish(queue, entry.id);
            if asked.is_some() {
                stop_run(&folder);
            }
        }
    }
    let state = load_state(&folder)?;
    Ok(match (asked, state.phase) {
        (_, PhaseName::Done) => (QueueState::Done, None),
        (Some(Wish::Skip), _) => (QueueState::Skipped, None),
        (Some(Wish::Stop), PhaseName::Stopped) => (QueueState::Waiting, None),
        (_, PhaseName::Stopped) => (QueueState::Stopped, None),
        _ => (QueueState::Failed, state.error),
    })
}

/// What a person wants of the run in progress.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish {
    Skip,
    Stop,
}

fn wish(queue: &Queue, id: u64) -> Option<Wish> {
    let state = queue.read().ok()?;
    if state.entries.iter().any(|e| e.id == id && e.skip) {
        return Some(Wish::Skip);
    }
    (state.stop == Some(Stop::Now)).then_some(Wish::Stop)
}

/// Asks on a thread of its own, as the answer comes after the micro-batch in progress.
fn stop_run(folder: &RunFolder) {
    let folder = folder.clone();
    let asking = thread::Builder::new().spawn(move || {
        let stop = Command::Stop {
            mode: StopMode::Save,
        };
        let answer = Client::connect(&folder, false)
            .and_then(|mut client| client.command(stop, STOP_PATIENCE, || ()));
        if let Err(e) = answer {
            complain(&format!(
                "{}: cannot be stopped: {e:#}",
                folder.root().display()
            ));
        }
    });
    if let Err(e) = asking {
        complain(&format!("cannot start a thread: {e}"));
    }
}
