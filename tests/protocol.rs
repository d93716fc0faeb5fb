//! The lines that travel: what is written is what is read.

use loradeck::protocol::{
    ClientMessage, Command, Event, EventKind, Num, PhaseName, RunState, ServerMessage, StepMetrics,
    StopMode,
};

fn step(seq: u64, step: u64, loss: f64) -> Event {
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
            seconds: 0.5,
            peak_memory_bytes: 1 << 33,
        }),
    }
}

#[test]
fn non_finite_numbers_survive_the_wire_as_words() {
    for (value, word) in [
        (f64::NAN, "\"NaN\""),
        (f64::INFINITY, "\"Infinity\""),
        (f64::NEG_INFINITY, "\"-Infinity\""),
    ] {
        let event = step(7, 3, value);
        let line = serde_json::to_string(&event).unwrap();
        assert!(line.contains(word), "{line}");
        assert!(!line.contains("null"), "{line}");
        let back: Event = serde_json::from_str(&line).unwrap();
        assert_eq!(back, event);
    }
}

#[test]
fn every_f64_comes_back_bit_for_bit() {
    let mut x = 0x9E37_79B9_7F4A_7C15u64;
    for _ in 0..20_000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let value = f64::from_bits(x);
        if !value.is_finite() {
            continue;
        }
        let text = serde_json::to_string(&Num(value)).unwrap();
        let back: Num = serde_json::from_str(&text).unwrap();
        assert_eq!(back.0.to_bits(), value.to_bits(), "{text}");
    }
}

#[test]
fn messages_of_both_directions_round_trip() {
    for command in [
        Command::Pause,
        Command::Sample {
            prompt: Some("你好 \"x\"\n".into()),
        },
        Command::Sample { prompt: None },
        Command::Stop {
            mode: StopMode::Discard,
        },
        Command::Set {
            key: "learning_rate".into(),
            value: "1e-4".into(),
        },
    ] {
        let message = ClientMessage::Command { id: 9, command };
        let line = serde_json::to_string(&message).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(
            serde_json::from_str::<ClientMessage>(&line).unwrap(),
            message
        );
    }
    let mut state = RunState::default();
    for i in 1..=50 {
        state.apply(&step(i, i, if i == 20 { f64::NAN } else { 1.0 / i as f64 }));
    }
    let message = ServerMessage::Snapshot {
        state: Box::new(state),
    };
    let line = serde_json::to_string(&message).unwrap();
    assert_eq!(
        serde_json::from_str::<ServerMessage>(&line).unwrap(),
        message
    );
}

#[test]
fn a_fold_continued_from_a_snapshot_equals_the_fold_of_everything() {
    let events: Vec<Event> = (1..=300).map(|i| step(i, i, (i as f64).sin())).collect();
    let mut whole = RunState::default();
    events.iter().for_each(|e| whole.apply(e));
    let mut first = RunState::default();
    events[..170].iter().for_each(|e| first.apply(e));
    let line = serde_json::to_string(&first).unwrap();
    let mut later: RunState = serde_json::from_str(&line).unwrap();
    // Overlap: events that the snapshot already holds change nothing.
    events[150..].iter().for_each(|e| later.apply(e));
    assert_eq!(later, whole);
}

#[test]
fn a_resume_takes_back_the_points_after_its_checkpoint() {
    let mut state = RunState::default();
    for i in 1..=20 {
        state.apply(&step(i, i, 2.0));
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
    state.apply(&step(23, 13, 1.5));
    assert_eq!(state.loss.last(), Some((13, 1.5)));
    assert_eq!(state.last.step, 13);
}

#[test]
fn phases_have_the_words_that_scripts_rely_on() {
    for phase in [
        PhaseName::Loading,
        PhaseName::Training,
        PhaseName::Pausing,
        PhaseName::Paused,
        PhaseName::Evaluating,
        PhaseName::Sampling,
        PhaseName::Saving,
        PhaseName::Done,
        PhaseName::Failed,
        PhaseName::Stopped,
    ] {
        assert_eq!(
            serde_json::to_string(&phase).unwrap(),
            format!("\"{}\"", phase.as_str())
        );
    }
}

#[test]
fn an_event_of_a_newer_program_is_refused_not_misread() {
    let line = r#"{"seq":1,"time":1.0,"type":"teleported","where":"moon"}"#;
    assert!(serde_json::from_str::<Event>(line).is_err());
}
