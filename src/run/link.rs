//! The deck's end of the wire: one API for a live run and for a finished one.

use std::path::Path;

use anyhow::Result;

use crate::protocol::{Command, Event, Query, Reply, RunState};

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
    _private: (),
}

impl Link {
    /// Opens a run. `on_update` is called from the link's thread: first a `Snapshot` (from the
    /// runner, or folded from the run folder when none is alive), then what follows. A runner that
    /// starts later is found and connected to.
    pub fn open(run_dir: &Path, on_update: impl FnMut(Update) + Send + 'static) -> Result<Link> {
        let _ = (run_dir, on_update);
        todo!("run room")
    }
    /// Sends a command; its `Ack` event carries the returned id and this link's `sender()`.
    /// Without a runner an error reply comes back.
    pub fn command(&self, command: Command) -> u64 {
        let _ = command;
        todo!("run room")
    }
    /// Asks a query, answered by the runner, or from the run folder by the same code.
    pub fn query(&self, query: Query) -> u64 {
        let _ = query;
        todo!("run room")
    }
    pub fn sender(&self) -> &str {
        todo!("run room")
    }
    /// Starts a runner again on a run that has ended early.
    pub fn start_runner(&self) -> Result<()> {
        todo!("run room")
    }
}
