//! The runner: everything around one trainer, from the lock to the exit code.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::config::{self, LoadedConfig, RunConfig};
use crate::error::{exit_code, input_error};
use crate::printable::complain;
use crate::protocol::{EventKind, Level, PhaseName, VERSION};
use crate::train::{Control, Folders, Outcome, Reporter};

use super::control::Gate;
use super::folder::{
    Ended, InfoFile, Lock, LockError, RunFolder, RunInfo, host_name, now, write_atomically,
};
use super::hub::Hub;
use super::log::{EventLog, SEGMENT_BYTES};
use super::server::{PROGRAM, Server};
use super::start::{FirstWord, Request};
use super::store::Store;
use super::{eviction, headless, notify, provenance, sampler, signals, tensorboard, watch};

/// Deep graphs are dropped recursively.
const TRAINER_STACK: usize = 64 << 20;
/// How long decks get to receive the last events.
const FAREWELL: Duration = Duration::from_secs(2);

/// `train::train`, or a stand-in of a test.
pub type TrainFn = Box<
    dyn FnOnce(
            RunConfig,
            Option<&Path>,
            &Folders,
            &dyn Reporter,
            &Receiver<Control>,
        ) -> Result<Outcome>
        + Send,
>;

/// Where a runner's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A process of its own: stdout is a pipe to who started it, for its [`FirstWord`].
    Background,
    /// `--headless`: progress lines on stdout.
    Foreground,
}

/// Runs one run to its end and returns the exit code. In the background, errors before the socket
/// answers go to the starter as well.
pub fn run(request: Request, loaded: LoadedConfig, place: Place, train: TrainFn) -> u8 {
    let seat = match Seat::take(&request.run_dir) {
        Ok(seat) => seat,
        Err(e) => return no_start(&e, place),
    };
    match set_up(&seat, request, loaded, place) {
        Ok(mut runner) => {
            first_word(place, &FirstWord::Ready, Some(&seat.folder));
            let code = runner.train(train);
            runner.end(seat, code);
            code
        }
        Err(e) => {
            seat.hub.emit(EventKind::Phase {
                phase: PhaseName::Failed,
                detail: String::new(),
                error: Some(format!("{e:#}")),
            });
            seat.close_log();
            no_start(&e, place)
        }
    }
}

fn no_start(error: &anyhow::Error, place: Place) -> u8 {
    let (text, exit_code) = (format!("{error:#}"), exit_code(error));
    complain(&format!("loradeck: {text}"));
    let word = FirstWord::Failed {
        error: text,
        exit_code,
    };
    first_word(place, &word, None);
    exit_code
}

/// Tells the starter, then lets stdout go where stderr goes: to `runner.log`.
pub fn first_word(place: Place, word: &FirstWord, then_log_to: Option<&RunFolder>) {
    if place == Place::Foreground {
        return;
    }
    // A starter that has gone in the meantime changes nothing.
    let mut out = std::io::stdout();
    if let Ok(line) = serde_json::to_string(word) {
        let _ = writeln!(out, "{line}");
        let _ = out.flush();
    }
    if let Some(folder) = then_log_to
        && let Ok(log) = open_log(folder)
    {
        let _ = rustix::stdio::dup2_stdout(&log);
    }
}

fn open_log(folder: &RunFolder) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.runner_log())
}

/// A run's folder, locked, with its log open: from here on, whatever goes wrong is in the log.
struct Seat {
    folder: RunFolder,
    hub: Hub,
    hub_thread: JoinHandle<()>,
    /// Bytes cut off the log's end, events missing in it, and its last event.
    cut: u64,
    missing: u64,
    last_seq: u64,
    /// Last, so that it is the last to be dropped.
    lock: Lock,
}

impl Seat {
    fn take(run_dir: &Path) -> Result<Seat> {
        let folder = RunFolder::new(run_dir);
        folder.create()?;
        let lock = Lock::take(&folder).map_err(|e| match e {
            LockError::Failed(e) => e,
            LockError::Held(pid) => already_running(&folder, pid),
        })?;
        log_panics(&folder);
        let opened = EventLog::open(folder.root(), SEGMENT_BYTES)?;
        let (cut, missing, last_seq) = (opened.cut, opened.gaps.missing, opened.state.seq);
        let (hub, hub_thread) = Hub::start(opened)?;
        Ok(Seat {
            folder,
            hub,
            hub_thread,
            cut,
            missing,
            last_seq,
            lock,
        })
    }

    /// Waits until everything emitted is on disk; the lock is held until then.
    fn close_log(self) {
        self.hub.close();
        // A hub that has panicked has said so in runner.log.
        let _ = self.hub_thread.join();
    }
}

struct Runner {
    folder: RunFolder,
    config: RunConfig,
    resume: Option<PathBuf>,
    started: f64,
    hub: Hub,
    gate: Gate,
    controls: Option<Receiver<Control>>,
    server: Server,
    info: Arc<InfoFile>,
    /// Parts that must have seen the last event before the process ends.
    listeners: Vec<JoinHandle<()>>,
    /// Dropped at the end, which ends the tasks that hold the other halves.
    tasks: Vec<Sender<()>>,
    error: Option<String>,
}

/// Starts everything around the trainer.
fn set_up(seat: &Seat, request: Request, loaded: LoadedConfig, place: Place) -> Result<Runner> {
    let (folder, hub) = (seat.folder.clone(), seat.hub.clone());
    let mut listeners = Vec::new();
    if place == Place::Foreground {
        listeners.push(headless::start(&hub)?);
    }
    listeners.push(tensorboard::start(&hub, &folder)?);
    let notify_command = loaded.config.notify_command.clone();
    listeners.push(notify::start(&hub, &folder, notify_command)?);

    let config = config::to_yaml(&loaded.config);
    write_atomically(&folder.config(), config.as_bytes())?;
    let started = now();
    let info = RunInfo {
        program: PROGRAM.to_owned(),
        protocol: VERSION,
        pid: std::process::id(),
        host: host_name(),
        started,
        config_path: loaded.path.clone(),
        sets: request.sets.clone(),
        argv: request.argv.clone(),
        ..RunInfo::default()
    };
    let info = Arc::new(InfoFile::create(&folder, info)?);
    say_started(seat, &request, &loaded);

    let (gate, controls) = Gate::new(hub.clone(), loaded.config.clone());
    let store = Arc::new(Store::new(folder.clone()));
    // Before anybody can know of this process.
    let serving = Arc::new(OnceLock::new());
    handle_signals(&gate, &hub, &serving, &info, place)?;
    let moved_info = info.clone();
    let (server, socket) = Server::start(
        folder.root(),
        hub.clone(),
        gate.clone(),
        store,
        move |path| {
            // When it cannot be written now, decks find the runner after the next change.
            let _ = moved_info.update(|i| i.socket = Some(path.to_owned()));
        },
    )?;
    let _ = serving.set(server.clone());
    info.update(|i| i.socket = Some(socket))?;
    let tasks = vec![
        watch::start(&loaded, request.sets, gate.clone(), hub.clone())?,
        sampler::start(&folder, hub.clone())?,
        eviction::start(&folder, &seat.lock, hub.clone())?,
    ];
    provenance::start(&loaded, info.clone(), &hub)?;
    Ok(Runner {
        folder,
        config: loaded.config,
        resume: request.resume,
        started,
        hub,
        gate,
        controls: Some(controls),
        server,
        info,
        listeners,
        tasks,
        error: None,
    })
}

/// The first events of a runner.
fn say_started(seat: &Seat, request: &Request, loaded: &LoadedConfig) {
    let hub = &seat.hub;
    hub.emit(EventKind::Started {
        protocol: VERSION,
        program: PROGRAM.to_owned(),
        run: seat.folder.name(),
        run_dir: seat.folder.root().display().to_string(),
        pid: std::process::id(),
        config: loaded.entries.clone(),
        config_path: Some(loaded.path.display().to_string()),
    });
    if seat.cut > 0 {
        let text = format!(
            "{} bytes of a torn last line were cut off the event log",
            seat.cut
        );
        hub.message(Level::Warning, text);
    }
    if seat.missing > 0 {
        let text = format!("{} events are missing in the event log", seat.missing);
        hub.message(Level::Warning, text);
    }
    for warning in &loaded.warnings {
        hub.message(Level::Warning, warning.to_string());
    }
    if seat.last_seq > 0 && request.resume.is_none() {
        // No checkpoint to go on from: what was logged no longer counts.
        hub.emit(EventKind::Resumed {
            step: 0,
            epoch: 0.0,
            total_tokens: 0,
            checkpoint: "the start (there is no checkpoint)".to_owned(),
        });
    }
}

/// What a second runner is told.
pub fn already_running(folder: &RunFolder, pid: Option<u32>) -> anyhow::Error {
    let pid = pid.filter(|&p| p > 0).map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    );
    let path = folder.root().display();
    input_error(format!(
        "the run {path} is being trained by {pid} already; `loradeck attach {path}` opens it"
    ))
}

/// Panics go to `runner.log` in any case: on a terminal they help nobody.
fn log_panics(folder: &RunFolder) {
    if let Ok(log) = open_log(folder) {
        let log = Mutex::new(log);
        panic::set_hook(Box::new(move |info| {
            let trace = std::backtrace::Backtrace::force_capture();
            let mut log = log.lock().unwrap_or_else(|e| e.into_inner());
            let _ = writeln!(log, "{info}\n{trace}");
        }));
    }
}

/// First signal: checkpoint and end; while loading, when nothing can be lost, end at once, as a
/// read that hangs would never see the signal. Second: end at once.
fn handle_signals(
    gate: &Gate,
    hub: &Hub,
    serving: &Arc<OnceLock<Server>>,
    info: &Arc<InfoFile>,
    place: Place,
) -> Result<()> {
    let (gate, hub, serving, info) = (gate.clone(), hub.clone(), serving.clone(), info.clone());
    let asked = AtomicBool::new(false);
    signals::handle(move |number| {
        let name = if number == 2 { "SIGINT" } else { "SIGTERM" };
        let loading = hub.phase() == PhaseName::Loading;
        if !loading && !asked.swap(true, Ordering::Relaxed) {
            if gate.signal(number) {
                let again = match place {
                    Place::Foreground => " (again: end without one)",
                    Place::Background => "",
                };
                let text = format!("{name}: the run ends after a checkpoint{again}");
                hub.message(Level::Warning, text);
            }
            return;
        }
        hub.emit(EventKind::Phase {
            phase: PhaseName::Stopped,
            detail: match loading {
                true => format!("by {name} while loading"),
                false => format!("by a second {name}, without a checkpoint"),
            },
            error: None,
        });
        let code = (128 + number) as u8;
        // Ending is what counts: a full disk only loses the note.
        let _ = hub.sync();
        if let Some(server) = serving.get() {
            server.stop(Duration::from_millis(200));
        }
        record_end(&info, code, None);
        std::process::exit(code.into());
    })
}

fn record_end(info: &InfoFile, exit_code: u8, error: Option<String>) {
    let ended = info.update(|i| {
        i.socket = None;
        i.ended = Some(Ended {
            time: now(),
            exit_code,
            error,
        });
    });
    if let Err(e) = ended {
        complain(&format!("loradeck: {e:#}"));
    }
}

impl Runner {
    /// Runs the trainer on its own thread; whatever becomes of it, the log ends with a final phase.
    fn train(&mut self, train: TrainFn) -> u8 {
        let (outcome, controls) = self.run_trainer(train);
        if let Some(controls) = controls {
            self.gate.close(&controls);
        }
        // Through the hub's queue: the trainer's last events have been folded by then.
        let last = self.hub.state().unwrap_or_default();
        let ended = last.phase.is_end();
        let phase = |phase, detail: &str, error| EventKind::Phase {
            phase,
            detail: detail.to_owned(),
            error,
        };
        match outcome {
            Ok(Outcome::Done) => {
                if !ended {
                    self.hub.emit(EventKind::Finished {
                        step: last.last.step,
                        seconds: now() - self.started,
                    });
                }
                0
            }
            Ok(Outcome::Stopped) => {
                if !ended {
                    self.hub.emit(phase(PhaseName::Stopped, "", None));
                }
                0
            }
            Ok(Outcome::Signalled(number)) => {
                if !ended {
                    let detail = format!("by signal {number}");
                    self.hub.emit(phase(PhaseName::Stopped, &detail, None));
                }
                (128 + number) as u8
            }
            Err(e) => {
                let error = format!("{e:#}");
                complain(&format!("loradeck: {error}"));
                if last.phase != PhaseName::Failed {
                    let failed = phase(PhaseName::Failed, "", Some(error.clone()));
                    self.hub.emit(failed);
                }
                self.error = Some(error);
                exit_code(&e)
            }
        }
    }

    fn run_trainer(&mut self, train: TrainFn) -> (Result<Outcome>, Option<Receiver<Control>>) {
        let Some(controls) = self.controls.take() else {
            return (Err(anyhow!("the trainer has run already")), None);
        };
        let config = self.config.clone();
        let resume = self.resume.clone();
        let folders = self.folder.folders();
        let hub = self.hub.clone();
        let crashed = || {
            anyhow!(
                "the trainer crashed, which is an error of loradeck; details are in {}",
                self.folder.runner_log().display()
            )
        };
        let trainer = thread::Builder::new()
            .name("trainer".into())
            .stack_size(TRAINER_STACK)
            .spawn(move || {
                let result = panic::catch_unwind(AssertUnwindSafe(|| {
                    train(config, resume.as_deref(), &folders, &hub, &controls)
                }));
                (result, controls)
            })
            .context("cannot start the trainer's thread");
        match trainer.map(JoinHandle::join) {
            Ok(Ok((Ok(outcome), controls))) => (outcome, Some(controls)),
            Ok(Ok((Err(_), controls))) => (Err(crashed()), Some(controls)),
            Ok(Err(_)) => (Err(crashed()), None),
            Err(e) => (Err(e), None),
        }
    }

    /// Lets everything that listens see the last event, then the folder be free.
    fn end(self, seat: Seat, code: u8) {
        drop(self.tasks);
        self.hub.close();
        let _ = seat.hub_thread.join();
        // A stdout that nobody reads any more must not keep the run from ending.
        let until = Instant::now() + FAREWELL;
        while !self.listeners.iter().all(JoinHandle::is_finished) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        record_end(&self.info, code, self.error);
        self.server.stop(FAREWELL);
    }
}
