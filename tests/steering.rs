//! Commands, edits, signals and a full disk, taken in by the training loop in this process.

#[path = "support/training.rs"]
mod support;

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use loradeck::protocol::{Command, EventKind, PhaseName, StopMode};
use loradeck::train::{Outcome, checkpoint};
use support::{Hand, Kept, Run, acks, losses};

fn is_phase(event: &EventKind, wanted: PhaseName) -> bool {
    matches!(event, EventKind::Phase { phase, .. } if *phase == wanted)
}

#[test]
fn a_pause_changes_no_bit_and_everything_works_meanwhile() {
    let temp = tempfile::tempdir().unwrap();
    let settings = "gradient_accumulation_steps: 2\nlora_dropout: 0.1\nsave_steps: 100";
    let straight = Run::new(&temp.path().join("straight"), settings);
    let (_, whole) = straight.train(None);
    let run = Run::new(&temp.path().join("paused"), settings);
    let mut asked = false;
    let (outcome, events) = run.train_with(None, move |event, hand| {
        if matches!(event, EventKind::Step(m) if m.step == 2) {
            hand.send(1, Command::Pause);
        }
        if is_phase(event, PhaseName::Paused) && !asked {
            asked = true;
            let prompt = Some("I have a cold.".to_owned());
            for (id, command) in [
                Command::Pause,
                Command::Checkpoint,
                Command::Checkpoint,
                Command::Export,
                Command::Sample { prompt },
                Command::Sample { prompt: None },
                Command::Eval,
                Command::Set {
                    key: "save_steps".into(),
                    value: "50".into(),
                },
                Command::Set {
                    key: "save_steps".into(),
                    value: "50".into(),
                },
                Command::Set {
                    key: "lora_rank".into(),
                    value: "16".into(),
                },
                Command::Resume,
                Command::Resume,
            ]
            .into_iter()
            .enumerate()
            {
                hand.send(id as u64 + 2, command);
            }
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert_eq!(losses(&events), losses(&whole));
    let last = "adapter_model.safetensors";
    let adapter = |run: &Run| fs::read(run.folders().exports.join("peft").join(last)).unwrap();
    assert_eq!(adapter(&run), adapter(&straight));

    // An eval or a sample that has to wait for another is answered after it.
    let mut acks = acks(&events);
    acks.sort();
    let ids: Vec<u64> = acks.iter().map(|a| a.0).collect();
    assert_eq!(ids, (1..=13).collect::<Vec<u64>>(), "one answer each");
    let step = match acks[0].2.strip_prefix("paused at step ") {
        Some(step) => step.to_owned(),
        None => panic!("{:?}", acks[0]),
    };
    for (id, ok, expected) in [
        (2, true, format!("already paused at step {step}")),
        (
            3,
            true,
            format!("checkpoint saved: checkpoints/step-00000{step}"),
        ),
        (
            4,
            true,
            format!("step {step} was saved already: checkpoints/step-00000{step}"),
        ),
        (5, true, format!("exported: exports/peft-step-00000{step}")),
        (6, true, format!("sampled 1 prompt at step {step}")),
        (
            7,
            false,
            "no prompt was given, and sample_prompts is empty".into(),
        ),
        (8, true, "held-out loss ".into()),
        (9, true, "save_steps is 50 now (was 100)".into()),
        (10, true, "save_steps is 50 already".into()),
        (11, false, "`lora_rank` needs a new run".into()),
        (12, true, format!("resumed at step {step}")),
        (13, true, "not paused: the run is at step ".into()),
    ] {
        let ack = &acks[id - 1];
        assert!(
            ack.1 == ok && ack.2.starts_with(&expected),
            "{ack:?}, expected {expected}"
        );
    }
    let exported = format!("exports/peft-step-00000{step}");
    assert!(run.folder.join(exported).join(last).is_file());
    // Pausing is announced before paused.
    let phases: Vec<PhaseName> = events
        .iter()
        .filter_map(|e| match e {
            EventKind::Phase { phase, .. } => Some(*phase),
            _ => None,
        })
        .collect();
    let first = |p| phases.iter().position(|x| *x == p).unwrap();
    assert!(first(PhaseName::Pausing) < first(PhaseName::Paused));
}

#[test]
fn commands_act_within_an_eval_and_a_stop_ends_it() {
    let temp = tempfile::tempdir().unwrap();
    let settings = "eval_split: 10\nbatch_size: 1\nsample_prompts: [\"Hello.\"]";
    let run = Run::new(temp.path(), settings);
    let mut asked = false;
    let (outcome, events) = run.train_with(None, move |event, hand| {
        if is_phase(event, PhaseName::Evaluating) && !asked {
            asked = true;
            hand.send(1, Command::Eval);
            hand.send(2, Command::Sample { prompt: None });
            let mode = StopMode::Save;
            hand.send(3, Command::Stop { mode });
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
    let mut acks = acks(&events);
    acks.sort();
    assert_eq!(acks.len(), 3, "{acks:?}");
    assert!(
        !acks[0].1 && !acks[1].1,
        "they had to wait, and the run ended: {acks:?}"
    );
    assert!(
        acks[2].2.contains("saved: checkpoints/step-000000"),
        "{:?}",
        acks[2]
    );
    assert!(!events.iter().any(|e| matches!(e, EventKind::Eval { .. })));
    assert!(is_phase(events.last().unwrap(), PhaseName::Stopped));
    // A run that was stopped before its first step begins it again.
    let (outcome, events) = run.train(Some(&run.checkpoint(0)));
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(matches!(
        events.iter().find(|e| matches!(e, EventKind::Eval { .. })),
        Some(EventKind::Eval { step: 0, .. })
    ));
}

#[test]
fn live_changes_scale_the_schedule_and_move_the_end() {
    let temp = tempfile::tempdir().unwrap();
    let run = Run::new(temp.path(), "lr_scheduler: constant\nwarmup_steps: 0");
    let set = |hand: &Hand, id, key: &str, value: &str| {
        let (key, value) = (key.to_owned(), value.to_owned());
        hand.send(id, Command::Set { key, value });
    };
    let paused = AtomicBool::new(false);
    let (outcome, events) = run.train_with(None, move |event, hand| {
        if matches!(event, EventKind::Step(m) if m.step == 2) {
            hand.send(1, Command::Pause);
        }
        if is_phase(event, PhaseName::Paused) && !paused.swap(true, Ordering::Relaxed) {
            set(hand, 2, "learning_rate", "1e-3");
            set(hand, 3, "max_steps", "6");
            hand.send(4, Command::Resume);
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert_eq!(acks(&events)[1].2, "learning_rate is 1e-3 now (was 0.004)");
    let rates: Vec<f64> = events
        .iter()
        .filter_map(|e| match e {
            EventKind::Step(m) => Some(m.learning_rate),
            _ => None,
        })
        .collect();
    assert_eq!(rates.len(), 6);
    assert_eq!((rates[0], rates[5]), (4e-3, 1e-3));
    let plans: Vec<u64> = events
        .iter()
        .filter_map(|e| match e {
            EventKind::Plan { total_steps, .. } => Some(*total_steps),
            _ => None,
        })
        .collect();
    assert_eq!(plans, [9, 6]);
    assert!(
        events
            .iter()
            .any(|e| matches!(e, EventKind::ConfigChanged { .. }))
    );
}

#[test]
fn an_edited_config_changes_live_keys_only() {
    let temp = tempfile::tempdir().unwrap();
    let run = Run::new(temp.path(), "epochs: 1\nsave_steps: 100");
    let mut edited = run.config.clone();
    edited.save_steps = 2;
    edited.max_steps = Some(5);
    edited.seed = 7;
    let (outcome, events) = run.train_with(None, move |event, hand| {
        if matches!(event, EventKind::Step(m) if m.step == 1) {
            let edited = Box::new(edited.clone());
            hand.control(loradeck::train::Control::Config(edited));
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert_eq!(losses(&events).len(), 5);
    let state = checkpoint::verify(&run.checkpoint(4)).unwrap();
    assert!(state.config.contains("save_steps: 2\n"), "{}", state.config);
    assert!(state.config.contains("seed: 42\n"), "{}", state.config);
}

#[test]
fn a_run_may_go_on_from_another_runs_checkpoint_and_saves_its_own() {
    let temp = tempfile::tempdir().unwrap();
    let first = Run::new(&temp.path().join("first"), "save_steps: 3");
    first.train(None).0.unwrap();
    let second = Run::new(&temp.path().join("second"), "save_steps: 3");
    let (outcome, events) = second.train(Some(&first.checkpoint(9)));
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(losses(&events).is_empty());
    checkpoint::verify(&second.checkpoint(9)).unwrap();
}

#[test]
fn a_signal_ends_the_run_after_a_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let run = Run::new(temp.path(), "epochs: 20");
    let (outcome, events) = run.train_with(None, |event, hand| {
        if matches!(event, EventKind::Step(m) if m.step == 2) {
            hand.control(loradeck::train::Control::Signal { number: 15 });
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Signalled(15));
    let newest = checkpoint::newest(&run.folders().checkpoints).unwrap();
    let step = losses(&events).last().unwrap().0;
    assert_eq!(newest.checkpoint.unwrap().state.step, step);
}

#[test]
fn a_full_disk_pauses_the_run_and_resume_saves_again() {
    let temp = tempfile::tempdir().unwrap();
    let run = Run::new(temp.path(), "save_steps: 3");
    let (sender, controls) = mpsc::channel();
    let saves = Mutex::new(0);
    let reporter = Kept {
        events: Mutex::new(Vec::new()),
        react: Mutex::new(Box::new(|event, hand| {
            if is_phase(event, PhaseName::Paused) {
                hand.send(1, Command::Resume);
            }
        })),
        hand: Hand {
            sender: Mutex::new(sender),
        },
        // The second save finds the disk full, once.
        sync: Box::new(move || {
            let mut saves = saves.lock().unwrap();
            *saves += 1;
            anyhow::ensure!(*saves != 2, "No space left on device (os error 28)");
            Ok(())
        }),
    };
    let (outcome, events) = run.train_reporting(None, reporter, &controls);
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let why = events
        .iter()
        .find_map(|e| match e {
            EventKind::Phase {
                phase: PhaseName::Paused,
                detail,
                ..
            } => Some(detail.clone()),
            _ => None,
        })
        .unwrap();
    for part in [
        "step-000006 was not saved",
        "No space left",
        "resume to try again",
    ] {
        assert!(why.contains(part), "{why}");
    }
    let saved: Vec<u64> = checkpoint::list(&run.folders().checkpoints)
        .unwrap()
        .iter()
        .map(|(step, path)| checkpoint::verify(path).map(|_| *step).unwrap())
        .collect();
    assert_eq!(saved, [3, 6, 9]);
    let hidden = fs::read_dir(run.folders().checkpoints)
        .unwrap()
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with('.')
        });
    assert_eq!(hidden.count(), 0);
}
