//! The runner as a real process, around a trainer that only pretends.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use loradeck::protocol::{
    ClientMessage, Command, EventKind, Query, Reply, RunState, ServerMessage, StopMode, VERSION,
};
use loradeck::run::client::Client;
use loradeck::run::folder::{RunInfo, live_runner};
use loradeck::run::link::Update;
use loradeck::run::status::{Status, current_state, load_state};
use support::{Run, Updates, eventually};

/// Not a test: the process that the others start. See `Run::start`.
#[test]
#[ignore = "the runner process of the other tests"]
fn runner_process() {
    support::runner_process();
}

fn ended_phase(run: &Run) -> String {
    load_state(&run.folder).unwrap().phase.as_str().to_owned()
}

#[test]
fn a_run_ends_done_with_every_event_in_the_log_and_its_exit_code_recorded() {
    let run = Run::new("max_steps: 50");
    assert_eq!(run.start("").wait(), 0);
    let events = run.events();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event.seq, i as u64 + 1);
    }
    let steps = events
        .iter()
        .filter(|e| matches!(e.kind, EventKind::Step(_)))
        .count();
    assert_eq!(steps, 50);
    assert!(matches!(
        events.last().unwrap().kind,
        EventKind::Finished { step: 50, .. }
    ));
    let info = RunInfo::read(&run.folder).unwrap();
    assert_eq!(info.ended.unwrap().exit_code, 0);
    assert_eq!(info.socket, None);
    assert_eq!(live_runner(&run.folder), None);
    assert_eq!(current_state(&run.folder).unwrap().last.step, 50);
}

#[test]
fn a_second_runner_on_the_same_folder_is_refused_with_the_pid_of_the_first() {
    let run = Run::new("max_steps: 100000");
    let first = run.start("");
    first.answers();
    let second = run.start("");
    let (code, stderr) = second.wait_with_stderr();
    assert_eq!(code, 2);
    assert!(
        stderr.contains(&format!("process {}", first.pid())),
        "{stderr}"
    );
    assert_eq!(live_runner(&run.folder), Some(first.pid()));
}

#[test]
fn a_lock_left_by_a_killed_runner_is_stale_and_the_log_goes_on_where_it_was() {
    let run = Run::new("max_steps: 100000");
    let first = run.start("");
    first.answers();
    eventually("three steps", || run.steps() >= 3);
    first.kill("KILL");
    first.wait();
    let state = load_state(&run.folder).unwrap();
    assert_eq!(state.phase.as_str(), "failed");
    assert_eq!(state.error.as_deref(), Some("runner gone"));
    let logged = run.events().len() as u64;

    // As a power loss would leave it.
    let log = run.folder.root().join("events.000001.jsonl");
    let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(b"{\"seq\":99999,\"time\":1.0,\"ty").unwrap();

    let second = run.start("");
    second.answers();
    eventually("the second runner's steps", || {
        run.events().len() as u64 > logged + 5
    });
    second.kill("TERM");
    assert_eq!(second.wait(), 143);
    let events = run.events();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event.seq, i as u64 + 1, "a hole or a repeated number");
    }
    let after = &events[logged as usize..];
    assert!(matches!(after[0].kind, EventKind::Started { .. }));
    assert!(
        after
            .iter()
            .any(|e| matches!(&e.kind, EventKind::Message(m) if m.text.contains("torn"))),
        "the cut is told"
    );
    assert!(
        after
            .iter()
            .any(|e| matches!(e.kind, EventKind::Resumed { step: 0, .. })),
        "without a checkpoint the old steps no longer count"
    );
}

#[test]
fn sighup_changes_nothing_and_sigterm_and_sigint_end_the_run_with_their_codes() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let run = Run::new("max_steps: 100000");
        let runner = run.start("");
        runner.answers();
        runner.kill("HUP");
        let before = run.steps();
        eventually("steps after SIGHUP", || run.steps() > before + 3);
        runner.kill(signal);
        assert_eq!(runner.wait(), code);
        assert_eq!(ended_phase(&run), "stopped");
        let info = RunInfo::read(&run.folder).unwrap();
        assert_eq!(info.ended.unwrap().exit_code as i32, code);
    }
}

#[test]
fn a_second_signal_ends_a_trainer_that_does_not_listen() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("deaf");
    runner.answers();
    runner.kill("TERM");
    eventually("the first signal is told", || {
        run.events()
            .iter()
            .any(|e| matches!(&e.kind, EventKind::Message(m) if m.text.contains("SIGTERM")))
    });
    runner.kill("TERM");
    assert_eq!(runner.wait(), 143);
    assert_eq!(ended_phase(&run), "stopped");
}

#[test]
fn a_panic_of_the_trainer_is_a_failed_run_with_one_sentence_and_the_trace_in_runner_log() {
    let run = Run::new("max_steps: 5");
    let (code, stderr) = run.start("panic").wait_with_stderr();
    assert_eq!(code, 1);
    let state = load_state(&run.folder).unwrap();
    assert_eq!(state.phase.as_str(), "failed");
    let error = state.error.unwrap();
    assert!(error.contains("runner.log"), "{error}");
    assert!(!error.contains('\n') && !error.contains("panicked"));
    assert!(!stderr.contains("panicked"), "{stderr}");
    let log = fs::read_to_string(run.folder.runner_log()).unwrap();
    assert!(log.contains("the fake trainer fell over"), "{log}");
}

#[test]
fn bad_input_found_by_the_trainer_ends_with_code_2_and_its_sentence() {
    let run = Run::new("max_steps: 5");
    assert_eq!(run.start("bad-input").wait(), 2);
    let state = load_state(&run.folder).unwrap();
    assert_eq!(
        state.error.as_deref(),
        Some("train.jsonl:3: not a record; mend it")
    );
    assert_eq!(
        RunInfo::read(&run.folder).unwrap().ended.unwrap().exit_code,
        2
    );
}

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
    assert_eq!(ended_phase(&run), "stopped");
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
        },
    );
    resume(&run);
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
    resume(&run);
    deck.wait_for("the end", |u| match u {
        Update::Event(e) => matches!(e.kind, EventKind::Message(ref m) if m.text == "lingering"),
        Update::Snapshot(s) => s.log.iter().any(|l| l.text == "lingering"),
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

#[test]
fn an_edited_config_acts_and_a_broken_one_keeps_the_old_values_and_says_so() {
    let run = Run::new("max_steps: 100000\nlearning_rate: 1e-4");
    let runner = run.start("");
    runner.answers();
    let changed = |test: &dyn Fn(&EventKind) -> bool| {
        eventually("a config change", || {
            run.events().iter().any(|e| test(&e.kind))
        })
    };
    // As editors do: beside it, then renamed.
    let edit = |body: &str| {
        let beside = run.config_path.with_extension("swp");
        fs::write(&beside, run.config_text(body)).unwrap();
        fs::rename(&beside, &run.config_path).unwrap();
    };
    edit("max_steps: 100000\nlearning_rate: 5e-5");
    changed(&|k| {
        matches!(k, EventKind::ConfigChanged { changes, errors, .. }
            if errors.is_empty() && changes.len() == 1 && changes[0].key == "learning_rate"
            && changes[0].applies == "live")
    });
    eventually("steps at the new rate", || {
        run.events()
            .iter()
            .any(|e| matches!(&e.kind, EventKind::Step(m) if m.learning_rate == 5e-5))
    });
    edit("max_steps: 100000\nlearning_rate: [oops");
    changed(&|k| {
        matches!(k, EventKind::ConfigChanged { changes, errors, .. }
            if changes.is_empty() && errors.len() == 1)
    });
    edit("max_steps: 100000\nlearning_rate: 5e-5\nlora_rank: 4");
    changed(&|k| {
        matches!(k, EventKind::ConfigChanged { changes, .. }
            if changes.iter().any(|c| c.key == "lora_rank" && c.applies == "restart"))
    });
    runner.kill("TERM");
    assert_eq!(runner.wait(), 143);
    let state = load_state(&run.folder).unwrap();
    assert_eq!(state.last.learning_rate, 5e-5, "the old value stayed");
    let rank = state.config.iter().find(|e| e.key == "lora_rank").unwrap();
    assert_eq!(rank.value, "8", "a restart key is shown as it runs");
}

#[test]
fn a_nan_loss_survives_log_socket_and_status() {
    let run = Run::new("max_steps: 3");
    assert_eq!(run.start("nan").wait(), 0);
    let state = load_state(&run.folder).unwrap();
    assert!(state.last.loss.0.is_nan());
    let status = Status::new(&run.folder, &state);
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["loss"], "NaN");
    assert_eq!(json["grad_norm"], "Infinity");
    assert_eq!(json["phase"], "done");
    for key in [
        "run",
        "pid",
        "step",
        "total_steps",
        "epoch",
        "eval_loss",
        "base_eval_loss",
        "learning_rate",
        "tokens_per_second",
        "eta_seconds",
        "peak_memory_bytes",
        "checkpoints",
        "exports",
        "error",
    ] {
        assert!(json.get(key).is_some(), "{key} is missing");
    }
    assert!(json["pid"].is_null() && json["eta_seconds"].is_null());
}

#[test]
fn a_run_in_the_foreground_prints_progress_and_outlives_its_stdout() {
    let run = Run::new("max_steps: 40");
    let output = run.start_foreground("");
    assert_eq!(output.code, 0);
    for expected in ["step 1/40", "step 40/40", "done: 40 steps"] {
        assert!(output.stdout.contains(expected), "{}", output.stdout);
    }
    let run = Run::new("max_steps: 40");
    assert_eq!(run.start_with_closed_stdout(), 0);
    assert_eq!(run.steps(), 40);
}

#[test]
fn the_socket_comes_back_when_its_folder_was_cleaned_away() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("");
    runner.answers();
    let socket = RunInfo::read(&run.folder).unwrap().socket.unwrap();
    fs::remove_file(&socket).unwrap();
    fs::remove_dir(socket.parent().unwrap()).unwrap();
    runner.answers();
    runner.kill("TERM");
    runner.wait();
    assert!(!socket.exists(), "it is removed at the end");
}

fn resume(run: &Run) {
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
