//! Every key of the table, pressed in a real pseudo-terminal on a real run.

mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crossterm::event::KeyCode;
use loradeck::ui::keymap::{Key, TABLE};
use program::Scratch;
use program::terminal::Terminal;

const LONG: &str = "epochs: 500\nbatch_size: 4\nsequence_len: 64\nlearning_rate: 1e-3\n\
    save_steps: 1000\neval_split: 4\neval_steps: 1000\n\
    sample_prompts: [\"What helps against a cough?\"]\n";

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

/// Keys before, what must be seen (after `!`: no longer seen) once the key is pressed, and keys
/// that take it back. `None`: the key leaves the deck.
fn expected(name: &str) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match name {
        "pause" => ("", "paused", "p"),
        "checkpoint" => ("", "checkpoint: ", ""),
        "export" => ("", "export: ", ""),
        "sample" => ("", "sample: sampled 1 prompt", ""),
        "sample-prompt" => ("", "a prompt to sample", ""),
        "eval" => ("", "eval: held-out loss", ""),
        "stop" => ("", "discard", ""),
        "edit-value" => ("5g", "base_model needs a new run", ""),
        "edit-file" => ("", "nothing was changed", ""),
        "remedy" => ("", "no alert", ""),
        "detach" => return None,
        "next-pane" => ("1", "gradient norm", ""),
        "previous-pane" => ("3", "gradient norm", ""),
        "maximise" => ("5", "enter restore", "\r"),
        "back" => ("5\r", "!enter restore", ""),
        "up" => ("5gjj", "task_type needs a new run", ""),
        "down" => ("5g", "task_type needs a new run", ""),
        "left" => ("6gll", "record ◂ 2/", ""),
        "right" => ("6g", "record ◂ 2/", ""),
        "page-up" => ("5gj\x06\x06", "!notify_command", ""),
        "page-down" => ("5g\x06", "!base_model", ""),
        "first" => ("5G", "base_model", ""),
        "last" => ("5g", "notify_command", ""),
        "filter" => ("9", "enter keeps it", ""),
        "loss" => ("3", "━━ 1 loss ━", ""),
        "learning-rate" => ("1", "gradient norm", ""),
        "gpu" => ("1", "━━ 3 gpu ━", ""),
        "host" => ("1", "━━ 4 host ━", ""),
        "config" => ("2", "base_model", ""),
        "data" => ("2", "record ◂ ", ""),
        "samples" => ("2", "▸ what helps against a cough?", ""),
        "checkpoints" => ("1", "━━ 8 checkpoints ━", ""),
        "log" => ("1", "━━ 9 log ━", ""),
        "zoom-in" => ("1", "×2", "0"),
        "zoom-out" => ("1++", "×2", "0"),
        "zoom-whole" => ("1++", "!×4", ""),
        "log-scale" => ("1", "log  ─ raw", "L"),
        "crosshair-left" | "crosshair-right" => ("1", "!━ average", ""),
        "pan-left" => ("1", "×2 fixed", "0"),
        "pan-right" => ("1<", "!fixed", "0"),
        "less-smooth" => ("1", " steps  ─ raw", "}"),
        "smoother" => ("1", " steps  ─ raw", "{"),
        "compare" => ("", "other runs", ""),
        "align" => ("", "v shows other runs", ""),
        "help" => ("", "shift-tab", ""),
        "palette" => ("", "no-such-action", ""),
        "theme" => ("", "solarized", ""),
        "mouse" => ("", "mouse on", "m"),
        "yank" => ("5g", "copied ", ""),
        "bell" => ("", "bell on", "B"),
        "redraw" | "suspend" => ("", "training", ""),
        other => panic!("what does {other} do?"),
    })
}

/// Keys that follow the key itself.
fn then(name: &str) -> &'static str {
    match name {
        "up" | "down" => "i",
        "page-up" => "\x02\x02",
        "palette" => "no-such-action",
        _ => "",
    }
}

fn press(deck: &mut Terminal, keys: &str) {
    for key in keys.chars() {
        deck.keys(&key.to_string());
        // Escape and what follows at once would be one key.
        std::thread::sleep(Duration::from_millis(if key == '\x1b' { 60 } else { 15 }));
    }
}

#[test]
fn every_key_of_the_table_does_what_the_help_says() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    // Enough steps for the charts to be zoomed twice.
    scratch.wait_for_step(70);
    let run = scratch.run.to_str().unwrap().to_owned();
    let environment = [("EDITOR", "true"), ("VISUAL", "")];
    let attach = ["attach", run.as_str()];
    let mut deck = Terminal::open_with(&scratch, (120, 40), &attach, &environment);
    deck.wait_for("training");
    for binding in TABLE {
        for key in binding.keys {
            let name = binding.name;
            let Some((before, seen, after)) = expected(name) else {
                deck.keys(&bytes(*key));
                assert_eq!(deck.ends_within(Duration::from_secs(5)), 0, "{name}");
                deck.assert_restored();
                deck = Terminal::open_with(&scratch, (120, 40), &attach, &environment);
                deck.wait_for("training");
                continue;
            };
            press(&mut deck, before);
            let what = format!("{name} ({}): {seen}", key.label());
            deck.keys(&bytes(*key));
            std::thread::sleep(Duration::from_millis(60));
            press(&mut deck, then(name));
            deck.wait_until(&what, |s| match seen.strip_prefix('!') {
                Some(gone) => !s.to_lowercase().contains(gone),
                None => s.to_lowercase().contains(seen),
            });
            press(&mut deck, after);
            // What is open is closed, toasts go, and the loss has the focus again.
            press(&mut deck, "\x1b\x1b\x1b1");
            deck.wait_for("training");
        }
    }
}

/// An editor that tells how it found the terminal, and asks for a line.
fn editor(scratch: &Scratch, body: &str) -> String {
    let path = scratch.folder.path().join("editor.sh");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_editor_has_the_terminal_to_itself_and_the_deck_has_it_back_after() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(2);
    let editor = editor(
        &scratch,
        "stty -a > \"$(dirname \"$0\")/stty\"\necho which rate\nread rate\n\
         sed -i \"s/learning_rate: 1e-3/learning_rate: $rate/\" \"$1\"",
    );
    let run = scratch.run.to_str().unwrap();
    let environment = [("EDITOR", editor.as_str()), ("VISUAL", "")];
    let mut deck = Terminal::open_with(&scratch, (100, 30), &["attach", run], &environment);
    deck.wait_for("training");
    deck.keys("o");
    deck.wait_for("which rate");
    assert!(!deck.screen.lock().unwrap().screen().alternate_screen());
    // Letters that are keys of the deck, and an interrupt that is the editor's business alone.
    deck.keys("5e-4\r");
    deck.wait_for("training");
    assert!(deck.screen.lock().unwrap().screen().alternate_screen());
    let stty = fs::read_to_string(scratch.folder.path().join("stty")).unwrap();
    assert!(
        stty.contains(" icanon") && stty.contains(" echo "),
        "{stty}"
    );
    scratch.wait(Duration::from_secs(20), "the new rate", |_| {
        scratch
            .events()
            .iter()
            .any(|e| e["type"] == "config_changed" && e["changes"][0]["new"] == "5e-4")
    });
    assert!(
        fs::read_to_string(&scratch.config)
            .unwrap()
            .contains("learning_rate: 5e-4")
    );
    deck.keys("q");
    deck.ends_within(Duration::from_secs(5));
    deck.assert_restored();
}

#[test]
fn a_restart_key_edited_in_the_deck_is_shown_before_the_file_is_written() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(2);
    let editor = editor(&scratch, "echo 'lora_rank: 4' >> \"$1\"");
    let run = scratch.run.to_str().unwrap();
    let environment = [("EDITOR", editor.as_str()), ("VISUAL", "")];
    let mut deck = Terminal::open_with(&scratch, (100, 30), &["attach", run], &environment);
    deck.wait_for("training");
    deck.keys("o");
    deck.wait_for("needs a restart");
    let before = fs::read_to_string(&scratch.config).unwrap();
    assert!(!before.contains("lora_rank"));
    deck.keys("\x1b");
    deck.wait_for("stays as it was");
    assert_eq!(fs::read_to_string(&scratch.config).unwrap(), before);
    deck.keys("o");
    deck.wait_for("needs a restart");
    deck.keys("\r");
    scratch.wait(Duration::from_secs(10), "the file", |_| {
        fs::read_to_string(&scratch.config).is_ok_and(|text| text.contains("lora_rank: 4"))
    });
    deck.keys("q");
    deck.ends_within(Duration::from_secs(5));
}

#[test]
fn alerts_and_the_end_are_told_to_notify_command() {
    let scratch = Scratch::new("max_steps: 3\neval_split: 0\n");
    let told = scratch.folder.path().join("told");
    let command = format!(
        "notify_command=echo \"$LORADECK_EVENT $LORADECK_RUN: $LORADECK_MESSAGE\" >> {}",
        told.display()
    );
    let config = scratch.config.to_str().unwrap();
    let output = scratch
        .command(&["train", config, "--headless", "--set", &command])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    scratch.wait(Duration::from_secs(5), "the command", |_| {
        fs::read_to_string(&told).is_ok_and(|t| t == "done run: finished after 3 steps\n")
    });
}
