//! The config edited from a real pseudo-terminal, and what is told to `notify_command`.

mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use program::Scratch;
use program::terminal::Terminal;

const LONG: &str = "epochs: 500\nbatch_size: 4\nsequence_len: 64\nlearning_rate: 1e-3\n\
    save_steps: 1000\neval_split: 4\neval_steps: 1000\n\
    sample_prompts: [\"What helps against a cough?\"]\n";

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
