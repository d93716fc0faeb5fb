//! A runner in this process whose trainer only pretends.

use std::path::Path;
use std::time::{Duration, Instant};

use loradeck::config;
use loradeck::protocol::{EventKind, Num, PhaseName, StepMetrics};
use loradeck::run::folder::RunFolder;
use loradeck::run::runner::{self, Place};
use loradeck::run::start::Request;
use loradeck::train::{Control, Outcome, Reporter};

use crate::LONG;
use crate::deck::Scratch;

const UPDATES_PER_SECOND: u64 = 10;

pub fn step(step: u64) -> StepMetrics {
    let x = step as f64;
    StepMetrics {
        step,
        epoch: x / 100.0,
        loss: Num(3.0 / (1.0 + x / 200.0) + 0.2 * (x * 0.7).sin().abs()),
        learning_rate: 2e-4 * (1.0 - x / LONG as f64),
        grad_norm: Num(0.5 + 0.3 * (x * 0.3).cos()),
        tokens: 512,
        total_tokens: 512 * step,
        images: 0,
        seconds: 0.1,
        peak_memory_bytes: 1 << 30,
    }
}

/// Starts a runner in this process that makes `UPDATES_PER_SECOND` steps until it is stopped.
pub fn pretend(scratch: &Scratch) -> std::thread::JoinHandle<u8> {
    // SAFETY: no other thread of this process reads or writes the environment now.
    unsafe { std::env::set_var("XDG_RUNTIME_DIR", scratch.folder.path()) };
    let loaded = config::load(&scratch.config(), &[]).unwrap();
    let request = Request {
        run_dir: loaded.config.output_dir.clone(),
        config_path: loaded.path.clone(),
        sets: Vec::new(),
        resume: None,
        argv: Vec::new(),
    };
    let train = move |_: config::RunConfig,
                      _: Option<&Path>,
                      _: &loradeck::train::Folders,
                      reporter: &dyn Reporter,
                      controls: &std::sync::mpsc::Receiver<Control>| {
        let phase = |phase| EventKind::Phase {
            phase,
            detail: String::new(),
            error: None,
        };
        reporter.emit(EventKind::Plan {
            total_steps: 100_000,
            steps_per_epoch: 100,
        });
        // A run that has done something already, so that the charts are full.
        for done in 1..=3000 {
            reporter.emit(EventKind::Step(step(done)));
        }
        reporter.emit(phase(PhaseName::Training));
        let (mut done, mut paused) = (3000, false);
        loop {
            while let Ok(control) = controls.try_recv() {
                let Control::Command {
                    id,
                    sender,
                    command,
                } = control
                else {
                    continue;
                };
                reporter.emit(EventKind::Ack {
                    id,
                    sender,
                    command: command.word(),
                    ok: true,
                    message: "done".into(),
                });
                match command.word().as_str() {
                    "pause" => paused = true,
                    "resume" => paused = false,
                    "stop" => return Ok(Outcome::Stopped),
                    _ => continue,
                }
                reporter.emit(phase(if paused {
                    PhaseName::Paused
                } else {
                    PhaseName::Training
                }));
            }
            if !paused {
                done += 1;
                reporter.emit(EventKind::Step(step(done)));
            }
            std::thread::sleep(Duration::from_millis(1000 / UPDATES_PER_SECOND));
        }
    };
    let run = scratch.run();
    let runner = std::thread::spawn(move || {
        runner::run(request, loaded, Place::Background, Box::new(train))
    });
    let started = Instant::now();
    while !RunFolder::new(&run).has_run() {
        assert!(started.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(1500));
    runner
}
