//! What keys and events do to the deck, what it may cost on the line, and that nothing breaks it.

// Each test program uses its part of the story.
#[allow(dead_code)]
mod deck_story;

use crossterm::event::{Event as Input, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use deck_story::deck::{Deck, UNICODE};
use deck_story::gpus;
use loradeck::protocol::*;
use loradeck::run::link::Update;
use loradeck::ui::app::{Action, Msg};
use loradeck::ui::pace::{Pace, Urgency};
use loradeck::ui::screen::Screen;
use loradeck::ui::theme::{Capabilities, ColorDepth};
use loradeck::ui::view;
use ratatui::style::{Color, Modifier};

const SIZES: [(u16, u16); 4] = [(200, 60), (120, 40), (80, 24), (40, 12)];

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
fn panes_scroll_within_what_they_have() {
    let mut deck = Deck::training((80, 24));
    deck.keys("5");
    deck.keys(&"j".repeat(200));
    let end = deck.screen();
    assert!(end.contains("export_formats"));
    deck.keys(&"k".repeat(12));
    assert_ne!(
        deck.screen(),
        end,
        "200 lines down are not 200 lines to go up"
    );
    deck.keys("g");
    assert!(deck.screen().contains("base_model"));
    deck.keys("G");
    assert_eq!(deck.screen(), end);
    // A pane without a selection scrolls line by line.
    let mut deck = Deck::training((80, 24));
    deck.keys("6");
    deck.keys(&"j".repeat(200));
    let end = deck.screen();
    deck.keys("k");
    assert_ne!(deck.screen(), end);
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
fn no_color_means_no_colour() {
    let capabilities = Capabilities {
        depth: ColorDepth::None,
        unicode: true,
    };
    let mut deck = Deck::running((120, 40), capabilities, &gpus(2));
    for keys in ["", "Q", "<esc>?", "<esc>t", "<enter>:"] {
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
fn the_theme_under_the_cursor_shows_and_only_enter_keeps_it() {
    let mut deck = Deck::training((80, 24));
    let dark = deck.buffer();
    deck.keys("t");
    assert_eq!(deck.app.theme.name, "light");
    assert_ne!(deck.buffer()[(1, 0)].fg, dark[(1, 0)].fg);
    deck.keys("j<esc>");
    assert_eq!(deck.app.theme.name, "dark");
    deck.keys("tt<enter>");
    assert_eq!(deck.app.theme.name, "high-contrast");
    assert!(deck.screen().contains("theme: high-contrast"));
    deck.keys("tkk<enter>");
    assert_eq!(deck.app.theme.name, "light");
    deck.keys("tkkk<enter>");
    assert_eq!(deck.app.theme.name, "mono", "the list is a circle");
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

#[test]
fn a_theme_with_a_background_paints_every_cell() {
    let mut deck = Deck::running((120, 40), UNICODE, &gpus(1));
    let event = deck.story.message(Level::Info, "宽字符 wide 宽");
    deck.event(event);
    deck.keys("tt<enter>");
    assert_eq!(deck.app.theme.name, "high-contrast");
    for keys in ["", "<enter>", "9", "Q"] {
        deck.keys(keys);
        let buf = deck.buffer();
        assert!(buf.content().iter().all(|c| c.bg != Color::Reset), "{keys}");
    }
}
