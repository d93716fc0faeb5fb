//! Decks and other clients of the control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use loradeck::protocol::{
    ClientMessage, Command, EventKind, Query, Reply, RunState, ServerMessage, StopMode, VERSION,
};
use loradeck::run::client::Client;
use loradeck::run::folder::RunInfo;
use loradeck::run::link::Update;
use loradeck::run::status::load_state;

use super::support::{Run, Updates, eventually};

#[test]
fn every_deck_sees_the_ack_of_every_command() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("");
    runner.answers();
    let decks: Vec<Updates> = (0..3).map(|_| Updates::open(&run.folder)).collect();
    for deck in &decks {
        deck.wait_for("a live snapshot", |u| matches!(u, Update::Connected { .. }));
    }
    let id = decks[1].link.command(Command::Pause);
    let sender = decks[1].link.sender().to_owned();
    for deck in &decks {
        deck.wait_for("the ack", |u| match u {
            Update::Event(e) => matches!(
                &e.kind,
                EventKind::Ack { id: i, sender: s, ok: true, .. } if *i == id && *s == sender
            ),
            _ => false,
        });
        deck.wait_for("the pause", |u| match u {
            Update::Event(e) => {
                matches!(&e.kind, EventKind::Phase { phase, .. } if phase.as_str() == "paused")
            }
            _ => false,
        });
    }
    // `send` is a client that watches nothing and still gets its own ack.
    let mut sender = Client::connect(&run.folder, false).unwrap();
    let answer = sender
        .command(Command::Resume, Duration::from_secs(60), || ())
        .unwrap();
    assert!(answer.ok);
    let refused = sender
        .command(
            Command::Set {
                key: "lora_rank".into(),
                value: "4".into(),
            },
            Duration::from_secs(60),
            || (),
        )
        .unwrap();
    assert!(!refused.ok);
    assert!(refused.message.contains("lora_rank"), "{}", refused.message);
    let stop = Command::Stop {
        mode: StopMode::Save,
    };
    assert!(
        sender
            .command(stop, Duration::from_secs(60), || ())
            .unwrap()
            .ok
    );
    assert_eq!(runner.wait(), 0);
    assert_eq!(run.phase(), "stopped");
}

#[test]
fn a_deck_sees_every_event_once_and_in_order_from_snapshot_to_end() {
    let run = Run::new("max_steps: 1500");
    let runner = run.start("");
    runner.answers();
    let deck = Updates::open(&run.folder);
    deck.wait_for("the runner", |u| matches!(u, Update::Connected { .. }));
    assert_eq!(runner.wait(), 0);
    deck.wait_for("the end", |u| matches!(u, Update::Disconnected { .. }));
    let updates = deck.all();
    let Update::Snapshot(first) = &updates[0] else {
        panic!("first comes a snapshot, not {:?}", updates[0]);
    };
    let mut state: RunState = (**first).clone();
    let mut folded = None;
    for update in &updates[1..] {
        match update {
            Update::Event(event) => {
                assert_eq!(event.seq, state.seq + 1, "in order, without a gap");
                state.apply(event);
            }
            Update::Snapshot(last) => folded = Some(last.clone()),
            _ => {}
        }
    }
    assert_eq!(state.last.step, 1500);
    let from_folder = load_state(&run.folder).unwrap();
    assert!(
        state == from_folder,
        "the wire and the folder tell the same"
    );
    assert!(folded.is_some_and(|f| *f == from_folder));
}

#[test]
fn a_stopped_reader_loses_metrics_only_is_told_how_many_and_never_slows_the_run() {
    let run = Run::new("max_steps: 20000");
    let runner = run.start("wait fast");
    runner.answers();
    // A deck that says hello and then reads nothing while 20,000 steps go by.
    let mut stream = connect(&run);
    say(
        &mut stream,
        &ClientMessage::Hello {
            version: VERSION,
            sender: "sleeper".into(),
            watch: true,
            readonly: false,
        },
    );
    say_resume(&run);
    eventually("all steps", || run.steps() == 20000);
    let mut lines = BufReader::new(stream).lines();
    let (mut steps, mut dropped, mut last_seq, mut first_seq) = (0u64, 0u64, 0, 0);
    let mut finished = false;
    while !finished {
        match serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() {
            ServerMessage::Snapshot { state } => first_seq = state.seq,
            ServerMessage::Event { event } => {
                assert!(event.seq > last_seq);
                last_seq = event.seq;
                steps += matches!(event.kind, EventKind::Step(_)) as u64;
                finished = matches!(event.kind, EventKind::Finished { .. });
            }
            ServerMessage::Dropped { count } => dropped += count,
            _ => {}
        }
    }
    assert!(dropped > 0, "its queue is bounded");
    assert!(steps > 0);
    let after: Vec<_> = run
        .events()
        .into_iter()
        .filter(|e| e.seq > first_seq && e.seq <= last_seq && e.kind.droppable())
        .collect();
    // Sent or counted, all of them.
    let hardware = after
        .iter()
        .filter(|e| matches!(e.kind, EventKind::Hardware { .. }))
        .count() as u64;
    let total = after.len() as u64;
    assert!(
        steps + dropped <= total && total <= steps + dropped + hardware,
        "{steps} sent and {dropped} dropped of {total}"
    );
    assert_eq!(runner.wait(), 0);
}

#[test]
fn a_link_fills_the_gap_that_dropped_events_leave() {
    let run = Run::new("max_steps: 9000");
    let runner = run.start("wait fast linger");
    runner.answers();
    let deck = Updates::open_slow(&run.folder, Duration::from_micros(300));
    deck.wait_for("the runner", |u| matches!(u, Update::Connected { .. }));
    say_resume(&run);
    deck.wait_for("the end", |u| match u {
        Update::Event(e) => matches!(e.kind, EventKind::Message(ref m) if m.text == "lingering"),
        Update::Snapshot(s) => s.log.iter().any(|l| l.entry.to_string() == "lingering"),
        _ => false,
    });
    let mut state: Option<RunState> = None;
    let mut dropped = 0;
    for update in deck.all() {
        match (update, &mut state) {
            (Update::Snapshot(s), _) => {
                assert!(state.is_none(), "the gap was small enough to be filled");
                state = Some(*s);
            }
            (Update::Dropped(count), _) => dropped += count,
            (Update::Event(e), Some(state)) => {
                assert_eq!(e.seq, state.seq + 1, "no gap, whatever was dropped");
                state.apply(&e);
            }
            _ => {}
        }
    }
    assert!(dropped > 0, "the deck was too slow for its queue");
    let state = state.unwrap();
    assert_eq!(
        state.loss.buckets().iter().map(|b| b.count).sum::<u64>(),
        9000
    );
    drop(runner);
}

#[test]
fn a_deck_outlives_its_runner_says_so_and_finds_the_next_one() {
    let run = Run::new("max_steps: 100000");
    let first = run.start("");
    first.answers();
    let deck = Updates::open(&run.folder);
    deck.wait_for("the runner", |u| matches!(u, Update::Connected { .. }));
    first.kill("KILL");
    first.wait();
    deck.wait_for("runner gone", |u| match u {
        Update::Snapshot(s) => s.error.as_deref() == Some("runner gone"),
        _ => false,
    });
    let query = deck.link.query(Query::Events {
        from: 1,
        to: 3,
        limit: 10,
    });
    deck.wait_for("an answer from the folder", |u| match u {
        Update::Reply {
            id,
            reply: Reply::Events { events },
        } => *id == query && events.len() == 2,
        _ => false,
    });
    let refused = deck.link.command(Command::Pause);
    deck.wait_for(
        "a refusal",
        |u| matches!(u, Update::Reply { id, reply: Reply::Error { .. } } if *id == refused),
    );
    let second = run.start("");
    second.answers();
    let before = deck.all().len();
    deck.wait_for_after(before, "the next runner", |u| match u {
        Update::Event(e) => matches!(e.kind, EventKind::Step(_)),
        _ => false,
    });
    second.kill("TERM");
    second.wait();
}

#[test]
fn bad_lines_are_refused_and_never_end_the_run_or_the_conversation() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("");
    runner.answers();
    let mut stream = connect(&run);
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut next_reply = move || loop {
        let line = lines.next().unwrap().unwrap();
        if let ServerMessage::Reply { id, reply } = serde_json::from_str(&line).unwrap() {
            return (id, reply);
        }
    };
    let mut refused = |line: &[u8], id: u64| {
        stream.write_all(line).unwrap();
        stream.write_all(b"\n").unwrap();
        let (got, reply) = next_reply();
        assert!(matches!(reply, Reply::Error { .. }), "{reply:?}");
        assert_eq!(got, id, "{}", String::from_utf8_lossy(line));
    };
    refused(b"", 0);
    refused(b"{", 0);
    refused(b"[1,2,3]", 0);
    refused(b"\xff\xfe\x00", 0);
    refused(b"{\"type\":\"launch\",\"id\":7}", 7);
    refused(
        b"{\"type\":\"query\",\"id\":3,\"query\":{\"name\":\"config_file\"}}",
        3,
    );
    refused(&vec![b'['; 100_000], 0);
    let hello = ClientMessage::Hello {
        version: VERSION,
        sender: "fuzz\u{1b}[31m".into(),
        watch: false,
        readonly: false,
    };
    let hello = serde_json::to_vec(&hello).unwrap();
    stream_write(&run, &hello);
    refused(b"null", 0);
    // Too long: refused and let go.
    let mut long = connect(&run);
    long.write_all(&vec![b'a'; 2 << 20]).ok();
    let mut answer = String::new();
    let mut reader = BufReader::new(long);
    while reader.read_line(&mut answer).unwrap_or(0) > 0 {}
    assert!(answer.contains("longer"), "{answer}");
    let before = run.steps();
    eventually("the run goes on", || run.steps() > before + 2);
    runner.kill("TERM");
    runner.wait();
}

#[test]
fn another_protocol_version_may_watch_and_ask_but_not_command() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("");
    runner.answers();
    let mut stream = connect(&run);
    say(
        &mut stream,
        &ClientMessage::Hello {
            version: VERSION + 1,
            sender: "from the future".into(),
            watch: true,
            readonly: false,
        },
    );
    say(
        &mut stream,
        &ClientMessage::Command {
            id: 5,
            command: Command::Pause,
        },
    );
    say(
        &mut stream,
        &ClientMessage::Query {
            id: 6,
            query: Query::ConfigFile,
        },
    );
    let (mut refused, mut answered, mut snapshot) = (false, false, false);
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line.unwrap()).unwrap() {
            ServerMessage::Snapshot { .. } => snapshot = true,
            ServerMessage::Reply {
                id: 5,
                reply: Reply::Error { message, .. },
            } => {
                assert!(message.contains("watch only"), "{message}");
                refused = true;
            }
            ServerMessage::Reply {
                id: 6,
                reply: Reply::ConfigFile { text, .. },
            } => {
                assert!(text.contains("max_steps"));
                answered = true;
            }
            ServerMessage::Event { event } => {
                assert!(!matches!(event.kind, EventKind::Ack { .. }));
            }
            _ => {}
        }
        if refused && answered && snapshot {
            break;
        }
    }
    runner.kill("TERM");
    runner.wait();
}

fn say_resume(run: &Run) {
    let mut client = Client::connect(&run.folder, false).unwrap();
    let answer = client
        .command(Command::Resume, Duration::from_secs(60), || ())
        .unwrap();
    assert!(answer.ok);
}

fn connect(run: &Run) -> UnixStream {
    let socket = RunInfo::read(&run.folder).unwrap().socket.unwrap();
    UnixStream::connect(socket).unwrap()
}

fn say(stream: &mut UnixStream, message: &ClientMessage) {
    let mut line = serde_json::to_vec(message).unwrap();
    line.push(b'\n');
    stream.write_all(&line).unwrap();
}

fn stream_write(run: &Run, line: &[u8]) {
    let mut stream = connect(run);
    stream.write_all(line).unwrap();
    stream.write_all(b"\n").unwrap();
}
