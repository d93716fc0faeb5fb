//! The far end of an attach over SSH: a link to the run, spoken over stdin and stdout.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, sync_channel};
use std::thread;

use anyhow::{Context, Result};

use crate::error::input_error;
use crate::protocol::{ClientMessage, Event, Query, Reply, RunState, ServerMessage, VERSION};

use super::link::{Link, Update};
use super::server::PROGRAM;
use super::status::RUNNER_GONE;
use super::store::refusal;

/// Messages that may wait for the line; then the link waits, and the runner drops metrics.
const WAITING: usize = 256;
/// Most events that are sent instead of a snapshot: about as many bytes.
const FILLED: u64 = 2000;
/// Id of the query that asks for them.
const FILL: u64 = u64::MAX;

/// The last event that the other side knows, of the run that began at `first_started`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    pub seq: u64,
    pub first_started: f64,
}

impl Known {
    /// From `SEQ@FIRST_STARTED`.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Known> {
        let read = || {
            let (seq, first_started) = text.split_once('@')?;
            Some(Known {
                seq: seq.parse().ok()?,
                first_started: first_started.parse().ok()?,
            })
        };
        read().ok_or_else(|| input_error(format!("--since takes SEQ@FIRST_STARTED, not {text:?}")))
    }
}

enum Out {
    Update(Update),
    Reply(u64, Reply),
    /// The other side has left.
    End,
}

/// Serves a run until `input` ends or `output` is closed.
///
/// # Errors
/// There is no run, or the other side says no hello.
pub fn serve(
    run_dir: &Path,
    known: Option<Known>,
    input: impl Read + Send + 'static,
    output: impl Write,
) -> Result<()> {
    let mut output = BufWriter::new(output);
    let mut input = BufReader::new(input);
    // Before the hello, so that the error is told in place of it.
    if !super::folder::RunFolder::new(run_dir).has_run() {
        return Err(input_error(format!(
            "there is no run in {}",
            run_dir.display()
        )));
    }
    let hello = ServerMessage::Hello {
        version: VERSION,
        program: PROGRAM.to_owned(),
    };
    write(&mut output, &hello)?;
    output.flush()?;
    let mut line = String::new();
    input.read_line(&mut line).context("nobody is there")?;
    let Ok(ClientMessage::Hello {
        version,
        sender,
        readonly,
        ..
    }) = serde_json::from_str(&line)
    else {
        return Err(input_error("the first line must be a hello"));
    };
    let (updates, received) = sync_channel(WAITING);
    let from_link = updates.clone();
    let link = Link::open_as(run_dir, sender, move |update| {
        // Fails once the other side has left.
        let _ = from_link.send(Out::Update(update));
    })?;
    if readonly {
        link.only_watch();
    }
    let link = Arc::new(link);
    let asked = link.clone();
    thread::Builder::new()
        .name("bridge-input".into())
        .spawn(move || {
            read_requests(input, version == VERSION, &asked, &updates);
            let _ = updates.send(Out::End);
        })?;
    let mut sender = Sender {
        link,
        known,
        filling: None,
        held: Vec::new(),
        output,
    };
    // A line that is closed is the usual end.
    let _ = sender.run(&received);
    Ok(())
}

fn read_requests(input: impl BufRead, may: bool, link: &Link, out: &SyncSender<Out>) {
    for line in input.lines().map_while(Result::ok) {
        let refuse = |id, text: &str| out.send(Out::Reply(id, refusal(text))).is_ok();
        let other = "another protocol version: watching only";
        let goes_on = match serde_json::from_str(&line) {
            Ok(ClientMessage::Command { id, .. } | ClientMessage::StartRunner { id }) if !may => {
                refuse(id, other)
            }
            Ok(ClientMessage::Command { id, command }) => {
                link.command_as(id, command);
                true
            }
            Ok(ClientMessage::Query { id, query }) => {
                link.query_as(id, query);
                true
            }
            Ok(ClientMessage::StartRunner { id }) => {
                link.start_runner_as(id);
                true
            }
            Ok(ClientMessage::Hello { .. }) | Err(_) => true,
        };
        if !goes_on {
            return;
        }
    }
}

fn write(output: &mut impl Write, message: &ServerMessage) -> Result<()> {
    serde_json::to_writer(&mut *output, message)?;
    output.write_all(b"\n")?;
    Ok(())
}

/// Writes what the link reports. A snapshot is hundreds of kilobytes: where the other side has the
/// run up to some event already, it gets the events after that.
struct Sender<W: Write> {
    link: Arc<Link>,
    known: Option<Known>,
    /// The snapshot that events are being fetched in place of.
    filling: Option<Box<RunState>>,
    held: Vec<Update>,
    output: W,
}

impl<W: Write> Sender<W> {
    fn run(&mut self, received: &Receiver<Out>) -> Result<()> {
        loop {
            let next = match received.try_recv() {
                Ok(next) => Ok(next),
                Err(TryRecvError::Empty) => {
                    self.output.flush()?;
                    received.recv()
                }
                Err(TryRecvError::Disconnected) => Err(RecvError),
            };
            match next {
                Ok(Out::Update(update)) => self.update(update)?,
                Ok(Out::Reply(id, reply)) => self.write(&ServerMessage::Reply { id, reply })?,
                Ok(Out::End) | Err(RecvError) => return Ok(()),
            }
        }
    }

    fn write(&mut self, message: &ServerMessage) -> Result<()> {
        write(&mut self.output, message)
    }

    fn update(&mut self, update: Update) -> Result<()> {
        if let Update::Reply { id: FILL, reply } = update {
            self.fill(reply)?;
            for held in std::mem::take(&mut self.held) {
                self.update(held)?;
            }
            return Ok(());
        }
        if self.filling.is_some() {
            self.held.push(update);
            return Ok(());
        }
        match update {
            Update::Snapshot(state) if self.knows_nearly(&state) => {
                let from = self.known.map_or(1, |k| k.seq + 1);
                let query = Query::Events {
                    from,
                    to: state.seq + 1,
                    limit: FILLED as usize,
                };
                self.filling = Some(state);
                self.link.query_as(FILL, query);
                Ok(())
            }
            Update::Snapshot(state) => self.snapshot(state),
            Update::Event(event) => self.event(event),
            Update::Reply { id, reply } => self.write(&ServerMessage::Reply { id, reply }),
            Update::RunnerStarted { id, result } => {
                let reply = result.map_or_else(refusal, |()| Reply::RunnerStarted);
                self.write(&ServerMessage::Reply { id, reply })
            }
            Update::Dropped(count) => self.write(&ServerMessage::Dropped { count }),
            Update::Connected { program, readonly } => {
                self.write(&ServerMessage::Connected { program, readonly })
            }
            Update::Disconnected { reason } => self.write(&ServerMessage::Disconnected { reason }),
            // Only of other kinds of links.
            Update::LineLost { .. } | Update::Before | Update::Replay { .. } => Ok(()),
        }
    }

    /// Whether a few events make the other side's state this one. That a runner is gone is no event.
    fn knows_nearly(&self, state: &RunState) -> bool {
        let gone = state.error.as_deref() == Some(RUNNER_GONE);
        !gone
            && self.known.is_some_and(|known| {
                known.first_started == state.first_started
                    && known.seq <= state.seq
                    && state.seq - known.seq <= FILLED
            })
    }

    fn fill(&mut self, reply: Reply) -> Result<()> {
        let Some(state) = self.filling.take() else {
            return Ok(());
        };
        let from = self.known.map_or(1, |k| k.seq + 1);
        match reply {
            Reply::Events { events } if complete(&events, from, state.seq) => {
                for event in events {
                    self.event(Box::new(event))?;
                }
                Ok(())
            }
            _ => self.snapshot(state),
        }
    }

    fn snapshot(&mut self, state: Box<RunState>) -> Result<()> {
        self.known = Some(Known {
            seq: state.seq,
            first_started: state.first_started,
        });
        self.write(&ServerMessage::Snapshot { state })
    }

    fn event(&mut self, event: Box<Event>) -> Result<()> {
        if let Some(known) = &mut self.known {
            known.seq = event.seq;
        }
        self.write(&ServerMessage::Event { event })
    }
}

/// Whether these are all events from `from` up to `last`.
fn complete(events: &[Event], from: u64, last: u64) -> bool {
    events.len() as u64 == (last + 1).saturating_sub(from)
        && events.iter().zip(from..).all(|(e, seq)| e.seq == seq)
}
