//! Where a run stands in the queue it is in.

use std::path::Path;

use super::{Entry, Queue, Stop};
use crate::protocol::{QueuePlace, QueueState};

/// Folders above a run's that are looked at for a queue: `output/style/v2` is queued in `output`.
const LEVELS: usize = 3;
/// Most runs that are named as coming later.
const NAMED: usize = 20;

/// The place of the run in `run_dir`, while its turn is not over; `None` where it is in no queue.
pub fn place_of(run_dir: &Path) -> Option<QueuePlace> {
    run_dir.ancestors().skip(1).take(LEVELS).find_map(|folder| {
        let queue = Queue::new(folder);
        // A file that cannot be read names no place.
        let state = queue.read().ok()?;
        let at = state
            .entries
            .iter()
            .position(|e| e.run_dir == run_dir && !e.state.is_over())?;
        let waits = |e: &&Entry| e.state == QueueState::Waiting;
        let later = state.entries[at + 1..].iter().filter(waits);
        Some(QueuePlace {
            place: at as u64 + 1,
            of: state.entries.len() as u64,
            next: later.take(NAMED).map(run_name).collect(),
            stops: !queue.is_alive() || state.stop.is_some_and(|s| s == Stop::After),
        })
    })
}

fn run_name(entry: &Entry) -> String {
    let name = entry.run_dir.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_s_place_counts_all_turns_and_names_those_that_wait() {
        let folder = tempfile::tempdir().unwrap();
        let entry = |id: u64, name: &str, state| Entry {
            id,
            run_dir: folder.path().join(name),
            state,
            ..Entry::default()
        };
        let queue = Queue::new(folder.path());
        queue
            .edit(|s| {
                s.entries = vec![
                    entry(1, "a", QueueState::Failed),
                    entry(2, "b", QueueState::Running),
                    entry(3, "c", QueueState::Skipped),
                    entry(4, "deep/d", QueueState::Waiting),
                ];
                Ok(())
            })
            .unwrap();
        let place = |name: &str| place_of(&folder.path().join(name));
        let b = place("b").unwrap();
        assert_eq!((b.place, b.of), (2, 4));
        assert_eq!(b.next, ["d"]);
        assert!(b.stops, "no process works through it");
        assert_eq!(place("deep/d").unwrap().place, 4);
        assert_eq!(place("a"), None, "its turn is over");
        assert_eq!(place("elsewhere"), None);
    }
}
