//! The deck's end of the wire: one API for a live run, a finished one, one on another machine, and
//! a replay.

mod address;
mod before;
mod lines;
mod remote;
mod replay;
mod thread;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use crate::config;
use crate::protocol::{ClientMessage, Command, Event, Query, Reply, RunState};

use super::folder::{RunFolder, host_name};
use super::store::refusal;
pub use address::{SCHEME, SshAddress};
pub use lines::{Lines, event_line};
pub use replay::MAX_GAP;

/// What a link reports, on its own thread.
#[derive(Clone, Debug)]
pub enum Update {
    /// A runner answers. `readonly` says why no command is possible (another protocol version).
    Connected {
        program: String,
        readonly: Option<String>,
    },
    Snapshot(Box<RunState>),
    Event(Box<Event>),
    Reply {
        id: u64,
        reply: Reply,
    },
    /// What became of [`Link::start_runner`].
    RunnerStarted {
        id: u64,
        result: Result<(), String>,
    },
    /// Metric events this watcher missed.
    Dropped(u64),
    /// No runner (any more). The link keeps looking for a new one.
    Disconnected {
        reason: String,
    },
    /// The line to the other machine is down; what was said last may be old. The link tries again
    /// until it is up, and goes on with a `Connected` or a `Disconnected`.
    LineLost {
        reason: String,
    },
    /// No run has begun: there is its config, and its data in the snapshot that follows.
    Before,
    /// Events follow as they once came, `speed` times as fast.
    Replay {
        speed: f64,
    },
}

/// What a link is opened on.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A run's folder on this machine.
    Folder(PathBuf),
    /// A run's folder on another one, and loradeck's name there.
    Ssh {
        address: SshAddress,
        program: String,
    },
    /// The data of a run that has not begun: its config's file, and what is set over it.
    Before { config: PathBuf, sets: Vec<String> },
    /// The events of a run's folder once more, so many times as fast.
    Replay { folder: PathBuf, speed: f64 },
}

/// A connection to a run. Dropping it detaches; the run goes on.
pub struct Link {
    sender: String,
    shared: Arc<Shared>,
}

/// Ids are unique in this process, so that links with the same sender never mistake their acks.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An id for a command or query of this process.
pub fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// An id for a query of the link itself, apart from those that a bridge hands through.
fn fill_id() -> u64 {
    next_id() | 1 << 63
}

/// What the link's owner and its thread share.
struct Shared {
    requests: Mutex<VecDeque<Request>>,
    /// A byte written here ends the thread's wait.
    wake: UnixStream,
    closed: AtomicBool,
    /// Commands are refused here already, and new connections say so.
    readonly: AtomicBool,
}

enum Request {
    Command(u64, Command),
    Query(u64, Query),
    StartRunner(u64),
    /// The store has answered.
    Answer(u64, Reply),
    /// A runner was started, or could not be.
    Started(u64, Result<(), String>),
}

impl Shared {
    fn push(&self, request: Request) {
        self.requests
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push_back(request);
        self.wake();
    }

    fn wake(&self) {
        // Full means that it is about to wake up anyway.
        let _ = (&self.wake).write(&[0]);
    }

    fn take(&self) -> VecDeque<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap_or_else(|e| e.into_inner()))
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn is_readonly(&self) -> bool {
        self.readonly.load(Ordering::Relaxed)
    }

    /// What changes a run, unless this link only watches.
    fn push_change(&self, id: u64, request: Request) {
        match self.is_readonly() {
            true => self.push(Request::Answer(id, refusal("opened with --readonly"))),
            false => self.push(request),
        }
    }
}

/// `user@host pid 123`.
pub fn own_name() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "user".to_owned());
    format!("{user}@{} pid {}", host_name(), std::process::id())
}

impl Link {
    /// Opens a run. `on_update` is called from the link's thread: first a `Snapshot` (from the
    /// runner, or folded from the run folder when none is alive), then what follows. A runner that
    /// starts later is found and connected to.
    ///
    /// # Errors
    /// The folder holds no run.
    pub fn open(run_dir: &Path, on_update: impl FnMut(Update) + Send + 'static) -> Result<Link> {
        Self::open_as(run_dir, own_name(), on_update)
    }

    /// [`Link::open`] for someone else, as a bridge does.
    ///
    /// # Errors
    /// As [`Link::open`].
    pub fn open_as(
        run_dir: &Path,
        sender: String,
        on_update: impl FnMut(Update) + Send + 'static,
    ) -> Result<Link> {
        let folder = folder_of_run(run_dir)?;
        let (link, woken) = Link::new(sender.clone())?;
        let worker = thread::Worker::new(folder, sender, link.shared.clone(), woken, on_update);
        spawn(move || worker.run())?;
        Ok(link)
    }

    /// Opens a run of any place. On another machine, `ssh` may ask for a password meanwhile, so the
    /// terminal must still be as the shell left it.
    ///
    /// # Errors
    /// There is no run, or no way to it.
    pub fn open_place(
        place: &Place,
        on_update: impl FnMut(Update) + Send + 'static,
    ) -> Result<Link> {
        match place {
            Place::Folder(folder) => Link::open(folder, on_update),
            Place::Ssh { address, program } => {
                let line = remote::Line::open(address, program, &own_name(), None, true)?;
                let (link, woken) = Link::new(own_name())?;
                let worker = remote::Worker::new(
                    address.clone(),
                    program.clone(),
                    link.sender.clone(),
                    link.shared.clone(),
                    woken,
                    on_update,
                );
                spawn(move || worker.run(line))?;
                Ok(link)
            }
            Place::Before { config, sets } => {
                let loaded = config::load(config, sets).map_err(|p| config::problems_error(&p))?;
                let (link, woken) = Link::new(own_name())?;
                let (config, sets) = (config.clone(), sets.clone());
                let shared = link.shared.clone();
                let worker = before::Worker::new(config, sets, shared, woken, on_update);
                spawn(move || worker.run(loaded))?;
                Ok(link)
            }
            Place::Replay { folder, speed } => {
                let folder = folder_of_run(folder)?;
                let (link, woken) = Link::new(own_name())?;
                let worker = replay::Worker::new(link.shared.clone(), woken, *speed, on_update);
                spawn(move || worker.run(&folder))?;
                Ok(link)
            }
        }
    }

    fn new(sender: String) -> Result<(Link, UnixStream)> {
        let (wake, woken) = UnixStream::pair().context("cannot make a pair of sockets")?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            wake,
            closed: AtomicBool::new(false),
            readonly: AtomicBool::new(false),
        });
        Ok((Link { sender, shared }, woken))
    }

    /// From now on nothing can be commanded through this link.
    pub fn only_watch(&self) {
        self.shared.readonly.store(true, Ordering::Relaxed);
    }

    /// Sends a command; its `Ack` event carries the returned id and this link's `sender()`.
    /// Without a runner an error reply comes back.
    pub fn command(&self, command: Command) -> u64 {
        let id = next_id();
        self.command_as(id, command);
        id
    }

    /// [`Link::command`] with an id that is unique for the sender.
    pub fn command_as(&self, id: u64, command: Command) {
        self.shared.push_change(id, Request::Command(id, command));
    }

    /// Asks a query, answered by the runner, or from the run folder by the same code.
    pub fn query(&self, query: Query) -> u64 {
        let id = next_id();
        self.query_as(id, query);
        id
    }

    /// [`Link::query`] with an id that is unique for the sender.
    pub fn query_as(&self, id: u64, query: Query) {
        self.shared.push(Request::Query(id, query));
    }

    pub fn sender(&self) -> &str {
        &self.sender
    }

    /// Starts a runner again on a run that has ended early; [`Update::RunnerStarted`] tells what
    /// became of it.
    pub fn start_runner(&self) -> u64 {
        let id = next_id();
        self.start_runner_as(id);
        id
    }

    /// [`Link::start_runner`] with an id that is unique for the sender.
    pub fn start_runner_as(&self, id: u64) {
        self.shared.push_change(id, Request::StartRunner(id));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.wake();
    }
}

fn folder_of_run(run_dir: &Path) -> Result<RunFolder> {
    let folder = RunFolder::new(run_dir);
    if !folder.has_run() {
        bail!("there is no run in {}", run_dir.display());
    }
    Ok(folder)
}

fn spawn(body: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name("link".into())
        .spawn(body)
        .context("cannot start a thread")?;
    Ok(())
}

/// Waits until there is something to read, or the link's owner has something to say: which of them.
fn wait_for(input: &impl AsFd, woken: &UnixStream) -> io::Result<(bool, bool)> {
    let mut wanted = [
        PollFd::new(input, PollFlags::IN),
        PollFd::new(woken, PollFlags::IN),
    ];
    retry_on_intr(|| poll(&mut wanted, None))?;
    Ok((
        !wanted[0].revents().is_empty(),
        !wanted[1].revents().is_empty(),
    ))
}

/// Takes the bytes off that have ended a wait.
fn clear_wake(woken: &UnixStream) {
    let mut woken = woken;
    let mut bytes = [0; 64];
    while matches!(woken.read(&mut bytes), Ok(n) if n == bytes.len()) {}
}

/// Writes a message as one line.
///
/// # Errors
/// The other end is gone.
pub fn write_line(stream: &mut impl Write, message: &ClientMessage) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    stream.flush()
}
