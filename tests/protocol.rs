//! What travels on the wire and lies in the log comes back as it was.

use loradeck::protocol::{
    AdapterInfo, BaseInfo, CheckpointReason, ClientMessage, Command, ConfigChange, ConfigEntry,
    DataStatistics, Event, EventKind, GpuReading, GpuStatus, HostReading, LengthBucket, Level,
    Message, Num, PhaseName, Query, RecordPreview, RecordSegment, Reply, RunState, SampleText,
    ServerMessage, StepMetrics, StopMode, VERSION,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> String {
    let line = serde_json::to_string(value).unwrap();
    assert!(!line.contains('\n'), "one line: {line}");
    assert_eq!(&serde_json::from_str::<T>(&line).unwrap(), value, "{line}");
    line
}

fn step(loss: f64, grad_norm: f64) -> EventKind {
    EventKind::Step(StepMetrics {
        step: 12,
        epoch: 0.1 + 0.2,
        loss: Num(loss),
        learning_rate: 2e-4,
        grad_norm: Num(grad_norm),
        tokens: 1,
        total_tokens: u64::MAX,
        images: 0,
        seconds: 1.0 / 3.0,
        peak_memory_bytes: 1 << 40,
    })
}

fn hardware(gpu: GpuStatus) -> EventKind {
    EventKind::Hardware {
        gpu,
        host: HostReading {
            cpu: 12.5,
            cores: 8,
            run_cpu: 99.9,
            memory_total: 1 << 36,
            memory_used: 1 << 35,
            memory_run: 1 << 30,
            disk_free: 1,
            disk_total: 2,
        },
    }
}

/// One of every kind, several where a kind has several forms.
fn events() -> Vec<EventKind> {
    let reason = || "the driver's \"library\"\nis away".to_owned();
    vec![
        EventKind::Started {
            protocol: VERSION,
            program: "0.1.0".into(),
            run: "lauf-ä".into(),
            run_dir: "/tmp/lauf ä".into(),
            pid: 1,
            config: vec![ConfigEntry {
                key: "learning_rate".into(),
                value: "2e-4".into(),
                source: "line 3".into(),
                applies: "live".into(),
            }],
            config_path: None,
        },
        EventKind::Resumed {
            step: 100,
            epoch: 1.5,
            total_tokens: 4,
            checkpoint: "checkpoints/step-000100".into(),
        },
        EventKind::Phase {
            phase: PhaseName::Training,
            detail: String::new(),
            error: None,
        },
        EventKind::Phase {
            phase: PhaseName::Failed,
            detail: "at step 3".into(),
            error: Some("the disk is full".into()),
        },
        EventKind::Model {
            device: "cuda:0".into(),
            base: BaseInfo {
                name: "builtin:tiny-llama".into(),
                parameters: 1,
                ..BaseInfo::default()
            },
            adapter: AdapterInfo {
                alpha: 16.0,
                target_modules: vec!["q_proj".into()],
                ..AdapterInfo::default()
            },
        },
        EventKind::Data {
            statistics: DataStatistics {
                formats: [("text".to_owned(), 3)].into(),
                lengths: vec![LengthBucket {
                    from: 0,
                    to: 16,
                    count: 3,
                }],
                warnings: vec!["2 duplicates".into()],
                ..DataStatistics::default()
            },
        },
        EventKind::Plan {
            total_steps: 1000,
            steps_per_epoch: 10,
        },
        step(1.25, 0.1),
        step(f64::NAN, f64::INFINITY),
        step(f64::NEG_INFINITY, 0.0),
        step(3.0, -0.0),
        EventKind::NonFinite {
            step: 3,
            loss: Num(f64::NAN),
            grad_norm: Num(f64::INFINITY),
            in_a_row: 2,
        },
        EventKind::Eval {
            step: 0,
            loss: Num(2.0),
            base_loss: Some(Num(f64::NAN)),
            records: 10,
            seconds: 0.1,
        },
        EventKind::Sample {
            step: 5,
            samples: vec![SampleText {
                prompt: "日本語 \u{1b}[31m".into(),
                text: "line\nline\t\"quoted\" \u{2028}".into(),
                base_text: None,
                image: Some("step-000010-00.png".into()),
                base_image: None,
            }],
            seconds: 0.2,
        },
        EventKind::Checkpoint {
            step: 5,
            path: "p".into(),
            bytes: 7,
            reason: CheckpointReason::Time,
            seconds: 0.0,
        },
        EventKind::CheckpointDeleted { path: "p".into() },
        EventKind::Export {
            step: 5,
            format: "peft".into(),
            path: "exports/peft".into(),
            bytes: 9,
        },
        hardware(GpuStatus::NoNvml { reason: reason() }),
        hardware(GpuStatus::NoDevice),
        hardware(GpuStatus::Lost { reason: reason() }),
        hardware(GpuStatus::Present {
            gpus: vec![
                GpuReading::default(),
                GpuReading {
                    memory_run: Some(1),
                    power: Some(70.5),
                    throttling: vec!["thermal".into()],
                    in_use: true,
                    ..GpuReading::default()
                },
            ],
        }),
        EventKind::ConfigChanged {
            source: "config file".into(),
            changes: vec![ConfigChange {
                key: "seed".into(),
                old: "1".into(),
                new: "2".into(),
                applies: "restart".into(),
            }],
            errors: vec!["config.yaml:3:4: no".into()],
        },
        EventKind::Ack {
            id: u64::MAX,
            sender: "ada@box pid 7".into(),
            command: "set learning_rate=1e-4".into(),
            ok: false,
            message: "no".into(),
        },
        EventKind::Message(Message {
            level: Level::Warning,
            text: "careful".into(),
        }),
        EventKind::Finished {
            step: 1000,
            seconds: 12.5,
        },
    ]
}

#[test]
fn every_event_survives_the_wire_non_finite_numbers_included() {
    for (i, kind) in events().into_iter().enumerate() {
        let event = Event {
            seq: i as u64 + 1,
            time: 1_795_491_669.903_693_4,
            kind,
        };
        let line = back(&event);
        // Readers of the log find the number without parsing the rest.
        assert!(line.starts_with(&format!("{{\"seq\":{},", event.seq)));
        back(&ServerMessage::Event {
            event: Box::new(event),
        });
    }
}

#[test]
fn non_finite_numbers_are_strings_and_finite_ones_keep_every_bit() {
    assert_eq!(serde_json::to_string(&Num(f64::NAN)).unwrap(), "\"NaN\"");
    assert_eq!(
        serde_json::to_string(&Num(f64::NEG_INFINITY)).unwrap(),
        "\"-Infinity\""
    );
    for bits in [1u64, 0x3ff0_0000_0000_0001, 0x7fef_ffff_ffff_ffff, 1 << 63] {
        let value = Num(f64::from_bits(bits));
        let text = serde_json::to_string(&value).unwrap();
        let read: Num = serde_json::from_str(&text).unwrap();
        assert_eq!(read.0.to_bits(), bits, "{text}");
    }
    assert!(serde_json::from_str::<Num>("\"nan\"").is_err());
    assert!(serde_json::from_str::<Num>("null").is_err());
}

#[test]
fn every_command_query_and_reply_survives_the_wire() {
    let commands = [
        Command::Pause,
        Command::Resume,
        Command::Checkpoint,
        Command::Export,
        Command::Sample { prompt: None },
        Command::Sample {
            prompt: Some("hello\n".into()),
        },
        Command::Eval,
        Command::Stop {
            mode: StopMode::Save,
        },
        Command::Stop {
            mode: StopMode::Discard,
        },
        Command::Set {
            key: "learning_rate".into(),
            value: "1e-4".into(),
        },
    ];
    for (id, command) in commands.into_iter().enumerate() {
        back(&ClientMessage::Command {
            id: id as u64,
            command,
        });
    }
    let queries = [
        Query::Events {
            from: 1,
            to: u64::MAX,
            limit: 10,
        },
        Query::Records { from: 0, count: 5 },
        Query::RunnerLog { lines: 100 },
        Query::ConfigFile,
    ];
    for query in queries {
        back(&ClientMessage::Query { id: 1, query });
    }
    back(&ClientMessage::Hello {
        version: VERSION,
        sender: "ada@box pid 7".into(),
        watch: true,
        readonly: true,
    });
    let replies = [
        Reply::Events {
            events: vec![Event {
                seq: 1,
                time: 0.0,
                kind: step(f64::NAN, 1.0),
            }],
        },
        Reply::Records {
            from: 1,
            total: 2,
            records: vec![RecordPreview {
                index: 1,
                origin: "train.jsonl:17".into(),
                format: "messages".into(),
                tokens: 2,
                trained_tokens: 1,
                truncated: false,
                split: "train".into(),
                segments: vec![RecordSegment {
                    text: "hi".into(),
                    trained: true,
                }],
                image: None,
            }],
        },
        Reply::RunnerLog {
            lines: vec![String::new()],
        },
        Reply::ConfigFile {
            path: "c.yaml".into(),
            text: "a: b\n".into(),
        },
        Reply::Error {
            level: Level::Error,
            message: "no".into(),
        },
    ];
    for reply in replies {
        back(&ServerMessage::Reply { id: 1, reply });
    }
    back(&ServerMessage::Hello {
        version: VERSION,
        program: "0.1.0".into(),
    });
    back(&ServerMessage::Dropped { count: 3 });
}

#[test]
fn a_snapshot_survives_the_wire_and_going_on_from_it_equals_the_whole_fold() {
    let all: Vec<Event> = (1..=4)
        .flat_map(|_| events())
        .enumerate()
        .map(|(i, kind)| Event {
            seq: i as u64 + 1,
            time: 100.0 + i as f64,
            kind,
        })
        .collect();
    let mut whole = RunState::default();
    all.iter().for_each(|e| whole.apply(e));
    for cut in [0, 1, all.len() / 2, all.len()] {
        let mut first = RunState::default();
        all[..cut].iter().for_each(|e| first.apply(e));
        let line = back(&ServerMessage::Snapshot {
            state: Box::new(first),
        });
        let Ok(ServerMessage::Snapshot { mut state }) = serde_json::from_str(&line) else {
            panic!("{line}");
        };
        // Events from before the snapshot are there again: they change nothing.
        all.iter().for_each(|e| state.apply(e));
        assert_eq!(*state, whole, "cut at {cut}");
    }
}

#[test]
fn an_unknown_kind_is_an_error_and_an_unknown_field_is_none() {
    assert!(serde_json::from_str::<Event>(r#"{"seq":1,"time":1.0,"type":"teleported"}"#).is_err());
    let newer = r#"{"seq":1,"time":1.0,"type":"plan","total_steps":3,"steps_per_epoch":1,"new":2}"#;
    assert!(serde_json::from_str::<Event>(newer).is_ok());
}

fn step_event(seq: u64, step: u64, loss: f64) -> Event {
    Event {
        seq,
        time: 1_000.0 + seq as f64,
        kind: EventKind::Step(StepMetrics {
            step,
            epoch: step as f64 / 10.0,
            loss: Num(loss),
            learning_rate: 1e-4,
            grad_norm: Num(f64::INFINITY),
            tokens: 100,
            total_tokens: step * 100,
            images: 0,
            seconds: 0.5,
            peak_memory_bytes: 1 << 33,
        }),
    }
}

#[test]
fn a_resume_takes_back_the_points_after_its_checkpoint() {
    let mut state = RunState::default();
    for i in 1..=20 {
        state.apply(&step_event(i, i, 2.0));
    }
    state.apply(&Event {
        seq: 21,
        time: 2_000.0,
        kind: EventKind::Eval {
            step: 20,
            loss: Num(9.0),
            base_loss: None,
            records: 1,
            seconds: 0.1,
        },
    });
    state.apply(&Event {
        seq: 22,
        time: 2_001.0,
        kind: EventKind::Resumed {
            step: 12,
            epoch: 1.2,
            total_tokens: 1200,
            checkpoint: "checkpoints/step-000012".into(),
        },
    });
    assert_eq!(state.last.step, 12);
    assert_eq!(state.last.total_tokens, 1200);
    assert_eq!(
        state.loss.buckets().iter().map(|b| b.count).sum::<u64>(),
        12
    );
    assert!(state.evals.is_empty());
    state.apply(&step_event(23, 13, 1.5));
    assert_eq!(state.loss.last(), Some((13, 1.5)));
    assert_eq!(state.last.step, 13);
}
