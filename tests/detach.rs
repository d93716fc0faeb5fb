//! The run outlives everything that watches it, and answers whoever asks.

mod program;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use loradeck::protocol::VERSION;
use program::{Scratch, alive, kill, text};
use serde_json::{Value, json};

/// Long enough that no test reaches its end.
const LONG: &str = "epochs: 500\nbatch_size: 4\nsequence_len: 64\nlearning_rate: 1e-3\n\
    save_steps: 50\neval_split: 4\neval_steps: 1000\n";

fn socket(scratch: &Scratch) -> UnixStream {
    let run: Value =
        serde_json::from_str(&fs::read_to_string(scratch.run.join("run.json")).unwrap()).unwrap();
    let path = run["socket"].as_str().expect("run.json names the socket");
    let stream = UnixStream::connect(path).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

#[test]
fn a_detached_run_trains_pauses_resumes_and_stops_on_command() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    let status = scratch.wait_for_step(3);
    assert_eq!(status["phase"], "training");
    for key in [
        "run",
        "phase",
        "pid",
        "step",
        "total_steps",
        "epoch",
        "loss",
        "eval_loss",
        "base_eval_loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "eta_seconds",
        "peak_memory_bytes",
        "checkpoints",
        "exports",
        "error",
    ] {
        assert!(
            status.get(key).is_some(),
            "status --json lacks {key}: {status}"
        );
    }

    let start = Instant::now();
    let out = scratch.send(&["pause"]);
    assert!(out.status.success(), "{}", text(&out));
    scratch.wait_for_phase("paused");
    assert!(start.elapsed() < Duration::from_secs(3));
    let held = scratch.step();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(scratch.step(), held, "a paused run stepped");

    let out = scratch.send(&["checkpoint"]);
    assert!(out.status.success(), "{}", text(&out));
    assert!(
        scratch
            .run
            .join(format!("checkpoints/step-{held:06}"))
            .is_dir()
    );
    let out = scratch.send(&["export"]);
    assert!(out.status.success(), "{}", text(&out));
    assert!(
        scratch
            .run
            .join(format!(
                "exports/peft-step-{held:06}/adapter_model.safetensors"
            ))
            .is_file()
    );
    let out = scratch.send(&["sample", "How do you treat a cough?"]);
    assert!(out.status.success(), "{}", text(&out));
    let out = scratch.send(&["eval"]);
    assert!(out.status.success(), "{}", text(&out));
    let out = scratch.send(&["set", "learning_rate=5e-4"]);
    assert!(out.status.success(), "{}", text(&out));
    let out = scratch.send(&["set", "lora_rank=4"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));

    scratch.send(&["resume"]);
    scratch.wait_for_step(held + 2);
    let out = scratch.send(&["stop"]);
    assert!(out.status.success(), "{}", text(&out));
    let status = scratch.wait_for_phase("stopped");
    let stopped = status["step"].as_u64().unwrap();
    assert!(
        scratch
            .run
            .join(format!("checkpoints/step-{stopped:06}"))
            .is_dir()
    );
}

#[test]
fn sighup_changes_nothing_and_sigterm_checkpoints_and_ends_with_143() {
    let scratch = Scratch::new(LONG);
    let mut child = scratch.headless();
    scratch.wait_for_step(2);
    let pid = u64::from(child.id());
    kill(pid, "HUP");
    let step = scratch.step();
    scratch.wait_for_step(step + 3);
    kill(pid, "TERM");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
    let status = scratch.status();
    assert_eq!(status["phase"], "stopped");
    let step = status["step"].as_u64().unwrap();
    assert!(
        scratch
            .run
            .join(format!("checkpoints/step-{step:06}"))
            .is_dir()
    );
}

#[test]
fn a_second_runner_on_the_same_folder_is_refused_with_the_first_ones_pid() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    let pid = scratch.wait_for_step(1)["pid"].as_u64().unwrap();
    let out = scratch.output(&["train", scratch.config.to_str().unwrap(), "--headless"]);
    assert!(!out.status.success(), "{}", text(&out));
    assert!(text(&out).contains(&pid.to_string()), "{}", text(&out));
    assert!(alive(pid));
}

#[test]
fn a_killed_runner_reads_as_failed_and_its_lock_is_free_again() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    let pid = scratch.wait_for_step(2)["pid"].as_u64().unwrap();
    kill(pid, "KILL");
    let status = scratch.wait_for_phase("failed");
    assert_eq!(status["error"], "runner gone");
    scratch.detach();
    scratch.wait_for_step(3);
}

#[test]
fn a_runner_whose_folder_was_deleted_ends_when_another_starts_there() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    let first = scratch.wait_for_step(2)["pid"].as_u64().unwrap();
    // Again where the runner writes into it meanwhile.
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::remove_dir_all(&scratch.run).is_err() && Instant::now() < deadline {}
    // Until another comes, the first one holds the only copy of its work.
    std::thread::sleep(Duration::from_millis(1200));
    assert!(alive(first));
    scratch.detach();
    let second = scratch.wait_for_step(1)["pid"].as_u64().unwrap();
    assert_ne!(first, second);
    while alive(first) {
        assert!(Instant::now() < deadline, "two runners in one folder");
        std::thread::sleep(Duration::from_millis(20));
    }
    let step = scratch.step();
    scratch.wait_for_step(step + 2);
    assert_eq!(scratch.status()["pid"], second);
}

#[test]
fn every_watcher_sees_every_acknowledgement_and_a_broken_line_hurts_nobody() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(1);
    let mut watchers: Vec<_> = (0..3)
        .map(|i| {
            let mut stream = socket(&scratch);
            let hello = json!({"type": "hello", "version": VERSION, "sender": format!("test {i}"), "watch": true});
            writeln!(stream, "{hello}").unwrap();
            (stream.try_clone().unwrap(), BufReader::new(stream))
        })
        .collect();
    writeln!(watchers[1].0, "this is not a message").unwrap();
    let command = json!({"type": "command", "id": 77, "command": {"name": "pause"}});
    writeln!(watchers[0].0, "{command}").unwrap();
    for (index, (_, reader)) in watchers.iter_mut().enumerate() {
        let mut line = String::new();
        let found = loop {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                break false;
            }
            let message: Value = serde_json::from_str(&line).unwrap();
            let event = &message["event"];
            if event["type"] == "ack" && event["id"] == 77 {
                assert_eq!(event["sender"], "test 0");
                assert_eq!(event["ok"], true);
                break true;
            }
        };
        // The one that sent nonsense may have been hung up on.
        assert!(
            found || index == 1,
            "watcher {index} missed the acknowledgement"
        );
    }
    scratch.wait_for_phase("paused");
}

#[test]
fn an_edited_config_acts_live_and_a_broken_one_keeps_the_old_values() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(1);
    let original = fs::read_to_string(&scratch.config).unwrap();
    let changed = |kind: &str, test: &dyn Fn(&Value) -> bool| {
        let start = Instant::now();
        while !scratch
            .events()
            .iter()
            .any(|e| e["type"] == kind && test(e))
        {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "no {kind} event came"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    fs::write(&scratch.config, original.replace("1e-3", "5e-4")).unwrap();
    changed("config_changed", &|e| {
        e["changes"][0]["key"] == "learning_rate" && e["changes"][0]["applies"] == "live"
    });
    fs::write(&scratch.config, original.replace("1e-3", "[[[")).unwrap();
    changed("config_changed", &|e| {
        e["errors"]
            .as_array()
            .is_some_and(|errors| !errors.is_empty())
    });
    let step = scratch.step();
    scratch.wait_for_step(step + 2);
}
