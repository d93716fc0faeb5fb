//! The link's thread: follows a live runner, or the folder while there is none.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use crate::protocol::{
    ClientMessage, Event, EventKind, PhaseName, Query, Reply, RunState, ServerMessage, VERSION,
};

use super::super::folder::{RunFolder, RunInfo, live_runner};
use super::super::segments::{for_each_line, parse_event, segments};
use super::super::start;
use super::super::status::load_state;
use super::super::store::{Answer, EVENTS_LIMIT, Store, refusal};
use super::lines::{Lines, event_line};
use super::{Request, Shared, Update, clear_wake, fill_id, wait_for, write_line};

/// How often a runner is looked for while there is none.
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// For a runner's answers to hello and for writes to it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events kept back while a gap before them is being filled.
const HELD: usize = 20_000;

pub struct Worker<F> {
    folder: RunFolder,
    store: Store,
    sender: String,
    shared: Arc<Shared>,
    woken: UnixStream,
    on_update: F,
    /// Last event that was reported.
    seq: u64,
    phase: PhaseName,
    /// Number and size of the last segment when the folder was last read.
    log_size: (u32, u64),
    /// Queries that the runner has not answered yet.
    asked: BTreeMap<u64, Query>,
}

/// A connection to a live runner.
struct Connection {
    stream: UnixStream,
    lines: Lines,
    program: String,
    readonly: Option<String>,
    introduced: bool,
    /// Query that fills a gap, and the `seq` it reaches up to.
    filling: Option<(u64, u64)>,
    held: VecDeque<Box<Event>>,
}

impl<F: FnMut(Update)> Worker<F> {
    pub fn new(
        folder: RunFolder,
        sender: String,
        shared: Arc<Shared>,
        woken: UnixStream,
        on_update: F,
    ) -> Self {
        Worker {
            store: Store::new(folder.clone()),
            folder,
            sender,
            shared,
            woken,
            on_update,
            seq: 0,
            phase: PhaseName::Loading,
            log_size: (0, 0),
            asked: BTreeMap::new(),
        }
    }

    /// Until the link is dropped.
    pub fn run(mut self) {
        let mut offline = false;
        while !self.is_closed() {
            match self.connect() {
                Ok(mut connection) => {
                    offline = false;
                    let reason = self.follow(&mut connection);
                    if self.is_closed() {
                        return;
                    }
                    drop(connection);
                    if let Err(e) = reason {
                        self.go_offline(&e.to_string());
                        offline = true;
                    }
                }
                Err(reason) => {
                    if !offline {
                        self.go_offline(&reason.to_string());
                        offline = true;
                    }
                    self.wait();
                    self.serve_offline();
                    self.look_at_log();
                }
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    fn connect(&self) -> io::Result<Connection> {
        let nobody = || io::Error::new(io::ErrorKind::NotFound, "no runner is alive");
        // The copy of a run's folder names the socket of the original's runner.
        live_runner(&self.folder).ok_or_else(nobody)?;
        let info = RunInfo::read(&self.folder).ok_or_else(nobody)?;
        let socket = info.socket.ok_or_else(nobody)?;
        let mut stream = UnixStream::connect(socket).map_err(|_| nobody())?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let hello = ClientMessage::Hello {
            version: VERSION,
            sender: self.sender.clone(),
            watch: true,
            readonly: self.shared.is_readonly(),
        };
        write_line(&mut stream, &hello)?;
        Ok(Connection {
            stream,
            lines: Lines::default(),
            program: String::new(),
            readonly: None,
            introduced: false,
            filling: None,
            held: VecDeque::new(),
        })
    }

    /// Reports what a runner sends until it is gone (an error), or a new connection is wanted.
    fn follow(&mut self, connection: &mut Connection) -> io::Result<()> {
        loop {
            let (readable, woken) = wait_for(&connection.stream, &self.woken)?;
            if woken {
                clear_wake(&self.woken);
                if self.is_closed() {
                    return Ok(());
                }
                self.send_requests(connection)?;
            }
            if readable {
                let mut chunk = [0; 64 << 10];
                match retry_on_intr(|| rustix::io::read(&connection.stream, &mut chunk))? {
                    0 => return Err(io::Error::other("the runner has ended")),
                    n => connection.lines.push(&chunk[..n]),
                }
                let lines = connection.lines.take();
                for line in lines.split_inclusive(|&b| b == b'\n') {
                    if !self.take_line(connection, &line[..line.len() - 1])? {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn send_requests(&mut self, connection: &mut Connection) -> io::Result<()> {
        for request in self.shared.take() {
            let message = match request {
                Request::Answer(id, reply) => {
                    (self.on_update)(Update::Reply { id, reply });
                    continue;
                }
                Request::StartRunner(id) => {
                    self.start_runner(id);
                    continue;
                }
                Request::Started(id, result) => {
                    (self.on_update)(Update::RunnerStarted { id, result });
                    continue;
                }
                Request::Command(id, command) => match &connection.readonly {
                    Some(why) => {
                        let reply = refusal(why.clone());
                        (self.on_update)(Update::Reply { id, reply });
                        continue;
                    }
                    None => ClientMessage::Command { id, command },
                },
                Request::Query(id, query) => {
                    self.asked.insert(id, query.clone());
                    ClientMessage::Query { id, query }
                }
            };
            write_line(&mut connection.stream, &message)?;
        }
        Ok(())
    }

    /// False when only a new snapshot helps.
    fn take_line(&mut self, connection: &mut Connection, line: &[u8]) -> io::Result<bool> {
        if let Some(event) = event_line(line) {
            return self.take_event(connection, event);
        }
        match serde_json::from_slice(line) {
            Ok(ServerMessage::Hello { version, program }) => {
                connection.readonly = (version != VERSION).then(|| {
                    format!(
                        "the runner is loradeck {program} with protocol {version} and this deck \
                         speaks {VERSION}: watching only"
                    )
                });
                connection.program = program;
            }
            Ok(ServerMessage::Snapshot { state }) => self.introduce(connection, state),
            Ok(ServerMessage::Event { event }) => {
                return self.take_event(connection, event);
            }
            Ok(ServerMessage::Reply { id, reply }) => {
                if connection.filling.is_some_and(|(fill, _)| fill == id) {
                    self.take_fill(connection, reply);
                    return self.take_held(connection);
                }
                self.asked.remove(&id);
                (self.on_update)(Update::Reply { id, reply });
            }
            Ok(ServerMessage::Dropped { count }) => (self.on_update)(Update::Dropped(count)),
            // Only bridges say so.
            Ok(ServerMessage::Connected { .. } | ServerMessage::Disconnected { .. }) => {}
            // A line of another version. If it was the snapshot, the folder has the same.
            Err(_) if connection.readonly.is_some() && !connection.introduced => {
                let state = load_state(&self.folder).map_err(io::Error::other)?;
                self.introduce(connection, Box::new(state));
            }
            Err(_) => {}
        }
        Ok(true)
    }

    fn introduce(&mut self, connection: &mut Connection, state: Box<RunState>) {
        self.seq = state.seq;
        self.phase = state.phase;
        connection.introduced = true;
        (self.on_update)(Update::Snapshot(state));
        (self.on_update)(Update::Connected {
            program: connection.program.clone(),
            readonly: connection.readonly.clone(),
        });
    }

    fn take_event(&mut self, connection: &mut Connection, event: Box<Event>) -> io::Result<bool> {
        connection.held.push_back(event);
        self.take_held(connection)
    }

    /// Reports the held events in order, up to a gap, which it asks the runner to fill.
    fn take_held(&mut self, connection: &mut Connection) -> io::Result<bool> {
        while connection.filling.is_none()
            && let Some(event) = connection.held.pop_front()
        {
            if event.seq > self.seq + 1 {
                let (from, to) = (self.seq + 1, event.seq);
                if to - from > EVENTS_LIMIT as u64 {
                    return Ok(false);
                }
                let id = fill_id();
                connection.filling = Some((id, to));
                connection.held.push_front(event);
                let query = Query::Events {
                    from,
                    to,
                    limit: EVENTS_LIMIT,
                };
                write_line(&mut connection.stream, &ClientMessage::Query { id, query })?;
            } else {
                self.report(event);
            }
        }
        Ok(connection.held.len() <= HELD)
    }

    fn take_fill(&mut self, connection: &mut Connection, reply: Reply) {
        if let Reply::Events { events } = reply {
            for event in events {
                self.report(Box::new(event));
            }
        }
        if let Some((_, to)) = connection.filling.take() {
            // Whatever the log does not hold will not come any more.
            self.seq = self.seq.max(to - 1);
        }
    }

    /// Hands an event on, unless it was before.
    fn report(&mut self, event: Box<Event>) {
        if event.seq <= self.seq {
            return;
        }
        self.seq = event.seq;
        match &event.kind {
            EventKind::Started { .. } => self.phase = PhaseName::Loading,
            EventKind::Phase { phase, .. } => self.phase = *phase,
            EventKind::Finished { .. } => self.phase = PhaseName::Done,
            _ => {}
        }
        (self.on_update)(Update::Event(event));
    }

    /// Shows what the folder holds, and goes on from there.
    fn go_offline(&mut self, reason: &str) {
        let mut reason = reason.to_owned();
        self.log_size = log_size(&self.folder);
        match load_state(&self.folder) {
            Ok(state) => {
                self.seq = state.seq;
                self.phase = state.phase;
                (self.on_update)(Update::Snapshot(Box::new(state)));
            }
            Err(e) => reason = format!("{reason}; {e:#}"),
        }
        (self.on_update)(Update::Disconnected { reason });
        for (id, query) in std::mem::take(&mut self.asked) {
            self.ask_store(id, query);
        }
        self.serve_offline();
    }

    /// Waits for a request, or until it is time to look for a runner.
    fn wait(&self) {
        let mut wanted = [PollFd::new(&self.woken, PollFlags::IN)];
        // Interrupted or not: the next round looks again.
        let _ = poll(&mut wanted, Some(&LOOK_EVERY));
        clear_wake(&self.woken);
    }

    fn serve_offline(&mut self) {
        for request in self.shared.take() {
            match request {
                Request::Answer(id, reply) => (self.on_update)(Update::Reply { id, reply }),
                Request::Query(id, query) => self.ask_store(id, query),
                Request::StartRunner(id) => self.start_runner(id),
                Request::Started(id, result) => {
                    (self.on_update)(Update::RunnerStarted { id, result });
                }
                Request::Command(id, command) => {
                    // An edit needs no runner; the next one reads it.
                    let reply = match self.store.write(&command) {
                        Some(Ok(message)) => Reply::Done { message },
                        Some(Err(e)) => refusal(format!("{e:#}")),
                        None => refusal(format!("{}: no runner is alive", command.word())),
                    };
                    (self.on_update)(Update::Reply { id, reply });
                }
            }
        }
    }

    fn ask_store(&self, id: u64, query: Query) {
        let shared = self.shared.clone();
        let answer = Answer::new(move |reply| shared.push(Request::Answer(id, reply)));
        self.store.answer(query, answer);
    }

    /// Starts a runner on a thread of its own: it takes until its socket answers.
    fn start_runner(&self, id: u64) {
        let (shared, folder) = (self.shared.clone(), self.folder.clone());
        let started = std::thread::Builder::new()
            .name("start-runner".into())
            .spawn(move || {
                let result = start::again(&folder).map_err(|e| format!("{e:#}"));
                shared.push(Request::Started(id, result));
            });
        if let Err(e) = started {
            let result = Err(format!("cannot start a thread: {e}"));
            self.shared.push(Request::Started(id, result));
        }
    }

    /// Follows the log's files: the runner may be on another machine, or may have died just now.
    fn look_at_log(&mut self) {
        let size = log_size(&self.folder);
        if size != self.log_size {
            self.log_size = size;
            let mut events = Vec::new();
            // What cannot be read now is read at the next look.
            let _ = for_each_line(self.folder.root(), self.seq + 1, |_, line| {
                events.extend(parse_event(line).map(Box::new));
                std::ops::ControlFlow::Continue(())
            });
            for event in events {
                self.report(event);
            }
        }
        if !self.phase.is_end()
            && live_runner(&self.folder).is_none()
            && let Ok(state) = load_state(&self.folder)
        {
            self.phase = state.phase;
            self.seq = state.seq;
            (self.on_update)(Update::Snapshot(Box::new(state)));
        }
    }
}

fn log_size(folder: &RunFolder) -> (u32, u64) {
    let last = segments(folder.root()).ok().and_then(|mut s| s.pop());
    last.map_or((0, 0), |(number, path)| {
        (number, path.metadata().map_or(0, |m| m.len()))
    })
}
