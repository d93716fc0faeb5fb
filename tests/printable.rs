//! Nothing that others wrote reaches a terminal as anything but text, and no secret is written down.

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use loradeck::printable::{is_harmless, printable_json};
use program::{PROGRAM, Scratch, repository, text};

/// Clipboard, title, colour as CSI and as C1, cursor, and a line that is written over.
const PAYLOAD: &str =
    "\u{1b}]52;c;aGFja2Vk\u{7}\u{1b}]0;owned\u{1b}\\\u{1b}[31m\u{9b}2J\u{1b}[1A\rX\u{202e}";

#[track_caller]
fn assert_harmless(what: &str, shown: &[u8]) {
    let shown = String::from_utf8_lossy(shown);
    let bad = shown
        .chars()
        .find(|&c| !(c == '\n' || c == '\t' || is_harmless(c)));
    assert_eq!(
        bad,
        None,
        "{what} prints {bad:?}:\n{}",
        shown.escape_debug()
    );
}

/// Data, file names, prompts and the run's own name hold escape sequences.
#[test]
fn escape_sequences_in_data_prompts_file_and_run_names_reach_no_output() {
    let scratch = Scratch::new("");
    let data = scratch
        .folder
        .path()
        .join(format!("data{PAYLOAD}").replace('/', ""));
    fs::create_dir(&data).unwrap();
    let record = |i: usize| {
        serde_json::json!({
            "prompt": format!("{PAYLOAD} question {i}"),
            "completion": format!("answer {PAYLOAD} {i}"),
        })
        .to_string()
    };
    let mut lines: Vec<String> = (0..12).map(record).collect();
    lines.push(format!("{{\"prompt\": \"{PAYLOAD} bad"));
    let name = format!("train{}.jsonl", PAYLOAD.replace('/', ""));
    fs::write(data.join(name), lines.join("\n")).unwrap();
    let run = scratch
        .folder
        .path()
        .join(format!("run{}", PAYLOAD.replace('/', "")));
    let config = scratch.folder.path().join("escape.yaml");
    let yaml = serde_json::json!({
        "base_model": "builtin:tiny-llama",
        "train_data_dir": data,
        "output_dir": run,
        "device": "cpu",
        "max_steps": 2,
        "eval_split": 2,
        "skip_bad_records": true,
        "sample_prompts": [format!("{PAYLOAD} what?")],
    });
    // YAML takes no raw control characters; JSON leaves some.
    let yaml = yaml.to_string();
    fs::write(&config, &*printable_json(&yaml)).unwrap();
    let config = config.to_str().unwrap();
    let run = run.to_str().unwrap();
    for arguments in [
        vec!["check", config],
        vec!["check", config, "--json"],
        vec!["train", config, "--headless"],
        vec!["status", run],
        vec!["status", run, "--json"],
        vec!["send", run, "pause"],
        vec!["export", run, "--format", "peft"],
        vec![
            "generate",
            "--base",
            "builtin:tiny-llama",
            "--prompt",
            PAYLOAD,
        ],
        vec!["generate", "--base", PAYLOAD, "--prompt", "x"],
        vec!["train", PAYLOAD],
        vec!["status", PAYLOAD],
    ] {
        let out = scratch.output(&arguments);
        let what = format!("{:?}", &arguments[..1]);
        assert_harmless(&what, &out.stdout);
        assert_harmless(&what, &out.stderr);
        if arguments[0] == "train" && arguments.len() == 3 {
            assert!(out.status.success(), "{}", text(&out));
        }
    }
    for entry in fs::read_dir(Path::new(run).join("samples")).unwrap() {
        assert_harmless("a sample's file", &fs::read(entry.unwrap().path()).unwrap());
    }
    assert_harmless(
        "runner.log",
        &fs::read(Path::new(run).join("runner.log")).unwrap_or_default(),
    );
}

/// Tokens in the environment are there for other programs.
#[test]
fn secrets_of_the_environment_are_in_no_file_of_the_run() {
    const SECRET: &str = "hf_uEcretTokenThatNobodyMaySee";
    let scratch = Scratch::new("max_steps: 2\nlora_rank: 2\n");
    let mut command = scratch.command(&["train", scratch.config.to_str().unwrap(), "--detach"]);
    for name in [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "LORADECK_SECRET",
    ] {
        command.env(name, SECRET);
    }
    assert!(command.output().unwrap().status.success());
    scratch.wait_for_phase("done");
    let mut files = 0;
    let mut folders = vec![scratch.run.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                files += 1;
                let found = bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
                assert!(!found, "{} holds the secret", path.display());
            }
        }
    }
    assert!(files > 8, "{files}");
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Who may write to stdout or stderr without `printable`, and what.
const OTHERWISE: [(&str, &str); 8] = [
    ("src/printable.rs", "it is the way"),
    (
        "src/run/headless.rs",
        "a lock of its own; each line goes through `printable`",
    ),
    ("src/run/runner.rs", "the first word, which a program reads"),
    (
        "src/commands/bridge.rs",
        "the protocol, which a program reads",
    ),
    (
        "src/commands/progress.rs",
        "a line that is drawn over; its text goes through `printable`",
    ),
    (
        "src/ui/",
        "the deck, whose cells are cleaned in `ui/text.rs`",
    ),
    (
        "src/commands/merge.rs",
        "a percentage on stderr that is written over; the rest goes through `printable`",
    ),
    (
        "src/commands/bench.rs",
        "a counter on stderr that is written over; the rest goes through `printable`",
    ),
];

#[test]
fn everything_that_is_printed_goes_through_printable() {
    let mut files = Vec::new();
    rust_files(&repository().join("src"), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let name = file
            .strip_prefix(repository())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        if OTHERWISE
            .iter()
            .any(|(allowed, _)| name.starts_with(allowed))
        {
            continue;
        }
        let code = fs::read_to_string(&file).unwrap();
        let code = code.split("#[cfg(test)]").next().unwrap_or("");
        for (number, line) in code.lines().enumerate() {
            let line = line.trim_start();
            if line.starts_with("//") || line.contains("is_terminal()") {
                continue;
            }
            if ["println!", "print!(", "stdout()", "stderr()"]
                .iter()
                .any(|w| line.contains(w))
            {
                wrong.push(format!("{name}:{}: {line}", number + 1));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "printed past `printable`:\n{}",
        wrong.join("\n")
    );
}

/// A person's own words in an error are shown too.
#[test]
fn wrong_arguments_are_shown_harmless() {
    let out = Command::new(PROGRAM)
        .args(["send", "nowhere", "stop", PAYLOAD])
        .output()
        .unwrap();
    assert_harmless("send", &out.stderr);
}
