//! How soon a deck shows a run with a long log.

use std::fs;
use std::io::Write;

use loradeck::protocol::{Event, EventKind, RunState};

use crate::deck::{Deck, Scratch};
use crate::pretend::{pretend, step};
use crate::{LONG, Table};

/// Attaching to a finished run with a million steps in its log: with the fold that its runner kept,
/// and without, as after a power cut.
pub fn long_log(table: &mut Table) {
    let scratch = Scratch::new("");
    let runner = pretend(&scratch);
    scratch.send(&["stop"]);
    runner.join().unwrap();
    let log = scratch.run().join("events.000001.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    let mut state = RunState::default();
    for line in text.lines() {
        state.apply(&serde_json::from_str::<Event>(line).unwrap());
    }
    // Segments as a runner rotates them.
    let (mut number, mut size, mut seq) = (2, 0, state.seq);
    let mut out = std::io::BufWriter::new(
        fs::File::create(scratch.run().join("events.000002.jsonl")).unwrap(),
    );
    for n in state.last.step + 1..=LONG {
        seq += 1;
        let event = Event {
            seq,
            time: state.time + n as f64 * 0.1,
            kind: EventKind::Step(step(n)),
        };
        let line = serde_json::to_vec(&event).unwrap();
        size += line.len() + 1;
        out.write_all(&line).unwrap();
        out.write_all(b"\n").unwrap();
        if size > 64 << 20 {
            number += 1;
            size = 0;
            let path = scratch.run().join(format!("events.{number:06}.jsonl"));
            out = std::io::BufWriter::new(fs::File::create(path).unwrap());
        }
    }
    drop(out);
    let shown = "1,000,000";
    let attach = |what: &str, table: &mut Table| {
        let mut best = f64::MAX;
        for _ in 0..3 {
            let deck = Deck::attach(&scratch);
            best = best.min(deck.wait_for(shown).as_secs_f64());
            deck.leave();
        }
        table.most(what, best, 1.0, "s");
    };
    let _ = fs::remove_file(scratch.run().join("snapshot.json"));
    attach("attach to 1,000,000 steps, log alone", table);
    // The next runner folds the log and keeps it.
    let runner = pretend(&scratch);
    let deck = Deck::attach(&scratch);
    let took = deck.wait_for("training").as_secs_f64();
    table.most("attach to 1,000,000 steps, live", took, 1.0, "s");
    deck.leave();
    scratch.send(&["stop"]);
    runner.join().unwrap();
}
