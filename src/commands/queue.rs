//! `loradeck queue`: runs one after another.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;

use super::{fetch, home};
use crate::cli::{QueueArgs, QueueWorkerArgs};
use crate::error::input_error;
use crate::printable::{complain, say};
use crate::protocol::QueueState;
use crate::run::logind;
use crate::run::queue::{self, Entry, Queue};
use crate::ui::home::Open;

/// How often a queue without a deck is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub fn run(args: QueueArgs) -> Result<u8> {
    let queue = Queue::new(&args.runs);
    // All or none: a mistake in the third config is told before the first has run a day.
    let mut ids = Vec::new();
    for config in &args.configs {
        fetch::named_in(config, &args.sets)?;
    }
    for config in &args.configs {
        match queue.add(config, &args.sets) {
            Ok(id) => ids.push(id),
            Err(e) => {
                for id in ids {
                    queue.forget(id)?;
                }
                return Err(e);
            }
        }
    }
    if queue.read()?.entries.is_empty() {
        return Err(input_error(format!(
            "nothing is queued in {}: name configs, `loradeck queue a.yaml b.yaml`",
            args.runs.display()
        )));
    }
    queue.start()?;
    if let Some(warning) = logind::kills_user_processes() {
        complain(&format!("warning: {warning}"));
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if args.detach {
        say(&format!(
            "{} in the queue; `loradeck queue` shows it",
            count(ids.len())
        ));
        return Ok(0);
    }
    if terminal {
        return home::open(args.runs, args.look, Open::Queue);
    }
    follow(&queue, &ids)
}

fn count(n: usize) -> String {
    match n {
        1 => "1 run is".to_owned(),
        n => format!("{n} runs are"),
    }
}

/// Prints every change until the queue has ended: 1 when a run has failed.
fn follow(queue: &Queue, ids: &[u64]) -> Result<u8> {
    let mut told: Vec<(u64, QueueState)> = Vec::new();
    loop {
        let alive = queue.is_alive();
        let state = queue.read()?;
        for entry in &state.entries {
            let ours = ids.is_empty() || ids.contains(&entry.id);
            if ours && !told.contains(&(entry.id, entry.state)) {
                told.push((entry.id, entry.state));
                say(&line(entry));
            }
        }
        if !alive {
            let failed = |e: &Entry| {
                e.state == QueueState::Failed && (ids.is_empty() || ids.contains(&e.id))
            };
            return Ok(u8::from(state.entries.iter().any(failed)));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn line(entry: &Entry) -> String {
    let error = entry.error.as_deref().map_or(String::new(), |e| {
        format!(": {}", e.lines().next().unwrap_or_default())
    });
    format!(
        "{}: {}{error}",
        entry.config.display(),
        entry.state.as_str()
    )
}

/// The process that works through a queue.
pub fn work(args: QueueWorkerArgs) -> Result<u8> {
    // Fails only for a leader of a process group, which has a session of its own already.
    let _ = rustix::process::setsid();
    ignore_hangup();
    queue::work(&args.folder)?;
    Ok(0)
}

/// Losing the terminal ends neither the queue nor its runs.
fn ignore_hangup() {
    let started = std::thread::Builder::new().spawn(|| {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        if let Ok(runtime) = runtime {
            runtime.block_on(async {
                if let Ok(mut hangup) = signal(SignalKind::hangup()) {
                    while hangup.recv().await.is_some() {}
                }
            });
        }
    });
    if let Err(e) = started {
        complain(&format!("a hang-up would end the queue: {e}"));
    }
}
