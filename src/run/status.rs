//! Where a run stands, for `status` and for scripts.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::error::input_error;
use crate::protocol::{Num, PhaseName, RunState};

use super::client::Client;
use super::folder::{RunFolder, RunInfo, live_runner};
use super::headless::duration;
use super::segments::fold;
use super::snapshot;

/// Error of a run whose log ends in a live phase while nobody holds its lock.
pub const RUNNER_GONE: &str = "runner gone";

/// The state of a run, folded from its folder. A live phase with a free lock reads `failed`.
///
/// # Errors
/// The log cannot be read.
pub fn load_state(folder: &RunFolder) -> Result<RunState> {
    Watched::new().look(folder)
}

/// A run that is looked at again and again: only what is new in its log is read.
#[derive(Default)]
pub struct Watched {
    state: RunState,
    begun: bool,
}

impl Watched {
    pub fn new() -> Self {
        Self::default()
    }

    /// The state as it is now, as [`load_state`] has it.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn look(&mut self, folder: &RunFolder) -> Result<RunState> {
        if !self.begun || !snapshot::is_of(folder.root(), &self.state) {
            self.state = snapshot::start(folder.root());
            self.begun = true;
        }
        // Looked at first: a runner that ends in between has written its last event.
        let alive = live_runner(folder);
        fold(folder.root(), &mut self.state)?;
        Ok(with_its_runner(self.state.clone(), alive.is_some()))
    }
}

fn with_its_runner(mut state: RunState, alive: bool) -> RunState {
    if !alive && !state.phase.is_end() {
        state.phase = PhaseName::Failed;
        state.phase_detail = String::new();
        state.error = Some(RUNNER_GONE.to_owned());
    }
    state
}

/// The state of a run, from its runner or else from its folder.
///
/// # Errors
/// There is no run, or its log cannot be read.
pub fn current_state(folder: &RunFolder) -> Result<RunState> {
    if !folder.has_run() {
        bail!("there is no run in {}", folder.root().display());
    }
    if let Ok(mut client) = Client::connect(folder, true)
        && let Ok(state) = client.snapshot(Duration::from_secs(5))
    {
        return Ok(*state);
    }
    load_state(folder)
}

/// What `status --json` prints; `null` where nothing is known yet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The run's folder.
    pub run: String,
    pub phase: PhaseName,
    /// Of the live runner.
    pub pid: Option<u32>,
    pub step: u64,
    pub total_steps: Option<u64>,
    pub epoch: Option<Num>,
    pub loss: Option<Num>,
    pub eval_loss: Option<Num>,
    pub base_eval_loss: Option<Num>,
    pub learning_rate: Option<Num>,
    pub grad_norm: Option<Num>,
    /// In text runs.
    pub tokens_per_second: Option<Num>,
    /// In image runs.
    pub images_per_second: Option<Num>,
    pub eta_seconds: Option<Num>,
    pub peak_memory_bytes: Option<u64>,
    pub checkpoints: Vec<String>,
    pub exports: Vec<String>,
    pub error: Option<String>,
}

impl Status {
    /// `state` as [`current_state`] gives it.
    pub fn new(folder: &RunFolder, state: &RunState) -> Status {
        let stepped = state.last.step > 0;
        let run_dir = std::fs::canonicalize(folder.root())
            .map_or_else(|_| state.run_dir.clone(), |p| p.display().to_string());
        Status {
            run: run_dir,
            phase: state.phase,
            pid: live_runner(folder).filter(|&pid| pid > 0),
            step: state.last.step,
            total_steps: (state.total_steps > 0).then_some(state.total_steps),
            epoch: stepped.then_some(Num(state.last.epoch)),
            loss: stepped.then_some(state.last.loss),
            eval_loss: state.eval_loss().map(Num),
            base_eval_loss: state.base_eval_loss,
            learning_rate: stepped.then_some(Num(state.last.learning_rate)),
            grad_norm: stepped.then_some(state.last.grad_norm),
            tokens_per_second: state.throughput.tokens_per_second().map(Num),
            images_per_second: state.throughput.images_per_second().map(Num),
            eta_seconds: state.eta_seconds().map(Num),
            peak_memory_bytes: (state.last.peak_memory_bytes > 0)
                .then_some(state.last.peak_memory_bytes),
            checkpoints: state.checkpoints.iter().map(|c| c.path.clone()).collect(),
            exports: state.exports.iter().map(|e| e.path.clone()).collect(),
            error: state.error.clone(),
        }
    }
}

/// A compact block for a person.
pub fn human(status: &Status, state: &RunState) -> String {
    let mut lines = vec![status.run.clone()];
    let mut row = |name: &str, value: String| lines.push(format!("  {name:<14} {value}"));
    let mut phase = status.phase.as_str().to_owned();
    if !state.phase_detail.is_empty() {
        phase += &format!(" ({})", state.phase_detail);
    }
    if let Some(pid) = status.pid {
        phase += &format!(", pid {pid}");
    }
    row("phase", phase);
    if let Some(error) = &status.error {
        row("error", error.clone());
    }
    let of = status
        .total_steps
        .map_or(String::new(), |t| format!(" of {t}"));
    let epoch = status
        .epoch
        .map_or(String::new(), |e| format!(", epoch {:.2}", e.0));
    row("step", format!("{}{of}{epoch}", status.step));
    let mut numbers = |name: &str, value: Option<Num>, show: &dyn Fn(f64) -> String| {
        if let Some(value) = value {
            row(name, show(value.0));
        }
    };
    let plain = |v: f64| format!("{v:.4}");
    numbers("loss", status.loss, &plain);
    numbers("held-out loss", status.eval_loss, &plain);
    numbers("bare base", status.base_eval_loss, &plain);
    numbers("learning rate", status.learning_rate, &|v| {
        format!("{v:.3e}")
    });
    numbers("tokens/s", status.tokens_per_second, &|v| format!("{v:.0}"));
    numbers("images/s", status.images_per_second, &|v| format!("{v:.2}"));
    numbers("time left", status.eta_seconds, &duration);
    for (name, paths) in [
        ("checkpoint", status.checkpoints.last()),
        ("export", status.exports.last()),
    ] {
        if let Some(path) = paths {
            row(name, path.clone());
        }
    }
    lines.join("\n")
}

/// The runs in the folders under `parent`, newest first.
///
/// # Errors
/// The folder cannot be listed; one that does not exist has no runs.
pub fn runs_under(parent: &Path) -> Result<Vec<(RunFolder, RunInfo)>> {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => bail!("cannot list {}: {e}", parent.display()),
    };
    let mut runs: Vec<_> = entries
        .flatten()
        .map(|entry| RunFolder::new(entry.path()))
        .filter_map(|folder| RunInfo::read(&folder).map(|info| (folder, info)))
        .collect();
    runs.sort_by(|a, b| b.1.started.total_cmp(&a.1.started));
    Ok(runs)
}

/// The run that a subcommand works on: the given folder, or the newest under `./output`.
///
/// # Errors
/// There is none.
pub fn find_run(given: Option<&Path>) -> Result<RunFolder> {
    match given {
        Some(path) => {
            let folder = RunFolder::new(path);
            if !folder.has_run() {
                return Err(input_error(format!(
                    "there is no run in {} (a run's folder is its config's output_dir)",
                    path.display()
                )));
            }
            Ok(folder)
        }
        None => runs_under(Path::new("output"))?
            .into_iter()
            .next()
            .map(|(folder, _)| folder)
            .ok_or_else(|| {
                input_error(
                    "there is no run under ./output: name a run's folder, or start one with \
                     `loradeck train CONFIG`",
                )
            }),
    }
}
