//! The control socket's server: two small threads per client, none of which the run waits for.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::printable::is_harmless;
use crate::protocol::{ClientMessage, Command, EventKind, Reply, ServerMessage, VERSION};
use crate::train::Reporter;

use super::control::Gate;
use super::hub::{Hub, Member};
use super::outbox::{Out, Outbox};
use super::socket::Socket;
use super::store::{Answer, Store, refusal};

/// loradeck's version.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");

const CLIENTS: usize = 64;
/// Longest line a client may send.
const LINE_BYTES: u64 = 1 << 20;
/// Lines a client may send at once, and how fast they are taken after that.
const BURST: f64 = 256.0;
const LINES_PER_SECOND: f64 = 64.0;
/// For the first line.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// How often the socket's file is looked for.
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// Serves one run's socket until [`Server::stop`].
#[derive(Clone)]
pub struct Server {
    hub: Hub,
    gate: Gate,
    store: Arc<Store>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    /// `None` once stopped.
    socket: Option<Socket>,
    clients: Vec<Arc<Outbox>>,
}

impl Server {
    /// Binds the socket of `run_dir` and starts to serve it. `moved` hears where the socket is when
    /// it had to be bound again.
    ///
    /// # Errors
    /// No socket can be bound.
    pub fn start(
        run_dir: &Path,
        hub: Hub,
        gate: Gate,
        store: Arc<Store>,
        moved: impl Fn(&Path) + Send + 'static,
    ) -> Result<(Server, PathBuf)> {
        let socket = Socket::bind(run_dir)?;
        let path = socket.path().to_owned();
        let server = Server {
            hub,
            gate,
            store,
            inner: Arc::new(Mutex::new(Inner {
                socket: Some(socket),
                clients: Vec::new(),
            })),
        };
        let accepting = server.clone();
        let run_dir = run_dir.to_owned();
        thread::Builder::new()
            .name("socket".into())
            .spawn(move || accepting.accept(&run_dir, moved))?;
        Ok((server, path))
    }

    /// Removes the socket; every client still gets what waits for it, within `patience`.
    pub fn stop(&self, patience: Duration) {
        let clients = {
            let mut inner = self.lock();
            inner.socket = None;
            std::mem::take(&mut inner.clients)
        };
        let until = Instant::now() + patience;
        for client in clients {
            client.drain(until.saturating_duration_since(Instant::now()));
            client.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn accept(&self, run_dir: &Path, moved: impl Fn(&Path)) {
        loop {
            let listener = match &self.lock().socket {
                None => return,
                Some(socket) => socket.listener.try_clone(),
            };
            let Ok(listener) = listener else {
                thread::sleep(HELLO_PATIENCE); // out of file descriptors
                continue;
            };
            let mut wanted = [PollFd::new(&listener, PollFlags::IN)];
            match poll(&mut wanted, Some(&LOOK_EVERY)) {
                Ok(0) => self.look_for_socket(run_dir, &moved),
                Ok(_) => match listener.accept() {
                    Ok((stream, _)) if is_own(&stream) => self.welcome(stream),
                    Ok((stream, _)) => turn_away(stream),
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                },
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn look_for_socket(&self, run_dir: &Path, moved: &impl Fn(&Path)) {
        let mut inner = self.lock();
        if inner.socket.as_ref().is_none_or(Socket::is_there) {
            return;
        }
        // Without a place for it now, there may be one at the next look.
        if let Ok(socket) = Socket::bind(run_dir) {
            moved(socket.path());
            inner.socket = Some(socket);
        }
    }

    fn welcome(&self, stream: UnixStream) {
        let (Ok(for_queue), Ok(for_writer)) = (stream.try_clone(), stream.try_clone()) else {
            return;
        };
        let queue = Arc::new(Outbox::new(for_queue));
        queue.push(ServerMessage::Hello {
            version: VERSION,
            program: PROGRAM.to_owned(),
        });
        let full = {
            let mut inner = self.lock();
            inner.clients.retain(|c| !c.is_closed());
            let full = inner.clients.len() >= CLIENTS || inner.socket.is_none();
            if !full {
                inner.clients.push(queue.clone());
            }
            full
        };
        let writing = queue.clone();
        let server = self.clone();
        let reading = queue.clone();
        let threads = thread::Builder::new()
            .name("client-writer".into())
            .spawn(move || write_lines(&writing, for_writer))
            .and_then(|_| {
                thread::Builder::new()
                    .name("client-reader".into())
                    .spawn(move || {
                        if full {
                            say(&reading, 0, refusal("too many decks are attached already"));
                            reading.drain(HELLO_PATIENCE);
                        } else {
                            server.serve(stream, &reading);
                        }
                        reading.close();
                    })
            });
        if threads.is_err() {
            queue.close();
        }
    }

    /// Reads a client's lines until it leaves.
    fn serve(&self, stream: UnixStream, queue: &Arc<Outbox>) {
        let _ = stream.set_read_timeout(Some(HELLO_PATIENCE));
        let mut reader = BufReader::new(stream);
        let mut client: Option<Hello> = None;
        let mut pace = Pace::new();
        loop {
            // Who sends more waits: its lines stay in the socket, then with it.
            thread::sleep(pace.wait(Instant::now()));
            let line = match read_line(&mut reader) {
                Ok(Line::Whole(line)) => line,
                Ok(Line::TooLong) => {
                    let text = format!("a line is longer than {LINE_BYTES} bytes");
                    say(queue, 0, refusal(text));
                    return queue.drain(HELLO_PATIENCE);
                }
                Ok(Line::End) | Err(_) => return,
            };
            let message = match serde_json::from_slice(&line) {
                Ok(message) => message,
                Err(e) => {
                    let (id, why) = explain(&line, &e);
                    if !say(queue, id, refusal(why)) {
                        return;
                    }
                    continue;
                }
            };
            match (message, &client) {
                (
                    ClientMessage::Hello {
                        version,
                        sender,
                        watch,
                        readonly,
                    },
                    None,
                ) => {
                    let _ = reader.get_ref().set_read_timeout(None);
                    let sender = printable(&sender);
                    self.hub.join(Member {
                        queue: queue.clone(),
                        sender: sender.clone(),
                        watch,
                    });
                    client = Some(Hello {
                        version,
                        sender,
                        readonly,
                    });
                }
                (ClientMessage::Hello { .. }, Some(_)) => {
                    say(queue, 0, refusal("hello was said already"));
                }
                (
                    ClientMessage::Command { id, .. }
                    | ClientMessage::Query { id, .. }
                    | ClientMessage::StartRunner { id },
                    None,
                ) => {
                    say(queue, id, refusal("the first line must be a hello"));
                }
                (ClientMessage::StartRunner { id }, Some(_)) => {
                    say(queue, id, refusal("a runner is alive already"));
                }
                (ClientMessage::Command { id, .. }, Some(hello)) if hello.readonly => {
                    say(
                        queue,
                        id,
                        refusal("this client has said that it only watches"),
                    );
                }
                (ClientMessage::Command { id, command }, Some(hello)) => {
                    if hello.version == VERSION {
                        self.obey(id, &hello.sender, command);
                    } else {
                        let text = format!(
                            "this runner speaks protocol {VERSION} and the sender {}: it may watch only",
                            hello.version
                        );
                        say(queue, id, refusal(text));
                    }
                }
                (ClientMessage::Query { id, query }, Some(_)) => {
                    self.hub.flush();
                    let queue = queue.clone();
                    self.store.answer(
                        query,
                        Answer::new(move |reply| {
                            say(&queue, id, reply);
                        }),
                    );
                }
            }
        }
    }
}

impl Server {
    /// Files of config and data are this process's to write; everything else is the trainer's.
    fn obey(&self, id: u64, sender: &str, command: Command) {
        let Some(written) = self.store.write(&command) else {
            return self.gate.command(id, sender, command);
        };
        self.gate.answered_elsewhere();
        self.hub.emit(EventKind::Ack {
            id,
            sender: sender.to_owned(),
            command: command.word(),
            ok: written.is_ok(),
            message: written.unwrap_or_else(|e| format!("{e:#}")),
        });
    }
}

struct Hello {
    version: u32,
    sender: String,
    readonly: bool,
}

/// Whether the other end belongs to this user, or to root, who may do anything anyway. The folder's
/// mode keeps others out already; this holds where a mode was changed or is not kept.
fn is_own(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// Tells another user's client why it is refused. Its socket's buffer has room for the line, and if it
/// had not, that would be its own fault.
fn turn_away(mut stream: UnixStream) {
    let reply = ServerMessage::Reply {
        id: 0,
        reply: refusal("this run belongs to another user"),
    };
    let _ = stream.set_nonblocking(true);
    if let Ok(mut line) = serde_json::to_vec(&reply) {
        line.push(b'\n');
        let _ = stream.write_all(&line);
    }
}

/// A client's allowance of lines.
struct Pace {
    left: f64,
    counted: Instant,
}

impl Pace {
    fn new() -> Self {
        Pace {
            left: BURST,
            counted: Instant::now(),
        }
    }

    /// Takes one line off the allowance; how long to wait for it.
    fn wait(&mut self, now: Instant) -> Duration {
        let gained = now.saturating_duration_since(self.counted).as_secs_f64() * LINES_PER_SECOND;
        self.counted = now;
        self.left = (self.left + gained).min(BURST) - 1.0;
        Duration::from_secs_f64((-self.left).max(0.0) / LINES_PER_SECOND)
    }
}

fn say(queue: &Outbox, id: u64, reply: Reply) -> bool {
    queue.push(ServerMessage::Reply { id, reply })
}

/// Senders are shown on terminals.
fn printable(sender: &str) -> String {
    sender
        .chars()
        .filter(|c| is_harmless(*c))
        .take(200)
        .collect()
}

/// The id of a line that is no message, where it has one, and what is wrong with it.
fn explain(line: &[u8], error: &serde_json::Error) -> (u64, String) {
    match serde_json::from_slice::<serde_json::Value>(line) {
        Ok(value) => (
            value.get("id").and_then(|id| id.as_u64()).unwrap_or(0),
            format!("this version does not know that message: {error}"),
        ),
        Err(_) => (0, "a line is not valid JSON".to_owned()),
    }
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

fn read_line(reader: &mut BufReader<UnixStream>) -> io::Result<Line> {
    let mut line = Vec::new();
    reader.take(LINE_BYTES).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(Line::Whole(line)),
        Some(_) if line.len() as u64 + 1 >= LINE_BYTES => Ok(Line::TooLong),
        _ => Ok(Line::End),
    }
}

/// A snapshot is hundreds of kilobytes, and what a thread that ends has allocated stays its arena's:
/// written in pieces, visitors leave no memory behind.
fn write_lines(queue: &Outbox, stream: UnixStream) {
    let mut stream = BufWriter::new(stream);
    while let Some(bundle) = queue.pop() {
        let written = bundle.into_iter().try_for_each(|out| match out {
            Out::Line(line) => stream.write_all(&line),
            Out::Message(message) => serde_json::to_writer(&mut stream, &message)
                .map_err(io::Error::from)
                .and_then(|()| stream.write_all(b"\n")),
        });
        if written.and_then(|()| stream.flush()).is_err() {
            queue.close();
        }
    }
}
