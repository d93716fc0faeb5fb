//! What one deck costs on a stream of updates.

use std::time::{Duration, Instant};

use crate::deck::{Deck, Scratch};
use crate::pretend::pretend;
use crate::{Table, percentile};

/// Everything that one deck on a stream shows.
pub fn stream(table: &mut Table, seconds: u64) {
    let scratch = Scratch::new("");
    let runner = pretend(&scratch);
    let mut deck = Deck::attach(&scratch);
    let first = deck.bytes_until("training");
    table.most("first frame", first as f64, 15_000.0, "B");
    std::thread::sleep(Duration::from_secs(5));

    let (bytes, cpu) = (deck.bytes(), deck.cpu());
    std::thread::sleep(Duration::from_secs(seconds));
    let per_second = (deck.bytes() - bytes) as f64 / seconds as f64;
    let share = (deck.cpu() - cpu).as_secs_f64() / seconds as f64 * 100.0;
    table.most("steady output", per_second, 2000.0, "B/s");
    table.most("CPU of one core", share, 1.0, "%");

    let mut keys: Vec<f64> = (0..40)
        .map(|i| {
            let took = deck.key(if i % 2 == 0 { "2" } else { "1" });
            std::thread::sleep(Duration::from_millis(137));
            took.as_secs_f64() * 1000.0
        })
        .collect();
    table.most(
        "key to bytes, median",
        percentile(&mut keys, 0.5),
        16.0,
        "ms",
    );
    table.most(
        "key to bytes, worst of 40",
        percentile(&mut keys, 1.0),
        16.0,
        "ms",
    );

    scratch.send(&["pause"]);
    std::thread::sleep(Duration::from_secs(8));
    let bytes = deck.bytes();
    std::thread::sleep(Duration::from_secs(seconds));
    let per_second = (deck.bytes() - bytes) as f64 / seconds as f64;
    table.most("paused", per_second, 200.0, "B/s");
    scratch.send(&["resume"]);
    std::thread::sleep(Duration::from_secs(1));
    let mut draws = deck.leave();
    let n = draws.len();
    let p99 = percentile(&mut draws, 0.99);
    table.most(&format!("draw, p99 of {n} frames"), p99, 5.0, "ms");

    let gone = Deck::attach(&scratch);
    gone.wait_for("training");
    let took = gone.hang_up().as_secs_f64() * 1000.0;
    table.most("gone after a hang-up", took, 1000.0, "ms");

    scratch.send(&["stop"]);
    runner.join().unwrap();
    // "ended 1 min ago" stands still for a minute, and with it everything.
    let stopped = Instant::now();
    let ended = Deck::attach(&scratch);
    ended.wait_for("stopped");
    std::thread::sleep(Duration::from_secs(70).saturating_sub(stopped.elapsed()));
    let bytes = ended.bytes();
    std::thread::sleep(Duration::from_secs(30));
    let silent = (ended.bytes() - bytes) as f64;
    table.most("nothing changing, 30 s", silent, 0.0, "B");
    ended.leave();
}
