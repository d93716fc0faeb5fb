//! Values and the config file, edited in the deck.

// Each test program uses its part of the story.
#[allow(dead_code)]
mod deck_story;

use deck_story::deck::Deck;
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

/// The config pane with `learning_rate` open.
fn editing(size: (u16, u16)) -> Deck {
    let mut deck = Deck::training(size);
    deck.keys("5/learning_rate<enter>i");
    deck
}

#[test]
fn a_live_value_is_edited_in_place_and_checked_as_it_is_typed() {
    at_every_size("edit", editing);
    let mut deck = editing((80, 24));
    deck.keys("<backspace><backspace><backspace>fast");
    insta::assert_snapshot!("edit_wrong", deck.screen());
    deck.keys("<enter>");
    assert_eq!(deck.sent(), [], "a wrong value is not sent");
    deck.keys("<backspace><backspace><backspace><backspace><backspace>1e-4<enter>");
    let set = Command::Set {
        key: "learning_rate".into(),
        value: "1e-4".into(),
    };
    assert_eq!(deck.sent(), [Action::Command(set)]);
    assert!(deck.app.overlay.is_none());
}

#[test]
fn a_value_that_needs_a_new_run_says_so() {
    let mut deck = Deck::training((80, 24));
    deck.keys("5/lora_rank<enter>i");
    assert!(deck.app.overlay.is_none());
    insta::assert_snapshot!("edit_restart", deck.screen());
}

fn change(key: &str, old: &str, new: &str, applies: &str) -> ConfigChange {
    ConfigChange {
        key: key.into(),
        old: old.into(),
        new: new.into(),
        applies: applies.into(),
    }
}

/// The config file has come back from the editor with another text.
fn edited(size: (u16, u16)) -> Deck {
    let mut deck = Deck::training(size);
    deck.keys("o");
    deck.answer(Reply::ConfigFile {
        path: "/home/ada/configs/clinic.yaml".into(),
        text: "lora_rank: 8\n".into(),
    });
    let edit = Action::Edit {
        name: "clinic.yaml".into(),
        text: "lora_rank: 8\n".into(),
    };
    assert_eq!(deck.sent(), [edit]);
    deck.send(Msg::Edited(Ok("lora_rank: 16\n".into())));
    deck
}

#[test]
fn an_edit_that_does_not_act_at_once_is_shown_before_it_is_written() {
    let asked = |size| {
        let mut deck = edited(size);
        deck.answer(Reply::ConfigCheck {
            changes: vec![
                change("lora_rank", "8", "16", "restart"),
                change("learning_rate", "5e-4", "1e-4", "live"),
                change("export_formats", "[peft]", "[peft, gguf]", "checkpoint"),
            ],
            errors: Vec::new(),
        });
        deck
    };
    at_every_size("changes", asked);
    let write = Action::Command(Command::WriteConfig {
        text: "lora_rank: 16\n".into(),
    });
    let mut deck = asked((80, 24));
    deck.keys("<enter>");
    assert_eq!(deck.sent(), [write]);
    let mut deck = asked((80, 24));
    deck.keys("<esc>");
    assert_eq!(deck.sent(), []);
    assert!(deck.screen().contains("stays as it was"));
    let mut deck = asked((80, 24));
    deck.keys("e");
    assert!(matches!(&deck.sent()[..], [Action::Edit { text, .. }] if text == "lora_rank: 16\n"));
}

#[test]
fn an_edit_that_acts_at_once_is_written_at_once_and_a_broken_one_not_at_all() {
    let mut deck = edited((80, 24));
    deck.answer(Reply::ConfigCheck {
        changes: vec![change("learning_rate", "5e-4", "1e-4", "live")],
        errors: Vec::new(),
    });
    assert!(matches!(
        deck.sent()[..],
        [Action::Command(Command::WriteConfig { .. })]
    ));
    let mut deck = edited((80, 24));
    deck.answer(Reply::ConfigCheck {
        changes: Vec::new(),
        errors: vec!["clinic.yaml:1:1: `lora_rnk` is not a key; did you mean `lora_rank`?".into()],
    });
    insta::assert_snapshot!("changes_broken", deck.screen());
    deck.keys("<enter>y");
    assert_eq!(deck.sent(), []);
    deck.keys("<esc>");
    assert!(deck.app.overlay.is_none());
}

#[test]
fn somebody_else_s_edit_is_shown_when_it_does_not_act_at_once() {
    let mut deck = Deck::training((80, 24));
    let changed = |deck: &mut Deck, applies| {
        let event = deck.story.event(EventKind::ConfigChanged {
            source: "config file".into(),
            changes: vec![change("lora_rank", "8", "16", applies)],
            errors: Vec::new(),
        });
        deck.event(event);
    };
    changed(&mut deck, "live");
    assert!(deck.app.overlay.is_none());
    changed(&mut deck, "restart");
    insta::assert_snapshot!("changes_seen", deck.screen());
    deck.keys("<esc>");
    // What is being typed is not covered.
    deck.keys(":pau");
    changed(&mut deck, "restart");
    assert!(deck.screen().contains("actions"));
}

#[test]
fn a_readonly_deck_edits_nothing() {
    let mut deck = Deck::training((80, 24));
    deck.send(Msg::Update(Update::Connected {
        program: "9.9.9".into(),
        readonly: Some("another protocol".into()),
    }));
    deck.keys("5ioaS");
    assert_eq!(deck.sent(), []);
    assert!(deck.app.overlay.is_none());
    assert!(deck.screen().contains("read-only"));
}
