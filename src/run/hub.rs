//! The one thread that numbers events, writes them to the log, folds them and hands them on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::printable::complain;
use crate::protocol::{Event, EventKind, Level, Message, PhaseName, RunState, ServerMessage};
use crate::train::Reporter;

use super::folder::now;
use super::log::{EventLog, Opened};
use super::outbox::Outbox;

/// Events that may wait for the log; then the trainer waits.
const EMITTED: usize = 1024;
/// Longest time a metric waits in memory before other processes can read it; the rest does not
/// wait.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// Bytes of lines that do not wait: many small events would make a long queue of them.
const FLUSH_BYTES: usize = 256 << 10;
/// After a failed write.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long the end of a run waits for a disk that refuses its last lines.
const LAST_LINES: Duration = Duration::from_secs(5);

/// A client's place in the hub.
#[derive(Clone)]
pub struct Member {
    pub queue: Arc<Outbox>,
    pub sender: String,
    /// Whether it gets snapshot and events, or only the acks of its own commands.
    pub watch: bool,
}

enum Request {
    Emit(f64, Box<EventKind>),
    Sync(SyncSender<Result<(), String>>),
    Flush(SyncSender<()>),
    Join(Member),
    Tap(SyncSender<Arc<Event>>),
    State(SyncSender<Box<RunState>>),
    Close,
}

/// A handle on the hub's thread; any number may exist.
#[derive(Clone)]
pub struct Hub {
    requests: SyncSender<Request>,
    glance: Arc<Mutex<Glance>>,
    acks: Arc<AtomicU64>,
    clock: Clock,
}

/// Seconds since the Unix epoch that never go back and never jump, whatever is done to the machine's
/// clock meanwhile: the order of events and the time that is left depend on them.
#[derive(Clone, Copy)]
struct Clock {
    began: Instant,
    then: f64,
}

impl Clock {
    /// Goes on from `last`, the time of the log's last event, where the machine's clock is behind it.
    fn after(last: f64) -> Self {
        Clock {
            began: Instant::now(),
            then: now().max(last),
        }
    }

    fn now(&self) -> f64 {
        self.then + self.began.elapsed().as_secs_f64()
    }
}

/// What others look at all the time, without asking for the whole state.
#[derive(Clone, Default)]
struct Glance {
    phase: PhaseName,
    device: String,
}

impl Hub {
    /// Starts the thread on a log that was just opened; it ends with [`Hub::close`].
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(opened: Opened) -> Result<(Hub, JoinHandle<()>)> {
        let (requests, inbox) = mpsc::sync_channel(EMITTED);
        let glance = Arc::new(Mutex::new(Glance::default()));
        let hub = Hub {
            requests,
            glance: glance.clone(),
            acks: Arc::default(),
            clock: Clock::after(opened.state.time),
        };
        let clock = hub.clock;
        let worker = Worker {
            log: opened.log,
            state: opened.state,
            glance,
            members: Vec::new(),
            taps: Vec::new(),
            flush_at: None,
            failing: None,
            clock,
        };
        let thread = thread::Builder::new()
            .name("event-log".into())
            .spawn(move || worker.run(inbox))?;
        Ok((hub, thread))
    }

    fn glance(&self) -> Glance {
        let glance = self.glance.lock().unwrap_or_else(|e| e.into_inner());
        glance.clone()
    }

    /// Commands answered so far.
    pub fn acks(&self) -> u64 {
        self.acks.load(Ordering::Relaxed)
    }

    /// Phase of the last event that was written.
    pub fn phase(&self) -> PhaseName {
        self.glance().phase
    }

    /// What the run trains on, as its `Model` event says; empty before.
    pub fn device(&self) -> String {
        self.glance().device
    }

    pub fn message(&self, level: Level, text: impl Into<String>) {
        self.emit(EventKind::Message(Message {
            level,
            text: text.into(),
        }));
    }

    /// Waits until everything emitted so far can be read from the log's files, unless the disk is
    /// in trouble.
    pub fn flush(&self) {
        let (reply, done) = mpsc::sync_channel(1);
        if self.requests.send(Request::Flush(reply)).is_ok() {
            let _ = done.recv();
        }
    }

    /// Adds a client: a watching one first gets a snapshot, then every event after it.
    pub fn join(&self, member: Member) {
        // A hub that has ended closes no queue; the server does.
        let _ = self.requests.send(Request::Join(member));
    }

    /// Every event from now on, for a part of this process. Events are left out while `tap` is
    /// full.
    pub fn tap(&self, tap: SyncSender<Arc<Event>>) {
        let _ = self.requests.send(Request::Tap(tap));
    }

    /// The fold of every event emitted before; `None` when the hub has ended.
    pub fn state(&self) -> Option<Box<RunState>> {
        let (reply, state) = mpsc::sync_channel(1);
        self.requests.send(Request::State(reply)).ok()?;
        state.recv().ok()
    }

    /// Ends the thread once everything emitted before is on disk. Later events are lost.
    pub fn close(&self) {
        let _ = self.requests.send(Request::Close);
    }
}

impl Reporter for Hub {
    fn emit(&self, kind: EventKind) {
        // Fails only after `close`, when nobody listens any more.
        if matches!(kind, EventKind::Ack { .. }) {
            self.acks.fetch_add(1, Ordering::Relaxed);
        }
        let _ = self
            .requests
            .send(Request::Emit(self.clock.now(), Box::new(kind)));
    }

    fn sync(&self) -> Result<()> {
        let gone = || anyhow!("the event log is closed");
        let (reply, done) = mpsc::sync_channel(1);
        self.requests
            .send(Request::Sync(reply))
            .map_err(|_| gone())?;
        done.recv().map_err(|_| gone())?.map_err(|e| anyhow!(e))
    }
}

struct Worker {
    log: EventLog,
    state: RunState,
    glance: Arc<Mutex<Glance>>,
    members: Vec<Member>,
    taps: Vec<SyncSender<Arc<Event>>>,
    flush_at: Option<Instant>,
    /// Why the last write failed.
    failing: Option<String>,
    clock: Clock,
}

impl Worker {
    fn run(mut self, inbox: Receiver<Request>) {
        loop {
            let request = match self.flush_at {
                Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match request {
                Ok(Request::Emit(time, kind)) => self.emit(time, *kind),
                Ok(Request::Sync(reply)) => {
                    let result = self.log.sync();
                    let result = self.report(result);
                    let _ = reply.send(result);
                }
                Ok(Request::Flush(reply)) => {
                    self.flush();
                    let _ = reply.send(());
                }
                Ok(Request::Join(member)) => self.join(member),
                Ok(Request::Tap(tap)) => self.taps.push(tap),
                Ok(Request::State(reply)) => {
                    let _ = reply.send(Box::new(self.state.clone()));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Request::Close) | Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.flush_at.is_some_and(|at| at <= Instant::now()) {
                self.flush();
            }
        }
        self.write_last_lines();
    }

    fn emit(&mut self, time: f64, kind: EventKind) {
        let event = Event {
            seq: self.state.seq + 1,
            time,
            kind,
        };
        // Plain data with string keys: it has no way to fail, and an event that did would only
        // leave its number out.
        let Ok(line) = serde_json::to_vec(&event) else {
            return;
        };
        self.log.append(&line);
        let soon = if event.kind.droppable() && self.log.waiting() < FLUSH_BYTES {
            FLUSH_EVERY
        } else {
            Duration::ZERO
        };
        let at = Instant::now() + soon;
        // While the disk is in trouble, `report` says when to try again.
        if self.failing.is_none() && self.flush_at.is_none_or(|old| at < old) {
            self.flush_at = Some(at);
        }
        self.state.apply(&event);
        self.update_glance(&event);
        self.send(&event, &line);
        if !self.taps.is_empty() {
            let event = Arc::new(event);
            self.taps.retain(|tap| {
                !matches!(
                    tap.try_send(event.clone()),
                    Err(TrySendError::Disconnected(_))
                )
            });
        }
    }

    fn update_glance(&self, event: &Event) {
        let mut glance = self.glance.lock().unwrap_or_else(|e| e.into_inner());
        glance.phase = self.state.phase;
        if let EventKind::Model { device, .. } = &event.kind {
            glance.device.clone_from(device);
        }
    }

    fn send(&mut self, event: &Event, line: &[u8]) {
        if self.members.is_empty() {
            return;
        }
        // The line as `ServerMessage::Event` serialises.
        let mut message = Vec::with_capacity(line.len() + 32);
        message.extend_from_slice(b"{\"type\":\"event\",\"event\":");
        message.extend_from_slice(line);
        message.extend_from_slice(b"}\n");
        let message: Arc<[u8]> = message.into();
        let droppable = event.kind.droppable();
        let acked = match &event.kind {
            EventKind::Ack { sender, .. } => Some(sender),
            _ => None,
        };
        self.members.retain(|member| {
            if member.watch || acked == Some(&member.sender) {
                member.queue.push_event(&message, droppable)
            } else {
                !member.queue.is_closed()
            }
        });
    }

    fn join(&mut self, member: Member) {
        let there = !member.watch
            || member.queue.push(ServerMessage::Snapshot {
                state: Box::new(self.state.clone()),
            });
        if there {
            self.members.push(member);
        }
    }

    fn flush(&mut self) {
        let segment = self.log.segment();
        let result = self.log.flush();
        if self.report(result).is_ok() && self.log.segment() != segment {
            // So that a killed run's log is never read from further back.
            self.log.keep_fold(&self.state);
        }
    }

    /// Notes how a write went; says so in the log when that has changed.
    fn report(&mut self, result: std::io::Result<()>) -> Result<(), String> {
        match result {
            Ok(()) => {
                self.flush_at = None;
                if self.failing.take().is_some() {
                    let text = "the event log can be written again; no line is lost".to_owned();
                    self.tell(Level::Info, text);
                }
                Ok(())
            }
            Err(e) => {
                let sentence = format!("cannot write the event log: {e}");
                if self.failing.replace(sentence.clone()).is_none() {
                    let text = format!("{sentence}; its lines wait in memory");
                    self.tell(Level::Error, text);
                }
                self.flush_at = Some(Instant::now() + RETRY_EVERY);
                Err(sentence)
            }
        }
    }

    fn tell(&mut self, level: Level, text: String) {
        self.emit(
            self.clock.now(),
            EventKind::Message(Message { level, text }),
        );
    }

    fn write_last_lines(&mut self) {
        let since = Instant::now();
        while let Err(e) = self.log.sync() {
            if since.elapsed() > LAST_LINES {
                complain(&format!("the last events could not be written: {e}"));
                return;
            }
            thread::sleep(FLUSH_EVERY);
        }
        self.log.keep_fold(&self.state);
    }
}
