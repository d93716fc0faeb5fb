//! The alerts' rules on recorded series: losses of real runs (tests/tools/record_alerts.py), and
//! readings of machines.

use loradeck::protocol::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Recording {
    /// Step, loss (null: not finite), learning rate.
    steps: Vec<(u64, Option<f64>, f64)>,
    evals: Vec<(u64, Option<f64>)>,
}

fn recorded(name: &str) -> Recording {
    let path = format!("tests/fixtures/alerts/{name}.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A fold of events with a clock of its own.
struct Fold {
    state: RunState,
    raised: Vec<(u64, Alert)>,
}

impl Fold {
    fn new(config: &[(&str, &str)]) -> Fold {
        let mut fold = Fold {
            state: RunState::default(),
            raised: Vec::new(),
        };
        fold.event(EventKind::Started {
            protocol: VERSION,
            program: "0".into(),
            run: "run".into(),
            run_dir: "/run".into(),
            pid: 1,
            config: config
                .iter()
                .map(|(key, value)| ConfigEntry {
                    key: (*key).into(),
                    value: (*value).into(),
                    source: "line 1".into(),
                    applies: "live".into(),
                })
                .collect(),
            config_path: None,
        });
        fold
    }

    fn event(&mut self, kind: EventKind) {
        let seq = self.state.seq + 1;
        let before = self.state.log.len();
        self.state.apply(&Event {
            seq,
            time: seq as f64,
            kind,
        });
        for line in self.state.log.iter().skip(before) {
            if let LogEntry::Alert { alert } = &line.entry {
                self.raised.push((self.state.last.step, alert.clone()));
            }
        }
    }

    fn step(&mut self, step: u64, loss: f64, rate: f64) {
        self.event(EventKind::Step(StepMetrics {
            step,
            loss: Num(loss),
            learning_rate: rate,
            ..StepMetrics::default()
        }));
    }

    fn play(&mut self, recording: &Recording, until: u64) {
        let mut evals = recording.evals.iter().peekable();
        for (step, loss, rate) in recording.steps.iter().take_while(|s| s.0 <= until) {
            self.step(*step, loss.unwrap_or(f64::NAN), *rate);
            while let Some((_, loss)) = evals.next_if(|(s, _)| s <= step) {
                self.event(EventKind::Eval {
                    step: *step,
                    loss: Num(loss.unwrap_or(f64::NAN)),
                    base_loss: None,
                    records: 8,
                    seconds: 0.1,
                });
            }
        }
    }

    fn hardware(&mut self, gpu: GpuReading, disk_free: u64) {
        self.event(EventKind::Hardware {
            gpu: GpuStatus::Present { gpus: vec![gpu] },
            host: HostReading {
                disk_free,
                disk_total: 500 << 30,
                ..HostReading::default()
            },
        });
    }

    fn active(&self) -> Vec<Alert> {
        let active = self.state.alerts.active().iter();
        active.map(|a| a.alert.clone()).collect()
    }
}

fn of_rate(name: &str, rate: &str) -> Fold {
    let mut fold = Fold::new(&[("learning_rate", rate), ("max_grad_norm", "1.0")]);
    fold.play(&recorded(name), u64::MAX);
    fold
}

#[test]
fn a_run_that_goes_well_raises_nothing() {
    let fold = of_rate("healthy", "3e-3");
    assert_eq!(fold.raised, [], "in {} steps", fold.state.last.step);
}

#[test]
fn a_loss_that_spikes_is_told_within_steps_with_a_lower_rate() {
    let fold = of_rate("spike", "3e-1");
    let at = recorded("spike")
        .steps
        .iter()
        .find(|s| s.2 > 0.1)
        .unwrap()
        .0;
    let (step, alert) = &fold.raised[0];
    assert!(
        matches!(alert, Alert::Spike { loss, usual, .. } if loss > usual),
        "{alert:?}"
    );
    assert!(
        (at..at + 12).contains(step),
        "raised at {step}, the rate rose at {at}"
    );
    assert!(
        alert.to_string().ends_with(": try learning_rate 1.5e-1"),
        "{alert}"
    );
}

/// One record a step: what a step's loss is depends on its record, not on the learning rate.
#[test]
fn a_loss_that_is_noisy_alone_does_not_oscillate() {
    let fold = of_rate("noisy", "5e-5");
    let told = |a: &Alert| matches!(a, Alert::Oscillation { .. } | Alert::Spike { .. });
    assert!(
        !fold.raised.iter().any(|(_, a)| told(a)),
        "{:?}",
        fold.raised
    );
}

#[test]
fn a_loss_that_oscillates_names_half_the_rate() {
    let fold = of_rate("oscillation", "6e-2");
    let found = fold
        .raised
        .iter()
        .find(|(_, a)| matches!(a, Alert::Oscillation { .. }));
    let (_, alert) = found.unwrap_or_else(|| panic!("{:?}", fold.raised));
    assert!(
        alert.to_string().ends_with(": try learning_rate 3e-2"),
        "{alert}"
    );
}

#[test]
fn a_plateau_is_told_while_the_rate_is_high_and_not_at_the_schedule_s_end() {
    // After the rate rose, the loss stays high.
    let fold = of_rate("spike", "3e-1");
    let found = fold
        .raised
        .iter()
        .find(|(_, a)| matches!(a, Alert::Plateau { .. }));
    let (_, alert) = found.unwrap_or_else(|| panic!("{:?}", fold.raised));
    assert!(
        alert.to_string().contains("try learning_rate 6e-1"),
        "{alert}"
    );

    let mut decayed = Fold::new(&[("learning_rate", "1e-3")]);
    for step in 1..=1000 {
        let rate = if step < 150 { 1e-3 } else { 1e-4 };
        decayed.step(step, 1.0, rate);
    }
    assert_eq!(decayed.raised, []);
}

#[test]
fn a_rising_held_out_loss_names_the_step_of_the_best() {
    let fold = of_rate("overfit", "1e-2");
    let found = fold
        .raised
        .iter()
        .find(|(_, a)| matches!(a, Alert::Overfitting { .. }));
    let (raised, alert) = found.unwrap_or_else(|| panic!("{:?}", fold.raised));
    let best = recorded("overfit")
        .evals
        .iter()
        .filter(|e| e.0 <= *raised)
        .min_by(|a, b| a.1.unwrap().total_cmp(&b.1.unwrap()))
        .unwrap()
        .0;
    assert_eq!(alert.remedy(), &Remedy::StopAndUse { step: best });
}

#[test]
fn non_finite_steps_are_told_once_and_forgotten_after_fifty_good_ones() {
    let mut fold = Fold::new(&[("learning_rate", "2e-4"), ("max_grad_norm", "1.0")]);
    for in_a_row in 1..=3 {
        fold.event(EventKind::NonFinite {
            step: 10,
            loss: Num(f64::NAN),
            grad_norm: Num(f64::INFINITY),
            in_a_row,
        });
    }
    assert_eq!(fold.raised.len(), 1);
    assert_eq!(
        fold.active()[0].to_string(),
        "loss or gradient is not finite (3 in a row): try learning_rate 1e-4"
    );
    for step in 11..=59 {
        fold.step(step, 1.0, 2e-4);
    }
    assert_eq!(fold.active().len(), 1);
    fold.step(60, 1.0, 2e-4);
    assert_eq!(fold.active(), []);
}

#[test]
fn a_full_gpu_names_a_smaller_batch_of_the_same_size_and_clears_with_a_margin() {
    let gpu = |percent: u64, celsius| GpuReading {
        memory_total: 100 << 30,
        memory_used: percent << 30,
        temperature: Some(celsius),
        in_use: true,
        ..GpuReading::default()
    };
    let mut fold = Fold::new(&[
        ("batch_size", "6"),
        ("gradient_accumulation_steps", "2"),
        ("gradient_checkpointing", "auto"),
        ("sequence_len", "1024"),
    ]);
    let plenty = 100 << 30;
    fold.hardware(gpu(95, 60), plenty);
    assert_eq!(fold.active(), []);
    fold.hardware(gpu(97, 60), plenty);
    assert_eq!(
        fold.active()[0].to_string(),
        "GPU 0: 97 % of the memory is used: start anew with batch_size 3 and \
         gradient_accumulation_steps 4"
    );
    fold.hardware(gpu(94, 60), plenty);
    assert_eq!(fold.active().len(), 1, "94 % is no end of it");
    fold.hardware(gpu(90, 90), plenty);
    assert!(matches!(
        fold.active()[..],
        [Alert::Temperature { celsius: 90, .. }]
    ));
    fold.hardware(gpu(90, 85), plenty);
    assert_eq!(fold.active().len(), 1);
    fold.hardware(gpu(90, 80), plenty);
    assert_eq!(fold.active(), []);
}

#[test]
fn a_device_that_another_run_fills_is_no_alert() {
    let mut fold = Fold::new(&[]);
    fold.hardware(
        GpuReading {
            memory_total: 100,
            memory_used: 99,
            temperature: Some(95),
            ..GpuReading::default()
        },
        100 << 30,
    );
    assert_eq!(fold.raised, []);
}

#[test]
fn a_disk_with_room_for_less_than_three_checkpoints_is_low() {
    let mut fold = Fold::new(&[("keep_checkpoints", "all")]);
    fold.event(EventKind::Checkpoint {
        step: 1,
        path: "/run/checkpoints/step-000001".into(),
        bytes: 4 << 30,
        reason: CheckpointReason::Scheduled,
        seconds: 1.0,
    });
    fold.hardware(GpuReading::default(), 13 << 30);
    assert_eq!(fold.active(), []);
    fold.hardware(GpuReading::default(), 11 << 30);
    assert!(
        fold.active()[0]
            .to_string()
            .ends_with(": try keep_checkpoints 2")
    );
    fold.hardware(GpuReading::default(), 20 << 30);
    assert_eq!(fold.active(), []);
}

#[test]
fn a_resume_and_an_end_forget_what_was_raised() {
    let mut fold = Fold::new(&[("learning_rate", "2e-4"), ("max_grad_norm", "1")]);
    let bad = EventKind::NonFinite {
        step: 10,
        loss: Num(f64::NAN),
        grad_norm: Num(f64::NAN),
        in_a_row: 1,
    };
    fold.event(bad.clone());
    fold.event(EventKind::Resumed {
        step: 5,
        epoch: 0.1,
        total_tokens: 100,
        checkpoint: "step-000005".into(),
    });
    assert_eq!(fold.active(), []);
    fold.event(bad);
    fold.event(EventKind::Finished {
        step: 10,
        seconds: 1.0,
    });
    assert_eq!(fold.active(), []);
}

#[test]
fn a_snapshot_carries_the_alerts_and_what_they_are_told_from() {
    let mut fold = Fold::new(&[("learning_rate", "3e-1"), ("max_grad_norm", "1.0")]);
    let recording = recorded("spike");
    fold.play(&recording, 85);
    let json = serde_json::to_string(&fold.state).unwrap();
    let mut attached: RunState = serde_json::from_str(&json).unwrap();
    assert_eq!(attached, fold.state);
    let next = Event {
        seq: fold.state.seq + 1,
        time: 1e6,
        kind: EventKind::Step(StepMetrics {
            step: 86,
            loss: Num(9.0),
            learning_rate: 0.3,
            ..StepMetrics::default()
        }),
    };
    attached.apply(&next);
    fold.state.apply(&next);
    assert_eq!(attached, fold.state);
}
