//! Whole runs through a GPU's code path, whose kernels are emulated: the loop reads what a step came to
//! one step late there, and adapter and moments are not the host's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};

use super::*;
use crate::config;
use crate::ops::emulated;
use crate::protocol::StopMode;

/// Keeps events, and stops the run once a step was told.
struct Recorder {
    events: Mutex<Vec<EventKind>>,
    stop_after: Option<(u64, Sender<Control>)>,
}

impl Reporter for Recorder {
    fn emit(&self, kind: EventKind) {
        if let (EventKind::Step(step), Some((last, controls))) = (&kind, &self.stop_after)
            && step.step == *last
        {
            let stop = Control::Command {
                id: 1,
                sender: "test".into(),
                command: Command::Stop {
                    mode: StopMode::Save,
                },
            };
            controls.send(stop).unwrap();
        }
        self.events.lock().unwrap().push(kind);
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

fn folders(root: &Path) -> Folders {
    let folder = |name: &str| {
        let folder = root.join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    Folders {
        checkpoints: folder("checkpoints"),
        samples: folder("samples"),
        exports: folder("exports"),
    }
}

/// A run of six steps of two micro-batches each, on the calling thread.
fn run_in(
    root: &Path,
    resume: Option<&Path>,
    stop_after: Option<u64>,
    settings: &str,
) -> (Vec<EventKind>, Result<Outcome>) {
    let data = root.join("data.jsonl");
    let lines: Vec<String> = (0..24)
        .map(|i| format!("{{\"prompt\": \"How many days is it since {i}?\", \"completion\": \"It is {} days.\"}}", i * 3))
        .collect();
    fs::create_dir_all(root).unwrap();
    fs::write(&data, lines.join("\n")).unwrap();
    let text = format!(
        "base_model: builtin:tiny-llama\ntrain_data_dir: {}\noutput_dir: {}\ndevice: cpu\nlora_rank: 2\n\
         batch_size: 1\ngradient_accumulation_steps: 2\nmax_steps: 6\nsave_steps: 2\neval_steps: 4\neval_split: 1\n\
         learning_rate: 4e-3\nsequence_len: 32\nlora_dropout: 0.1\ntarget_modules: [q_proj]\n{settings}",
        data.display(),
        root.display()
    );
    let path = root.join("run.yaml");
    let loaded = config::load_text(&path, &text, &[]).unwrap_or_else(|problems| {
        panic!("{}", config::problems_error(&problems));
    });
    let (sender, controls) = mpsc::channel();
    let recorder = Recorder {
        events: Mutex::default(),
        stop_after: stop_after.map(|step| (step, sender.clone())),
    };
    let mut inbox = Inbox::new(controls);
    let stage = Stage::new(&recorder);
    let outcome = run(
        loaded.config,
        resume,
        &folders(root),
        &recorder,
        &stage,
        &mut inbox,
    );
    drop(stage);
    (recorder.events.into_inner().unwrap(), outcome)
}

fn losses(events: &[EventKind]) -> Vec<(u64, f64, f64)> {
    let steps = events.iter().filter_map(|event| match event {
        EventKind::Step(step) => Some((step.step, step.loss.0, step.grad_norm.0)),
        _ => None,
    });
    steps.collect()
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<(PathBuf, Vec<u8>)> = walkdir(folder)
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path.strip_prefix(folder).unwrap().to_owned(), bytes)
        })
        .collect();
    files.sort();
    files
}

fn walkdir(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => walkdir(&path),
            false => vec![path],
        })
        .collect()
}

#[test]
fn a_gpus_run_is_the_cpus_and_goes_on_bit_for_bit_where_it_was_stopped() {
    let temp = tempfile::tempdir().unwrap();
    let root = |name: &str| temp.path().join(name);
    let (expected, outcome) = run_in(&root("cpu"), None, None, "");
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let (whole, outcome) = emulated(|| run_in(&root("whole"), None, None, ""));
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let (expected, got) = (losses(&expected), losses(&whole));
    assert_eq!(got.len(), 6);
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(got.0, expected.0);
        assert!(
            (got.1 - expected.1).abs() < 1e-4 * expected.1,
            "{got:?} {expected:?}"
        );
        assert!(
            (got.2 - expected.2).abs() < 1e-3 * expected.2,
            "{got:?} {expected:?}"
        );
    }
    // A step is told before anything that was made of it.
    let mut last = 0;
    for event in &whole {
        match event {
            EventKind::Step(step) => last = step.step,
            EventKind::Checkpoint { step, .. } | EventKind::Eval { step, .. } => {
                assert_eq!(*step, last);
            }
            _ => {}
        }
    }

    // The stop is seen within step 4, whose passes are launched by then.
    let (part, outcome) = emulated(|| run_in(&root("part"), None, Some(3), ""));
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
    let stopped_at = losses(&part).len() as u64;
    let name = checkpoint::name(stopped_at);
    let saved = root("part").join("checkpoints").join(name);
    let (rest, outcome) = emulated(|| run_in(&root("part"), Some(&saved), None, ""));
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let together = [losses(&part), losses(&rest)].concat();
    assert_eq!(together, got);
    let exports = |name: &str| files(&root(name).join("exports"));
    assert_eq!(exports("part"), exports("whole"));
    let moments = |name: &str| {
        let last = root(name).join("checkpoints").join(checkpoint::name(6));
        fs::read(last.join(checkpoint::OPTIMIZER_FILE)).unwrap()
    };
    assert!(moments("part") == moments("whole"));
}
