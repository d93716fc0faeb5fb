//! A run folder with a runner process whose trainer only pretends.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use loradeck::config::{self, RunConfig};
use loradeck::error::input_error;
use loradeck::protocol::{self, Event, EventKind, Level, Message, Num, PhaseName, StepMetrics};
use loradeck::run::client::Client;
use loradeck::run::folder::RunFolder;
use loradeck::run::link::{Link, Update};
use loradeck::run::runner::{self, Place};
use loradeck::run::start::Request;
use loradeck::run::status::load_state;
use loradeck::train::{Control, Folders, Outcome, Reporter};

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that must come.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub struct Run {
    pub folder: RunFolder,
    pub config_path: PathBuf,
    scratch: tempfile::TempDir,
}

pub struct Runner {
    child: Mutex<Child>,
    folder: RunFolder,
}

pub struct Output {
    pub code: i32,
    pub stdout: String,
}

impl Run {
    /// A config with `body` and a data set, in a scratch folder.
    pub fn new(body: &str) -> Run {
        let scratch = tempfile::tempdir().unwrap();
        let record = "{\"prompt\": \"p\", \"completion\": \"c\"}\n";
        fs::write(scratch.path().join("train.jsonl"), record).unwrap();
        fs::create_dir(scratch.path().join("runtime")).unwrap();
        let run = Run {
            folder: RunFolder::new(scratch.path().join("run")),
            config_path: scratch.path().join("config.yaml"),
            scratch,
        };
        fs::write(&run.config_path, run.config_text(body)).unwrap();
        run
    }

    pub fn scratch_folder(&self) -> &Path {
        self.scratch.path()
    }

    pub fn config_text(&self, body: &str) -> String {
        let folder = self.scratch.path().display();
        format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: {folder}/train.jsonl\n\
             output_dir: {folder}/run\n{body}\n"
        )
    }

    fn command(&self, mode: &str, place: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "runner_process", "--ignored", "--nocapture"])
            .env("FAKE_CONFIG", &self.config_path)
            .env("FAKE_PLACE", place)
            .env("FAKE_MODE", mode)
            .env("XDG_RUNTIME_DIR", self.scratch.path().join("runtime"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Starts a runner process whose trainer behaves as `mode` says.
    pub fn start(&self, mode: &str) -> Runner {
        let child = self
            .command(mode, "background")
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Runner {
            child: Mutex::new(child),
            folder: self.folder.clone(),
        }
    }

    pub fn start_foreground(&self, mode: &str) -> Output {
        let output = self
            .command(mode, "foreground")
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        Output {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
        }
    }

    /// Its stdout is closed after the first step's line.
    pub fn start_with_closed_stdout(&self) -> i32 {
        let mut child = self
            .command("", "foreground")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            if line.starts_with("step 1") {
                break;
            }
        }
        child.wait().unwrap().code().unwrap()
    }

    /// Every whole line of the log.
    pub fn events(&self) -> Vec<Event> {
        let mut files: Vec<_> = fs::read_dir(self.folder.root())
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
            .collect();
        files.sort();
        let mut events = Vec::new();
        for file in files {
            let text = fs::read_to_string(file).unwrap();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            events.extend(
                whole
                    .lines()
                    .map(|l| serde_json::from_str::<Event>(l).unwrap()),
            );
        }
        events
    }

    /// As the folder tells it.
    pub fn phase(&self) -> String {
        load_state(&self.folder).unwrap().phase.as_str().to_owned()
    }

    /// Steps in the log.
    pub fn steps(&self) -> usize {
        self.events()
            .iter()
            .filter(|e| matches!(e.kind, EventKind::Step(_)))
            .count()
    }
}

impl Runner {
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    pub fn kill(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits until its socket answers.
    pub fn answers(&self) {
        eventually("an answer on the socket", || {
            Client::connect(&self.folder, true)
                .and_then(|mut c| c.snapshot(PATIENCE))
                .is_ok()
        });
    }

    /// Waits for its end; the exit code, or -1 after a killing signal.
    pub fn wait(&self) -> i32 {
        let mut code = None;
        eventually("the runner's end", || {
            code = self.child.lock().unwrap().try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap_or(-1)
    }

    pub fn wait_with_stderr(&self) -> (i32, String) {
        let code = self.wait();
        let mut text = String::new();
        let mut child = self.child.lock().unwrap();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        (code, text)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A link with everything it has reported.
pub struct Updates {
    pub link: Link,
    seen: Arc<(Mutex<Vec<Update>>, Condvar)>,
}

impl Updates {
    pub fn open(folder: &RunFolder) -> Updates {
        Updates::open_slow(folder, Duration::ZERO)
    }

    /// Takes `pause` for each update.
    pub fn open_slow(folder: &RunFolder, pause: Duration) -> Updates {
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let adding = seen.clone();
        let link = Link::open(folder.root(), move |update| {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            adding.0.lock().unwrap().push(update);
            adding.1.notify_all();
        })
        .unwrap();
        Updates { link, seen }
    }

    pub fn all(&self) -> Vec<Update> {
        self.seen.0.lock().unwrap().clone()
    }

    pub fn wait_for(&self, what: &str, is: impl Fn(&Update) -> bool) {
        self.wait_for_after(0, what, is);
    }

    pub fn wait_for_after(&self, skip: usize, what: &str, is: impl Fn(&Update) -> bool) {
        let updates = self.seen.0.lock().unwrap();
        let mut looked = skip;
        let (_updates, timeout) = self
            .seen
            .1
            .wait_timeout_while(updates, PATIENCE, |u| {
                let found = u[looked.min(u.len())..].iter().any(&is);
                looked = u.len();
                !found
            })
            .unwrap();
        assert!(!timeout.timed_out(), "{what} did not come");
    }
}

/// What `Run::start` runs, in its own process.
pub fn runner_process() {
    let Ok(path) = std::env::var("FAKE_CONFIG") else {
        return;
    };
    let loaded = config::load(Path::new(&path), &[]).unwrap();
    let request = Request {
        run_dir: loaded.config.output_dir.clone(),
        config_path: loaded.path.clone(),
        sets: Vec::new(),
        resume: None,
        argv: Vec::new(),
    };
    let place = match std::env::var("FAKE_PLACE").unwrap().as_str() {
        "foreground" => Place::Foreground,
        _ => Place::Background,
    };
    let code = runner::run(request, loaded, place, Box::new(pretend));
    std::process::exit(code.into());
}

/// Obeys like a trainer, computes nothing.
fn pretend(
    mut config: RunConfig,
    _resume: Option<&Path>,
    _folders: &Folders,
    reporter: &dyn Reporter,
    controls: &Receiver<Control>,
) -> Result<Outcome> {
    let mode = std::env::var("FAKE_MODE").unwrap_or_default();
    let is = |word: &str| mode.split(' ').any(|w| w == word);
    let phase = |phase| {
        reporter.emit(EventKind::Phase {
            phase,
            detail: String::new(),
            error: None,
        });
    };
    if is("panic") {
        panic!("the fake trainer fell over");
    }
    if is("bad-input") {
        return Err(input_error("train.jsonl:3: not a record; mend it"));
    }
    if is("hung-loading") {
        std::thread::sleep(PATIENCE * 2);
    }
    if is("deaf") {
        phase(PhaseName::Training);
        std::thread::sleep(PATIENCE * 2);
    }
    let total = config.max_steps.unwrap_or(10);
    reporter.emit(EventKind::Plan {
        total_steps: total,
        steps_per_epoch: 10,
    });
    phase(PhaseName::Training);
    let mut step = 0;
    // Until someone says resume, so that a test can get ready.
    let mut paused = is("wait");
    while step < total {
        while let Ok(control) = if paused {
            controls.recv().map_err(|_| ())
        } else {
            controls.try_recv().map_err(|_| ())
        } {
            let (id, sender, command) = match control {
                Control::Signal { number } => return Ok(Outcome::Signalled(number)),
                Control::Config(edited) => {
                    config::apply_live(&mut config, &edited);
                    continue;
                }
                Control::Command {
                    id,
                    sender,
                    command,
                } => (id, sender, command),
            };
            reporter.emit(EventKind::Ack {
                id,
                sender,
                command: command.word(),
                ok: true,
                message: "done".into(),
            });
            match command {
                protocol::Command::Pause => {
                    paused = true;
                    phase(PhaseName::Paused);
                }
                protocol::Command::Resume => {
                    paused = false;
                    phase(PhaseName::Training);
                }
                protocol::Command::Stop { .. } => return Ok(Outcome::Stopped),
                _ => {}
            }
        }
        step += 1;
        let nan = is("nan");
        reporter.emit(EventKind::Step(StepMetrics {
            step,
            epoch: step as f64 / 10.0,
            loss: Num(if nan { f64::NAN } else { 1.0 / step as f64 }),
            learning_rate: config.learning_rate,
            grad_norm: Num(if nan { f64::INFINITY } else { 1.0 }),
            tokens: 100,
            total_tokens: 100 * step,
            images: 0,
            seconds: 0.001,
            peak_memory_bytes: 1 << 20,
        }));
        if !is("fast") {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    if is("linger") {
        reporter.emit(EventKind::Message(Message {
            level: Level::Info,
            text: "lingering".into(),
        }));
        std::thread::sleep(PATIENCE * 2);
    }
    Ok(Outcome::Done)
}
