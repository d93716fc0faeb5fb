//! What decks cost the training itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::deck::{Deck, Scratch};
use crate::{Table, percentile};

/// A real run's step time with 0, 1 and 5 decks, in turns so that a machine that warms up or gets
/// busy weighs on all of them.
pub fn step_time(table: &mut Table, rounds: usize) {
    let scratch = Scratch::new(
        "epochs: 100000\nbatch_size: 8\neval_split: 0\nsave_steps: 1000000\nsequence_len: 128\n",
    );
    let config = scratch.config();
    let run = ["train", config.to_str().unwrap(), "--detach"];
    assert!(scratch.command().args(run).status().unwrap().success());
    let steps_between = |seconds: u64| -> Vec<f64> {
        let last = newest_seq(&scratch.run());
        std::thread::sleep(Duration::from_secs(seconds));
        events_after(&scratch.run(), last)
    };
    // The first seconds hash base and data.
    steps_between(10);
    let (mut none, mut more) = (Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..rounds {
        // Each against the same run just before and after, without a deck.
        let bare = || percentile(&mut steps_between(4), 0.5);
        let mut before = bare();
        none.push(before);
        for (at, decks) in [1, 5].into_iter().enumerate() {
            let open: Vec<Deck> = (0..decks).map(|_| Deck::attach(&scratch)).collect();
            std::thread::sleep(Duration::from_secs(1));
            let with = bare();
            for deck in open {
                deck.leave();
            }
            let after = bare();
            more[at].push((2.0 * with / (before + after) - 1.0) * 100.0);
            before = after;
        }
    }
    scratch.send(&["stop", "discard"]);
    let shown = format!("{:.2} ms", percentile(&mut none, 0.5) * 1000.0);
    table.row("step time without a deck", shown, "-", true);
    let [mut one, mut five] = more;
    let what = "step time with 1 deck, median of rounds";
    table.most(what, percentile(&mut one, 0.5), 1.0, "% more");
    let what = "step time with 5 decks, median of rounds";
    table.most(what, percentile(&mut five, 0.5), 3.0, "% more");
}

fn log_text(run: &Path) -> String {
    fs::read_to_string(run.join("events.000001.jsonl")).unwrap_or_default()
}

fn newest_seq(run: &Path) -> u64 {
    let text = log_text(run);
    let last = text.lines().rev().find_map(|l| {
        let value: serde_json::Value = serde_json::from_str(l).ok()?;
        value["seq"].as_u64()
    });
    last.unwrap_or(0)
}

/// Seconds of the steps after an event.
fn events_after(run: &Path, seq: u64) -> Vec<f64> {
    log_text(run)
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
        .filter(|e| e["seq"].as_u64() > Some(seq) && e["type"] == "step")
        .filter_map(|e| e["seconds"].as_f64())
        .collect()
}
