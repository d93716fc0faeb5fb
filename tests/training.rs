//! The training loop in this process, on the built-in base.

#[path = "support/training.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use candle_core::{DType, Device};
use loradeck::adapter::{read_peft, write_peft};
use loradeck::config::LrScheduler;
use loradeck::model::{self, TokenBatch};
use loradeck::protocol::{CheckpointReason, Command, EventKind, PhaseName, StopMode};
use loradeck::train::optimizer::{AdamW, PairValues, Rates, clip};
use loradeck::train::{Outcome, checkpoint, schedule};
use support::{Hand, Kept, Run, acks, losses};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

fn is_phase(event: &EventKind, wanted: PhaseName) -> bool {
    matches!(event, EventKind::Phase { phase, .. } if *phase == wanted)
}

#[test]
fn a_run_evaluates_before_and_after_samples_saves_and_exports() {
    let temp = tempfile::tempdir().unwrap();
    let run = Run::new(
        temp.path(),
        "epochs: 2\nsave_steps: 5\nkeep_checkpoints: 2\neval_steps: 4\nsample_steps: 10\nsample_prompts: [\"I have a cough.\"]",
    );
    let (outcome, events) = run.train(None);
    assert_eq!(outcome.unwrap(), Outcome::Done);

    let evals: Vec<u64> = events
        .iter()
        .filter_map(|e| match e {
            EventKind::Eval { step, .. } => Some(*step),
            _ => None,
        })
        .collect();
    assert_eq!(evals, [0, 4, 8, 12, 16, 18]);
    let sampled: Vec<u64> = events
        .iter()
        .filter_map(|e| match e {
            EventKind::Sample { step, .. } => Some(*step),
            _ => None,
        })
        .collect();
    assert_eq!(sampled, [0, 10, 18]);
    let saved: Vec<(u64, CheckpointReason)> = events
        .iter()
        .filter_map(|e| match e {
            EventKind::Checkpoint { step, reason, .. } => Some((*step, *reason)),
            _ => None,
        })
        .collect();
    let scheduled = |step| (step, CheckpointReason::Scheduled);
    assert_eq!(
        saved,
        [
            scheduled(5),
            scheduled(10),
            scheduled(15),
            (18, CheckpointReason::End)
        ]
    );
    let kept: Vec<u64> = checkpoint::list(&run.folders().checkpoints)
        .unwrap()
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    assert_eq!(kept, [15, 18]);
    let latest = fs::read_link(run.folders().checkpoints.join("latest")).unwrap();
    assert_eq!(latest, Path::new("step-000018"));

    let steps: Vec<u64> = losses(&events).iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=18).collect::<Vec<u64>>());
    let metrics = |step: u64| {
        events.iter().find_map(|e| match e {
            EventKind::Step(m) if m.step == step => Some(m.clone()),
            _ => None,
        })
    };
    // 17 records in micro-batches of 2: the ninth has one.
    assert_eq!(metrics(9).unwrap().epoch, 1.0);
    assert_eq!(metrics(18).unwrap().epoch, 2.0);
    let first_epoch: u64 = (1..=9).map(|s| metrics(s).unwrap().tokens).sum();
    assert_eq!(metrics(18).unwrap().total_tokens, 2 * first_epoch);

    let last = events.len() - 1;
    assert!(matches!(events[last], EventKind::Finished { step: 18, .. }));
    assert!(matches!(
        events.iter().find(|e| matches!(e, EventKind::Plan { .. })),
        Some(EventKind::Plan {
            total_steps: 18,
            steps_per_epoch: 9
        })
    ));
    // The last checkpoint is a PEFT adapter as it is, and the export is the same one.
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        assert_eq!(
            fs::read(run.checkpoint(18).join(file)).unwrap(),
            fs::read(run.folders().exports.join("peft").join(file)).unwrap(),
            "{file}"
        );
    }
    assert!(run.folders().samples.join("step-000018.md").is_file());
}

#[derive(serde::Deserialize)]
struct Reference {
    settings: Settings,
    steps: Vec<ReferenceStep>,
}

#[derive(serde::Deserialize)]
struct Settings {
    learning_rate: f64,
    weight_decay: f64,
    max_grad_norm: f64,
    warmup_steps: u64,
    total_steps: u64,
}

#[derive(serde::Deserialize)]
struct ReferenceStep {
    step: u64,
    lr: f64,
    loss: f64,
    grad_norm: f64,
    micro_batches: Vec<ReferenceBatch>,
}

#[derive(serde::Deserialize)]
struct ReferenceBatch {
    input_ids: Vec<Vec<u32>>,
    labels: Vec<Vec<i64>>,
    attention_mask: Vec<Vec<u8>>,
}

impl ReferenceBatch {
    /// Labels are of the token itself, targets of the next one; padding goes.
    fn batch(&self) -> TokenBatch {
        let mut batch = TokenBatch {
            input_ids: Vec::new(),
            targets: Vec::new(),
        };
        for ((ids, labels), mask) in self
            .input_ids
            .iter()
            .zip(&self.labels)
            .zip(&self.attention_mask)
        {
            let length = mask.iter().filter(|m| **m == 1).count();
            let target = |t: usize| labels.get(t + 1).and_then(|&l| u32::try_from(l).ok());
            batch.input_ids.push(ids[..length].to_vec());
            batch.targets.push((0..length).map(target).collect());
        }
        batch
    }
}

#[test]
fn twenty_steps_are_those_of_torch_adamw_over_peft() {
    let reference: Reference =
        serde_json::from_slice(&fs::read(format!("{FIXTURES}/adamw20/batches.json")).unwrap())
            .unwrap();
    let base = format!("{FIXTURES}/llama_tied_gqa");
    let decoder = model::open_decoder(&base, &Device::Cpu, DType::F32).unwrap();
    let folder = format!("{FIXTURES}/adamw20/adapter");
    let set = read_peft(Path::new(&folder), decoder.config(), &Device::Cpu).unwrap();
    let mut optimizer = AdamW::new(&set);
    let settings = &reference.settings;
    for expected in &reference.steps {
        let mut gradients = PairValues::zeros(&set);
        let (mut loss_sum, mut tokens) = (0.0, 0);
        for micro_batch in &expected.micro_batches {
            let pass = decoder
                .loss_and_gradients(&micro_batch.batch(), &set, None, expected.step % 2 == 0)
                .unwrap();
            gradients.add(&pass.gradients).unwrap();
            loss_sum += pass.loss_sum;
            tokens += pass.trained_tokens;
        }
        gradients.scale(1.0 / tokens as f32);
        let norm = clip(&mut gradients, settings.max_grad_norm);
        let learning_rate = settings.learning_rate
            * schedule::factor(
                LrScheduler::Cosine,
                settings.warmup_steps,
                settings.total_steps,
                expected.step,
            );
        let rates = Rates {
            learning_rate,
            loraplus_ratio: 1.0,
            weight_decay: settings.weight_decay,
        };
        optimizer.update(&set, &gradients, rates).unwrap();
        let loss = loss_sum / tokens as f64;
        for (what, ours, theirs) in [
            ("loss", loss, expected.loss),
            ("gradient norm", norm, expected.grad_norm),
            ("learning rate", learning_rate, expected.lr),
        ] {
            assert!(
                (ours - theirs).abs() <= 1e-3 * theirs.abs(),
                "step {}: {what} {ours}, torch {theirs}",
                expected.step
            );
        }
    }
    let expected = candle_core::safetensors::load(
        format!("{FIXTURES}/adamw20/final.safetensors"),
        &Device::Cpu,
    )
    .unwrap();
    assert_eq!(expected.len(), 2 * set.pairs.len());
    for pair in &set.pairs {
        for (side, ours) in [("lora_A", &pair.a), ("lora_B", &pair.b)] {
            let name = format!("base_model.model.{}.{side}.weight", pair.module);
            let numbers =
                |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (ours, theirs) = (numbers(ours.as_tensor()), numbers(&expected[&name]));
            let furthest = ours
                .iter()
                .zip(&theirs)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(furthest < 1e-3, "{name}: {furthest}");
        }
    }
}

#[test]
fn accumulated_micro_batches_are_the_full_batch() {
    let temp = tempfile::tempdir().unwrap();
    let events = |name: &str, sizes: &str| {
        let settings = format!("max_steps: 4\neval_split: 0\nlearning_rate: 1e-3\n{sizes}");
        let run = Run::new(&temp.path().join(name), &settings);
        let (outcome, events) = run.train(None);
        outcome.unwrap();
        events
            .into_iter()
            .filter_map(|e| match e {
                EventKind::Step(m) => Some((m.loss.0, m.grad_norm.0, m.tokens)),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    let full = events("full", "batch_size: 8\ngradient_accumulation_steps: 1");
    for (name, sizes) in [
        ("halves", "batch_size: 4\ngradient_accumulation_steps: 2"),
        ("ones", "batch_size: 1\ngradient_accumulation_steps: 8"),
        // 3 + 3 + 2 would be another batch; 20 records in steps of 8: the third step has 4 left.
        ("twos", "batch_size: 2\ngradient_accumulation_steps: 4"),
    ] {
        for (step, (ours, whole)) in events(name, sizes).iter().zip(&full).enumerate() {
            assert_eq!(ours.2, whole.2);
            for (a, b) in [(ours.0, whole.0), (ours.1, whole.1)] {
                assert!(
                    (a - b).abs() <= 1e-5 * b.abs(),
                    "{name}, step {}: {a} {b}",
                    step + 1
                );
            }
        }
    }
}

/// Steers a run by the commands that `steer` sends when it sees an event.
fn steered(
    run: &Run,
    steer: impl FnMut(&EventKind, &Hand) + Send + 'static,
) -> (anyhow::Result<Outcome>, Vec<EventKind>) {
    run.train_with(None, steer)
}

#[test]
fn a_pause_changes_no_bit_and_everything_works_meanwhile() {
    let temp = tempfile::tempdir().unwrap();
    let settings = "gradient_accumulation_steps: 2\nlora_dropout: 0.1\nsave_steps: 100";
    let straight = Run::new(&temp.path().join("straight"), settings);
    let (_, whole) = straight.train(None);
    let run = Run::new(&temp.path().join("paused"), settings);
    let mut asked = false;
    let (outcome, events) = steered(&run, move |event, hand| {
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
    let (outcome, events) = steered(&run, move |event, hand| {
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
    let (outcome, events) = steered(&run, move |event, hand| {
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
    let (outcome, events) = steered(&run, move |event, hand| {
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
    let (outcome, events) = steered(&run, |event, hand| {
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

/// An adapter of huge numbers, that no finite loss comes of.
fn exploding_adapter(run: &Run, folder: &Path) {
    let base = model::open(&run.config.base_model, &Device::Cpu, DType::F32).unwrap();
    run.train(None).0.unwrap();
    let export = run.folders().exports.join("peft");
    let set = read_peft(&export, &base.description.config, &Device::Cpu).unwrap();
    for pair in &set.pairs {
        pair.b.set(&pair.b.affine(0.0, 1e30).unwrap()).unwrap();
    }
    write_peft(&set, "builtin:tiny-llama", folder).unwrap();
}

#[test]
fn updates_that_are_not_finite_are_skipped_and_pause_the_run() {
    let temp = tempfile::tempdir().unwrap();
    let first = Run::new(
        &temp.path().join("first"),
        "max_steps: 1\nwarmup_steps: 0\neval_split: 0",
    );
    let exploding = temp.path().join("exploding");
    exploding_adapter(&first, &exploding);
    let settings = format!(
        "eval_split: 0\nsave_steps: 1\ninit_from: {}",
        exploding.display()
    );
    let run = Run::new(&temp.path().join("second"), &settings);
    let (outcome, events) = steered(&run, |event, hand| {
        if is_phase(event, PhaseName::Paused) {
            let mode = StopMode::Discard;
            hand.send(1, Command::Stop { mode });
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
    let skipped: Vec<(u64, u32)> = events
        .iter()
        .filter_map(|e| match e {
            EventKind::NonFinite { step, in_a_row, .. } => Some((*step, *in_a_row)),
            _ => None,
        })
        .collect();
    assert_eq!(skipped, [(1, 1), (2, 2), (3, 3)]);
    assert!(losses(&events).is_empty());
    let state = checkpoint::verify(&run.checkpoint(2)).unwrap();
    assert_eq!((state.step, state.updates), (2, 0));
}

#[test]
fn init_from_continues_an_adapter_of_the_same_shape() {
    let temp = tempfile::tempdir().unwrap();
    let first = Run::new(&temp.path().join("first"), "epochs: 3");
    let (_, events) = first.train(None);
    let last_loss = events.iter().rev().find_map(|e| match e {
        EventKind::Eval { loss, .. } => Some(loss.0),
        _ => None,
    });
    let export = first.folders().exports.join("peft");
    let settings = format!(
        "max_steps: 2\nwarmup_steps: 0\ninit_from: {}",
        export.display()
    );
    let second = Run::new(&temp.path().join("second"), &settings);
    let (_, events) = second.train(None);
    let start = events.iter().find_map(|e| match e {
        EventKind::Eval {
            loss, base_loss, ..
        } => Some((loss.0, base_loss.unwrap().0)),
        _ => None,
    });
    let (start, base) = start.unwrap();
    assert_eq!(Some(start), last_loss, "it begins where the other ended");
    assert!(
        base > start,
        "and the bare base is told apart: {base} {start}"
    );

    let settings = format!("lora_rank: 8\ninit_from: {}", export.display());
    let error = Run::new(&temp.path().join("third"), &settings)
        .train(None)
        .0
        .unwrap_err();
    let sentence = format!("{error:#}");
    assert!(sentence.contains("its rank is 4, not 8"), "{sentence}");
}

#[test]
fn nothing_is_trained_that_cannot_be_saved() {
    let temp = tempfile::tempdir().unwrap();
    let run = Run::new(temp.path(), "epochs: 1");
    fs::write(run.folders().exports, "a file in the way").unwrap();
    let (outcome, events) = run.train(None);
    let error = outcome.unwrap_err();
    assert_eq!(loradeck::error::exit_code(&error), 2);
    let sentence = format!("{error:#}");
    assert!(sentence.contains("exports cannot be written"), "{sentence}");
    assert!(losses(&events).is_empty());
}

#[test]
fn a_bad_record_ends_the_run_before_it_begins_unless_it_is_to_be_skipped() {
    let temp = tempfile::tempdir().unwrap();
    let run = Run::new(temp.path(), "max_steps: 1\nwarmup_steps: 0");
    let data = temp.path().join("data.jsonl");
    let text = fs::read_to_string(&data).unwrap();
    fs::write(&data, format!("{text}\n{{\"prompt\": 3}}")).unwrap();
    let error = run.train(None).0.unwrap_err();
    assert_eq!(loradeck::error::exit_code(&error), 2);
    let sentence = format!("{error:#}");
    assert!(sentence.contains("data.jsonl:21:"), "{sentence}");
    let run = Run::new(
        temp.path(),
        "max_steps: 1\nwarmup_steps: 0\nskip_bad_records: true",
    );
    assert_eq!(run.train(None).0.unwrap(), Outcome::Done);
}
