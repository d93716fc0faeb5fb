//! The training loop in this process, on the built-in base.

#[path = "support/training.rs"]
mod support;

use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use loradeck::adapter::{read_lora_set, write_peft};
use loradeck::config::LrScheduler;
use loradeck::model::{self, TokenBatch};
use loradeck::protocol::{CheckpointReason, Command, EventKind, PhaseName, StopMode};
use loradeck::train::optimizer::{AdamW, Rates, Values, clip};
use loradeck::train::{Outcome, checkpoint, schedule};
use support::{Run, losses};

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
    let set = read_lora_set(Path::new(&folder), decoder.config(), &Device::Cpu).unwrap();
    let mut optimizer = AdamW::new(&set);
    let settings = &reference.settings;
    for expected in &reference.steps {
        let mut gradients = Values::zeros(&set);
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

/// An adapter of huge numbers, that no finite loss comes of.
fn exploding_adapter(run: &Run, folder: &Path) {
    let base = model::open(&run.config.base_model, &Device::Cpu, DType::F32).unwrap();
    run.train(None).0.unwrap();
    let export = run.folders().exports.join("peft");
    let set = read_lora_set(&export, &base.description.config, &Device::Cpu).unwrap();
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
    let (outcome, events) = run.train_with(None, |event, hand| {
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
