//! The training loop in this process, on the built-in base.

#[path = "support/training.rs"]
mod support;

use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use loradeck::adapter::{self, ExportOptions, Format, read_lora_set, write_peft};
use loradeck::config::LrScheduler;
use loradeck::model::{self, Part, TokenBatch};
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
    pool: Vec<ReferenceBatch>,
    steps: Vec<ReferenceStep>,
}

#[derive(serde::Deserialize)]
struct Settings {
    learning_rate: f64,
    loraplus_ratio: f64,
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
    /// Indices into the pool.
    micro_batches: Vec<usize>,
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
fn fifty_steps_are_those_of_peft_under_torch_adamw() {
    fifty_steps("lora");
}

#[test]
fn fifty_steps_of_dora_with_lora_plus_are_those_of_peft() {
    fifty_steps("dora");
}

/// Losses, gradient norms and rates of every step, and the adapter after the last
/// (`tests/tools/make_training_fixtures.py`).
fn fifty_steps(case: &str) {
    let folder = format!("{FIXTURES}/steps50/{case}");
    let reference: Reference =
        serde_json::from_slice(&fs::read(format!("{folder}/steps.json")).unwrap()).unwrap();
    assert_eq!(reference.steps.len(), 50);
    let base = format!("{FIXTURES}/llama_tied_gqa");
    let decoder = model::open_decoder(&base, &Device::Cpu, DType::F32).unwrap();
    let adapter = format!("{folder}/adapter");
    let set = read_lora_set(Path::new(&adapter), decoder.config(), &Device::Cpu).unwrap();
    let mut optimizer = AdamW::new(&set);
    let settings = &reference.settings;
    for expected in &reference.steps {
        let mut gradients = Values::zeros(&set);
        let (mut loss_sum, mut tokens) = (0.0, 0);
        for &micro_batch in &expected.micro_batches {
            let batch = reference.pool[micro_batch].batch();
            let recompute = expected.step % 2 == 0;
            let pass = decoder
                .loss_and_gradients(&batch, &set, None, recompute)
                .unwrap();
            gradients.add(&pass.gradients).unwrap();
            loss_sum += pass.loss_sum.value().unwrap();
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
            text_encoder: learning_rate,
            loraplus_ratio: settings.loraplus_ratio,
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
                "{case}, step {}: {what} {ours}, PEFT {theirs}",
                expected.step
            );
        }
    }
    let expected =
        candle_core::safetensors::load(format!("{folder}/final.safetensors"), &Device::Cpu)
            .unwrap();
    assert_eq!(expected.len(), set.parameters().len());
    for parameter in set.parameters() {
        let end = match parameter.part {
            Part::Magnitude => "",
            Part::A | Part::B => ".weight",
        };
        let (module, part) = (parameter.module, parameter.part.name());
        let name = format!("base_model.model.{module}.{part}{end}");
        let numbers = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (ours, theirs) = (
            numbers(parameter.var.as_tensor()),
            numbers(&expected[&name]),
        );
        let furthest = ours
            .iter()
            .zip(&theirs)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(furthest < 1e-3, "{name}: {furthest}");
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

/// `(loss, gradient norm, tokens)` of every step.
fn steps(events: &[EventKind]) -> Vec<(f64, f64, u64)> {
    let step = |e: &EventKind| match e {
        EventKind::Step(m) => Some((m.loss.0, m.grad_norm.0, m.tokens)),
        _ => None,
    };
    events.iter().filter_map(step).collect()
}

#[test]
fn packed_records_give_the_losses_and_gradients_of_records_apart() {
    let temp = tempfile::tempdir().unwrap();
    // All records in one step, packed and not: the same sums, whatever lies beside what.
    let run = |name: &str, settings: &str| {
        let settings = format!("epochs: 3\neval_split: 0\nbatch_size: 20\n{settings}");
        let run = Run::new(&temp.path().join(name), &settings);
        let (outcome, events) = run.train(None);
        assert_eq!(outcome.unwrap(), Outcome::Done);
        let statistics = events.iter().find_map(|e| match e {
            EventKind::Data { statistics } => Some(statistics.clone()),
            _ => None,
        });
        (steps(&events), statistics.unwrap())
    };
    let (apart, _) = run("apart", "");
    let (packed, statistics) = run("packed", "packing: true\nsequence_len: 256");
    let packing = statistics.packing.unwrap();
    assert_eq!(packing.tokens, statistics.tokens);
    assert!(packing.rows < 6 && packing.filled() > 0.7, "{packing:?}");
    assert_eq!((apart.len(), packed.len()), (3, 3));
    for (packed, apart) in packed.iter().zip(&apart) {
        assert_eq!(packed.2, apart.2);
        for (a, b) in [(packed.0, apart.0), (packed.1, apart.1)] {
            assert!((a - b).abs() <= 1e-4 * b, "{a} {b}");
        }
    }
}

#[test]
fn the_steps_of_a_packed_epoch_are_those_of_its_rows() {
    let temp = tempfile::tempdir().unwrap();
    let settings = "epochs: 2\neval_split: 0\npacking: true\nsequence_len: 100\nbatch_size: 1";
    let run = Run::new(temp.path(), settings);
    let (outcome, events) = run.train(None);
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let rows = events.iter().find_map(|e| match e {
        EventKind::Data { statistics } => statistics.packing.map(|p| (p.rows, p.tokens)),
        _ => None,
    });
    let (rows, tokens) = rows.unwrap();
    assert!(events.iter().any(
        |e| matches!(e, EventKind::Plan { steps_per_epoch, total_steps }
        if *steps_per_epoch == rows && *total_steps == 2 * rows)
    ));
    let steps = steps(&events);
    assert_eq!(steps.len() as u64, 2 * rows);
    assert!(steps.iter().all(|step| step.2 <= 100));
    for epoch in steps.chunks(rows as usize) {
        assert_eq!(epoch.iter().map(|step| step.2).sum::<u64>(), tokens);
    }
}

#[test]
fn the_longest_record_comes_first_when_they_are_grouped_by_length() {
    let temp = tempfile::tempdir().unwrap();
    let settings = "epochs: 1\neval_split: 0\nbatch_size: 1\ngroup_by_length: true";
    let (outcome, events) = Run::new(temp.path(), settings).train(None);
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let lengths: Vec<u64> = steps(&events).iter().map(|step| step.2).collect();
    assert_eq!(lengths.len(), 20);
    assert_eq!(lengths[0], *lengths.iter().max().unwrap());
    // Megabatches of 20 / 4 = 5 records, each from long to short.
    for megabatch in lengths[5..].chunks(5) {
        assert!(megabatch.is_sorted_by(|a, b| a >= b), "{megabatch:?}");
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
    // What was not finite has touched neither moment.
    let moments = std::fs::read(run.checkpoint(2).join("optimizer.safetensors")).unwrap();
    let moments = safetensors::SafeTensors::deserialize(&moments).unwrap();
    assert!(
        moments
            .tensors()
            .iter()
            .all(|(_, t)| t.data().iter().all(|&b| b == 0))
    );
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

    // A higher rank, from any format: it begins at the same place, and goes on from there.
    let gguf = temp.path().join("adapter.gguf");
    let base = loradeck::model::describe("builtin:tiny-llama").unwrap();
    let options = ExportOptions {
        dtype: None,
        base: Some(&base.config),
    };
    adapter::write(
        adapter::open(&export).unwrap(),
        Format::Gguf,
        &gguf,
        &options,
    )
    .unwrap();
    for (name, path, expected) in [("third", &export, "raised to 8"), ("fourth", &gguf, "8")] {
        let settings = format!(
            "lora_rank: 8\nmax_steps: 2\nwarmup_steps: 0\ninit_from: {}",
            path.display()
        );
        let (outcome, events) = Run::new(&temp.path().join(name), &settings).train(None);
        outcome.unwrap();
        let raised = events.iter().find_map(|e| match e {
            EventKind::Eval { loss, .. } => Some(loss.0),
            _ => None,
        });
        assert!((raised.unwrap() - start).abs() < 1e-6, "{raised:?} {start}");
        let said = events.iter().any(|e| match e {
            EventKind::Message(message) => message.text.contains(expected),
            _ => false,
        });
        assert!(said, "{name}: the log tells that the rank was raised");
    }

    let settings = format!("lora_rank: 2\ninit_from: {}", export.display());
    let error = Run::new(&temp.path().join("fifth"), &settings)
        .train(None)
        .0
        .unwrap_err();
    let sentence = format!("{error:#}");
    assert!(
        sentence.contains("its rank is 4, above lora_rank 2"),
        "{sentence}"
    );
}

/// The losses of the first and the last eval.
fn evals(events: &[EventKind]) -> (f64, f64) {
    let mut losses = events.iter().filter_map(|e| match e {
        EventKind::Eval { loss, .. } => Some(loss.0),
        _ => None,
    });
    let first = losses.next().unwrap();
    (first, losses.next_back().unwrap())
}

#[test]
fn every_kind_of_adapter_learns_and_goes_on_as_it_was_exported() {
    let temp = tempfile::tempdir().unwrap();
    let mut ended = std::collections::HashMap::new();
    for (name, kind) in [
        ("dora", "use_dora: true\nuse_rslora: true"),
        (
            "shared",
            "share_adapters: layers\ntarget_modules: all-linear",
        ),
        (
            "shared dora",
            "share_adapters: layers\nuse_dora: true\nlayers: 1-2\nlora_dropout: 0.1",
        ),
    ] {
        let folder = temp.path().join(name);
        let first = Run::new(&folder.join("first"), &format!("{kind}\nepochs: 3"));
        let (outcome, events) = first.train(None);
        assert_eq!(outcome.unwrap(), Outcome::Done, "{name}");
        let (before, after) = evals(&events);
        assert!(after < 0.8 * before, "{name}: {before} -> {after}");
        ended.insert(name, after);
        let export = first.folders().exports.join("peft");
        let settings = format!(
            "{kind}\nmax_steps: 2\nwarmup_steps: 0\ninit_from: {}",
            export.display()
        );
        let (_, events) = Run::new(&folder.join("second"), &settings).train(None);
        let (start, _) = evals(&events);
        assert!((start - after).abs() < 1e-6, "{name}: {start} {after}");
    }

    // Of another kind: what differs is said.
    let refused = |name: &str, export: &str, settings: &str| {
        let export = temp.path().join(export).join("first/exports/peft");
        let settings = format!("{settings}\ninit_from: {}", export.display());
        let run = Run::new(&temp.path().join(name), &settings);
        format!("{:#}", run.train(None).0.unwrap_err())
    };
    let sentence = refused("a", "dora", "use_rslora: true");
    assert!(
        sentence.contains("it is DoRA, this config is not"),
        "{sentence}"
    );
    // LoRA goes on as DoRA: the magnitudes are those of the weight as it was adapted.
    let settings = format!(
        "target_modules: all-linear\nuse_dora: true\nmax_steps: 1\nwarmup_steps: 0\ninit_from: {}",
        temp.path().join("shared/first/exports/peft").display()
    );
    let (outcome, events) = Run::new(&temp.path().join("b"), &settings).train(None);
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let (start, _) = evals(&events);
    assert!((start - ended["shared"]).abs() < 1e-5, "{start}");
    let sentence = refused(
        "c",
        "dora",
        "use_dora: true\nuse_rslora: true\nshare_adapters: layers",
    );
    assert!(
        sentence.contains("`share_adapters` makes them one"),
        "{sentence}"
    );
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
