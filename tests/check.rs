//! `loradeck check` as a person runs it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn check(arguments: &[&str], temporary: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loradeck"))
        .arg("check")
        .args(arguments)
        .current_dir(ROOT)
        .env("TMPDIR", temporary)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A config file in `folder`.
fn written(folder: &Path, yaml: &str) -> String {
    let path = folder.join("run.yaml");
    std::fs::write(&path, yaml).unwrap();
    path.display().to_string()
}

#[test]
fn the_demo_passes_with_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let output = check(&["configs/demo.yaml", "--json"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = json(&output);
    assert_eq!(report["ok"], true);
    assert_eq!(report["problems"].as_array().unwrap().len(), 0);
    assert_eq!(report["base"]["architecture"], "llama");
    let data = &report["data"]["statistics"];
    let records = std::fs::read_to_string(Path::new(ROOT).join("configs/demo/train.jsonl"))
        .unwrap()
        .lines()
        .count() as u64;
    let counted = |key: &str| data[key].as_u64().unwrap();
    assert_eq!(counted("train_records") + counted("eval_records"), records);
    // Rank times inputs plus outputs of q, k, v, o in 6 layers of 128, with half the heads for k, v.
    assert_eq!(report["adapter"]["modules"], 24);
    assert_eq!(
        report["adapter"]["parameters"],
        8 * 6 * (2 * (128 + 128) + 2 * (128 + 64))
    );
    let batches = counted("train_records").div_ceil(8);
    assert_eq!(report["plan"]["steps_per_epoch"], batches);
    assert!(report["memory"]["total_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(report["disk"]["free_bytes"].as_u64().unwrap() > 0);
    assert_eq!(report["keys"][0]["key"], "base_model");
    let said = text(&check(&["configs/demo.yaml"], folder.path()));
    for part in [
        "Config\n",
        "Base\n",
        "Data\n",
        "Adapter\n",
        "Run\n",
        "no errors",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_trial_proves_every_part_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = check(&["configs/demo.yaml", "--try", "--json"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = json(&output);
    let steps: Vec<&str> = report["try"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            assert_eq!(step["ok"], true, "{step}");
            step["step"].as_str().unwrap()
        })
        .collect();
    for part in [
        "two steps",
        "eval",
        "sample",
        "checkpoint",
        "export",
        "resume, one more step",
    ] {
        assert!(steps.contains(&part), "{steps:?}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_image_config_is_checked_whole() {
    let folder = tempfile::tempdir().unwrap();
    let output = check(&["configs/demo_image.yaml", "--json"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = json(&output);
    assert_eq!(report["ok"], true);
    let rows = std::fs::read_to_string(Path::new(ROOT).join("configs/demo_image/metadata.csv"))
        .unwrap()
        .lines()
        .count() as u64
        - 1;
    let data = &report["data"]["statistics"];
    assert_eq!(data["images"]["images"], rows);
    assert_eq!(data["eval_records"], 4);
    assert_eq!(report["plan"]["steps_per_epoch"], (rows - 4).div_ceil(4));
    assert!(report["adapter"]["parameters"].as_u64().unwrap() > 10_000);
    let said = text(&check(&["configs/demo_image.yaml"], folder.path()));
    for part in [
        "Base\n",
        "Data\n",
        "images",
        "memory: about",
        "pictures of 64x64",
        "disk:",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Every error at once.
    let bad = written(
        folder.path(),
        "base_model: builtin:tiny-sd\ntrain_data_dir: configs/demo_image\nresolution: 64\n\
         target_modules: [to_x]\nsample_prompts: [\"a fox --w 65\"]\n",
    );
    let output = check(&[&bad], folder.path());
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output);
    for part in [
        "run.yaml:4:1: error: target_modules: 'to_x'",
        "run.yaml:5:1: error: sample prompt",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// The estimate against the program's own peak, for the built-in base.
#[test]
fn the_memory_of_an_image_run_is_about_as_estimated() {
    // What encoding leaves with the allocator is not foreseen: it weighs with so small a base.
    for (settings, least) in [("", 0.8), ("gradient_checkpointing: true\n", 0.6)] {
        let folder = tempfile::tempdir().unwrap();
        let config = written(
            folder.path(),
            &format!(
                "base_model: builtin:tiny-sd\ntrain_data_dir: configs/demo_image\noutput_dir: {}\n\
                 resolution: 128\nlora_rank: 8\nbatch_size: 16\nmax_steps: 2\ndevice: cpu\n\
                 sample_prompts: []\n{settings}",
                folder.path().join("run").display()
            ),
        );
        let report = json(&check(&[&config, "--json"], folder.path()));
        let estimated = report["memory"]["total_bytes"].as_f64().unwrap();
        let run = Command::new(env!("CARGO_BIN_EXE_loradeck"))
            .args(["train", &config, "--headless"])
            .current_dir(ROOT)
            .env("XDG_RUNTIME_DIR", folder.path())
            .env("LORADECK_CACHE", folder.path())
            .output()
            .unwrap();
        assert!(run.status.success(), "{run:?}");
        let status = Command::new(env!("CARGO_BIN_EXE_loradeck"))
            .args([
                "status",
                folder.path().join("run").to_str().unwrap(),
                "--json",
            ])
            .output()
            .unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let measured = status["peak_memory_bytes"].as_f64().unwrap();
        let ratio = estimated / measured;
        eprintln!("{settings:?}: {estimated} estimated, {measured} measured: {ratio:.3}");
        assert!(
            (least..1.35).contains(&ratio),
            "{settings:?}: {estimated} for {measured}"
        );
    }
}

#[test]
fn a_trial_of_an_image_config_proves_every_part_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = check(
        &["configs/demo_image.yaml", "--try", "--json"],
        folder.path(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = json(&output);
    let steps: Vec<&str> = report["try"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            assert_eq!(step["ok"], true, "{step}");
            step["step"].as_str().unwrap()
        })
        .collect();
    for part in [
        "two steps",
        "eval",
        "sample",
        "checkpoint",
        "export",
        "resume, one more step",
    ] {
        assert!(steps.contains(&part), "{steps:?}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn problems_are_printed_with_their_places_and_end_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(
        folder.path(),
        "base_model: builtin:tiny-llama\nlora_r: 4\nsave_steps: 0\n",
    );
    let output = check(&[&config, "--try"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output);
    for part in [
        "run.yaml:2:1: error: `lora_r` is called `lora_rank` here\n    fix: write `lora_rank: 4`",
        "run.yaml:3:13: error: `save_steps: 0`",
        "run.yaml: error: `train_data_dir` is missing",
        "3 errors, 0 warnings; not tried out",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("Trial"));
}

#[test]
fn bad_records_are_all_listed_and_only_skipping_them_passes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.jsonl");
    let mut lines = String::new();
    for i in 0..40 {
        lines += &format!("{{\"prompt\": \"Question {i}?\", \"completion\": \"Answer {i}.\"}}\n");
        lines += "{\"prompt\": \"\"}\n";
    }
    std::fs::write(&data, lines).unwrap();
    let yaml = format!(
        "base_model: builtin:tiny-llama\ntrain_data_dir: {}\noutput_dir: {}\n",
        data.display(),
        folder.path().join("out").display()
    );
    let config = written(folder.path(), &yaml);
    let output = check(&[&config], folder.path());
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("error: 40 records are of another kind"),
        "{said}"
    );
    for line in (2..=80).step_by(2) {
        assert!(
            said.contains(&format!("data.jsonl:{line}: ")),
            "{line}: {said}"
        );
    }
    let output = check(&[&config, "--set", "skip_bad_records=true"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!folder.path().join("out").exists());
}

#[test]
fn data_that_is_wrong_ends_with_1_and_every_finding_names_its_place_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(
        folder.path(),
        &format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: tests/fixtures/medical_qa\n\
             output_dir: {}\n",
            folder.path().join("out").display()
        ),
    );
    let output = check(&[&config, "--json"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output);
    assert_eq!(report["ok"], false);
    assert!(report["problems"].as_array().unwrap().is_empty());
    let findings = report["data"]["statistics"]["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 6);
    let output = check(&[&config], folder.path());
    let said = text(&output);
    for finding in findings {
        for part in ["message", "remedy"] {
            assert!(said.contains(finding[part].as_str().unwrap()), "{said}");
        }
        for item in finding["items"].as_array().unwrap() {
            assert!(said.contains(item["name"].as_str().unwrap()), "{said}");
        }
    }
    assert!(
        said.contains("held out because of their names: eval.jsonl"),
        "{said}"
    );
    assert!(said.contains("2 errors, "), "{said}");
    // What is left is odd, and no reason not to train.
    let output = check(&[&config, "--set", "skip_bad_records=true"], folder.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn problems_of_base_targets_and_data_come_together() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data.jsonl");
    std::fs::write(&data, "{\"what\": 1}\n").unwrap();
    let config = written(
        folder.path(),
        &format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: {}\ntarget_modules: [query]\n",
            data.display()
        ),
    );
    let report = json(&check(&[&config, "--json"], folder.path()));
    let lines: Vec<u64> = report["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [2, 3], "{report:#}");
}
