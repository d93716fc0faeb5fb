//! A small run in this process: config, folders, a reporter that keeps events, and a hand on the
//! controls.

#![allow(dead_code)] // Each test file uses its part.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};

use loradeck::config::{self, RunConfig};
use loradeck::protocol::{Command, EventKind};
use loradeck::train::{Control, Folders, Outcome, Reporter, train};

/// Twenty short dialogues.
pub fn write_data(folder: &Path) -> PathBuf {
    let lines: Vec<String> = (0..20)
        .map(|i| {
            let words = ["cough", "fever", "cold", "headache", "burn"];
            format!(
                "{{\"prompt\": \"I have a {} since {i} days.\", \"completion\": \"Willow Clinic, good day. Drink water and rest for {} days.\"}}",
                words[i % 5],
                i % 7
            )
        })
        .collect();
    let path = folder.join("train.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// A run's folder with its config.
pub struct Run {
    pub folder: PathBuf,
    pub config: RunConfig,
}

impl Run {
    /// `settings` are lines of YAML over those of a quick run.
    pub fn new(folder: &Path, settings: &str) -> Run {
        std::fs::create_dir_all(folder).unwrap();
        let data = folder.join("data.jsonl");
        if !data.exists() {
            let written = write_data(folder);
            std::fs::rename(written, &data).unwrap();
        }
        let mut text = format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: {}\noutput_dir: {}\ndevice: cpu\n",
            data.display(),
            folder.display()
        );
        for line in [
            "lora_rank: 4",
            "batch_size: 2",
            "learning_rate: 4e-3",
            "epochs: 1",
            "eval_split: 3",
            "warmup_steps: 2",
            "sequence_len: 64",
        ] {
            let key = line.split(':').next().unwrap();
            let given = settings
                .lines()
                .any(|l| l.trim().starts_with(&format!("{key}:")));
            if !given {
                text += &format!("{line}\n");
            }
        }
        for line in settings.lines() {
            text += &format!("{}\n", line.trim());
        }
        let path = folder.join("run.yaml");
        std::fs::write(&path, text).unwrap();
        let loaded = config::load(&path, &[]).unwrap_or_else(|problems| {
            let lines: Vec<String> = problems.iter().map(|p| p.to_string()).collect();
            panic!("{}", lines.join("\n"))
        });
        Run {
            folder: folder.to_owned(),
            config: loaded.config,
        }
    }

    pub fn folders(&self) -> Folders {
        Folders {
            checkpoints: self.folder.join("checkpoints"),
            samples: self.folder.join("samples"),
            exports: self.folder.join("exports"),
        }
    }

    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.folders().checkpoints.join(format!("step-{step:06}"))
    }

    /// Trains to an end without a hand on the controls.
    pub fn train(&self, resume: Option<&Path>) -> (anyhow::Result<Outcome>, Vec<EventKind>) {
        self.train_with(resume, |_, _| {})
    }

    /// Trains; `react` sees each event on the thread that emits it and may send controls.
    pub fn train_with(
        &self,
        resume: Option<&Path>,
        react: impl FnMut(&EventKind, &Hand) + Send + 'static,
    ) -> (anyhow::Result<Outcome>, Vec<EventKind>) {
        let (sender, controls) = mpsc::channel();
        let reporter = Kept {
            events: Mutex::new(Vec::new()),
            react: Mutex::new(Box::new(react)),
            hand: Hand {
                sender: Mutex::new(sender),
            },
            sync: Box::new(|| Ok(())),
        };
        self.train_reporting(resume, reporter, &controls)
    }

    pub fn train_reporting(
        &self,
        resume: Option<&Path>,
        reporter: Kept,
        controls: &Receiver<Control>,
    ) -> (anyhow::Result<Outcome>, Vec<EventKind>) {
        let outcome = train(
            self.config.clone(),
            resume,
            &self.folders(),
            &reporter,
            controls,
        );
        (outcome, reporter.events.into_inner().unwrap())
    }
}

/// Sends controls to the run.
pub struct Hand {
    pub sender: Mutex<Sender<Control>>,
}

impl Hand {
    pub fn send(&self, id: u64, command: Command) {
        self.control(Control::Command {
            id,
            sender: "test".into(),
            command,
        });
    }

    pub fn control(&self, control: Control) {
        self.sender.lock().unwrap().send(control).unwrap();
    }
}

pub type React = Box<dyn FnMut(&EventKind, &Hand) + Send>;

/// Keeps every event in order.
pub struct Kept {
    pub events: Mutex<Vec<EventKind>>,
    pub react: Mutex<React>,
    pub hand: Hand,
    pub sync: Box<dyn Fn() -> anyhow::Result<()> + Send + Sync>,
}

impl Reporter for Kept {
    fn emit(&self, kind: EventKind) {
        self.events.lock().unwrap().push(kind.clone());
        // An event may be emitted by the thread that takes in controls while another is reacted to.
        (self.react.lock().unwrap())(&kind, &self.hand);
    }

    fn sync(&self) -> anyhow::Result<()> {
        (self.sync)()
    }
}

/// Losses by step, bit for bit.
pub fn losses(events: &[EventKind]) -> Vec<(u64, u64)> {
    events
        .iter()
        .filter_map(|e| match e {
            EventKind::Step(m) => Some((m.step, m.loss.0.to_bits())),
            _ => None,
        })
        .collect()
}

/// The answers to commands: id, ok, message.
pub fn acks(events: &[EventKind]) -> Vec<(u64, bool, String)> {
    events
        .iter()
        .filter_map(|e| match e {
            EventKind::Ack {
                id, ok, message, ..
            } => Some((*id, *ok, message.clone())),
            _ => None,
        })
        .collect()
}
