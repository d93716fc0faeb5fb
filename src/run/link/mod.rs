//! The deck's end of the wire: one API for a live run and for a finished one.

mod thread;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};

use crate::protocol::{ClientMessage, Command, Event, Query, Reply, RunState};

use super::folder::{RunFolder, host_name};
use super::start;
use thread::Worker;

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
    /// Metric events this watcher missed.
    Dropped(u64),
    /// No runner (any more). The link keeps looking for a new one.
    Disconnected {
        reason: String,
    },
}

/// A connection to a run folder. Dropping it detaches; the run goes on.
pub struct Link {
    folder: RunFolder,
    sender: String,
    shared: Arc<Shared>,
}

/// Ids are unique in this process, so that links with the same sender never mistake their acks.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An id for a command or query of this process.
pub fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// What the link's owner and its thread share.
struct Shared {
    requests: Mutex<VecDeque<Request>>,
    /// A byte written here ends the thread's wait.
    wake: UnixStream,
    closed: AtomicBool,
}

enum Request {
    Command(u64, Command),
    Query(u64, Query),
    /// The store has answered.
    Answer(u64, Reply),
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
        let folder = RunFolder::new(run_dir);
        if !folder.has_run() {
            bail!("there is no run in {}", run_dir.display());
        }
        let (wake, woken) = UnixStream::pair().context("cannot make a pair of sockets")?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            wake,
            closed: AtomicBool::new(false),
        });
        let sender = own_name();
        let worker = Worker::new(
            folder.clone(),
            sender.clone(),
            shared.clone(),
            woken,
            on_update,
        );
        std::thread::Builder::new()
            .name("link".into())
            .spawn(move || worker.run())?;
        Ok(Link {
            folder,
            sender,
            shared,
        })
    }

    /// Sends a command; its `Ack` event carries the returned id and this link's `sender()`.
    /// Without a runner an error reply comes back.
    pub fn command(&self, command: Command) -> u64 {
        let id = next_id();
        self.shared.push(Request::Command(id, command));
        id
    }

    /// Asks a query, answered by the runner, or from the run folder by the same code.
    pub fn query(&self, query: Query) -> u64 {
        let id = next_id();
        self.shared.push(Request::Query(id, query));
        id
    }

    pub fn sender(&self) -> &str {
        &self.sender
    }

    /// Starts a runner again on a run that has ended early.
    ///
    /// # Errors
    /// One is alive, the run is finished, or its config no longer passes its checks.
    pub fn start_runner(&self) -> Result<()> {
        start::again(&self.folder)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.wake();
    }
}

/// Writes a message as one line.
///
/// # Errors
/// The other end is gone.
pub fn write_line(stream: &mut UnixStream, message: &ClientMessage) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}
