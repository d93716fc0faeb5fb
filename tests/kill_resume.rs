//! A run that is killed and started again ends with the same bits as one that was left alone.

mod program;

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use program::Scratch;

const STEPS: u64 = 14;
/// Two micro-batches a step, dropout, an epoch that ends within the run, and a checkpoint every
/// four steps.
const CONFIG: &str = "max_steps: 14\nbatch_size: 4\ngradient_accumulation_steps: 2\n\
    lora_dropout: 0.1\nlearning_rate: 2e-3\nsave_steps: 4\neval_steps: 5\neval_split: 4\n\
    sequence_len: 64\nlr_scheduler: cosine\nwarmup_steps: 3\n";

struct Result {
    adapter: Vec<u8>,
    moments: Vec<u8>,
    losses: Vec<(u64, serde_json::Value, serde_json::Value)>,
}

fn result(scratch: &Scratch) -> Result {
    let last = scratch.run.join(format!("checkpoints/step-{STEPS:06}"));
    let read = |name: &str| fs::read(last.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    Result {
        adapter: read("adapter_model.safetensors"),
        moments: read("optimizer.safetensors"),
        losses: scratch.losses(),
    }
}

fn assert_equal(undisturbed: &Result, killed: &Result) {
    assert_eq!(undisturbed.losses, killed.losses, "logged losses");
    assert!(undisturbed.adapter == killed.adapter, "adapters differ");
    assert!(undisturbed.moments == killed.moments, "moments differ");
}

fn undisturbed() -> Result {
    let scratch = Scratch::new(CONFIG);
    let status = scratch.headless().wait().unwrap();
    assert!(status.success());
    result(&scratch)
}

/// Waits until `ready`, then kills with SIGKILL. Returns early when the run has ended before.
fn kill_when(child: &mut Child, ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() {
        if child.try_wait().unwrap().is_some() {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "never came to the kill"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn logged_steps(run: &Path) -> u64 {
    let Ok(log) = fs::read_to_string(run.join("events.000001.jsonl")) else {
        return 0;
    };
    log.lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
        .filter(|e| e["type"] == "step")
        .filter_map(|e| e["step"].as_u64())
        .next_back()
        .unwrap_or(0)
}

fn finish(scratch: &Scratch) {
    let out = scratch.output(&["train", scratch.config.to_str().unwrap(), "--headless"]);
    assert!(out.status.success(), "{}", program::text(&out));
}

/// No temporary file of a killed runner is left once the next one has run.
fn assert_tidy(scratch: &Scratch) {
    for folder in ["", "checkpoints", "exports"] {
        for entry in fs::read_dir(scratch.run.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains(".tmp"), "left over: {folder}/{name}");
        }
    }
}

/// `seq` counts from 1 without a hole over all runners.
fn assert_no_hole(scratch: &Scratch) {
    for (i, event) in scratch.events().iter().enumerate() {
        assert_eq!(event["seq"].as_u64(), Some(i as u64 + 1), "{event}");
    }
}

#[test]
fn killed_at_any_step_and_resumed_equals_left_alone_bit_for_bit() {
    let undisturbed = undisturbed();
    assert_eq!(undisturbed.losses.len() as u64, STEPS);
    // Before the first checkpoint, right after a save, between saves, near the end.
    for k in [2, 4, 6, 13] {
        let scratch = Scratch::new(CONFIG);
        let mut child = scratch.headless();
        kill_when(&mut child, || logged_steps(&scratch.run) >= k);
        finish(&scratch);
        assert_equal(&undisturbed, &result(&scratch));
        assert_tidy(&scratch);
        assert_no_hole(&scratch);
    }
}

#[test]
fn killed_twice_and_during_a_save_equals_left_alone_bit_for_bit() {
    let undisturbed = undisturbed();
    let scratch = Scratch::new(CONFIG);
    let saving = |run: &Path| {
        fs::read_dir(run.join("checkpoints")).is_ok_and(|entries| {
            entries
                .flatten()
                .any(|e| e.file_name().to_string_lossy().contains(".tmp"))
        })
    };
    let mut child = scratch.headless();
    kill_when(&mut child, || saving(&scratch.run));
    let mut child = scratch.headless();
    kill_when(&mut child, || logged_steps(&scratch.run) >= 9);
    finish(&scratch);
    assert_equal(&undisturbed, &result(&scratch));
    assert_tidy(&scratch);
    assert_no_hole(&scratch);
    let epochs: Vec<f64> = scratch
        .events()
        .iter()
        .filter(|e| e["type"] == "step")
        .filter_map(|e| e["epoch"].as_f64())
        .collect();
    assert!(epochs.iter().all(|&e| e > 0.0 && e < 3.0), "{epochs:?}");
}

#[test]
fn the_same_command_again_resumes_and_a_finished_run_says_so() {
    let scratch = Scratch::new(CONFIG);
    let mut child = scratch.headless();
    kill_when(&mut child, || logged_steps(&scratch.run) >= 5);
    let out = scratch.output(&["train", scratch.config.to_str().unwrap(), "--headless"]);
    let said = program::text(&out);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("resum") && said.contains("step 4"), "{said}");
    let out = scratch.output(&["train", scratch.config.to_str().unwrap(), "--headless"]);
    let said = program::text(&out);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("finished"), "{said}");
    assert_eq!(scratch.losses().len() as u64, STEPS);
}

#[test]
fn a_changed_restart_key_is_refused_with_the_difference() {
    let scratch = Scratch::new(CONFIG);
    let mut child = scratch.headless();
    kill_when(&mut child, || logged_steps(&scratch.run) >= 5);
    let edited = fs::read_to_string(&scratch.config).unwrap() + "lora_rank: 4\n";
    fs::write(&scratch.config, edited).unwrap();
    let out = scratch.output(&["train", scratch.config.to_str().unwrap(), "--headless"]);
    let said = program::text(&out);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(
        said.contains("lora_rank") && said.contains('8') && said.contains('4'),
        "{said}"
    );
}

#[test]
fn a_run_whose_checkpoints_are_all_damaged_is_never_started_over_unasked() {
    let scratch = Scratch::new(CONFIG);
    let mut child = scratch.headless();
    kill_when(&mut child, || logged_steps(&scratch.run) >= 5);
    let damaged = scratch.run.join("checkpoints/step-000004/state.json");
    fs::write(&damaged, "{").unwrap();
    let out = scratch.output(&["train", scratch.config.to_str().unwrap(), "--headless"]);
    let said = program::text(&out);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(
        said.contains("step-000004") && said.contains("--resume never"),
        "{said}"
    );
    assert!(damaged.exists(), "the damaged checkpoint was taken away");
}
