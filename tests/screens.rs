//! What the deck shows: real events and real keys in, whole screens out.

mod deck_story;

use crossterm::event::{
    Event as Input, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use deck_story::{START, Story, gpus, no_gpu, records};
use loradeck::protocol::*;
use loradeck::run::link::Update;
use loradeck::ui::app::{Action, App, Msg};
use loradeck::ui::pace::{Pace, Urgency};
use loradeck::ui::screen::Screen;
use loradeck::ui::theme::{Capabilities, Catalogue, ColorDepth};
use loradeck::ui::view;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};

const UNICODE: Capabilities = Capabilities {
    depth: ColorDepth::True,
    unicode: true,
};
const ASCII: Capabilities = Capabilities {
    depth: ColorDepth::Indexed,
    unicode: false,
};

/// A deck in a test: messages go in, actions are kept.
struct Deck {
    app: App,
    story: Story,
    actions: Vec<Action>,
}

impl Deck {
    fn new(size: (u16, u16), capabilities: Capabilities) -> Deck {
        Deck {
            app: App::new(size, START, Catalogue::built_in(capabilities), "ada", false),
            story: Story::new(1000),
            actions: Vec::new(),
        }
    }

    /// A live run that has done 312 of 1,000 steps.
    fn training(size: (u16, u16)) -> Deck {
        Deck::running(size, UNICODE, &no_gpu())
    }

    fn running(size: (u16, u16), capabilities: Capabilities, gpu: &GpuStatus) -> Deck {
        let mut deck = Deck::new(size, capabilities);
        deck.connect();
        for event in deck.story.up_to(312, gpu) {
            deck.event(event);
        }
        deck
    }

    fn send(&mut self, msg: Msg) {
        let now = self.story.time;
        let actions = self.app.update(now, msg);
        for action in actions {
            // The runner answers for the data at once.
            if let Action::Query(Query::Records { from, count }) = &action {
                let (from, count) = (*from, *count);
                let id = 1000 + from as u64;
                self.app.update(
                    now,
                    Msg::Asked {
                        id,
                        query: Query::Records { from, count },
                    },
                );
                self.app.update(
                    now,
                    Msg::Update(Update::Reply {
                        id,
                        reply: Reply::Records {
                            from,
                            total: 240,
                            records: records(from, count, 240),
                        },
                    }),
                );
            } else {
                self.actions.push(action);
            }
        }
    }

    fn connect(&mut self) {
        self.send(Msg::Update(Update::Connected {
            program: "0.1.0".into(),
            readonly: None,
        }));
    }

    fn disconnect(&mut self) {
        self.send(Msg::Update(Update::Disconnected {
            reason: "the runner has ended".into(),
        }));
    }

    fn event(&mut self, event: Event) {
        self.send(Msg::Update(Update::Event(Box::new(event))));
    }

    fn wait(&mut self, seconds: f64) {
        self.story.time += seconds;
        self.send(Msg::Tick);
    }

    /// Keys as they are typed: a character each, or a name in angle brackets.
    fn keys(&mut self, keys: &str) {
        let mut rest = keys;
        while let Some(c) = rest.chars().next() {
            let named = rest
                .strip_prefix('<')
                .and_then(|r| r.split_once('>'))
                .filter(|(name, _)| !name.is_empty());
            let key = if let Some((name, after)) = named {
                rest = after;
                match name {
                    "enter" => KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE),
                    "esc" => KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE),
                    "tab" => KeyEvent::new(KeyCode::Tab, KeyModifiers::NONE),
                    "s-tab" => KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT),
                    "up" => KeyEvent::new(KeyCode::Up, KeyModifiers::NONE),
                    "down" => KeyEvent::new(KeyCode::Down, KeyModifiers::NONE),
                    "left" => KeyEvent::new(KeyCode::Left, KeyModifiers::NONE),
                    "right" => KeyEvent::new(KeyCode::Right, KeyModifiers::NONE),
                    "c-c" => KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL),
                    "c-l" => KeyEvent::new(KeyCode::Char('l'), KeyModifiers::CONTROL),
                    "c-z" => KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL),
                    "backspace" => KeyEvent::new(KeyCode::Backspace, KeyModifiers::NONE),
                    other => panic!("no key is called {other}"),
                }
            } else {
                rest = &rest[c.len_utf8()..];
                KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)
            };
            self.send(Msg::Input(Input::Key(key)));
        }
    }

    fn buffer(&self) -> Buffer {
        let area = Rect::new(0, 0, self.app.size.0, self.app.size.1);
        let mut buf = Buffer::empty(area);
        view::draw(&self.app, &self.app.theme, area, &mut buf);
        buf
    }

    fn screen(&self) -> String {
        let buf = self.buffer();
        let mut out = String::new();
        for y in 0..buf.area.height {
            let mut line = String::new();
            let mut skip = 0;
            for x in 0..buf.area.width {
                let symbol = buf[(x, y)].symbol();
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                skip = unicode_width::UnicodeWidthStr::width(symbol).saturating_sub(1);
                line.push_str(symbol);
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    fn sent(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }
}

const SIZES: [(u16, u16); 4] = [(200, 60), (120, 40), (80, 24), (40, 12)];

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
fn nothing_finite_at_all_still_draws() {
    for size in SIZES {
        let mut deck = Deck::new(size, UNICODE);
        deck.connect();
        let mut events = vec![deck.story.started()];
        events.extend(deck.story.loaded());
        for step in 1..=5 {
            let mut event = deck.story.step(step);
            if let EventKind::Step(m) = &mut event.kind {
                m.loss = Num(f64::NAN);
                m.grad_norm = Num(f64::NEG_INFINITY);
                m.learning_rate = f64::NAN;
                m.seconds = f64::NAN;
                m.epoch = f64::INFINITY;
            }
            events.push(event);
        }
        events.into_iter().for_each(|e| deck.event(e));
        for key in "123456789".chars() {
            deck.keys(&format!("{key}<enter>L[+"));
            deck.screen();
            deck.keys("0<enter>");
            deck.screen();
        }
    }
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
    deck.keys("?jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjj");
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
fn keys_send_their_commands() {
    for (key, command) in [
        ("c", Command::Checkpoint),
        ("e", Command::Export),
        ("s", Command::Sample { prompt: None }),
        ("E", Command::Eval),
    ] {
        let mut deck = Deck::training((80, 24));
        deck.keys(key);
        assert_eq!(deck.sent(), [Action::Command(command)]);
    }
    for (key, action) in [
        ("q", Action::Leave),
        ("<c-c>", Action::Leave),
        ("<c-l>", Action::Redraw),
        ("<c-z>", Action::Suspend),
        ("m", Action::Mouse(true)),
        ("Q<c-c>", Action::Leave),
        ("/<c-c>", Action::Leave),
    ] {
        let mut deck = Deck::training((80, 24));
        deck.keys(key);
        assert_eq!(deck.sent(), [action], "{key}");
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
    deck.send(Msg::RunnerStarted(Err("no such program".into())));
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
fn a_command_without_an_answer_is_given_up_on() {
    let mut deck = Deck::training((80, 24));
    deck.send(Msg::Sent {
        id: 5,
        command: Command::Eval,
    });
    assert!(deck.screen().contains("eval…"));
    deck.wait(31.0);
    assert!(deck.app.pending.is_empty());
    assert!(deck.screen().contains("eval: no answer"));
    deck.send(Msg::Sent {
        id: 6,
        command: Command::Export,
    });
    deck.send(Msg::Update(Update::Reply {
        id: 6,
        reply: Reply::Error {
            level: Level::Error,
            message: "no runner".into(),
        },
    }));
    assert!(deck.screen().contains("export: no runner"));
}

#[test]
fn missed_updates_are_counted_for_all_to_see() {
    let mut deck = Deck::training((80, 24));
    deck.send(Msg::Update(Update::Dropped(1200)));
    deck.send(Msg::Update(Update::Dropped(34)));
    assert!(deck.screen().contains("1,234 updates dropped"));
}

#[test]
fn a_snapshot_after_a_reconnect_settles_what_was_pending() {
    let mut deck = Deck::training((80, 24));
    deck.send(Msg::Sent {
        id: 9,
        command: Command::Export,
    });
    let ack = deck.story.ack(9, "ada", "export", true, "exported");
    let mut state = deck.app.state.clone();
    state.apply(&ack);
    deck.send(Msg::Update(Update::Snapshot(Box::new(state))));
    assert!(deck.app.pending.is_empty());
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
fn panes_scroll_within_what_they_have() {
    let mut deck = Deck::training((80, 24));
    deck.keys("5");
    deck.keys(&"j".repeat(200));
    let end = deck.screen();
    assert!(end.contains("export_formats"));
    deck.keys("k");
    assert_ne!(
        deck.screen(),
        end,
        "200 lines down are not 200 lines to go up"
    );
    deck.keys("g");
    assert!(deck.screen().contains("base_model"));
    deck.keys("G");
    assert_eq!(deck.screen(), end);
}

#[test]
fn samples_and_records_are_browsed_with_the_arrows() {
    let mut deck = Deck::training((120, 40));
    deck.keys("7<enter>hhhhhhh");
    assert!(deck.screen().contains("step 0  ◂ 1/4 ▸"));
    deck.keys("ll");
    assert!(deck.screen().contains("step 200"));
    deck.keys("lllll");
    assert_eq!(
        deck.app.view.sample_step, None,
        "the newest is followed again"
    );
    deck.keys("6llllllllll");
    assert!(deck.screen().contains("train.jsonl:11"));
    deck.keys("G");
    assert!(deck.screen().contains("record ◂ 240/240 ▸"));
}

#[test]
fn focus_goes_round_with_tab_and_over_the_screen_with_arrows() {
    let mut deck = Deck::training((200, 60));
    let mut seen = Vec::new();
    for _ in 0..9 {
        seen.push(deck.app.focus());
        deck.keys("<tab>");
    }
    seen.dedup();
    assert_eq!(seen.len(), 9);
    assert_eq!(deck.app.focus(), seen[0]);
    deck.keys("<s-tab>");
    assert_eq!(deck.app.focus(), seen[8]);
    deck.keys("1<right>");
    assert_ne!(deck.app.focus(), seen[0]);
}

#[test]
fn a_click_focuses_and_the_wheel_scrolls_what_it_points_at() {
    let mut deck = Deck::training((80, 24));
    let mouse = |kind, column, row| {
        Msg::Input(Input::Mouse(MouseEvent {
            kind,
            column,
            row,
            modifiers: KeyModifiers::NONE,
        }))
    };
    let row = deck
        .screen()
        .lines()
        .position(|l| l.contains("5 config"))
        .unwrap();
    let line = deck.screen().lines().nth(row).unwrap().to_owned();
    let column = line[..line.find("5 config").unwrap()].chars().count();
    deck.send(mouse(
        MouseEventKind::Down(MouseButton::Left),
        column as u16,
        row as u16,
    ));
    assert!(deck.screen().contains("base_model"));
    deck.send(mouse(MouseEventKind::ScrollDown, 10, row as u16 + 3));
    assert!(!deck.screen().contains("base_model"));
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

#[test]
fn no_color_means_no_colour() {
    let capabilities = Capabilities {
        depth: ColorDepth::None,
        unicode: true,
    };
    let mut deck = Deck::running((120, 40), capabilities, &gpus(2));
    for keys in ["", "Q", "<esc>?", "<esc>t", ":"] {
        deck.keys(keys);
        let buf = deck.buffer();
        for cell in buf.content() {
            assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
        }
    }
    let selected = deck
        .buffer()
        .content()
        .iter()
        .filter(|c| c.modifier.contains(Modifier::REVERSED))
        .count();
    assert!(selected > 20, "the selection must be seen without colour");
}

#[test]
fn themes_change_with_t_and_say_their_name() {
    let mut deck = Deck::training((80, 24));
    let dark = deck.buffer();
    deck.keys("t");
    assert_eq!(deck.app.theme.name, "light");
    assert!(deck.screen().contains("theme: light"));
    assert_ne!(deck.buffer()[(1, 0)].fg, dark[(1, 0)].fg);
    deck.keys("tt");
    assert_eq!(deck.app.theme.name, "dark");
}

#[test]
fn a_screen_that_is_too_small_says_so_in_a_sentence() {
    for size in [(39, 12), (40, 11), (20, 5), (1, 1), (0, 0)] {
        let deck = Deck::training(size);
        let screen = deck.screen();
        if size.0 >= 20 {
            assert!(screen.contains("The deck needs 40"), "{screen}");
        }
    }
    let mut deck = Deck::training((20, 5));
    deck.send(Msg::Input(Input::Resize(80, 24)));
    assert_eq!(deck.sent(), [Action::Redraw]);
    assert!(deck.screen().contains("training"));
}

#[test]
fn any_size_and_any_key_draw_without_a_panic() {
    let every = "123456789<tab><s-tab><enter>jkhl<up><down><left><right>gG+-=0L[]?jk<esc>:ab<esc>Q<esc>/x<esc>tmpceEs<enter>";
    for columns in (0..=220).step_by(11) {
        for rows in (0..=70).step_by(7) {
            let mut deck = Deck::running((columns, rows), UNICODE, &gpus(2));
            for key in every.chars().filter(|c| c.is_ascii_digit()) {
                deck.keys(&format!("{key}<enter>"));
                deck.screen();
            }
            if columns % 33 == 0 {
                deck.keys(every);
                deck.screen();
            }
        }
    }
}

/// Bytes that a stream of ten steps a second costs over `seconds`, drawn as the event loop does.
fn bytes_over(deck: &mut Deck, seconds: u64, stepping: bool) -> (usize, usize) {
    let mut screen = Screen::new(Vec::new());
    let size = deck.app.size;
    let mut frame = |deck: &Deck| {
        screen
            .draw(size, |buf| {
                let area = buf.area;
                view::draw(&deck.app, &deck.app.theme, area, buf);
            })
            .unwrap()
    };
    let first = frame(deck);
    let mut pace = Pace::new(deck.story.time);
    let mut bytes = 0;
    let from = deck.app.state.last.step;
    for i in 1..=seconds * 10 {
        if stepping {
            // The clock runs with the updates, ten a second.
            let time = deck.story.time + 0.1;
            let event = deck.story.step(from + i);
            deck.story.time = time;
            deck.event(Event { time, ..event });
            if i % 20 == 0 {
                let event = deck.story.hardware(gpus(1), i);
                deck.event(event);
            }
        } else {
            deck.wait(0.1);
        }
        let quiet = deck.app.quiet();
        if pace.due(Urgency::Data, quiet) <= deck.story.time {
            let cost = frame(deck);
            pace.drew(deck.story.time, cost, Urgency::Data, quiet);
            bytes += cost;
        }
    }
    (first, bytes)
}

#[test]
fn a_stepping_run_costs_two_kilobytes_a_second_at_most() {
    let mut deck = Deck::running((200, 60), UNICODE, &gpus(1));
    let (first, bytes) = bytes_over(&mut deck, 60, true);
    assert!(first <= 15_000, "the first frame takes {first} bytes");
    assert!(bytes / 60 <= 2000, "{} bytes a second", bytes / 60);
}

#[test]
fn a_paused_run_costs_next_to_nothing_and_an_ended_one_nothing() {
    let mut deck = Deck::running((200, 60), UNICODE, &gpus(1));
    let paused = deck.story.phase(PhaseName::Paused, "");
    deck.event(paused);
    let (_, bytes) = bytes_over(&mut deck, 60, false);
    assert!(bytes / 60 <= 200, "{} bytes a second", bytes / 60);

    let mut deck = Deck::running((200, 60), UNICODE, &gpus(1));
    let done = deck.story.event(EventKind::Finished {
        step: 312,
        seconds: 80.0,
    });
    deck.event(done);
    deck.disconnect();
    // Ages are told in minutes by then.
    deck.wait(3600.0 * 3.0);
    let (_, bytes) = bytes_over(&mut deck, 60, false);
    assert_eq!(bytes, 0);
}
