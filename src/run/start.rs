//! Starting the runner process, and the request it is started with.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::config;
use crate::error::input_error;

use super::folder::{RunFolder, RunInfo, append_to, write_atomically};
use super::resume::{self, Decision, ResumeMode};

/// What a runner is asked to do: `request.json` in the run's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub run_dir: PathBuf,
    pub config_path: PathBuf,
    pub sets: Vec<String>,
    /// A checkpoint's folder to go on from.
    pub resume: Option<PathBuf>,
    /// The command line it began with.
    pub argv: Vec<String>,
}

impl Request {
    /// # Errors
    /// There is no such file, or it is no request.
    pub fn read(path: &Path) -> Result<Request> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .map_err(|e| input_error(format!("{} is not a request: {e}", path.display())))
    }

    /// # Errors
    /// The run's folder cannot be written.
    pub fn write(&self, folder: &RunFolder) -> Result<()> {
        write_atomically(&folder.request(), &serde_json::to_vec_pretty(self)?)
    }
}

/// The one line that a runner writes to who started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstWord {
    /// The socket answers.
    Ready,
    Failed {
        error: String,
        exit_code: u8,
    },
}

/// A runner that could not start: its sentence and exit code.
#[derive(Debug)]
pub struct StartFailed {
    pub error: String,
    pub exit_code: u8,
}

/// Starts a runner process and waits until its socket answers. It lives on when this process ends.
///
/// # Errors
/// `Err` when no process could be started, `Ok(Err(..))` when the runner says why it cannot run.
pub fn spawn(folder: &RunFolder, request: &Request) -> Result<Result<Child, StartFailed>> {
    folder.create()?;
    request.write(folder)?;
    let path = folder.runner_log();
    let log = append_to(&path)?;
    let mut child = Command::new(program()?)
        .arg("runner")
        .arg(folder.request())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the runner process")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        // An end of file says as much as an error.
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    match serde_json::from_str(&line) {
        Ok(FirstWord::Ready) => Ok(Ok(child)),
        Ok(FirstWord::Failed { error, exit_code }) => {
            let _ = child.wait();
            Ok(Err(StartFailed { error, exit_code }))
        }
        Err(_) => {
            let status = child.wait().context("the runner process is gone")?;
            Err(anyhow!(
                "the runner ended before it answered ({status}); {} may say why",
                path.display()
            ))
        }
    }
}

/// This program's file; where it was replaced since the start, still the one that runs.
pub(super) fn program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find this program's file")?;
    let running = Path::new("/proc/self/exe");
    Ok(if !path.exists() && running.exists() {
        running.to_owned()
    } else {
        path
    })
}

/// Starts a runner again on a run that has ended early, with the config file it was started with.
///
/// # Errors
/// One is alive, the run is finished, or its config no longer passes its checks.
pub fn again(folder: &RunFolder) -> Result<()> {
    let info = RunInfo::read(folder)
        .ok_or_else(|| anyhow!("{} holds no run.json", folder.root().display()))?;
    let loaded = config::load(&info.config_path, &info.sets)
        .map_err(|problems| anyhow!(sentences(&problems)))?;
    let checkpoint = match resume::decide(folder, &loaded.config, &ResumeMode::Auto)? {
        Decision::Finished(sentence) => bail!(sentence),
        Decision::Start { checkpoint, .. } => checkpoint,
    };
    let run_dir = fs::canonicalize(folder.root())
        .with_context(|| format!("cannot find {}", folder.root().display()))?;
    let folder = &RunFolder::new(&run_dir);
    let request = Request {
        run_dir,
        config_path: info.config_path,
        sets: info.sets,
        resume: checkpoint,
        argv: info.argv,
    };
    let mut child = spawn(folder, &request)?.map_err(|failed| anyhow!(failed.error))?;
    // Its end is collected, so that it does not stay as a zombie of this process.
    thread::Builder::new()
        .name("runner-end".into())
        .spawn(move || child.wait())?;
    Ok(())
}

fn sentences(problems: &[config::Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
