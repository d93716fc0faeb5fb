//! Memory that runs out is told, the work goes on in smaller pieces, and the numbers stay the same.

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use loradeck::data::collate;
use loradeck::model::{self, DropoutKey, LoraSet, LoraSpec};
use loradeck::ops::heap::{self, OutOfMemory, Watch};
use program::{Scratch, text};
use serde_json::Value;

const MIB: usize = 1 << 20;

/// Watched work is the whole process's: the other tests here start processes of their own.
#[test]
fn work_beyond_its_headroom_is_told_and_the_next_begins_afresh() {
    let watch = Watch::new(64 * MIB, MIB);
    assert_eq!(heap::check(), Ok(()));
    let held = vec![1u8; 256 * MIB];
    assert!(heap::live_bytes() >= 256 * MIB);
    assert_eq!(heap::check(), Err(OutOfMemory { bytes: 256 * MIB }));
    drop((held, watch));
    assert_eq!(heap::check(), Ok(()));

    // An allocation that the system refuses: here, more than there are addresses.
    let watch = Watch::new(usize::MAX, MIB);
    assert!(Vec::<u8>::new().try_reserve_exact(1 << 60).is_err());
    assert_eq!(heap::check(), Err(OutOfMemory { bytes: 1 << 60 }));
    drop(watch);
    assert_eq!(heap::check(), Ok(()));
}

const CONFIG: &str = "max_steps: 5\nbatch_size: 16\nlora_dropout: 0.1\nlearning_rate: 2e-3\n\
    save_steps: 2\neval_steps: 5\neval_split: 8\nsequence_len: 256\n\
    sample_prompts: [\"I have a cough.\"]\nsample_steps: 5\n";
/// Holds the activations of some of the sixteen records, not of all.
const TIGHT: &str = "30000000";
/// Holds those of no record.
const FAR_TOO_TIGHT: &str = "2000000";

fn train(scratch: &Scratch, limit: Option<&str>) -> Output {
    let mut command = scratch.command(&["train", scratch.config.to_str().unwrap(), "--headless"]);
    if let Some(limit) = limit {
        command.env("LORADECK_MEMORY_LIMIT", limit);
    }
    command.output().unwrap()
}

fn state(scratch: &Scratch, step: u64) -> Value {
    let path = format!("checkpoints/step-{step:06}/state.json");
    serde_json::from_slice(&fs::read(scratch.run.join(path)).unwrap()).unwrap()
}

/// Step by step within 1e-6 of the other's loss and gradient norm.
fn assert_same_numbers(ours: &Scratch, whole: &Scratch) {
    let (ours, whole) = (ours.losses(), whole.losses());
    assert_eq!(ours.len(), whole.len());
    for (ours, whole) in ours.iter().zip(&whole) {
        for (a, b) in [(&ours.1, &whole.1), (&ours.2, &whole.2)] {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            // The first step's are of equal weights. Later ones are of weights that AdamW has moved
            // by the sign of gradients near 0.
            let bound = if ours.0 == 1 { 1e-6 } else { 1e-4 };
            assert!((a - b).abs() <= bound * b.abs(), "step {}: {a} {b}", ours.0);
        }
    }
}

#[test]
fn a_run_that_shrinks_its_micro_batches_has_the_same_numbers_and_keeps_the_size_when_resumed() {
    let whole = Scratch::new(CONFIG);
    assert!(train(&whole, None).status.success());
    let tight = Scratch::new(CONFIG);
    let out = train(&tight, Some(TIGHT));
    let said = text(&out);
    assert!(out.status.success(), "{said}");
    let pieces = state(&tight, 5)["pieces"].clone();
    let records = pieces["records"].as_u64().unwrap();
    assert!(records < 16 && 16 % records == 0, "{pieces}");
    for part in [
        "memory ran out in step 1 with 16 records at once",
        &format!("micro-batches are computed {records} at a time"),
        "LORADECK_MEMORY_LIMIT",
        &format!(
            "batch_size: {records}, gradient_accumulation_steps: {}",
            16 / records
        ),
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert_same_numbers(&tight, &whole);
    assert_eq!(state(&whole, 5)["pieces"], Value::Null);

    // Two more steps without any limit: the size stays, and nothing runs out.
    let more = fs::read_to_string(&tight.config).unwrap();
    fs::write(&tight.config, more.replace("max_steps: 5", "max_steps: 7")).unwrap();
    let out = train(&tight, None);
    let said = text(&out);
    assert!(out.status.success(), "{said}");
    assert!(
        said.contains(&format!(
            "memory ran out before: micro-batches are computed {records} at a time"
        )),
        "{said}"
    );
    assert_eq!(state(&tight, 7)["pieces"], pieces);
}

#[test]
fn a_run_that_fits_in_no_size_pauses_with_what_to_change_and_lives() {
    let scratch = Scratch::new(CONFIG);
    let mut command = scratch.command(&["train", scratch.config.to_str().unwrap(), "--detach"]);
    let out = command
        .env("LORADECK_MEMORY_LIMIT", FAR_TOO_TIGHT)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out));
    scratch.wait_for_phase("paused");
    let log = fs::read_to_string(scratch.run.join("events.000001.jsonl")).unwrap();
    assert!(
        log.contains("activations are computed again in backward"),
        "{log}"
    );
    assert!(log.contains("Lower sequence_len or lora_rank"), "{log}");
    // Not even a checkpoint fits; what is asked for gets an answer, and the run lives on.
    for command in ["checkpoint", "export"] {
        let out = scratch.send(&[command]);
        assert!(text(&out).contains("not enough memory"), "{}", text(&out));
    }
    // Not a byte of what was not written is there.
    let named = |folder: &str| fs::read_dir(scratch.run.join(folder)).map_or(0, Iterator::count);
    assert_eq!((named("checkpoints"), named("exports")), (0, 0));
    assert_eq!(scratch.status()["phase"], "paused");
}

/// Steps of one short record fit, a prompt of 450 tokens does not.
#[test]
fn a_sample_that_does_not_fit_is_left_out_and_told_and_the_run_ends_with_the_same_numbers() {
    let config = format!(
        "max_steps: 5\nbatch_size: 1\nsequence_len: 32\neval_split: 8\nsample_steps: 2\n\
         sample_prompts: [\"{}\"]\n",
        "cough ".repeat(450)
    );
    let (tight, whole) = (Scratch::new(&config), Scratch::new(&config));
    let out = train(&tight, Some("12000000"));
    let said = text(&out);
    assert!(out.status.success(), "{said}");
    assert!(
        said.contains("a sample was left out, as memory ran out"),
        "{said}"
    );
    assert!(train(&whole, None).status.success());
    assert_eq!(tight.losses(), whole.losses());
}

#[test]
fn on_oom_pause_waits_and_on_oom_stop_ends_after_a_checkpoint() {
    let scratch = Scratch::new(&format!("{CONFIG}on_oom: pause\n"));
    let mut command = scratch.command(&["train", scratch.config.to_str().unwrap(), "--detach"]);
    let started = command
        .env("LORADECK_MEMORY_LIMIT", TIGHT)
        .output()
        .unwrap();
    assert!(started.status.success(), "{}", text(&started));
    scratch.wait_for_phase("paused");
    // A person decides that smaller pieces will do.
    assert!(scratch.send(&["set", "on_oom=shrink"]).status.success());
    assert!(scratch.send(&["resume"]).status.success());
    scratch.wait_for_phase("done");

    let scratch = Scratch::new(&format!("{CONFIG}on_oom: stop\n"));
    let out = train(&scratch, Some(TIGHT));
    let said = text(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("on_oom is stop"), "{said}");
    assert_eq!(state(&scratch, 0)["step"], 0);
}

/// Gradients of a micro-batch at once and in pieces, with dropout: within 1e-6 of the largest.
#[test]
fn a_micro_batch_in_pieces_has_the_gradient_of_the_whole_also_with_dropout() {
    let base = model::open(
        "builtin:tiny-llama",
        &candle_core::Device::Cpu,
        candle_core::DType::F32,
    )
    .unwrap();
    let scratch = Scratch::new("lora_dropout: 0.2\neval_split: 0\n");
    let config = loradeck::config::load(&scratch.config, &[]).unwrap().config;
    let data = loradeck::data::load(&config, &base.tokenizer).unwrap();
    let shape = &base.description.config;
    let modules = model::match_targets(shape, true, &[], None).unwrap();
    let spec = LoraSpec {
        dropout: 0.2,
        target_modules: model::peft_targets(shape, &modules).0,
        ..LoraSpec::lora(8)
    };
    let set = LoraSet::new(&modules, spec, 3, &candle_core::Device::Cpu).unwrap();
    // B begins as zero, and with it A's gradient.
    for pair in &set.pairs {
        pair.b
            .set(&(pair.b.ones_like().unwrap() * 0.02).unwrap())
            .unwrap();
    }
    let records: Vec<_> = data.train.iter().take(7).collect();
    let gradient = |size: usize| {
        let (mut sum, mut loss, mut tokens_before) = (Vec::new(), 0.0, 0);
        for piece in records.chunks(size) {
            let key = DropoutKey {
                seed: 1,
                step: 2,
                micro_batch: 3,
                tokens_before,
            };
            let pass = base
                .decoder
                .loss_and_gradients(&collate(piece), &set, Some(key), false)
                .unwrap();
            let flat: Vec<f64> = pass
                .gradients
                .iter()
                .flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
                .map(f64::from)
                .collect();
            sum.resize(flat.len(), 0.0);
            sum.iter_mut().zip(flat).for_each(|(s, g)| *s += g);
            loss += pass.loss_sum.value().unwrap();
            tokens_before += pass.computed_tokens;
        }
        (sum, loss)
    };
    let (whole, loss) = gradient(7);
    let largest = whole.iter().fold(0.0f64, |m, g| m.max(g.abs()));
    assert!(largest > 0.0);
    for size in [4, 2, 1] {
        let (pieces, loss_in_pieces) = gradient(size);
        assert!((loss - loss_in_pieces).abs() <= 1e-6 * loss);
        let furthest = whole
            .iter()
            .zip(&pieces)
            .fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
        println!(
            "pieces of {size}: at most {:.1e} of the largest gradient",
            furthest / largest
        );
        assert!(
            furthest <= 1e-6 * largest,
            "{size}: {furthest} of {largest}"
        );
    }
}

const LARGE: &str = "max_steps: 2\nbatch_size: 240\nlearning_rate: 2e-3\neval_split: 4\n\
    sequence_len: 256\nsave_steps: 1\n";

/// `ulimit -v`: what does not fit is refused by the system.
#[test]
fn a_limit_on_address_space_is_survived() {
    let scratch = Scratch::new(LARGE);
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -v 1300000; exec \"$0\" train \"$1\" --headless",
        ])
        .args([Path::new(program::PROGRAM), &scratch.config])
        .env("XDG_RUNTIME_DIR", scratch.folder.path());
    let out = command.output().unwrap();
    let said = text(&out);
    assert!(out.status.success(), "{said}");
    assert!(
        said.contains("memory ran out") && said.contains("ulimit -v"),
        "{said}"
    );
}

/// A control group with a memory limit, where this test may make one.
fn control_group(bytes: usize) -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let name = format!("loradeck-test-{}", std::process::id());
    let v1 = Path::new("/sys/fs/cgroup/memory");
    let (group, limit) = if v1.is_dir() {
        (v1.join(name), "memory.limit_in_bytes")
    } else {
        let own = groups.lines().find_map(|l| l.strip_prefix("0::/"))?;
        (
            Path::new("/sys/fs/cgroup").join(own).join(name),
            "memory.max",
        )
    };
    fs::create_dir(&group).ok()?;
    if fs::write(group.join(limit), bytes.to_string()).is_err() {
        let _ = fs::remove_dir(&group);
        return None;
    }
    Some(group)
}

/// Its kernel kills, it refuses nothing: the run has to stay below the limit by itself.
#[test]
fn a_control_groups_limit_is_never_reached() {
    let Some(group) = control_group(150 * MIB) else {
        println!("not run: no control group can be made here");
        return;
    };
    let scratch = Scratch::new(LARGE);
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "echo $$ > \"$2/cgroup.procs\"; exec \"$0\" train \"$1\" --headless",
        ])
        .args([Path::new(program::PROGRAM), &scratch.config, &group])
        .env("XDG_RUNTIME_DIR", scratch.folder.path());
    let out = command.output().unwrap();
    let _ = fs::remove_dir(&group);
    let said = text(&out);
    assert!(out.status.success(), "{said}");
    assert!(
        said.contains("the control group's limit of 150 MiB"),
        "{said}"
    );
}
