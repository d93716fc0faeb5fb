//! What the tests of the built program share: scratch runs, the program, its status and events.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod terminal;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_loradeck");

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A scratch folder with a config for a small run on the built-in base.
pub struct Scratch {
    pub folder: TempDir,
    pub config: PathBuf,
    pub run: PathBuf,
}

impl Scratch {
    /// `extra` is YAML appended to the config.
    pub fn new(extra: &str) -> Scratch {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let config = folder.path().join("config.yaml");
        let text = format!(
            "base_model: builtin:tiny-llama\n\
             train_data_dir: {}\n\
             output_dir: {}\n\
             device: cpu\n\
             {extra}",
            repository().join("configs/demo").display(),
            run.display(),
        );
        fs::write(&config, text).unwrap();
        Scratch {
            folder,
            config,
            run,
        }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end; stdout and stderr are captured.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A run in the foreground, without a deck.
    pub fn headless(&self) -> Child {
        self.command(&["train", self.config.to_str().unwrap(), "--headless"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub fn detach(&self) {
        let out = self.output(&["train", self.config.to_str().unwrap(), "--detach"]);
        assert!(out.status.success(), "{}", text(&out));
    }

    pub fn send(&self, words: &[&str]) -> Output {
        let mut arguments = vec!["send", self.run.to_str().unwrap()];
        arguments.extend(words);
        self.output(&arguments)
    }

    pub fn status(&self) -> Value {
        let out = self.output(&["status", self.run.to_str().unwrap(), "--json"]);
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }

    pub fn step(&self) -> u64 {
        self.status()["step"].as_u64().unwrap_or(0)
    }

    /// Waits for a condition on the status; panics with the last status after `limit`.
    pub fn wait(&self, limit: Duration, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(
                start.elapsed() < limit,
                "waited {limit:?} for: {what}\nstatus: {status}\nlog:\n{}",
                fs::read_to_string(self.run.join("runner.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn wait_for_phase(&self, phase: &str) -> Value {
        self.wait(Duration::from_secs(90), phase, |s| s["phase"] == phase)
    }

    pub fn wait_for_step(&self, step: u64) -> Value {
        self.wait(Duration::from_secs(90), &format!("step {step}"), |s| {
            s["step"].as_u64().unwrap_or(0) >= step
        })
    }

    /// Data above the size from which on its scan is kept, and a config for it.
    pub fn large_data(&self) -> PathBuf {
        let data = self.folder.path().join("large.jsonl");
        let words = "rest drink honey warm tea sleep water walk fresh air soup salt ";
        let lines: String = (0..4200)
            .map(|i| {
                let record = serde_json::json!({
                    "prompt": format!("question {i}?"),
                    "completion": format!("{i} {}", words.repeat(32)),
                });
                format!("{record}\n")
            })
            .collect();
        assert!(lines.len() > 8 << 20);
        fs::write(&data, lines).unwrap();
        let config = self.folder.path().join("large.yaml");
        let text = format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: {}\nsequence_len: 64\ndevice: cpu\n",
            data.display()
        );
        fs::write(&config, text).unwrap();
        config
    }

    pub fn check_command(&self, config: &Path, cache: &Path) -> Command {
        let mut command = self.command(&["check", config.to_str().unwrap(), "--json"]);
        command.env("LORADECK_CACHE", cache);
        command
    }

    /// What `check` finds in the data.
    pub fn check_with_cache(&self, config: &Path, cache: &Path) -> Value {
        let out = self.check_command(config, cache).output().unwrap();
        let json: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert!(json["data"].is_object(), "{json}");
        json["data"].clone()
    }

    /// Every event in the log, in order; a line that does not parse fails the test.
    pub fn events(&self) -> Vec<Value> {
        let mut files: Vec<_> = fs::read_dir(&self.run)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| {
                let name = p.file_name().unwrap().to_str().unwrap();
                name.starts_with("events.") && name.ends_with(".jsonl")
            })
            .collect();
        files.sort();
        files
            .iter()
            .flat_map(|f| {
                fs::read_to_string(f)
                    .unwrap()
                    .lines()
                    .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
                    .collect::<Vec<Value>>()
            })
            .collect()
    }

    /// `(step, loss, grad_norm)` as logged, with the points that a resume took back left out.
    pub fn losses(&self) -> Vec<(u64, Value, Value)> {
        let mut losses: Vec<(u64, Value, Value)> = Vec::new();
        for event in self.events() {
            match event["type"].as_str() {
                Some("step") => losses.push((
                    event["step"].as_u64().unwrap(),
                    event["loss"].clone(),
                    event["grad_norm"].clone(),
                )),
                Some("resumed") => {
                    let step = event["step"].as_u64().unwrap();
                    losses.retain(|l| l.0 <= step);
                }
                _ => {}
            }
        }
        losses
    }
}

impl Drop for Scratch {
    /// No runner outlives its test.
    fn drop(&mut self) {
        if let Some(pid) = self.status()["pid"].as_u64()
            && self.status()["phase"]
                .as_str()
                .is_some_and(|p| !["done", "failed", "stopped"].contains(&p))
        {
            kill(pid, "KILL");
        }
    }
}

/// Every file below a folder, sorted.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    files
}

pub fn kill(pid: u64, signal: &str) {
    let _ = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .stderr(Stdio::null())
        .status();
}

pub fn alive(pid: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}

pub fn text(out: &Output) -> String {
    format!(
        "exit: {:?}\nstdout:\n{}\nstderr:\n{}",
        out.status.code(),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}
