//! Runs one after another: `queue.json` in a folder of runs, and a process that works through it.
//!
//! The file is everything: whoever changes the queue (the process, a deck, `loradeck queue`) does
//! so under a lock for the instant of the change, and whoever shows it reads it.

mod place;
mod worker;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::config;
use crate::error::input_error;
use crate::protocol::QueueState;

use super::folder::{append_to, write_atomically};
use super::start::program;
pub use place::place_of;
pub use worker::work;

/// How long the process may take to begin.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// A queued run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Counts from 1, never used twice.
    pub id: u64,
    /// Absolute.
    pub config: PathBuf,
    /// The `--set key=value` of the command line.
    pub sets: Vec<String>,
    /// The config's `output_dir`.
    pub run_dir: PathBuf,
    pub state: QueueState,
    /// Why it failed.
    pub error: Option<String>,
    /// Seconds since the Unix epoch.
    pub started: Option<f64>,
    pub ended: Option<f64>,
    /// A person wants it skipped while it runs.
    pub skip: bool,
}

/// How the queue is to end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Once the present run has ended.
    After,
    /// The present run stops after a checkpoint, and is the first when the queue goes on.
    Now,
}

/// What `queue.json` holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// In the order of their turns; those whose turn is over come first.
    pub entries: Vec<Entry>,
    pub stop: Option<Stop>,
    last_id: u64,
}

/// Which way an entry moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    Earlier,
    Later,
}

/// The queue of a folder of runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    folder: PathBuf,
}

impl Queue {
    /// `folder` is where its runs are usually under: `./output`.
    pub fn new(folder: impl Into<PathBuf>) -> Queue {
        Queue {
            folder: folder.into(),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self) -> PathBuf {
        self.folder.join("queue.json")
    }

    /// What the process writes to stderr.
    pub fn log(&self) -> PathBuf {
        self.folder.join("queue.log")
    }

    /// The queue as it stands; empty where there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> Result<State> {
        let path = self.file();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{} is no queue: move it away, and add the configs again",
                    path.display()
                )
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Changes the queue; nobody else does meanwhile.
    ///
    /// # Errors
    /// The change's own, and those of the file: then nothing is changed.
    pub fn edit<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        fs::create_dir_all(&self.folder).map_err(|e| {
            input_error(format!(
                "the folder {} cannot be made ({e})",
                self.folder.display()
            ))
        })?;
        let lock = open_lock(&self.folder.join(".queue.edit"))?;
        lock.lock().context("cannot lock the queue")?;
        let mut state = self.read()?;
        let before = state.clone();
        let out = change(&mut state)?;
        if state != before {
            write_atomically(&self.file(), &serde_json::to_vec_pretty(&state)?)?;
        }
        Ok(out)
    }

    /// Adds a config, which must pass its checks; returns the entry's id.
    ///
    /// # Errors
    /// The config is broken, or its run is in the queue already.
    pub fn add(&self, config_path: &Path, sets: &[String]) -> Result<u64> {
        let loaded = config::load(config_path, sets).map_err(|p| config::problems_error(&p))?;
        self.edit(|state| {
            let run_dir = loaded.config.output_dir.clone();
            if let Some(other) = state
                .entries
                .iter()
                .find(|e| !e.state.is_over() && e.run_dir == run_dir)
            {
                return Err(input_error(format!(
                    "{}: the run {} is in the queue already, with {}; give one of them another \
                     output_dir",
                    loaded.path.display(),
                    run_dir.display(),
                    other.config.display()
                )));
            }
            state.last_id += 1;
            state.entries.push(Entry {
                id: state.last_id,
                config: loaded.path.clone(),
                sets: sets.to_vec(),
                run_dir,
                ..Entry::default()
            });
            Ok(state.last_id)
        })
    }

    /// Moves a waiting entry by one place among those that wait.
    ///
    /// # Errors
    /// It does not wait, or is the first or last already.
    pub fn shift(&self, id: u64, by: Move) -> Result<()> {
        self.edit(|state| {
            let waiting: Vec<usize> = (0..state.entries.len())
                .filter(|&i| state.entries[i].state == QueueState::Waiting)
                .collect();
            let Some(at) = waiting.iter().position(|&i| state.entries[i].id == id) else {
                bail!("only what waits can be moved");
            };
            let other = match by {
                Move::Earlier => at.checked_sub(1),
                Move::Later => Some(at + 1).filter(|&o| o < waiting.len()),
            };
            let Some(other) = other else {
                bail!("it is at the end already");
            };
            state.entries.swap(waiting[at], waiting[other]);
            Ok(())
        })
    }

    /// Takes an entry's turn away: one that runs stops after a checkpoint.
    ///
    /// # Errors
    /// Its turn is over already.
    pub fn skip(&self, id: u64) -> Result<()> {
        self.edit(|state| {
            let entry = state.entry(id)?;
            match entry.state {
                QueueState::Waiting => entry.state = QueueState::Skipped,
                QueueState::Running => entry.skip = true,
                _ => bail!("its turn is over already"),
            }
            Ok(())
        })
    }

    /// Puts an entry whose turn is over at the end once more: its run goes on, or is found to be
    /// finished.
    ///
    /// # Errors
    /// Its turn is not over.
    pub fn again(&self, id: u64) -> Result<()> {
        self.edit(|state| {
            let entry = state.entry(id)?;
            if !entry.state.is_over() {
                bail!("its turn is not over yet");
            }
            let again = Entry {
                state: QueueState::Waiting,
                error: None,
                started: None,
                ended: None,
                skip: false,
                ..entry.clone()
            };
            state.entries.retain(|e| e.id != id);
            state.entries.push(again);
            Ok(())
        })
    }

    /// Forgets an entry that waits, as if it had never been added.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn forget(&self, id: u64) -> Result<()> {
        self.edit(|state| {
            let waits = |e: &Entry| e.id == id && e.state == QueueState::Waiting;
            state.entries.retain(|e| !waits(e));
            Ok(())
        })
    }

    /// Forgets the entries whose turn is over; their runs stay.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn clear(&self) -> Result<()> {
        self.edit(|state| {
            state.entries.retain(|e| !e.state.is_over());
            Ok(())
        })
    }

    /// Ends the queue before its time. What waits goes on waiting.
    ///
    /// # Errors
    /// The queue does not run.
    pub fn stop(&self, stop: Stop) -> Result<()> {
        if !self.is_alive() {
            bail!("the queue does not run");
        }
        self.edit(|state| {
            state.stop = Some(stop);
            Ok(())
        })
    }

    /// Whether a process works through it.
    pub fn is_alive(&self) -> bool {
        let Ok(lock) = File::open(self.folder.join(".queue.lock")) else {
            return false;
        };
        matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Starts the process, unless there is one or nothing waits. It lives on when this process
    /// ends.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(&self) -> Result<()> {
        let folder = fs::canonicalize(&self.folder)
            .with_context(|| format!("there is no queue in {}", self.folder.display()))?;
        // Under the edit's lock, as the process ends under it: no entry is left to nobody.
        self.edit(|state| {
            let waits = state.entries.iter().any(|e| !e.state.is_over());
            if !waits || self.is_alive() {
                // It was to end, and is now to go on.
                state.stop = None;
                return Ok(());
            }
            state.stop = None;
            let path = self.log();
            let log = append_to(&path)?;
            let mut child = Command::new(program()?)
                .arg("queue-worker")
                .arg(&folder)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .context("cannot start the queue's process")?;
            // Until it can be seen to be alive: who looks after this must not take it for ended.
            let until = Instant::now() + START_PATIENCE;
            while !self.is_alive() {
                if let Some(status) = child.try_wait()? {
                    bail!(
                        "the queue's process ended at once ({status}); {} may say why",
                        path.display()
                    );
                }
                if Instant::now() > until {
                    bail!(
                        "the queue's process does not answer; see {}",
                        path.display()
                    );
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            // Its end is collected, so that it does not stay as a zombie of this process.
            std::thread::Builder::new()
                .name("queue-end".into())
                .spawn(move || child.wait())?;
            Ok(())
        })
    }
}

impl State {
    fn entry(&mut self, id: u64) -> Result<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|e| e.id == id)
            .with_context(|| format!("there is no entry {id} in the queue any more"))
    }
}

fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path, name: &str) -> PathBuf {
        let data = folder.join("train.jsonl");
        fs::write(&data, "{\"prompt\": \"p\", \"completion\": \"c\"}\n").unwrap();
        let path = folder.join(format!("{name}.yaml"));
        let text = format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: {}\noutput_dir: {}\n",
            data.display(),
            folder.join("output").join(name).display()
        );
        fs::write(&path, text).unwrap();
        path
    }

    fn order(queue: &Queue) -> Vec<String> {
        let name = |e: &Entry| e.config.file_stem().unwrap().to_str().unwrap().to_owned();
        queue.read().unwrap().entries.iter().map(name).collect()
    }

    #[test]
    fn what_waits_can_be_moved_and_skipped_and_what_is_over_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::new(folder.path().join("output"));
        let ids: Vec<u64> = ["a", "b", "c"]
            .iter()
            .map(|n| queue.add(&config(folder.path(), n), &[]).unwrap())
            .collect();
        queue.shift(ids[2], Move::Earlier).unwrap();
        queue.shift(ids[0], Move::Later).unwrap();
        assert_eq!(order(&queue), ["c", "a", "b"]);
        assert!(queue.shift(ids[2], Move::Earlier).is_err());
        queue
            .edit(|s| {
                s.entry(ids[2])?.state = QueueState::Done;
                Ok(())
            })
            .unwrap();
        assert!(queue.shift(ids[2], Move::Later).is_err());
        assert!(queue.shift(ids[0], Move::Earlier).is_err());
        queue.skip(ids[0]).unwrap();
        assert!(queue.skip(ids[0]).is_err());
        queue.again(ids[0]).unwrap();
        assert_eq!(order(&queue), ["c", "b", "a"]);
        queue.clear().unwrap();
        assert_eq!(order(&queue), ["b", "a"]);
        assert!(!queue.is_alive());
        assert!(queue.stop(Stop::Now).is_err());
    }

    #[test]
    fn a_broken_config_and_a_second_one_for_the_same_run_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::new(folder.path().join("output"));
        let a = config(folder.path(), "a");
        queue.add(&a, &[]).unwrap();
        let again = queue.add(&a, &[]).unwrap_err().to_string();
        assert!(again.contains("in the queue already"), "{again}");
        let broken = folder.path().join("broken.yaml");
        fs::write(&broken, "lora_r: 8\n").unwrap();
        let error = queue.add(&broken, &[]).unwrap_err();
        assert_eq!(crate::error::exit_code(&error), 2);
        assert_eq!(order(&queue), ["a"]);
    }
}
