//! `snapshot.json`: the fold of a log up to some event, so that a long log is not read from its
//! beginning every time. It is a cache: without it, or with one that does not fit, the log is.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::protocol::RunState;

use super::folder::write_atomically;
use super::segments::{for_each_line, parse_event};

/// The file's first line; its second is the state.
#[derive(PartialEq, Serialize, Deserialize)]
struct Head {
    /// Of this version's `RunState`: another fold is no start for this one.
    shape: String,
    /// Of the second line: a byte that flips on the disk may leave a state, but another one.
    blake3: String,
}

impl Head {
    fn of(state: &[u8]) -> Head {
        Head {
            shape: shape(),
            blake3: blake3::hash(state).to_hex().to_string(),
        }
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("snapshot.json")
}

/// Tells versions of `RunState` apart by their fields.
fn shape() -> String {
    let fields = serde_json::to_vec(&RunState::default()).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    format!("{version} {}", &blake3::hash(&fields).to_hex()[..16])
}

/// Writes the fold of every event up to `state.seq`, all of which the log's files hold.
///
/// # Errors
/// The folder cannot be written; nothing depends on it.
pub fn write(folder: &Path, state: &RunState) -> Result<()> {
    let state = serde_json::to_vec(state)?;
    let mut bytes = serde_json::to_vec(&Head::of(&state))?;
    bytes.push(b'\n');
    bytes.extend(state);
    write_atomically(&path(folder), &bytes)
}

/// The state to fold a log from: the snapshot's if it is of this very log, else an empty one.
pub fn start(folder: &Path) -> RunState {
    read(folder).unwrap_or_default()
}

fn read(folder: &Path) -> Option<RunState> {
    let bytes = fs::read(path(folder)).ok()?;
    let end = bytes.iter().position(|&b| b == b'\n')?;
    let (head, state) = (&bytes[..end], &bytes[end + 1..]);
    let head: Head = serde_json::from_slice(head).ok()?;
    if head != Head::of(state) {
        return None;
    }
    let state = serde_json::from_slice(state).ok()?;
    is_of(folder, &state).then_some(state)
}

/// Whether a state is the fold of the beginning of this very log.
pub fn is_of(folder: &Path, state: &RunState) -> bool {
    let mut same = state.seq == 0;
    let read = for_each_line(folder, state.seq, |seq, line| {
        let time = parse_event(line).map(|e| e.time);
        same |= seq == state.seq && time == Some(state.time);
        ControlFlow::Break(())
    });
    read.is_ok() && same
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Event, EventKind, Num, StepMetrics};

    fn line(seq: u64, loss: f64) -> Vec<u8> {
        let event = Event {
            seq,
            time: 100.0 + seq as f64,
            kind: EventKind::Step(StepMetrics {
                step: seq,
                loss: Num(loss),
                ..StepMetrics::default()
            }),
        };
        let mut line = serde_json::to_vec(&event).unwrap();
        line.push(b'\n');
        line
    }

    fn folded(folder: &Path) -> RunState {
        let mut state = start(folder);
        super::super::segments::fold(folder, &mut state).unwrap();
        state
    }

    #[test]
    fn a_fold_from_the_snapshot_equals_one_from_the_beginning_and_another_log_s_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.000001.jsonl");
        let lines = |from: u64, to: u64| (from..=to).flat_map(|s| line(s, 1.0 / s as f64));
        fs::write(&log, lines(1, 3000).collect::<Vec<u8>>()).unwrap();
        write(folder.path(), &folded(folder.path())).unwrap();
        fs::write(&log, lines(1, 4000).collect::<Vec<u8>>()).unwrap();
        let quick = folded(folder.path());
        assert_eq!(start(folder.path()).seq, 3000);
        fs::remove_file(path(folder.path())).unwrap();
        let whole = folded(folder.path());
        assert!(quick == whole, "the folds differ");

        write(folder.path(), &whole).unwrap();
        fs::write(&log, lines(1, 10).collect::<Vec<u8>>()).unwrap();
        assert_eq!(start(folder.path()).seq, 0, "the log was begun anew");
        fs::write(path(folder.path()), "{").unwrap();
        assert_eq!(folded(folder.path()).seq, 10);
    }

    #[test]
    fn a_flipped_byte_anywhere_in_the_snapshot_is_found_and_the_log_is_read_instead() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.000001.jsonl");
        let lines: Vec<u8> = (1..=20).flat_map(|s| line(s, 1.0 / s as f64)).collect();
        fs::write(&log, lines).unwrap();
        let whole = folded(folder.path());
        write(folder.path(), &whole).unwrap();
        let bytes = fs::read(path(folder.path())).unwrap();
        // The first line, and some of the rest.
        let places = (0..160).chain((160..bytes.len()).step_by(bytes.len() / 200));
        for at in places.clone() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(path(folder.path()), &flipped).unwrap();
            assert_eq!(start(folder.path()).seq, 0, "byte {at}");
        }
        println!("{} flipped bytes, all found", places.count());
        assert!(folded(folder.path()) == whole);
        fs::write(path(folder.path()), &bytes).unwrap();
        assert_eq!(start(folder.path()).seq, 20);
    }
}
