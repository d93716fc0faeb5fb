//! The desk that home asks: runs, checks and queue as the rest of the house has them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, anyhow, bail};

use super::super::check::examine::{self, Report};
use super::advice::{Scratch, advise};
use super::places;
use crate::config;
use crate::error::input_error;
use crate::protocol::{RunCurves, RunState, Series, Severity};
use crate::run::folder::{Lock, LockError, RunFolder, RunInfo, live_runner};
use crate::run::queue::{Entry, Move, Queue, Stop};
use crate::run::resume::{self, Decision, ResumeMode};
use crate::run::start::{self, Request};
use crate::run::status::{Watched, runs_under};
use crate::ui::home::desk::{
    Checked, ComparedRun, Comparison, ConfigLine, Deed, Desk, Facts, Finding, Fit, Memory, Outcome,
    Overview, QueueLine, Rows, RunLine, Suggestion,
};

/// Values of a curve in a run's line.
const CURVE: usize = 64;
const CONFIGS: &str = "configs";

/// Answers home's questions about a folder of runs and `./configs`.
pub struct House {
    runs: PathBuf,
    queue: Queue,
    /// What is known of each run, so that only what is new in its log is read.
    watched: Mutex<HashMap<PathBuf, Watched>>,
}

impl House {
    pub fn new(runs: &Path) -> House {
        House {
            runs: runs.to_owned(),
            queue: Queue::new(runs),
            watched: Mutex::default(),
        }
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<PathBuf, Watched>> {
        self.watched.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn state(&self, folder: &RunFolder) -> Result<RunState> {
        let mut watched = self.watched();
        watched
            .entry(folder.root().to_owned())
            .or_default()
            .look(folder)
    }

    fn overview(&self) -> Result<Overview> {
        let mut runs = Vec::new();
        for (folder, info) in runs_under(&self.runs)? {
            // One that was deleted just now, or is damaged, is left out rather than all.
            if let Ok(state) = self.state(&folder) {
                runs.push(run_line(&folder, &info, &state));
            }
        }
        let queue = self.queue.read()?;
        Ok(Overview {
            folder: self.runs.display().to_string(),
            runs,
            configs: places::configs(Path::new(CONFIGS))
                .into_iter()
                .map(|path| ConfigLine {
                    stamp: stamp(&path),
                    path,
                })
                .collect(),
            queue: queue.entries.into_iter().map(queue_line).collect(),
            queue_runs: self.queue.is_alive(),
            queue_ends: queue.stop.is_some(),
        })
    }

    fn do_it(&self, deed: &Deed) -> Result<Outcome> {
        match deed {
            Deed::Start(config) => return start(config).map(Outcome::Started),
            Deed::Delete(run) => self.delete(run)?,
            Deed::Queue(config) => {
                self.queue.add(config, &[])?;
                self.queue.start()?;
            }
            Deed::Shift { entry, earlier } => {
                let by = if *earlier { Move::Earlier } else { Move::Later };
                self.queue.shift(*entry, by)?;
            }
            Deed::Skip(entry) => self.queue.skip(*entry)?,
            Deed::Again(entry) => {
                self.queue.again(*entry)?;
                self.queue.start()?;
            }
            Deed::StartQueue => self.queue.start()?,
            Deed::StopQueue { now } => {
                self.queue
                    .stop(if *now { Stop::Now } else { Stop::After })?;
            }
            Deed::ClearQueue => self.queue.clear()?,
            Deed::Write { path, text } => write_new(path, text)?,
        }
        Ok(Outcome::Done)
    }

    /// Deletes a run's folder, unless a runner holds it.
    fn delete(&self, run: &Path) -> Result<()> {
        let folder = RunFolder::new(run);
        if !folder.has_run() {
            bail!("there is no run in {}", run.display());
        }
        let lock = Lock::take(&folder).map_err(|e| match e {
            LockError::Held(_) => anyhow!("its runner is alive: stop the run first"),
            LockError::Failed(e) => e,
        })?;
        fs::remove_dir_all(run).with_context(|| format!("cannot delete {}", run.display()))?;
        drop(lock);
        self.watched().remove(run);
        Ok(())
    }

    fn side_by_side(&self, runs: &[PathBuf]) -> Result<Comparison> {
        let mut compared = Vec::new();
        let mut configs: Vec<Vec<(String, String)>> = Vec::new();
        for run in runs {
            let folder = RunFolder::new(run);
            let state = self.state(&folder)?;
            let info = RunInfo::read(&folder).unwrap_or_default();
            let entries = state.config.iter();
            configs.push(entries.map(|e| (e.key.clone(), e.value.clone())).collect());
            compared.push(ComparedRun {
                name: folder.name(),
                curves: RunCurves::of(&state),
                last_loss: (state.last.step > 0).then_some(state.last.loss.0),
                eval: state.eval_loss(),
                tokens_per_second: state.throughput.tokens_per_second(),
                seconds: state.time - state.first_started,
                peak_memory: state.last.peak_memory_bytes,
                revision: info.git_revision,
                program: state.program.clone(),
            });
        }
        Ok(Comparison {
            keys: differences(&configs),
            runs: compared,
        })
    }
}

/// The keys whose values are not the same everywhere, in their order.
fn differences(configs: &[Vec<(String, String)>]) -> Vec<(String, Vec<Option<String>>)> {
    let mut keys: Vec<&String> = Vec::new();
    for (key, _) in configs.iter().flatten() {
        // Where a run lies differs always.
        if !keys.contains(&key) && key != "output_dir" {
            keys.push(key);
        }
    }
    keys.into_iter()
        .map(|key| {
            let value = |config: &Vec<(String, String)>| {
                let found = config.iter().find(|(k, _)| k == key);
                found.map(|(_, v)| v.clone())
            };
            (key.clone(), configs.iter().map(value).collect::<Vec<_>>())
        })
        .filter(|(_, values)| values.windows(2).any(|w| w[0] != w[1]))
        .collect()
}

impl Desk for House {
    fn look(&self) -> Result<Overview, String> {
        self.overview().map_err(told)
    }

    fn check(&self, config: &Path) -> Checked {
        checked(examine::examine(config, &[]))
    }

    fn check_text(&self, text: &str) -> Checked {
        match Scratch::new(text) {
            Ok(scratch) => checked(examine::examine(scratch.path(), &[])),
            Err(e) => Checked {
                errors: vec![Finding {
                    text: told(e),
                    ..Finding::default()
                }],
                ..Checked::default()
            },
        }
    }

    fn suggest(&self, base: &str, data: &str) -> Result<Suggestion, String> {
        advise(base, data).map_err(told)
    }

    fn compare(&self, runs: &[PathBuf]) -> Result<Comparison, String> {
        self.side_by_side(runs).map_err(told)
    }

    fn act(&self, deed: &Deed) -> Result<Outcome, String> {
        self.do_it(deed).map_err(told)
    }
}

fn told(error: anyhow::Error) -> String {
    format!("{error:#}")
}

/// Changes whenever the file does.
fn stamp(path: &Path) -> u64 {
    let Ok(found) = fs::metadata(path) else {
        return 0;
    };
    let modified = found.modified().ok();
    let since = modified.and_then(|m| m.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |s| s.as_nanos() as u64) ^ found.len()
}

fn run_line(folder: &RunFolder, info: &RunInfo, state: &RunState) -> RunLine {
    let value = |key: &str| {
        let found = state.config.iter().find(|e| e.key == key);
        let text = found.map_or("", |e| e.value.as_str());
        text.trim_matches(['"', '\'']).to_owned()
    };
    RunLine {
        folder: folder.root().to_owned(),
        name: folder.name(),
        phase: state.phase,
        alive: live_runner(folder).is_some(),
        step: state.last.step,
        total_steps: state.total_steps,
        loss: (state.last.step > 0).then_some(state.last.loss.0),
        eval: state.eval_loss(),
        curve: curve(&state.loss),
        started: state.first_started,
        changed: state.time,
        error: state.error.clone(),
        base: value("base_model"),
        data: value("train_data_dir"),
        config: Some(info.config_path.clone()).filter(|p| p.is_file()),
        revision: info.git_revision.clone(),
        exports: state.exports.iter().map(|e| e.path.clone()).collect(),
    }
}

/// The means of equal shares of a series' buckets.
fn curve(series: &Series) -> Vec<f64> {
    let buckets = series.buckets();
    let n = buckets.len().min(CURVE);
    (0..n)
        .map(|i| {
            let part = &buckets[i * buckets.len() / n..(i + 1) * buckets.len() / n];
            let count: u64 = part.iter().map(|b| b.count).sum();
            part.iter().map(|b| b.sum).sum::<f64>() / count.max(1) as f64
        })
        .collect()
}

fn queue_line(entry: Entry) -> QueueLine {
    QueueLine {
        id: entry.id,
        state: entry.state,
        config: entry.config,
        run_dir: entry.run_dir,
        error: entry.error,
        started: entry.started,
        ended: entry.ended,
    }
}

/// Starts a config's run in a process of its own, or finds it alive; returns its folder.
fn start(config_path: &Path) -> Result<PathBuf> {
    let loaded = config::load(config_path, &[]).map_err(|p| config::problems_error(&p))?;
    let folder = RunFolder::new(&loaded.config.output_dir);
    let run = folder.root().to_owned();
    if live_runner(&folder).is_some() {
        return Ok(run);
    }
    let checkpoint = match resume::decide(&folder, &loaded.config, &ResumeMode::Auto)? {
        Decision::Finished(sentence) => bail!(sentence),
        Decision::Start { checkpoint, .. } => checkpoint,
    };
    let request = Request {
        run_dir: run.clone(),
        config_path: loaded.path.clone(),
        sets: Vec::new(),
        resume: checkpoint,
        argv: std::env::args().collect(),
    };
    let mut child = start::spawn(&folder, &request)?.map_err(|failed| anyhow!(failed.error))?;
    // Its end is collected, so that it does not stay as a zombie of this process.
    std::thread::Builder::new()
        .name("runner-end".into())
        .spawn(move || child.wait())?;
    Ok(run)
}

/// Writes a config where there is none yet.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn write_new(path: &Path, text: &str) -> Result<()> {
    let writing = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::AlreadyExists => input_error(format!(
            "{} exists already: choose another name",
            path.display()
        )),
        _ => input_error(format!("{} cannot be written: {e}", path.display())),
    };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(writing)?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(writing)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(writing)
}

fn checked(report: Report) -> Checked {
    let finding = |p: &config::Problem| Finding {
        line: p.line,
        key: p.key.clone(),
        text: p.message.clone(),
        fix: p.fix.clone(),
    };
    let of_data = |severity: Severity| {
        let found = report
            .findings()
            .iter()
            .filter(move |f| f.severity == severity);
        found.map(|found| Finding {
            line: 0,
            key: "train_data_dir".into(),
            text: found.line(),
            fix: found.remedy.clone(),
        })
    };
    let errors = report.problems.iter().map(finding);
    let warnings = report.warnings.iter().map(finding);
    Checked {
        errors: errors.chain(of_data(Severity::Wrong)).collect(),
        warnings: warnings.chain(of_data(Severity::Warning)).collect(),
        facts: facts(&report),
    }
}

fn facts(report: &Report) -> Option<Facts> {
    let data = report.data.as_ref()?;
    let (base, base_parameters) = match (&report.base, &report.image_base) {
        (Some(base), _) => (base.config.architecture.clone(), base.parameters),
        (None, Some(base)) => (base.kind.name().to_owned(), base.parameters),
        (None, None) => return None,
    };
    let loaded = report.loaded.as_ref()?;
    let fit = |f: examine::Fit| match f {
        examine::Fit::Safe => Fit::Safe,
        examine::Fit::Tight => Fit::Tight,
        examine::Fit::Exceeds => Fit::Exceeds,
    };
    let memory = report.memory.as_ref().map(|memory| {
        let part = memory.estimate;
        let own = loaded.config.batch_size as u64;
        let others = [own / 2, own * 2, own * 4];
        Memory {
            weights: part.weights,
            adapter: part.adapter,
            optimizer: part.optimizer,
            activations: part.activations,
            logits: part.logits,
            pictures: part.pictures,
            available: memory.available,
            fit: memory.fit().map(fit),
            rows: match memory.rows {
                examine::Rows::Tokens(tokens) => Rows::Tokens(tokens as u64),
                examine::Rows::Pixels(width, height) => Rows::Pixels(width, height),
            },
            batches: others
                .into_iter()
                .filter(|&n| n > 0)
                .filter_map(|n| {
                    let other = report.memory_with_batch(n as usize)?;
                    Some((n, other.estimate.total(), other.fit().map(fit)))
                })
                .collect(),
        }
    });
    Some(Facts {
        run_dir: loaded.config.output_dir.clone(),
        base,
        base_parameters,
        adapter_parameters: report.adapter.as_ref().map_or(0, |a| a.parameters),
        records: data.statistics.train_records + data.statistics.eval_records,
        steps: report.plan.map_or(0, |p| p.total_steps),
        memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_with_different_values_are_told_and_a_missing_one_differs() {
        let config = |pairs: &[(&str, &str)]| {
            let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
            pairs.iter().map(own).collect::<Vec<_>>()
        };
        let found = differences(&[
            config(&[("lora_rank", "8"), ("epochs", "3"), ("output_dir", "a")]),
            config(&[
                ("lora_rank", "16"),
                ("epochs", "3"),
                ("output_dir", "b"),
                ("use_rslora", "true"),
            ]),
        ]);
        let some = |v: &str| Some(v.to_owned());
        assert_eq!(
            found,
            [
                ("lora_rank".to_owned(), vec![some("8"), some("16")]),
                ("use_rslora".to_owned(), vec![None, some("true")]),
            ]
        );
    }

    #[test]
    fn a_curve_keeps_its_ends_whatever_its_length() {
        let mut series = Series::default();
        for step in 1..=1000u64 {
            series.push(step, step as f64);
        }
        let short = curve(&series);
        assert_eq!(short.len(), CURVE);
        assert!(short[0] < 20.0 && short[CURVE - 1] > 980.0);
        assert!(curve(&Series::default()).is_empty());
    }
}
