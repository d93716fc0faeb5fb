//! A run's folder: what lies where, `run.json`, and the lock that says whether a runner is alive.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::error::input_error;
use crate::train::Folders;

/// Paths inside a run's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// `root` is taken as it is; nothing is created.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        RunFolder { root: root.into() }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Last part of the folder's path.
    pub fn name(&self) -> String {
        let root = fs::canonicalize(&self.root).unwrap_or_else(|_| self.root.clone());
        root.file_name().map_or_else(
            || root.display().to_string(),
            |n| n.to_string_lossy().into_owned(),
        )
    }
    /// The config as run: complete, every path absolute.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.yaml")
    }
    pub fn info(&self) -> PathBuf {
        self.root.join("run.json")
    }
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
    pub fn request(&self) -> PathBuf {
        self.root.join("request.json")
    }
    pub fn runner_log(&self) -> PathBuf {
        self.root.join("runner.log")
    }
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("logs")
    }
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }
    /// Where the trainer writes.
    pub fn folders(&self) -> Folders {
        Folders {
            checkpoints: self.checkpoints(),
            samples: self.root.join("samples"),
            exports: self.root.join("exports"),
        }
    }
    /// Whether a run was ever started here.
    pub fn has_run(&self) -> bool {
        self.info().is_file() || self.root.join("events.000001.jsonl").is_file()
    }
    /// Creates the folder and those in it.
    ///
    /// # Errors
    /// One of them cannot be made or written into.
    pub fn create(&self) -> Result<()> {
        let folders = self.folders();
        for folder in [
            &self.root,
            &folders.checkpoints,
            &folders.samples,
            &folders.exports,
            &self.tensorboard(),
        ] {
            fs::create_dir_all(folder).map_err(|e| {
                input_error(format!(
                    "output_dir: the folder {} cannot be made ({e}); write another `output_dir`, or \
                     mend its permissions",
                    folder.display()
                ))
            })?;
        }
        Ok(())
    }
}

/// What `run.json` tells about the present (or last) runner.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInfo {
    /// loradeck's version and the protocol's.
    pub program: String,
    pub protocol: u32,
    pub pid: u32,
    pub host: String,
    /// Seconds since the Unix epoch.
    pub started: f64,
    /// Control socket of the live runner.
    pub socket: Option<PathBuf>,
    pub config_path: PathBuf,
    /// The `--set key=value` of the command line.
    pub sets: Vec<String>,
    pub argv: Vec<String>,
    /// Commit of the folder the config lies in; `-dirty` when it has changes.
    pub git_revision: Option<String>,
    pub device: Option<String>,
    /// blake3 of the base's and the data's files, by path.
    pub hashes: BTreeMap<String, String>,
    pub ended: Option<Ended>,
}

/// How the last runner ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub time: f64,
    pub exit_code: u8,
    pub error: Option<String>,
}

impl RunInfo {
    /// Reads `run.json`; `None` where there is none, or none that can be read.
    pub fn read(folder: &RunFolder) -> Option<RunInfo> {
        serde_json::from_slice(&fs::read(folder.info()).ok()?).ok()
    }
}

/// `run.json` as kept by the runner: changed in memory, written whole beside it and renamed.
pub struct InfoFile {
    path: PathBuf,
    info: Mutex<RunInfo>,
}

impl InfoFile {
    /// Writes `info` at once.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(folder: &RunFolder, info: RunInfo) -> Result<Self> {
        let file = InfoFile {
            path: folder.info(),
            info: Mutex::new(info),
        };
        file.update(|_| ())?;
        Ok(file)
    }

    /// Changes what the file says.
    ///
    /// # Errors
    /// The file cannot be written; the change stays in memory and is written with the next one.
    pub fn update(&self, change: impl FnOnce(&mut RunInfo)) -> Result<()> {
        let mut info = self.info.lock().unwrap_or_else(|e| e.into_inner());
        change(&mut info);
        write_atomically(&self.path, &serde_json::to_vec_pretty(&*info)?)
    }
}

/// Replaces a small file in one step.
///
/// # Errors
/// The folder cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The runner's hold on its folder; free again when dropped, or when the process is gone.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// A runner is alive; its pid where the lock file tells it.
    Held(Option<u32>),
    Failed(anyhow::Error),
}

/// Someone who only looks whether the lock is free holds it for an instant: try again this long.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);

impl Lock {
    /// Takes the lock and writes this process's pid into the file. A file left behind by a runner
    /// that is gone is no obstacle: the operating system has freed its lock.
    pub fn take(folder: &RunFolder) -> Result<Lock, LockError> {
        Self::take_file(&folder.lock())
    }

    /// [`Lock::take`] for a lock file anywhere.
    pub fn take_file(path: &Path) -> Result<Lock, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| LockError::Failed(anyhow!("cannot open {}: {e}", path.display())))?;
        let since = std::time::Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if since.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => return Err(LockError::Held(lock_pid(path))),
                Err(TryLockError::Error(e)) => {
                    return Err(LockError::Failed(anyhow!(
                        "cannot lock {} ({e}): the run folder must lie on a file system with locks",
                        path.display()
                    )));
                }
            }
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        written.map_err(|e| LockError::Failed(anyhow!("cannot write {}: {e}", path.display())))?;
        Ok(Lock { file })
    }

    /// Device and number of the lock's file: it stays the same when the folder is moved, and what
    /// then lies at the folder's path is another.
    ///
    /// # Errors
    /// The file system does not tell.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let found = self.file.metadata().context("cannot look at the lock")?;
        Ok((found.dev(), found.ino()))
    }
}

fn lock_pid(path: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a runner holds the folder's lock, with its pid.
pub fn live_runner(folder: &RunFolder) -> Option<u32> {
    let file = File::open(folder.lock()).ok()?;
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = file.unlock();
            None
        }
        Err(TryLockError::WouldBlock) => Some(lock_pid(&folder.lock()).unwrap_or(0)),
        Err(TryLockError::Error(_)) => None,
    }
}

/// Seconds since the Unix epoch.
pub fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

/// This machine's name.
pub fn host_name() -> String {
    sysinfo::System::host_name().unwrap_or_else(|_| "localhost".to_owned())
}

/// Opens a log that processes of loradeck write their stderr to, at its end.
///
/// # Errors
/// It cannot be made or opened.
pub fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}
