//! `loradeck bench` as a script runs it.

use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loradeck"))
        .arg("bench")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

#[test]
fn the_json_has_what_scripts_read_and_its_parts_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loradeck"))
        .args(["bench", "configs/demo.yaml", "--json", "--steps", "3"])
        .args(["--warmup", "1", "--set", "device=cpu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |key: &str| found[key].as_f64().unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(found["device"], "cpu");
    assert_eq!(found["steps"], 3);
    assert!(number("tokens_per_second") > 0.0);
    assert!(number("peak_memory_bytes") > 1e6);
    assert!(number("gemm_share") > 0.0);
    let step = &found["step_seconds"];
    assert!(step["median"].as_f64().unwrap() <= step["p95"].as_f64().unwrap());
    assert!(number("load_seconds") < number("first_step_seconds"));
    // A step multiplies at least each weight of the blocks with each token, forward and back.
    let weights = 6.0 * f64::from(128 * (128 + 64 + 64 + 128) + 3 * 128 * 384);
    assert!(number("flops_per_step") > 2.0 * weights * number("tokens_per_step"));
    let shares = found["parts"].as_array().unwrap().iter();
    let sum: f64 = shares.map(|part| part["share"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    // Nothing is left behind, neither in the temporary folder nor in the config's run folder.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_table_names_what_was_measured() {
    let output = bench(&["configs/demo.yaml", "--steps", "1", "--warmup", "0"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["tokens/s", "peak memory", "products", "linear", "attention"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn mistakes_end_with_2_and_a_sentence() {
    for (arguments, expected) in [
        (&["nowhere.yaml"][..], "nowhere.yaml"),
        (&["configs/demo.yaml", "--set", "lora_rank=0"], "lora_rank"),
        (&["configs/demo.yaml", "--steps", "0"], "--steps"),
    ] {
        let output = bench(arguments);
        assert_eq!(output.status.code(), Some(2));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(
            errors.contains(expected) && !errors.contains("panicked"),
            "{errors}"
        );
    }
}
