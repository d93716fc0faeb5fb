//! What the deck shows: real events and real keys in, whole screens out.

// Each test program uses its part of the story.
#[allow(dead_code)]
mod deck_story;

use deck_story::deck::{ASCII, Deck, UNICODE};
use deck_story::{gpus, no_gpu};
use loradeck::protocol::*;
use loradeck::run::link::Update;
use loradeck::ui::app::{Action, Msg};

const SIZES: [(u16, u16); 5] = [(300, 100), (200, 60), (120, 40), (80, 24), (40, 12)];

fn at_every_size(name: &str, deck: impl Fn((u16, u16)) -> Deck) {
    for size in SIZES {
        let deck = deck(size);
        insta::assert_snapshot!(format!("{name}_{}x{}", size.0, size.1), deck.screen());
    }
}

#[test]
fn opening() {
    at_every_size("opening", |size| Deck::new(size, UNICODE));
}

#[test]
fn loading() {
    at_every_size("loading", |size| {
        let mut deck = Deck::new(size, UNICODE);
        deck.connect();
        let events = [
            deck.story.started(),
            deck.story.phase(PhaseName::Loading, "reading the base"),
        ];
        events.into_iter().for_each(|e| deck.event(e));
        deck
    });
}

#[test]
fn training() {
    at_every_size("training", Deck::training);
}

#[test]
fn one_gpu_and_two() {
    at_every_size("gpu_1", |size| {
        let mut deck = Deck::running(size, UNICODE, &gpus(1));
        deck.keys("3");
        deck
    });
    at_every_size("gpu_2", |size| {
        let mut deck = Deck::running(size, UNICODE, &gpus(2));
        deck.keys("3");
        deck
    });
    let mut deck = Deck::running((120, 40), UNICODE, &gpus(8));
    deck.keys("3<enter>");
    insta::assert_snapshot!("gpu_8_maximised", deck.screen());
}

#[test]
fn a_lost_gpu_has_a_face_of_its_own() {
    let lost = GpuStatus::Lost {
        reason: "GPU is lost: reset or reboot".into(),
    };
    let mut deck = Deck::running((80, 24), UNICODE, &lost);
    deck.keys("3");
    insta::assert_snapshot!("gpu_lost", deck.screen());
    let mut deck = Deck::running((80, 24), UNICODE, &GpuStatus::NoDevice);
    deck.keys("3");
    insta::assert_snapshot!("gpu_no_device", deck.screen());
}

#[test]
fn pausing_is_not_paused() {
    for size in SIZES {
        let mut deck = Deck::training(size);
        deck.keys("p");
        assert_eq!(deck.sent(), [Action::Command(Command::Pause)]);
        deck.send(Msg::Sent {
            id: 7,
            command: Command::Pause,
        });
        let name = |state: &str| format!("{state}_{}x{}", size.0, size.1);
        insta::assert_snapshot!(name("pause_sent"), deck.screen());
        let events = [
            deck.story.phase(PhaseName::Pausing, ""),
            deck.story
                .ack(7, "ada", "pause", true, "pauses after this micro-batch"),
        ];
        events.into_iter().for_each(|e| deck.event(e));
        assert!(deck.app.pending.is_empty());
        insta::assert_snapshot!(name("pausing"), deck.screen());
        let paused = deck.story.phase(PhaseName::Paused, "");
        deck.event(paused);
        deck.wait(12.0);
        insta::assert_snapshot!(name("paused"), deck.screen());
        deck.keys("p");
        assert_eq!(deck.sent(), [Action::Command(Command::Resume)]);
    }
}

#[test]
fn a_failed_run_says_why_and_offers_to_start_again() {
    at_every_size("failed", |size| {
        let mut deck = Deck::training(size);
        let failed = deck.story.event(EventKind::Phase {
            phase: PhaseName::Failed,
            detail: String::new(),
            error: Some(
                "the disk of /home/ada/output/clinic is full (12 KiB left): free some space and start the run again"
                    .into(),
            ),
        });
        deck.event(failed);
        deck.disconnect();
        deck.wait(20.0);
        deck
    });
    let mut deck = Deck::training((80, 24));
    let stopped = deck.story.phase(PhaseName::Stopped, "");
    deck.event(stopped);
    deck.disconnect();
    deck.keys("p");
    insta::assert_snapshot!("start_again", deck.screen());
    deck.keys("y");
    assert_eq!(deck.sent(), [Action::StartRunner]);
}

#[test]
fn done() {
    at_every_size("done", |size| {
        let mut deck = Deck::training(size);
        for step in 313..=1000 {
            let event = deck.story.step(step);
            deck.event(event);
        }
        let events = [
            deck.story.eval(1000),
            deck.story.checkpoint(1000, CheckpointReason::End),
            deck.story.event(EventKind::Export {
                step: 1000,
                format: "peft".into(),
                path: "/home/ada/output/clinic/exports/peft".into(),
                bytes: 3_700_000,
            }),
            deck.story.event(EventKind::Finished {
                step: 1000,
                seconds: 250.0,
            }),
        ];
        events.into_iter().for_each(|e| deck.event(e));
        deck.disconnect();
        deck.wait(180.0);
        deck
    });
}

#[test]
fn a_nan_is_marked_and_spoils_no_chart() {
    at_every_size("nan", |size| {
        let mut deck = Deck::new(size, UNICODE);
        deck.connect();
        let events = deck.story.up_to(80, &no_gpu());
        events.into_iter().for_each(|e| deck.event(e));
        for in_a_row in 1..=3 {
            let event = deck.story.event(EventKind::NonFinite {
                step: 80 + u64::from(in_a_row),
                loss: Num(f64::NAN),
                grad_norm: Num(f64::INFINITY),
                in_a_row,
            });
            deck.event(event);
            let mut step = deck.story.step(80 + u64::from(in_a_row));
            if let EventKind::Step(metrics) = &mut step.kind {
                metrics.loss = Num(f64::NAN);
                metrics.grad_norm = Num(f64::INFINITY);
            }
            deck.event(step);
        }
        let eval = deck.story.event(EventKind::Eval {
            step: 83,
            loss: Num(f64::NAN),
            base_loss: None,
            records: 24,
            seconds: 1.0,
        });
        deck.event(eval);
        deck
    });
}

#[test]
fn every_pane_maximised() {
    for (key, name) in (1..=9).zip([
        "loss", "rate", "gpu", "host", "config", "data", "samples", "saves", "log",
    ]) {
        let mut deck = Deck::training((120, 40));
        deck.keys(&format!("{key}<enter>"));
        insta::assert_snapshot!(format!("maximised_{name}"), deck.screen());
        let before = deck.screen();
        deck.keys("<enter>");
        assert_ne!(deck.screen(), before);
    }
}

#[test]
fn packed_rows_and_how_full_they_are_stand_with_the_data() {
    let mut deck = Deck::training((120, 40));
    let statistics = DataStatistics {
        train_records: 216,
        tokens: 11_912,
        packing: Some(PackingStatistics {
            rows: 12,
            row_tokens: 1024,
            tokens: 11_912,
        }),
        ..DataStatistics::default()
    };
    let data = deck.story.event(EventKind::Data { statistics });
    deck.event(data);
    deck.keys("6<enter>");
    let screen = deck.screen();
    assert!(screen.contains("packed   12 rows, 97 % full"), "{screen}");
}

#[test]
fn every_pane_has_its_tab_at_80x24_and_40x12() {
    for size in [(80, 24), (40, 12)] {
        for key in 2..=9 {
            let mut deck = Deck::training(size);
            deck.keys(&key.to_string());
            insta::assert_snapshot!(format!("pane_{key}_{}x{}", size.0, size.1), deck.screen());
        }
    }
}

#[test]
fn zoom_log_scale_and_crosshair() {
    let mut deck = Deck::training((120, 40));
    deck.keys("<enter>++L");
    insta::assert_snapshot!("zoomed_log", deck.screen());
    deck.keys("<left><left><left>[[");
    insta::assert_snapshot!("crosshair", deck.screen());
    assert!(deck.app.view.crosshair.is_some_and(|s| s < 312));
    deck.keys("<esc>");
    assert_eq!(deck.app.view.crosshair, None);
    deck.keys("0");
    assert_eq!(deck.app.view.zoom, 0);
}

#[test]
fn help_comes_from_the_key_table() {
    at_every_size("help", |size| {
        let mut deck = Deck::training(size);
        deck.keys("?");
        deck
    });
    let mut deck = Deck::training((80, 24));
    deck.keys("?jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjj");
    insta::assert_snapshot!("help_end", deck.screen());
    deck.keys("q");
    assert!(deck.app.overlay.is_none() && deck.sent().is_empty());
}

#[test]
fn the_palette_runs_what_it_finds() {
    at_every_size("palette", |size| {
        let mut deck = Deck::training(size);
        deck.keys(":ch");
        deck
    });
    let mut deck = Deck::training((80, 24));
    deck.keys(":chk<enter>");
    assert_eq!(deck.sent(), [Action::Command(Command::Checkpoint)]);
    deck.keys(":zzzz<enter>");
    assert!(deck.sent().is_empty() && deck.app.overlay.is_none());
}

#[test]
fn stopping_asks() {
    at_every_size("stop", |size| {
        let mut deck = Deck::training(size);
        deck.keys("Q");
        deck
    });
    let stop = |mode| Action::Command(Command::Stop { mode });
    for (keys, sent) in [
        ("Qs", vec![stop(StopMode::Save)]),
        ("Q<enter>", vec![stop(StopMode::Save)]),
        ("Qd", vec![stop(StopMode::Discard)]),
        ("Q<down><enter>", vec![stop(StopMode::Discard)]),
        ("Q<esc>", vec![]),
        ("Qc", vec![]),
        ("Qx<down><down><down><enter>", vec![]),
    ] {
        let mut deck = Deck::training((80, 24));
        deck.keys(keys);
        assert_eq!(deck.sent(), sent, "{keys}");
        assert!(deck.app.overlay.is_none(), "{keys}");
    }
}

#[test]
fn a_readonly_deck_refuses_with_a_toast() {
    let mut deck = Deck::new((80, 24), UNICODE);
    deck.send(Msg::Update(Update::Connected {
        program: "9.9.9".into(),
        readonly: Some("the runner speaks protocol 9, this deck 1".into()),
    }));
    let events = deck.story.up_to(20, &no_gpu());
    events.into_iter().for_each(|e| deck.event(e));
    deck.keys("pceEsQ");
    assert!(deck.sent().is_empty());
    insta::assert_snapshot!("readonly", deck.screen());
}

#[test]
fn without_a_runner_nothing_is_sent_and_p_starts_one() {
    let mut deck = Deck::training((80, 24));
    deck.disconnect();
    insta::assert_snapshot!("reconnecting", deck.screen());
    deck.wait(6.0);
    deck.keys("c");
    assert!(deck.sent().is_empty());
    insta::assert_snapshot!("runner_gone", deck.screen());
    deck.keys("py");
    assert_eq!(deck.sent(), [Action::StartRunner]);
    deck.send(Msg::Update(Update::RunnerStarted {
        id: 1,
        result: Err("no such program".into()),
    }));
    assert!(deck.screen().contains("no such program"));
}

#[test]
fn every_answer_is_a_toast_and_a_line_of_the_log() {
    let mut deck = Deck::training((80, 24));
    deck.keys("9");
    let events = [
        deck.story
            .ack(3, "ada", "checkpoint", true, "saved step-000312"),
        deck.story.ack(
            1,
            "bob@box pid 77",
            "pause",
            false,
            "the run is already paused",
        ),
    ];
    events.into_iter().for_each(|e| deck.event(e));
    insta::assert_snapshot!("acks", deck.screen());
    deck.wait(11.0);
    assert!(deck.app.toasts.is_empty());
    assert!(deck.screen().contains("saved step-000312"));
}

#[test]
fn filters_narrow_config_and_log() {
    let mut deck = Deck::training((80, 24));
    deck.keys("5/step");
    insta::assert_snapshot!("filter_typing", deck.screen());
    deck.keys("s<enter>");
    let screen = deck.screen();
    assert!(screen.contains("save_steps") && !screen.contains("lora_rank"));
    deck.keys("<esc>");
    assert!(deck.screen().contains("lora_rank"));
    deck.keys("9/zzz<enter>");
    assert!(deck.screen().contains("nothing matches"));
    deck.keys("/<backspace>q<esc>");
    assert_eq!(deck.app.view.filters[8], "zzz");
    assert!(deck.sent().is_empty(), "typing is no command");
}

#[test]
fn wide_characters_keep_their_columns() {
    let wide = |size| {
        let mut deck = Deck::new(size, UNICODE);
        deck.connect();
        let mut events = deck.story.up_to(40, &no_gpu());
        if let EventKind::Started { run, config, .. } = &mut events[0].kind {
            *run = "医疗问答-微调-🩺".into();
            config[2].value = "./数据/医疗问答/训练集-第一版-清洗后".into();
        }
        events.push(deck.story.event(EventKind::Sample {
            step: 40,
            samples: vec![SampleText {
                prompt: "我头疼，应该怎么办？".into(),
                text: "感谢您写信给诊所。请在安静的房间里休息，多喝水 💧，如果明天还疼，请九点来就诊。祝您早日康复！👩‍⚕️".into(),
                base_text: Some("头疼可能有很多原因。Drink water. 喝水。喝水。喝水。喝水。喝水。喝水。喝水。".into()),
                ..SampleText::default()
            }],
            seconds: 1.0,
        }));
        events.push(deck.story.message(
            Level::Warning,
            "第 17 行：记录是空的，已跳过 (\x1b[2Jno escape gets through)",
        ));
        events.into_iter().for_each(|e| deck.event(e));
        deck
    };
    at_every_size("wide", |size| {
        let mut deck = wide(size);
        deck.keys("7");
        deck
    });
    let deck = wide((120, 40));
    let buf = deck.buffer();
    for y in 0..40 {
        // No wide character hangs over the edge.
        let last = buf[(119, y)].symbol();
        assert!(unicode_width::UnicodeWidthStr::width(last) <= 1);
    }
}

#[test]
fn ascii_only_where_the_locale_has_nothing_else() {
    at_every_size("ascii", |size| Deck::running(size, ASCII, &gpus(1)));
    let mut deck = Deck::running((120, 40), ASCII, &gpus(2));
    for keys in [
        "?",
        "<esc>:",
        "<esc>Q",
        "<esc>9<enter>",
        "7",
        "6",
        "1[L+",
        "p",
    ] {
        deck.keys(keys);
        let screen = deck.screen();
        assert!(screen.is_ascii(), "after {keys}");
    }
    deck.keys("<esc><esc>?");
    assert!(!deck.screen().replace("? ", "").contains("??"));
}
