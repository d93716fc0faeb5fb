//! A link to a run on another machine: `ssh` starts a bridge there, and again whenever the line is
//! lost.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::input_error;
use crate::protocol::{ClientMessage, Event, EventKind, Reply, RunState, ServerMessage, VERSION};

use super::super::store::refusal;
use super::address::SshAddress;
use super::lines::{Lines, event_line};
use super::{Request, Shared, Update, clear_wake, wait_for, write_line};

/// Seconds before each try to get a lost line back; the last goes on for ever.
const BACK_OFF: [u64; 6] = [1, 2, 4, 8, 15, 30];
/// A line that was up this long has its first try soon again.
const STEADY: Duration = Duration::from_secs(20);
/// Lines of what `ssh` says that are kept.
const STDERR_LINES: usize = 30;
/// For the rest of what `ssh` says when it has ended.
const LAST_WORDS: Duration = Duration::from_millis(1000);

/// A running `ssh` with a bridge at its far end that has said hello.
pub struct Line {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    lines: Lines,
    errors: Arc<Mutex<Vec<String>>>,
    /// Reads what `ssh` says.
    listening: JoinHandle<()>,
    readonly: Option<String>,
}

impl Line {
    /// Starts `ssh` and waits for the bridge. `since` is the last event known here, as the bridge's
    /// option takes it. When somebody `attends`, `ssh` may ask for a password.
    ///
    /// # Errors
    /// `ssh` cannot be started or has ended; with its words.
    pub fn open(
        address: &SshAddress,
        program: &str,
        sender: &str,
        since: Option<&str>,
        attends: bool,
    ) -> Result<Line> {
        let mut child = address
            .bridge(program, since, attends)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ssh (is it installed?)")?;
        let errors = Arc::new(Mutex::new(Vec::new()));
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(stderr)) = pipes else {
            return Err(anyhow!("ssh has no pipes"));
        };
        let kept = errors.clone();
        let listening = std::thread::Builder::new()
            .name("ssh-stderr".into())
            .spawn(move || keep_lines(stderr, &kept))?;
        let mut line = Line {
            child,
            input,
            output,
            lines: Lines::default(),
            errors,
            listening,
            readonly: None,
        };
        match line.greet(sender) {
            Ok(()) => Ok(line),
            Err(_) => Err(line.failure(address, program, attends)),
        }
    }

    /// Reads up to the bridge's hello and answers it.
    fn greet(&mut self, sender: &str) -> io::Result<()> {
        loop {
            let lines = self.read()?;
            for (at, line) in line_ends(&lines) {
                // Before it, a login's start-up files may have printed anything.
                let Ok(ServerMessage::Hello { version, program }) = serde_json::from_slice(line)
                else {
                    continue;
                };
                self.readonly = (version != VERSION).then(|| {
                    format!(
                        "loradeck there is {program} with protocol {version} and this one speaks \
                         {VERSION}: watching only"
                    )
                });
                let rest = self.lines.take();
                self.lines.push(&lines[at..]);
                self.lines.push(&rest);
                let hello = ClientMessage::Hello {
                    version: VERSION,
                    sender: sender.to_owned(),
                    watch: true,
                    readonly: false,
                };
                return write_line(&mut self.input, &hello);
            }
        }
    }

    /// Waits for bytes; the whole lines among them.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = [0; 64 << 10];
        match self.output.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.lines.push(&chunk[..n]);
                Ok(self.lines.take())
            }
        }
    }

    /// Why there is no bridge, once `ssh` has ended.
    fn failure(mut self, address: &SshAddress, program: &str, all: bool) -> anyhow::Error {
        let status = self.end();
        let code = status.and_then(|s| s.code());
        if code == Some(127) {
            return input_error(format!(
                "there is no `{program}` on {address}'s machine: install loradeck there, or say \
                 where it is with --remote-program"
            ));
        }
        let said = self.said(all);
        let text = match (said.as_str(), code) {
            ("", Some(code)) => format!("ssh ended with exit code {code}"),
            ("", None) => "ssh was ended by a signal".to_owned(),
            (said, _) => said.to_owned(),
        };
        let sentence = format!("cannot attach to {address}: {text}");
        // The bridge's own codes come through.
        if code == Some(2) {
            input_error(sentence)
        } else {
            anyhow!(sentence)
        }
    }

    /// What `ssh` and the bridge have said last, or all of it.
    fn said(&self, all: bool) -> String {
        let lines = self.errors.lock().unwrap_or_else(|e| e.into_inner());
        let from = if all {
            0
        } else {
            lines.len().saturating_sub(1)
        };
        let text = lines[from..].join("\n");
        text.strip_prefix("loradeck: ").unwrap_or(&text).to_owned()
    }

    /// Ends `ssh` and collects it.
    fn end(&mut self) -> Option<ExitStatus> {
        let until = Instant::now() + LAST_WORDS;
        let mut status = None;
        // Its last words may still be in the pipe, and another process may hold that open.
        while (status.is_none() || !self.listening.is_finished()) && Instant::now() < until {
            status = self.child.try_wait().ok().flatten();
            std::thread::sleep(Duration::from_millis(5));
        }
        if status.is_none() {
            let _ = self.child.kill();
            status = self.child.wait().ok();
        }
        status
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The far end sees its stdin closed and leaves.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keep_lines(stderr: impl Read, kept: &Mutex<Vec<String>>) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
        if !text.is_empty() && kept.len() < STDERR_LINES {
            kept.push(text.to_owned());
        } else if !text.is_empty() {
            kept[STDERR_LINES - 1] = text.to_owned();
        }
    }
}

/// Each line without its newline, with the offset behind it.
fn line_ends(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    bytes.split_inclusive(|&b| b == b'\n').map(move |line| {
        at += line.len();
        (at, &line[..line.len() - 1])
    })
}

/// The link's thread.
pub struct Worker<F> {
    address: SshAddress,
    program: String,
    sender: String,
    shared: Arc<Shared>,
    woken: UnixStream,
    on_update: F,
    /// Last event that was reported, and of which run.
    seq: u64,
    first_started: f64,
    /// Ids of requests to start a runner.
    starting: BTreeSet<u64>,
}

impl<F: FnMut(Update)> Worker<F> {
    pub fn new(
        address: SshAddress,
        program: String,
        sender: String,
        shared: Arc<Shared>,
        woken: UnixStream,
        on_update: F,
    ) -> Self {
        Worker {
            address,
            program,
            sender,
            shared,
            woken,
            on_update,
            seq: 0,
            first_started: 0.0,
            starting: BTreeSet::new(),
        }
    }

    /// Until the link is dropped.
    pub fn run(mut self, line: Line) {
        let mut line = line;
        let mut tries = 0;
        loop {
            let since = Instant::now();
            let ended = self.follow(&mut line);
            if self.shared.is_closed() {
                return;
            }
            line.end();
            let said = line.said(false);
            drop(line);
            let reason = match ended {
                Err(e) if said.is_empty() => e.to_string(),
                _ => said,
            };
            if since.elapsed() > STEADY {
                tries = 0;
            }
            line = match self.reconnect(reason, &mut tries) {
                Some(line) => line,
                None => return,
            };
        }
    }

    /// A new line, whenever it comes; `None` when the link was dropped meanwhile.
    fn reconnect(&mut self, reason: String, tries: &mut usize) -> Option<Line> {
        let mut reason = reason;
        loop {
            self.lose(reason);
            let seconds = BACK_OFF[(*tries).min(BACK_OFF.len() - 1)];
            *tries += 1;
            if !self.wait(Duration::from_secs(seconds)) {
                return None;
            }
            let since = format!("{}@{}", self.seq, self.first_started);
            let since = (self.seq > 0).then_some(since.as_str());
            match Line::open(&self.address, &self.program, &self.sender, since, false) {
                Ok(line) => return (!self.shared.is_closed()).then_some(line),
                Err(e) => reason = format!("{e:#}"),
            }
        }
    }

    fn lose(&mut self, reason: String) {
        (self.on_update)(Update::LineLost { reason });
        for id in std::mem::take(&mut self.starting) {
            let result = Err("the line is down".to_owned());
            (self.on_update)(Update::RunnerStarted { id, result });
        }
    }

    /// Waits, answering requests; false when the link was dropped.
    fn wait(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            if self.shared.is_closed() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let timeout = Timespec {
                tv_sec: left.as_secs() as _,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut wanted = [PollFd::new(&self.woken, PollFlags::IN)];
            // Interrupted or not: the next round looks again.
            let _ = poll(&mut wanted, Some(&timeout));
            clear_wake(&self.woken);
            for request in self.shared.take() {
                let down = || refusal("the line is down");
                match request {
                    Request::Command(id, _) | Request::Query(id, _) => {
                        (self.on_update)(Update::Reply { id, reply: down() });
                    }
                    Request::StartRunner(id) => {
                        let result = Err("the line is down".to_owned());
                        (self.on_update)(Update::RunnerStarted { id, result });
                    }
                    Request::Answer(id, reply) => (self.on_update)(Update::Reply { id, reply }),
                    Request::Started(..) => {}
                }
            }
        }
    }

    /// Reports what the bridge sends until the line is lost or the link dropped.
    fn follow(&mut self, line: &mut Line) -> io::Result<()> {
        let mut lines = line.lines.take();
        loop {
            for (_, text) in line_ends(&lines) {
                self.take_line(line, text);
            }
            let (readable, woken) = wait_for(&line.output, &self.woken)?;
            if woken {
                clear_wake(&self.woken);
                if self.shared.is_closed() {
                    return Ok(());
                }
                self.send_requests(line)?;
            }
            lines = if readable {
                line.read()
                    .map_err(|_| io::Error::other("the line is closed"))?
            } else {
                Vec::new()
            };
        }
    }

    fn send_requests(&mut self, line: &mut Line) -> io::Result<()> {
        for request in self.shared.take() {
            let message = match request {
                Request::Command(id, command) => ClientMessage::Command { id, command },
                Request::Query(id, query) => ClientMessage::Query { id, query },
                Request::StartRunner(id) => {
                    self.starting.insert(id);
                    ClientMessage::StartRunner { id }
                }
                Request::Answer(id, reply) => {
                    (self.on_update)(Update::Reply { id, reply });
                    continue;
                }
                Request::Started(..) => continue,
            };
            write_line(&mut line.input, &message)?;
        }
        Ok(())
    }

    fn take_line(&mut self, line: &Line, text: &[u8]) {
        if let Some(event) = event_line(text) {
            return self.event(event);
        }
        // A message of a newer version is none of ours.
        let Ok(message) = serde_json::from_slice(text) else {
            return;
        };
        match message {
            ServerMessage::Snapshot { state } => self.snapshot(state),
            ServerMessage::Event { event } => self.event(event),
            ServerMessage::Reply { id, reply } => self.reply(id, reply),
            ServerMessage::Dropped { count } => (self.on_update)(Update::Dropped(count)),
            ServerMessage::Connected { program, readonly } => {
                let readonly = line.readonly.clone().or(readonly);
                (self.on_update)(Update::Connected { program, readonly });
            }
            ServerMessage::Disconnected { reason } => {
                (self.on_update)(Update::Disconnected { reason });
            }
            ServerMessage::Hello { .. } => {}
        }
    }

    fn snapshot(&mut self, state: Box<RunState>) {
        self.seq = state.seq;
        self.first_started = state.first_started;
        (self.on_update)(Update::Snapshot(state));
    }

    fn event(&mut self, event: Box<Event>) {
        if event.seq <= self.seq {
            return;
        }
        self.seq = event.seq;
        if self.first_started == 0.0 && matches!(event.kind, EventKind::Started { .. }) {
            self.first_started = event.time;
        }
        (self.on_update)(Update::Event(event));
    }

    fn reply(&mut self, id: u64, reply: Reply) {
        if !self.starting.remove(&id) {
            return (self.on_update)(Update::Reply { id, reply });
        }
        let result = match reply {
            Reply::Error { message, .. } => Err(message),
            _ => Ok(()),
        };
        (self.on_update)(Update::RunnerStarted { id, result });
    }
}
