//! Long runs and many visitors: memory, descriptors and threads stay as they are.
//!
//! `LORADECK_STEPS=5000000` and `LORADECK_VISITS=100000` make it the long version.

use std::fs;
use std::time::{Duration, Instant};

use loradeck::protocol::{Command, EventKind, StopMode};
use loradeck::run::client::Client;
use loradeck::run::link::Update;

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

#[test]
fn a_long_run_keeps_its_memory_rotates_its_log_and_is_attached_to_at_once() {
    let steps = parameter("LORADECK_STEPS", 200_000);
    let run = Run::new(&format!("max_steps: {steps}"));
    let runner = run.start("fast linger");
    runner.answers();
    let step = || {
        let mut client = Client::connect(&run.folder, true).unwrap();
        client.snapshot(Duration::from_secs(30)).unwrap().last.step
    };
    eventually("a fifth of the run", || step() >= steps / 5);
    let early = usage(runner.pid());
    let patience = Instant::now();
    while step() < steps {
        assert!(
            patience.elapsed() < Duration::from_secs(600 + steps / 1000),
            "too slow"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let late = usage(runner.pid());
    let start = Instant::now();
    let updates = Updates::open(&run.folder);
    updates.wait_for(
        "a snapshot",
        |u| matches!(u, Update::Snapshot(s) if s.last.step == steps),
    );
    let attached = start.elapsed();
    let segments: Vec<u64> = fs::read_dir(run.folder.root())
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("events."))
        .map(|e| e.metadata().unwrap().len())
        .collect();
    println!(
        "{steps} steps: {} segments, {} MiB of log; rss {} MiB at a fifth, {} MiB at the end; attached in {:.0} ms",
        segments.len(),
        segments.iter().sum::<u64>() / MIB,
        early.rss / MIB,
        late.rss / MIB,
        attached.as_secs_f64() * 1e3
    );
    assert!(late.rss < early.rss + 24 * MIB, "{early:?} {late:?}");
    assert!(
        segments.iter().all(|&bytes| bytes < 66 * MIB),
        "{segments:?}"
    );
    assert!(attached < Duration::from_secs(10), "{attached:?}");
    runner.kill("KILL");
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
        after.threads <= before.threads && after.descriptors <= before.descriptors
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
