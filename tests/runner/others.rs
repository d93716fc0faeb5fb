//! Other people on the socket: strangers, watchers that would command, and clients that misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use loradeck::protocol::{self, ClientMessage, EventKind, Reply, ServerMessage, VERSION};
use loradeck::run::client::Client;
use loradeck::run::folder::{RunFolder, RunInfo};
use loradeck::run::link::Update;

use super::support::{Run, Updates, eventually};

fn connect(run: &Run) -> UnixStream {
    let socket = RunInfo::read(&run.folder).unwrap().socket.unwrap();
    UnixStream::connect(socket).unwrap()
}

fn say(stream: &mut UnixStream, message: &ClientMessage) {
    let mut line = serde_json::to_vec(message).unwrap();
    line.push(b'\n');
    stream.write_all(&line).unwrap();
}

fn hello(readonly: bool, watch: bool) -> ClientMessage {
    ClientMessage::Hello {
        version: VERSION,
        sender: "raw client".into(),
        watch,
        readonly,
    }
}

fn command(id: u64, command: protocol::Command) -> ClientMessage {
    ClientMessage::Command { id, command }
}

/// The reply or ack to `id`: whether it was granted, and its sentence.
fn answer(lines: &mut impl Iterator<Item = std::io::Result<String>>, id: u64) -> (bool, String) {
    loop {
        let line = lines.next().unwrap().unwrap();
        match serde_json::from_str(&line).unwrap() {
            ServerMessage::Reply {
                id: got,
                reply: Reply::Error { message, .. },
            } if got == id => return (false, message),
            ServerMessage::Event { event } => {
                if let EventKind::Ack {
                    id: got,
                    ok,
                    message,
                    ..
                } = event.kind
                    && got == id
                {
                    return (ok, message);
                }
            }
            _ => {}
        }
    }
}

#[test]
fn a_client_that_said_it_only_watches_cannot_command_whatever_it_sends() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("");
    runner.answers();
    let mut stream = connect(&run);
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    say(&mut stream, &hello(true, false));
    for (id, word) in [(1, protocol::Command::Pause), (2, protocol::Command::Eval)] {
        say(&mut stream, &command(id, word));
        let (ok, why) = answer(&mut lines, id);
        assert!(!ok && why.contains("only watches"), "{why}");
    }
    // Taking it back is not possible either.
    say(&mut stream, &hello(false, false));
    say(&mut stream, &command(3, protocol::Command::Pause));
    assert!(!answer(&mut lines, 3).0);
    assert_eq!(run.phase(), "training");
    runner.kill("TERM");
    runner.wait();
}

#[test]
fn the_socket_is_0600_in_0700_and_another_user_is_refused_even_where_modes_let_them_in() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("");
    runner.answers();
    let socket = RunInfo::read(&run.folder).unwrap().socket.unwrap();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    if !rustix::process::geteuid().is_root() {
        println!("not run: another user's client needs root");
    } else {
        // Every mode wide open: what is left is the check of who calls.
        let mut folder = Some(socket.as_path());
        while let Some(path) = folder.filter(|p| p.starts_with(run.scratch_folder())) {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
            folder = path.parent();
        }
        const NOBODY: u32 = 65534;
        // By this way another user may run this program wherever it lies.
        let out = Command::new("/proc/self/exe")
            .args(["--exact", "stranger_process", "--ignored", "--nocapture"])
            .env("STRANGER_SOCKET", &socket)
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(
            said.contains("belongs to another user") && !said.contains("hello"),
            "{said} {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    runner.kill("TERM");
    runner.wait();
}

/// What another user's client hears: it reads until it is let go.
pub fn stranger() {
    let Ok(socket) = std::env::var("STRANGER_SOCKET") else {
        return;
    };
    let mut heard = String::new();
    UnixStream::connect(socket)
        .and_then(|mut s| s.read_to_string(&mut heard))
        .unwrap();
    println!("{heard}");
}

#[test]
fn commands_that_nobody_answers_are_bounded_and_lines_are_paced() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("deaf");
    runner.answers();
    let mut stream = connect(&run);
    say(&mut stream, &hello(false, false));
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for id in 1..=65 {
        say(&mut stream, &command(id, protocol::Command::Eval));
    }
    let (ok, why) = answer(&mut lines, 65);
    assert!(!ok && why.contains("64 commands wait"), "{why}");
    // 256 lines at once, 64 a second after that: 400 more take two seconds at least.
    let start = Instant::now();
    for id in 66..=465 {
        say(&mut stream, &command(id, protocol::Command::Eval));
    }
    assert!(!answer(&mut lines, 465).0);
    assert!(
        start.elapsed() > Duration::from_millis(1500),
        "{:?}",
        start.elapsed()
    );
    runner.kill("KILL");
}

/// Steps per second of the pretended trainer over `seconds`, which sleeps 2 ms a step.
fn speed(run: &Run, seconds: f64) -> f64 {
    let count = || {
        loradeck::run::status::load_state(&run.folder)
            .unwrap()
            .last
            .step
    };
    let (before, start) = (count(), Instant::now());
    thread::sleep(Duration::from_secs_f64(seconds));
    let after = count();
    (after - before) as f64 / start.elapsed().as_secs_f64()
}

/// Prints the ratio; it asserts only what holds on a loaded machine as well.
#[test]
fn clients_that_never_read_send_garbage_or_half_lines_cost_the_trainer_nothing() {
    let seconds: f64 = std::env::var("LORADECK_HOSTILE_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1.5);
    let run = Run::new("max_steps: 10000000");
    let runner = run.start("");
    runner.answers();
    eventually("a step", || run.steps() > 10);
    let alone = speed(&run, seconds);
    let over = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let mut held = Vec::new();
    let mut threads = Vec::new();
    for i in 0..24 {
        let mut stream = connect(&run);
        match i % 3 {
            // Watches, and never reads.
            0 => {
                say(&mut stream, &hello(false, true));
                held.push(stream);
            }
            // Half a line, for ever.
            1 => {
                say(&mut stream, &hello(false, false));
                stream.write_all(b"{\"type\":\"comm").unwrap();
                held.push(stream);
            }
            // Garbage as fast as it is taken.
            _ => {
                say(&mut stream, &hello(false, false));
                let (over, sent) = (over.clone(), sent.clone());
                stream
                    .set_write_timeout(Some(Duration::from_millis(100)))
                    .unwrap();
                threads.push(thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        match stream.write_all(b"\xff\x00{]garbage\x1b[2J\n") {
                            Ok(()) => drop(sent.fetch_add(1, Ordering::Relaxed)),
                            Err(_) => thread::sleep(Duration::from_millis(1)),
                        }
                    }
                }));
            }
        }
    }
    let among_them = speed(&run, seconds);
    over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|t| t.join().unwrap());
    println!(
        "24 hostile clients, {} garbage lines: {alone:.1} steps/s alone, {among_them:.1} among them, step time x {:.3}",
        sent.load(Ordering::Relaxed),
        alone / among_them
    );
    assert!(among_them > alone / 2.0);
    runner.kill("TERM");
    assert_eq!(runner.wait(), 143);
}

/// The copy's `run.json` names the socket of the original's runner.
#[test]
fn a_copied_run_folder_never_reaches_the_originals_runner() {
    let run = Run::new("max_steps: 1000000");
    let runner = run.start("");
    runner.answers();
    let copy = run.scratch_folder().join("copy");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(run.folder.root())
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let copy = RunFolder::new(copy);
    assert!(Client::connect(&copy, false).is_err());
    let deck = Updates::open(&copy);
    deck.wait_for("a snapshot", |u| matches!(u, Update::Snapshot(_)));
    let id = deck.link.command(protocol::Command::Stop {
        mode: protocol::StopMode::Discard,
    });
    deck.wait_for(
        "a refusal",
        |u| matches!(u, Update::Reply { id: got, reply: Reply::Error { .. } } if *got == id),
    );
    let before = run.steps();
    eventually("the original goes on", || run.steps() > before + 2);
    runner.kill("TERM");
    runner.wait();
}

#[test]
fn a_run_whose_folder_is_moved_away_goes_on_says_so_and_ends_when_another_runner_starts_there() {
    let run = Run::new("max_steps: 1000000");
    let first = run.start("");
    first.answers();
    let deck = Updates::open(&run.folder);
    deck.wait_for("a snapshot", |u| matches!(u, Update::Snapshot(_)));
    let moved = RunFolder::new(run.scratch_folder().join("moved"));
    std::fs::rename(run.folder.root(), moved.root()).unwrap();
    let says = |word: &'static str| move |u: &Update| matches!(u, Update::Event(e) if serde_json::to_string(&e.kind).unwrap().contains(word));
    deck.wait_for(
        "the sentence",
        says("was deleted or moved away: the run goes on"),
    );
    // Where it lies now, it is live: the lock and the log went with it.
    let step = || loradeck::run::status::load_state(&moved).unwrap();
    let before = step().last.step;
    eventually("more steps", || step().last.step > before);
    assert_eq!(step().phase.as_str(), "training");
    assert!(Client::connect(&moved, false).is_ok());
    let second = run.start("");
    assert_eq!(first.wait(), 1);
    eventually("the second's steps", || run.steps() > 2);
    assert_eq!(run.phase(), "training");
    second.kill("TERM");
    assert_eq!(second.wait(), 143);
}

/// After a reboot the number may be anybody's.
#[test]
fn a_lock_file_with_the_pid_of_another_live_process_is_no_obstacle() {
    let run = Run::new("max_steps: 3");
    std::fs::create_dir_all(run.folder.root()).unwrap();
    std::fs::write(run.folder.lock(), format!("{}\n", std::process::id())).unwrap();
    let runner = run.start("");
    assert_eq!(runner.wait(), 0);
    assert_eq!(run.phase(), "done");
}
