//! `loradeck queue` as a person or a script uses it.

mod program;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use program::{PROGRAM, Scratch, kill, repository, text};
use serde_json::Value;

/// Several configs with runs of their own under `output`.
struct House {
    scratch: Scratch,
}

impl House {
    fn new() -> House {
        House {
            scratch: Scratch::new(""),
        }
    }

    fn config(&self, name: &str, extra: &str) -> PathBuf {
        let folder = self.scratch.folder.path();
        let path = folder.join(format!("{name}.yaml"));
        let text = format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: {}\noutput_dir: {}\ndevice: cpu\n\
             batch_size: 4\nsequence_len: 64\neval_split: 0\n{extra}",
            repository().join("configs/demo").display(),
            folder.join("output").join(name).display(),
        );
        fs::write(&path, text).unwrap();
        path
    }

    fn queue(&self) -> Value {
        let file = self.scratch.folder.path().join("output/queue.json");
        let text = fs::read_to_string(file).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// States in the order of the queue: `a done`.
    fn states(&self) -> Vec<String> {
        let queue = self.queue();
        let entries = queue["entries"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|e| {
                let config = PathBuf::from(e["config"].as_str().unwrap());
                let name = config.file_stem().unwrap().to_str().unwrap().to_owned();
                format!("{name} {}", e["state"].as_str().unwrap())
            })
            .collect()
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        while !holds(&self.states()) {
            assert!(
                start.elapsed() < Duration::from_secs(90),
                "waited for {what}: {:?}\n{}",
                self.states(),
                fs::read_to_string(self.scratch.folder.path().join("output/queue.log"))
                    .unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn run_status(&self, name: &str) -> Value {
        let run = self.scratch.folder.path().join("output").join(name);
        let out = self
            .scratch
            .output(&["status", run.to_str().unwrap(), "--json"]);
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }
}

impl Drop for House {
    /// No run outlives its test.
    fn drop(&mut self) {
        for name in ["a", "b", "c"] {
            if let Some(pid) = self.run_status(name)["pid"].as_u64() {
                kill(pid, "KILL");
            }
        }
    }
}

#[test]
fn runs_follow_each_other_and_one_that_fails_does_not_stop_the_queue() {
    let house = House::new();
    let a = house.config("a", "max_steps: 3\n");
    // The data is gone when its turn comes.
    let data = house.scratch.folder.path().join("gone.jsonl");
    fs::write(&data, "{\"prompt\": \"p\", \"completion\": \"c\"}\n").unwrap();
    let b = house.config("b", "max_steps: 3\n");
    let text_of_b = fs::read_to_string(&b).unwrap();
    let demo = repository().join("configs/demo").display().to_string();
    fs::write(&b, text_of_b.replace(&demo, data.to_str().unwrap())).unwrap();
    let c = house.config("c", "max_steps: 3\n");
    let mut child = house
        .scratch
        .command(&[
            "queue",
            a.to_str().unwrap(),
            b.to_str().unwrap(),
            c.to_str().unwrap(),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    house.wait_for("the first run", |s| {
        s.iter().any(|e| e == "a running" || e == "a done")
    });
    fs::remove_file(&data).unwrap();
    let status = child.wait().unwrap();
    house.wait_for("the end", |s| s == ["a done", "b failed", "c done"]);
    assert_eq!(
        status.code(),
        Some(1),
        "a failed run is told by the exit code"
    );
    let error = house.queue()["entries"][1]["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(error.contains("gone.jsonl"), "{error}");
    assert_eq!(house.run_status("a")["phase"], "done");
    assert_eq!(house.run_status("c")["step"], 3);
}

#[test]
fn a_queue_survives_who_started_it_and_takes_on_more() {
    let house = House::new();
    let long = "epochs: 500\n";
    let a = house.config("a", long);
    let b = house.config("b", "max_steps: 2\n");
    // In a session of its own, which is killed as a terminal's is when it closes.
    let mut child = Command::new("setsid")
        .args([PROGRAM, "queue", a.to_str().unwrap()])
        .current_dir(house.scratch.folder.path())
        .env("XDG_RUNTIME_DIR", house.scratch.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    house.wait_for("the first run", |s| s == ["a running"]);
    kill(u64::from(child.id()), "HUP");
    kill(u64::from(child.id()), "KILL");
    child.wait().unwrap();
    let out = house
        .scratch
        .output(&["queue", b.to_str().unwrap(), "--detach"]);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(house.states(), ["a running", "b waiting"]);
    let again = house
        .scratch
        .output(&["queue", b.to_str().unwrap(), "--detach"]);
    assert_eq!(again.status.code(), Some(2), "{}", text(&again));

    // A person stops the first in its own deck: the next has its turn.
    let start = Instant::now();
    while house.run_status("a")["step"].as_u64().unwrap_or(0) < 1 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(100));
    }
    let run = house.scratch.folder.path().join("output/a");
    house
        .scratch
        .output(&["send", run.to_str().unwrap(), "stop"]);
    house.wait_for("the second's end", |s| s == ["a stopped", "b done"]);
}

#[test]
fn a_broken_config_is_told_before_anything_is_queued() {
    let house = House::new();
    let a = house.config("a", "max_steps: 2\n");
    let b = house.config("b", "lora_r: 8\n");
    let out = house.scratch.output(&[
        "queue",
        a.to_str().unwrap(),
        b.to_str().unwrap(),
        "--detach",
    ]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    assert!(text(&out).contains("lora_rank"), "{}", text(&out));
    assert!(house.states().is_empty(), "{:?}", house.states());
    let none = house.scratch.output(&["queue", "--detach"]);
    assert_eq!(none.status.code(), Some(2), "{}", text(&none));
}
