//! The deck's panes in their other states: alerts, comparisons, languages, themes.

// Each test program uses its part of the story.
#[allow(dead_code)]
mod deck_story;

use std::path::Path;

use deck_story::deck::{Deck, UNICODE};
use deck_story::{gpus, no_gpu};
use loradeck::protocol::*;
use loradeck::run::link::Update;
use loradeck::ui::app::{Action, Msg};
use loradeck::ui::keymap::{Keymap, TABLE};
use loradeck::ui::lang::Lang;
use loradeck::ui::theme::Catalogue;

const SIZES: [(u16, u16); 5] = [(300, 100), (200, 60), (120, 40), (80, 24), (40, 12)];

fn at_every_size(name: &str, deck: impl Fn((u16, u16)) -> Deck) {
    for size in SIZES {
        let deck = deck(size);
        insta::assert_snapshot!(format!("{name}_{}x{}", size.0, size.1), deck.screen());
    }
}

/// Updates are skipped because the gradient is not finite.
fn alarmed(size: (u16, u16)) -> Deck {
    let mut deck = Deck::training(size);
    for in_a_row in 1..=3 {
        let event = deck.story.event(EventKind::NonFinite {
            step: 312,
            loss: Num(f64::NAN),
            grad_norm: Num(f64::INFINITY),
            in_a_row,
        });
        deck.event(event);
    }
    deck
}

#[test]
fn an_alert_has_a_row_of_its_own_with_its_remedy() {
    at_every_size("alert", alarmed);
}

#[test]
fn the_remedy_s_key_opens_the_value_it_names() {
    let mut deck = alarmed((120, 40));
    deck.keys("a");
    insta::assert_snapshot!("alert_remedy", deck.screen());
    deck.keys("<enter>");
    let set = Command::Set {
        key: "learning_rate".into(),
        value: "2.5e-4".into(),
    };
    assert_eq!(deck.sent(), [Action::Command(set)]);
    let mut calm = Deck::training((80, 24));
    calm.keys("a");
    assert!(calm.screen().contains("no alert"));
}

#[test]
fn alerts_and_the_end_ring_by_choice() {
    let mut deck = Deck::training((80, 24));
    let bad = |deck: &mut Deck| {
        let event = deck.story.event(EventKind::NonFinite {
            step: 312,
            loss: Num(f64::NAN),
            grad_norm: Num(1.0),
            in_a_row: 1,
        });
        deck.event(event);
    };
    bad(&mut deck);
    assert_eq!(deck.sent(), []);
    let mut deck = Deck::training((80, 24));
    deck.keys("B");
    assert_eq!(
        deck.sent(),
        [Action::Bell],
        "it is heard at once what it is"
    );
    bad(&mut deck);
    bad(&mut deck);
    assert_eq!(deck.sent(), [Action::Bell], "once an alert");
    let done = deck.story.event(EventKind::Finished {
        step: 312,
        seconds: 80.0,
    });
    deck.event(done);
    assert_eq!(deck.sent(), [Action::Bell]);
    deck.keys("B");
    assert_eq!(deck.sent(), []);
}

#[test]
fn the_deck_speaks_chinese() {
    at_every_size("zh", |size| {
        let mut deck = alarmed(size);
        deck.app.lang = Lang::Chinese;
        deck
    });
    for (keys, name) in [
        ("?", "help"),
        (":", "palette"),
        ("Q", "stop"),
        ("5i", "config"),
        ("6", "data"),
        ("9", "log"),
    ] {
        let mut deck = Deck::running((80, 24), UNICODE, &gpus(1));
        deck.app.lang = Lang::Chinese;
        deck.keys(keys);
        insta::assert_snapshot!(format!("zh_{name}"), deck.screen());
    }
}

fn finished(name: &str, steps: u64, falls_to: f64) -> RunCurves {
    let mut state = RunState {
        run: name.into(),
        phase: PhaseName::Done,
        ..RunState::default()
    };
    for step in 1..=steps {
        let t = step as f64 / 100.0;
        state.loss.push(step, falls_to + 1.8 * (-t).exp());
        state.tokens.push(step, step as f64 * 1300.0);
        state.seconds.push(step, step as f64 * 0.5);
        state.last.step = step;
    }
    state.evals = vec![(steps, Num(falls_to + 0.2))];
    RunCurves::of(&state)
}

/// Two finished runs beside the one that goes on.
fn compared(size: (u16, u16)) -> Deck {
    let mut deck = Deck::training(size);
    deck.keys("v");
    deck.answer(Reply::Runs {
        runs: vec!["clinic".into(), "rank-4".into(), "rank-64".into()],
    });
    for curves in [finished("rank-4", 600, 1.4), finished("rank-64", 200, 0.8)] {
        deck.keys("<enter>");
        deck.answer(Reply::Curves {
            curves: Box::new(curves),
        });
        deck.keys("j");
    }
    deck
}

#[test]
fn other_runs_are_chosen_from_those_beside_this_one() {
    let mut deck = Deck::training((80, 24));
    deck.keys("v");
    insta::assert_snapshot!("compare_looking", deck.screen());
    deck.answer(Reply::Runs {
        runs: vec!["clinic".into()],
    });
    insta::assert_snapshot!("compare_none", deck.screen());
    at_every_size("compare_choosing", compared);
    let mut deck = compared((80, 24));
    deck.keys("k<enter><esc>");
    assert_eq!(
        deck.app.others.curves().count(),
        1,
        "the second Enter hides it"
    );
}

#[test]
fn runs_are_aligned_by_step_tokens_or_time() {
    for (keys, name) in [("<esc>", "step"), ("<esc>x", "tokens"), ("<esc>xx", "time")] {
        let mut deck = compared((120, 40));
        deck.keys(keys);
        insta::assert_snapshot!(format!("compare_by_{name}"), deck.screen());
    }
    let mut deck = compared((120, 40));
    deck.keys("<esc>L+[[");
    insta::assert_snapshot!("compare_log_crosshair", deck.screen());
}

#[test]
fn a_run_that_still_goes_on_is_fetched_again_now_and_then() {
    let mut deck = Deck::training((80, 24));
    deck.keys("v");
    deck.answer(Reply::Runs {
        runs: vec!["other".into()],
    });
    deck.keys("<enter>");
    let mut curves = finished("other", 50, 1.0);
    curves.phase = PhaseName::Training;
    deck.answer(Reply::Curves {
        curves: Box::new(curves),
    });
    deck.wait(1.0);
    assert_eq!(deck.sent(), []);
    deck.wait(11.0);
    let asked = Action::Query(Query::Curves {
        run: "other".into(),
    });
    assert_eq!(deck.sent(), [asked]);
    deck.wait(1.0);
    assert_eq!(deck.sent(), [], "one question at a time");
}

#[test]
fn the_average_is_over_more_or_fewer_steps_down_to_none() {
    let mut deck = Deck::training((120, 40));
    deck.keys("}}}");
    insta::assert_snapshot!("smoother", deck.screen());
    deck.keys("{{{{{{{{{{{{");
    insta::assert_snapshot!("no_average", deck.screen());
    deck.keys("}}}}");
    assert_eq!(deck.app.view.smoothing, 0);
}

#[test]
fn a_window_moved_by_hand_stays_while_steps_come_in() {
    let mut deck = Deck::training((120, 40));
    deck.keys("++<lt>");
    insta::assert_snapshot!("panned", deck.screen());
    let before = deck.app.view.pan;
    assert!(before.is_some());
    for step in 313..400 {
        let event = deck.story.step(step);
        deck.event(event);
    }
    assert_eq!(deck.app.view.pan, before);
    deck.keys(">>>>>>");
    assert_eq!(deck.app.view.pan, None, "at the end it follows again");
    deck.keys("<lt><esc>");
    assert_eq!(deck.app.view.pan, None);
}

#[test]
fn samples_stand_beside_the_base_or_another_step_as_a_diff() {
    let mut deck = Deck::training((120, 40));
    deck.keys("7<enter>");
    insta::assert_snapshot!("samples_base", deck.screen());
    deck.keys("hh>");
    assert_eq!(deck.app.view.sample_against, Some(0));
    insta::assert_snapshot!("samples_diff", deck.screen());
    let buf = deck.buffer();
    use loradeck::ui::theme::Role;
    let with = |role| {
        let fg = deck.app.theme[role].fg;
        let cells = buf.content().iter().filter(|c| Some(c.fg) == fg);
        cells.map(|c| c.symbol()).collect::<String>()
    };
    assert!(
        with(Role::Removed).contains("should"),
        "{}",
        with(Role::Removed)
    );
    assert!(
        with(Role::Added).contains("asking"),
        "{}",
        with(Role::Added)
    );
    deck.keys("<lt><lt><lt>");
    assert_eq!(deck.app.view.sample_against, None);
    let mut narrow = Deck::training((40, 12));
    narrow.keys("7hh>");
    insta::assert_snapshot!("samples_diff_40x12", narrow.screen());
}

#[test]
fn a_typed_prompt_is_sampled() {
    at_every_size("prompt", |size| {
        let mut deck = Deck::training(size);
        deck.keys("SWhat about a cold?");
        deck
    });
    let mut deck = Deck::training((80, 24));
    deck.keys("S  <enter>");
    assert_eq!(deck.sent(), [], "an empty prompt is none");
    deck.keys("我咳嗽");
    deck.send(Msg::Input(crossterm::event::Event::Paste(
        "，\n怎么办？".into(),
    )));
    deck.keys("<enter>");
    let sample = Command::Sample {
        prompt: Some("我咳嗽， 怎么办？".into()),
    };
    assert_eq!(deck.sent(), [Action::Command(sample)]);
}

#[test]
fn yank_copies_what_the_pane_is_about() {
    let copied = |keys: &str| {
        let mut deck = Deck::running((120, 40), UNICODE, &gpus(1));
        deck.keys(keys);
        deck.keys("y");
        match deck.sent().pop() {
            Some(Action::Yank(text)) => text,
            other => panic!("{keys}: {other:?}"),
        }
    };
    assert!(copied("1").starts_with("/home/ada/output/clinic step 312 loss 1.1"));
    assert!(copied("3").contains("RTX 4090"));
    assert_eq!(copied("5j"), "task_type: text-generation");
    assert!(copied("6").contains("<|im_start|>assistant\nThank you"));
    assert!(copied("7").starts_with("> I have a headache."));
    assert!(copied("8").ends_with("/checkpoints/step-000300"));
    assert!(copied("9").contains("held-out loss"));
    let mut deck = Deck::training((80, 24));
    deck.send(Msg::Yanked(Ok(1234)));
    assert!(deck.screen().contains("copied 1234 bytes"));
    let mut empty = Deck::new((80, 24), UNICODE);
    empty.keys("7y");
    assert_eq!(empty.sent(), []);
}

#[test]
fn a_person_s_keys_work_and_stand_in_help_palette_and_hints() {
    let (keymap, problems) = Keymap::parse(
        Path::new("keymap.yaml"),
        "checkpoint: F5\npause: Space\nmouse: none\n",
    );
    assert_eq!(problems, [] as [String; 0]);
    let mut deck = Deck::training((80, 24));
    deck.app.keymap = keymap;
    deck.keys("p");
    assert_eq!(deck.sent(), []);
    deck.keys(" ");
    assert_eq!(deck.sent(), [Action::Command(Command::Pause)]);
    assert!(deck.screen().contains("Space pause  F5 checkpoint"));
    deck.keys(":");
    insta::assert_snapshot!("keymap_palette", deck.screen());
    deck.keys("mouse<enter>");
    assert_eq!(
        deck.sent(),
        [Action::Mouse(true)],
        "the palette needs no key"
    );
}

#[test]
fn the_palette_holds_every_action_with_its_key() {
    for binding in TABLE.iter().filter(|b| b.name != "palette") {
        let mut deck = Deck::training((120, 40));
        deck.keys(&format!(":{}", binding.name));
        let screen = deck.screen();
        let line = screen
            .lines()
            .find(|l| l.contains(&format!("│ {} ", binding.name)))
            .unwrap_or_else(|| panic!("{}:\n{screen}", binding.name));
        assert!(line.contains(&binding.keys[0].label()), "{line}");
    }
}

#[test]
fn the_theme_picker_shows_every_theme_as_it_is() {
    at_every_size("themes", |size| {
        let mut deck = Deck::training(size);
        deck.keys("ttt");
        deck
    });
}

#[test]
fn a_theme_s_file_that_changes_shows_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sea.yaml");
    let open = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Catalogue::open(UNICODE, &[folder.path().to_owned()], Some("sea"))
    };
    let mut deck = Deck::training((80, 24));
    deck.send(Msg::Themes(Box::new(open("accent: red\n"))));
    deck.keys("tkk");
    assert_eq!(deck.app.theme.name, "sea");
    deck.keys("<enter>");
    deck.sent();
    deck.send(Msg::Themes(Box::new(open("accent: blue\n"))));
    assert_eq!(deck.sent(), [Action::Redraw]);
    use loradeck::ui::theme::Role;
    assert_eq!(
        deck.app.theme[Role::Accent].fg,
        Some(ratatui::style::Color::Blue)
    );
    deck.send(Msg::Themes(Box::new(open("accent: bleu\n"))));
    assert!(deck.screen().contains("did you mean blue?"));
    assert_eq!(deck.app.theme.name, "dark", "a broken theme is none");
}

#[test]
fn a_wall_of_a_screen_holds_every_state() {
    let wall = (300, 100);
    for (name, deck) in [
        ("opening", Deck::new(wall, UNICODE)),
        ("training", Deck::running(wall, UNICODE, &gpus(2))),
        ("no_gpu", Deck::running(wall, UNICODE, &no_gpu())),
    ] {
        insta::assert_snapshot!(format!("wall_{name}"), deck.screen());
    }
    let mut deck = Deck::running(wall, UNICODE, &gpus(1));
    let paused = deck.story.phase(PhaseName::Paused, "");
    deck.event(paused);
    insta::assert_snapshot!("wall_paused", deck.screen());
}

/// The second of four runs in a queue.
fn queued(size: (u16, u16), stops: bool) -> Deck {
    let mut deck = Deck::training(size);
    let query = Query::QueuePlace;
    let place = Some(QueuePlace {
        place: 2,
        of: 4,
        next: vec!["swim".into(), "festival".into()],
        stops,
    });
    deck.send(Msg::Asked { id: 78, query });
    let reply = Reply::QueuePlace { place };
    deck.send(Msg::Update(Update::Reply { id: 78, reply }));
    deck
}

#[test]
fn a_queued_run_says_where_it_stands_and_what_comes_next() {
    at_every_size("queued", |size| queued(size, false));
    insta::assert_snapshot!("queued_stops", queued((120, 40), true).screen());
}
