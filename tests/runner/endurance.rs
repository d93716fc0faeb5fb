//! Long runs and many visitors: memory, descriptors and threads stay as they are.
//!
//! `LORADECK_STEPS=5000000` and `LORADECK_VISITS=100000` make it the long version.

use std::fs;
use std::time::{Duration, Instant};

use loradeck::protocol::{Command, EventKind, StopMode};
use loradeck::run::client::Client;
use loradeck::run::link::Update;
use loradeck::run::status::load_state;

use super::program::Scratch;
use super::program::terminal::Terminal;
use super::support::{Run, Updates, eventually};

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    rss: u64,
    descriptors: usize,
    threads: usize,
}

fn usage(pid: u32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap();
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    Usage {
        rss: rss
            .trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .unwrap()
            * 1024,
        descriptors: count("fd"),
        threads: count("task"),
    }
}

const MIB: u64 = 1 << 20;

/// The runner's, and a deck's that watches all the time.
#[test]
fn a_long_run_keeps_its_memory_rotates_its_log_and_is_attached_to_at_once() {
    let steps = parameter("LORADECK_STEPS", 200_000);
    let run = Run::new(&format!("max_steps: {steps}"));
    let runner = run.start("fast linger");
    runner.answers();
    let runtime = run.scratch_folder().join("runtime");
    let beside = Scratch::new("");
    let deck = Terminal::open_with(
        &beside,
        (120, 40),
        &["attach", run.folder.root().to_str().unwrap()],
        &[("XDG_RUNTIME_DIR", runtime.to_str().unwrap())],
    );
    deck.wait_for("step");
    let step = || {
        let mut client = Client::connect(&run.folder, true).unwrap();
        client.snapshot(Duration::from_secs(30)).unwrap().last.step
    };
    let both = || [usage(runner.pid()), usage(deck.child.process_id().unwrap())];
    eventually("a fifth of the run", || step() >= steps / 5);
    let early = both();
    let patience = Instant::now();
    while step() < steps {
        assert!(
            patience.elapsed() < Duration::from_secs(600 + steps / 1000),
            "too slow"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let late = both();
    let start = Instant::now();
    let updates = Updates::open(&run.folder);
    updates.wait_for(
        "a snapshot",
        |u| matches!(u, Update::Snapshot(s) if s.last.step == steps),
    );
    let attached = start.elapsed();
    runner.kill("KILL");
    let start = Instant::now();
    assert_eq!(load_state(&run.folder).unwrap().last.step, steps);
    let read = start.elapsed();
    let segments: Vec<u64> = fs::read_dir(run.folder.root())
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("events."))
        .map(|e| e.metadata().unwrap().len())
        .collect();
    println!(
        "{steps} steps: {} segments, {} MiB of log; attached in {:.0} ms, after SIGKILL in {:.0} ms",
        segments.len(),
        segments.iter().sum::<u64>() / MIB,
        attached.as_secs_f64() * 1e3,
        read.as_secs_f64() * 1e3
    );
    for (who, early, late) in [("runner", early[0], late[0]), ("deck", early[1], late[1])] {
        println!(
            "{who}: {:.1} MiB at a fifth, {:.1} MiB at the end; {} and {} descriptors, {} and {} threads",
            early.rss as f64 / MIB as f64,
            late.rss as f64 / MIB as f64,
            early.descriptors,
            late.descriptors,
            early.threads,
            late.threads
        );
        assert!(late.rss < early.rss + 8 * MIB, "{who}: {early:?} {late:?}");
    }
    assert!(
        segments.iter().all(|&bytes| bytes < 66 * MIB),
        "{segments:?}"
    );
    assert!(attached < Duration::from_secs(10), "{attached:?}");
}

#[test]
fn visitors_that_come_and_go_leave_nothing_behind() {
    let visits = parameter("LORADECK_VISITS", 300);
    let run = Run::new("max_steps: 100000000");
    let runner = run.start("");
    runner.answers();
    let visit = |i: u64| match i % 3 {
        0 => drop(Updates::open(&run.folder)),
        1 => {
            let mut client = Client::connect(&run.folder, true).unwrap();
            client.snapshot(Duration::from_secs(30)).unwrap();
        }
        // Gone before the first line.
        _ => drop(Client::connect(&run.folder, true).unwrap()),
    };
    (0..100).for_each(visit);
    let quiet = || {
        // Threads of the last visitors end on their own.
        let mut last = usage(runner.pid());
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
            let now = usage(runner.pid());
            if now.threads == last.threads && now.descriptors == last.descriptors {
                return now;
            }
            last = now;
        }
        last
    };
    let before = quiet();
    (0..visits).for_each(visit);
    let mut after = quiet();
    eventually("the visitors' threads and descriptors to be gone", || {
        after = quiet();
        // Parts of the runner itself come and go; a visit in three that left one would be many more.
        after.threads <= before.threads + 8 && after.descriptors <= before.descriptors + 8
    });
    println!("{visits} visits: {before:?} before, {after:?} after");
    assert!(after.rss < before.rss + 8 * MIB, "{before:?} {after:?}");
    runner.kill("TERM");
    runner.wait();
}

/// Stopping by two decks at once ends the run once, and each gets its answer.
#[test]
fn two_decks_that_command_at_once_each_get_their_answer() {
    let run = Run::new("max_steps: 100000000");
    let runner = run.start("");
    runner.answers();
    let decks = [Updates::open(&run.folder), Updates::open(&run.folder)];
    for deck in &decks {
        deck.wait_for("a snapshot", |u| matches!(u, Update::Snapshot(_)));
    }
    let ids: Vec<u64> = decks
        .iter()
        .map(|d| {
            d.link.command(Command::Stop {
                mode: StopMode::Discard,
            })
        })
        .collect();
    for (deck, id) in decks.iter().zip(ids) {
        deck.wait_for("its ack", |u| {
            matches!(u, Update::Event(e) if matches!(&e.kind, EventKind::Ack { id: got, .. } if *got == id))
                || matches!(u, Update::Reply { id: got, .. } if *got == id)
        });
    }
    assert_eq!(runner.wait(), 0);
}
