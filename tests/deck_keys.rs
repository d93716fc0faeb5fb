//! Every key of the table, pressed in a real pseudo-terminal on a real run.

mod program;

use std::time::{Duration, Instant};

use crossterm::event::KeyCode;
use loradeck::ui::keymap::{Key, TABLE};
use program::Scratch;
use program::terminal::Terminal;

const LONG: &str = "epochs: 500\nbatch_size: 4\nsequence_len: 64\nlearning_rate: 1e-3\n\
    save_steps: 1000\neval_split: 4\neval_steps: 1000\n\
    sample_prompts: [\"What helps against a cough?\"]\n";

/// Forgets what the terminal shows.
const CLEAR: &str = "\x1b[2J";
/// Go to the terminal's second screen, and back.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// What a key does that can be seen from outside.
enum Effect {
    /// A text, in lower case, that was not on the screen comes.
    Seen(&'static str),
    /// A text that was there goes.
    Gone(&'static str),
    /// The whole screen is drawn again.
    Redrawn,
    /// The deck leaves the terminal as it was, and takes it again. That the process stops between
    /// needs a shell, see `tests/tmux.rs`: what leads its session its terminal cannot stop.
    Suspended,
    /// The terminal sends the mouse.
    MouseOn,
    /// Home shows.
    Home,
    /// The deck ends and leaves the terminal as it was.
    Left,
}

use Effect::*;

struct Case {
    /// Keys pressed before.
    before: &'static str,
    /// Keys pressed after it, which make its effect visible.
    then: &'static str,
    effect: Effect,
    /// Keys that take it back.
    after: &'static str,
}

/// What each action of the table must do. An action without a case fails the test.
fn case(name: &str) -> Case {
    let full = |before, then, effect, after| Case {
        before,
        then,
        effect,
        after,
    };
    let case = |before, effect| full(before, "", effect, "");
    let undone = |before, effect, after| full(before, "", effect, after);
    match name {
        "pause" => undone("", Seen("‖ paused"), "p"),
        "checkpoint" => case("", Seen("checkpoint: ")),
        "export" => case("", Seen("export: ")),
        "sample" => case("", Seen("sample: sampled 1 prompt")),
        "sample-prompt" => case("", Seen("a prompt to sample")),
        "eval" => case("", Seen("eval: held-out loss")),
        "stop" => case("", Seen("discard")),
        "edit-value" => case("5g", Seen("base_model needs a new run")),
        "edit-file" => case("", Seen("nothing was changed")),
        "remedy" => case("", Seen("no alert")),
        "detach" => case("", Left),
        "runs" => case("", Home),
        "next-pane" => case("1", Seen("━ 2 rate and norm")),
        "previous-pane" => case("3", Seen("━ 2 rate and norm")),
        "maximise" => undone("5", Seen("enter restore"), "\r"),
        "back" => case("5\r", Gone("enter restore")),
        "up" => full("5gjj", "i", Seen("task_type needs a new run"), ""),
        "down" => full("5g", "i", Seen("task_type needs a new run"), ""),
        "left" => case("6\rgll", Seen("record ◂ 2/")),
        "right" => case("6\rg", Seen("record ◂ 2/")),
        "page-up" => full("5g\x06", "i", Seen("base_model needs a new run"), ""),
        // Two pages on, whatever a page holds; one alone may leave the first row on the screen.
        "page-down" => full("5g", "\x06", Gone("base_model"), ""),
        "first" => case("5G", Seen("base_model")),
        "last" => case("5g", Seen("notify_command")),
        "filter" => case("9", Seen("enter keeps it")),
        "loss" => case("3", Seen("━ 1 loss ━")),
        "learning-rate" => case("5", Seen("gradient norm")),
        "gpu" => case("1", Seen("━ 3 gpu ━")),
        "host" => case("1", Seen("━ 4 host ━")),
        // The panes of one place: by what they show, as their names stand there together.
        "config" => case("2", Seen("base_model")),
        "data" => case("2", Seen("<|im_start|>")),
        "samples" => case("2", Seen("with adapter")),
        "checkpoints" => case("1", Seen("━ 8 checkpoints ━")),
        "log" => case("1", Seen("━ 9 log ━")),
        "zoom-in" => undone("1", Seen("×2"), "0"),
        "zoom-out" => undone("1++", Seen("×2"), "0"),
        "zoom-whole" => case("1++", Gone("×4")),
        "log-scale" => undone("1", Seen("log  ─ raw"), "L"),
        "crosshair-left" | "crosshair-right" => case("1", Gone("━ average")),
        "pan-left" => undone("1", Seen("×2 fixed"), "0"),
        "pan-right" => undone("1<", Gone("fixed"), "0"),
        "less-smooth" => undone("1", Seen(" steps  ─ raw"), "}"),
        "smoother" => undone("1", Seen(" steps  ─ raw"), "{"),
        "compare" => case("", Seen("other runs")),
        "align" => case("", Seen("v shows other runs")),
        // This run's data is text.
        "exclude" => case("6", Seen("the data holds no captions")),
        "replace" | "remove-tag" | "undo" => case("", Seen("the data holds no captions")),
        "help" => case("", Seen("shift-tab")),
        "palette" => full("", "no-such-action", Seen("no-such-action"), ""),
        "theme" => case("", Seen("solarized")),
        "mouse" => undone("", MouseOn, "m"),
        "yank" => case("5g", Seen("copied ")),
        "bell" => undone("", Seen("bell on"), "B"),
        "redraw" => case("", Redrawn),
        "suspend" => case("", Suspended),
        other => panic!("the key table has {other}, and this test does not know what it does"),
    }
}

/// What a terminal sends for a key.
fn bytes(key: Key) -> String {
    match key {
        Key::Char(c) => c.to_string(),
        Key::Ctrl(c) => char::from(c as u8 & 0x1f).to_string(),
        Key::Code(code) => match code {
            KeyCode::Up => "\x1b[A",
            KeyCode::Down => "\x1b[B",
            KeyCode::Right => "\x1b[C",
            KeyCode::Left => "\x1b[D",
            KeyCode::Home => "\x1b[H",
            KeyCode::End => "\x1b[F",
            KeyCode::PageUp => "\x1b[5~",
            KeyCode::PageDown => "\x1b[6~",
            KeyCode::Tab => "\t",
            KeyCode::BackTab => "\x1b[Z",
            KeyCode::Enter => "\r",
            KeyCode::Esc => "\x1b",
            KeyCode::F(1) => "\x1bOP",
            other => panic!("what does a terminal send for {other:?}?"),
        }
        .to_owned(),
    }
}

/// Keys one by one. Escape and what follows at once would be one key.
fn press(deck: &mut Terminal, keys: &str) {
    for key in keys.chars() {
        deck.keys(&key.to_string());
        std::thread::sleep(Duration::from_millis(if key == '\x1b' { 80 } else { 25 }));
    }
}

fn until(what: &str, deck: &Terminal, holds: impl Fn(&Terminal) -> bool) {
    let start = Instant::now();
    while !holds(deck) {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{what}: not seen; the screen:\n{}",
            deck.contents()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn shows(deck: &Terminal, text: &str) -> bool {
    deck.contents().to_lowercase().contains(text)
}

fn sends_mouse(deck: &Terminal) -> bool {
    let screen = deck.screen.lock().unwrap();
    screen.screen().mouse_protocol_mode() != vt100::MouseProtocolMode::None
}

#[test]
fn every_key_of_the_table_does_what_the_help_says() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    // Enough steps for the charts to be zoomed twice.
    scratch.wait_for_step(70);
    let run = scratch.run.to_str().unwrap().to_owned();
    let open = || {
        let environment = [("EDITOR", "true"), ("VISUAL", "")];
        let deck = Terminal::open_with(&scratch, (120, 40), &["attach", &run], &environment);
        deck.wait_for("training");
        deck
    };
    let mut deck = open();
    for binding in TABLE {
        for key in binding.keys {
            let case = case(binding.name);
            let what = format!("{} ({})", binding.name, key.label());
            press(&mut deck, case.before);
            // What was there before would prove nothing.
            match case.effect {
                Seen(text) => until(&format!("{what}, before"), &deck, |d| !shows(d, text)),
                Gone(text) => until(&format!("{what}, before"), &deck, |d| shows(d, text)),
                MouseOn => assert!(!sends_mouse(&deck)),
                _ => {}
            }
            let drawn = deck.raw.lock().unwrap().len();
            deck.keys(&bytes(*key));
            std::thread::sleep(Duration::from_millis(80));
            press(&mut deck, case.then);
            match case.effect {
                Seen(text) => until(&what, &deck, |d| shows(d, text)),
                Gone(text) => until(&what, &deck, |d| !shows(d, text)),
                MouseOn => until(&what, &deck, sends_mouse),
                Redrawn => until(&what, &deck, |d| {
                    let raw = d.raw.lock().unwrap();
                    String::from_utf8_lossy(&raw[drawn..]).contains(CLEAR)
                }),
                Suspended => until(&what, &deck, |d| {
                    let raw = d.raw.lock().unwrap();
                    let since = String::from_utf8_lossy(&raw[drawn..]);
                    let left = since.find(LEAVE);
                    left.is_some_and(|at| since[at..].contains(ENTER))
                }),
                Home => {
                    until(&what, &deck, |d| {
                        shows(d, "━ 2 configs ━") || shows(d, "━ 1 runs ━")
                    });
                    deck.keys("q");
                    assert_eq!(deck.ends_within(Duration::from_secs(5)), 0, "{what}");
                    deck = open();
                }
                Left => {
                    assert_eq!(deck.ends_within(Duration::from_secs(5)), 0, "{what}");
                    deck.assert_restored();
                    deck = open();
                }
            }
            press(&mut deck, case.after);
            // What is open is closed, toasts go, and the loss has the focus again.
            press(&mut deck, "\x1b\x1b\x1b1");
            deck.wait_for("training");
        }
    }
}
