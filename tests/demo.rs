//! The main job as a newcomer starts it: `loradeck train configs/demo.yaml` in a pipe.

mod program;

use program::{PROGRAM, Scratch, repository, text};
use std::process::{Command, Stdio};

#[test]
fn the_demo_halves_the_held_out_loss_and_changes_what_the_base_says() {
    let scratch = Scratch::new("");
    let out = Command::new(PROGRAM)
        .args(["train", "configs/demo.yaml", "--set"])
        .arg(format!("output_dir={}", scratch.run.display()))
        .current_dir(repository())
        .env("XDG_RUNTIME_DIR", scratch.folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out));
    assert!(text(&out).contains("step "), "no progress lines");

    let status = scratch.status();
    assert_eq!(status["phase"], "done");
    let (bare, tuned) = (
        status["base_eval_loss"].as_f64().unwrap(),
        status["eval_loss"].as_f64().unwrap(),
    );
    assert!(tuned <= bare / 2.0, "held-out loss {bare} -> {tuned}");
    let total = status["total_steps"].as_u64().unwrap();
    assert_eq!(status["step"].as_u64(), Some(total));

    let events = scratch.events();
    let steps = |kind: &str| -> Vec<u64> {
        let of_kind = events.iter().filter(|e| e["type"] == kind);
        of_kind.map(|e| e["step"].as_u64().unwrap()).collect()
    };
    let evals = steps("eval");
    assert_eq!((evals[0], evals[evals.len() - 1]), (0, total));
    let samples: Vec<_> = events.iter().filter(|e| e["type"] == "sample").collect();
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    assert_eq!(first["step"], 0);
    assert_eq!(last["step"].as_u64(), Some(total));
    let answers = |e: &serde_json::Value| -> Vec<String> {
        let samples = e["samples"].as_array().unwrap().iter();
        samples
            .map(|s| s["text"].as_str().unwrap().to_owned())
            .collect()
    };
    for (before, after) in answers(first).iter().zip(&answers(last)) {
        assert!(!before.contains("village clinic"), "{before}");
        assert!(after.contains("village clinic"), "{after}");
    }
    assert!(
        scratch
            .run
            .join("exports/peft/adapter_model.safetensors")
            .is_file()
    );
}
