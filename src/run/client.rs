//! A short conversation with a runner, for `status` and `send`.

use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::protocol::{ClientMessage, Command, EventKind, Reply, RunState, ServerMessage, VERSION};

use super::folder::{RunFolder, RunInfo, live_runner};
use super::link::{next_id, own_name, write_line};

/// A blocking connection to a live runner.
pub struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    /// The line being received: a wait that times out must not lose its beginning.
    line: Vec<u8>,
    sender: String,
}

/// How a command was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub ok: bool,
    pub message: String,
}

impl Client {
    /// Connects to the runner of a folder and says hello.
    ///
    /// # Errors
    /// No runner answers there.
    pub fn connect(folder: &RunFolder, watch: bool) -> Result<Client> {
        let nobody = || anyhow!("no runner is alive in {}", folder.root().display());
        // The copy of a run's folder names the socket of the original's runner.
        live_runner(folder).ok_or_else(nobody)?;
        let socket = RunInfo::read(folder)
            .and_then(|info| info.socket)
            .ok_or_else(nobody)?;
        let mut stream = UnixStream::connect(socket).map_err(|_| nobody())?;
        let sender = own_name();
        let hello = ClientMessage::Hello {
            version: VERSION,
            sender: sender.clone(),
            watch,
            readonly: false,
        };
        write_line(&mut stream, &hello)?;
        let reader = BufReader::new(stream.try_clone()?);
        Ok(Client {
            stream,
            reader,
            line: Vec::new(),
            sender,
        })
    }

    /// The first snapshot.
    ///
    /// # Errors
    /// None comes within `patience`.
    pub fn snapshot(&mut self, patience: Duration) -> Result<Box<RunState>> {
        self.stream.set_read_timeout(Some(patience))?;
        loop {
            if let ServerMessage::Snapshot { state } = self.next()? {
                return Ok(state);
            }
        }
    }

    /// Sends a command and waits for its ack. `on_wait` is called once when it takes longer than
    /// `soon`.
    ///
    /// # Errors
    /// The runner is gone before it has answered.
    pub fn command(
        &mut self,
        command: Command,
        soon: Duration,
        on_wait: impl FnOnce(),
    ) -> Result<Answered> {
        let our_id = next_id();
        write_line(
            &mut self.stream,
            &ClientMessage::Command {
                id: our_id,
                command,
            },
        )
        .context("the runner is gone")?;
        self.stream.set_read_timeout(Some(soon))?;
        let mut on_wait = Some(on_wait);
        loop {
            let message = match self.next() {
                Err(e) if timed_out(&e) => {
                    if let Some(tell) = on_wait.take() {
                        tell();
                    }
                    self.stream.set_read_timeout(None)?;
                    continue;
                }
                message => message?,
            };
            match message {
                ServerMessage::Event { event } => {
                    if let EventKind::Ack {
                        id,
                        sender,
                        ok,
                        message,
                        ..
                    } = event.kind
                        && id == our_id
                        && sender == self.sender
                    {
                        return Ok(Answered { ok, message });
                    }
                }
                ServerMessage::Reply {
                    reply: Reply::Error { message, .. },
                    ..
                } => return Ok(Answered { ok: false, message }),
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<ServerMessage> {
        loop {
            if self.reader.read_until(b'\n', &mut self.line)? == 0 {
                bail!("the runner has ended before it answered");
            }
            let line = std::mem::take(&mut self.line);
            // A message of a newer version is none of ours.
            if let Ok(message) = serde_json::from_slice(&line) {
                return Ok(message);
            }
        }
    }
}

fn timed_out(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| {
        matches!(
            e.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        )
    })
}
