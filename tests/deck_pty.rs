//! The built program in a real pseudo-terminal.

mod program;

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use program::terminal::Terminal;
use program::{Scratch, alive};

const LONG: &str = "epochs: 500\nbatch_size: 4\nsequence_len: 64\nlearning_rate: 1e-3\n\
    save_steps: 100\neval_split: 4\neval_steps: 1000\n\
    sample_prompts: [\"What helps against a cough?\"]\n";

fn train(scratch: &Scratch) -> [&str; 2] {
    ["train", scratch.config.to_str().unwrap()]
}

#[test]
fn a_run_is_started_paused_resumed_saved_detached_attached_and_stopped_by_keys() {
    let scratch = Scratch::new(LONG);
    let mut deck = Terminal::open(&scratch, 120, 40, &train(&scratch));
    deck.wait_for("training");
    scratch.wait_for_step(2);

    let start = Instant::now();
    deck.keys("p");
    deck.wait_for("paused");
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "pausing took {:?}",
        start.elapsed()
    );
    let held = scratch.step();

    deck.keys("c");
    deck.wait_until("the checkpoint's acknowledgement", |s| {
        s.contains(&format!("step-{held:06}"))
    });
    assert!(
        scratch
            .run
            .join(format!("checkpoints/step-{held:06}"))
            .is_dir()
    );
    deck.keys("e");
    deck.wait_until("the export", |_| {
        scratch
            .run
            .join(format!("exports/peft-step-{held:06}"))
            .is_dir()
    });
    deck.keys("s");
    scratch.wait(Duration::from_secs(30), "a sample", |_| {
        scratch
            .events()
            .iter()
            .any(|e| e["type"] == "sample" && e["step"].as_u64() == Some(held))
    });
    deck.keys("?");
    deck.wait_for("shift-tab");
    // Escape and a letter that follow at once would be one key: Alt and the letter.
    deck.keys("\x1b");
    deck.wait_until("the help gone", |s| !s.contains("Shift-Tab"));
    deck.keys("p");
    deck.wait_for("training");
    scratch.wait_for_step(held + 1);

    deck.keys("q");
    assert_eq!(deck.ends_within(Duration::from_secs(5)), 0);
    deck.assert_restored();
    let step = scratch.step();
    scratch.wait_for_step(step + 2);

    let mut deck = Terminal::open(&scratch, 80, 24, &["attach", scratch.run.to_str().unwrap()]);
    deck.wait_for("training");
    deck.keys("Q");
    deck.wait_for("discard");
    deck.keys("\x1b");
    deck.wait_until("the dialog gone", |s| !s.to_lowercase().contains("discard"));
    deck.keys("Q");
    deck.wait_for("discard");
    deck.keys("s");
    scratch.wait_for_phase("stopped");
    deck.wait_for("stopped");
    deck.keys("q");
    deck.ends_within(Duration::from_secs(5));
    deck.assert_restored();
}

#[test]
fn a_lost_terminal_ends_the_deck_within_a_second_and_the_run_goes_on() {
    let scratch = Scratch::new(LONG);
    let mut deck = Terminal::open(&scratch, 120, 40, &train(&scratch));
    deck.wait_for("training");
    let pid = scratch.wait_for_step(2)["pid"].as_u64().unwrap();
    deck.let_go.store(true, Ordering::Relaxed);
    // The next bytes of the stepping run end the reading thread; with it goes the last master.
    std::thread::sleep(Duration::from_secs(2));
    deck.writer = Box::new(std::io::sink());
    deck.master = None;
    deck.ends_within(Duration::from_secs(1));
    let step = scratch.step();
    scratch.wait_for_step(step + 2);
    assert!(alive(pid));
}

#[test]
fn killing_the_deck_costs_no_step() {
    let scratch = Scratch::new(LONG);
    let mut deck = Terminal::open(&scratch, 120, 40, &train(&scratch));
    deck.wait_for("training");
    scratch.wait_for_step(2);
    program::kill(u64::from(deck.child.process_id().unwrap()), "KILL");
    deck.child.wait().unwrap();
    let step = scratch.step();
    scratch.wait_for_step(step + 3);
    assert!(!scratch.events().iter().any(|e| e["type"] == "resumed"));
}

#[test]
fn a_readonly_deck_shows_the_run_and_commands_nothing() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(1);
    let mut deck = Terminal::open(
        &scratch,
        120,
        40,
        &["attach", scratch.run.to_str().unwrap(), "--readonly"],
    );
    deck.wait_for("training");
    deck.keys("p");
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(scratch.status()["phase"], "training");
    assert!(!scratch.events().iter().any(|e| e["type"] == "ack"));
    deck.keys("q");
    deck.ends_within(Duration::from_secs(5));
    deck.assert_restored();
}

#[test]
fn the_deck_is_whole_at_every_size_and_follows_a_resize() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(1);
    let run = scratch.run.to_str().unwrap();
    let mut deck = Terminal::open(&scratch, 200, 60, &["attach", run]);
    deck.wait_for("training");
    for (columns, rows) in [(40u16, 12u16), (80, 24), (10, 4), (120, 40)] {
        deck.resize(columns, rows);
        std::thread::sleep(Duration::from_millis(400));
        assert!(
            deck.child.try_wait().unwrap().is_none(),
            "the deck ended at {columns}x{rows}"
        );
    }
    deck.wait_for("training");
    deck.keys("\x03");
    deck.ends_within(Duration::from_secs(5));
    deck.assert_restored();
}

#[test]
fn an_idle_paused_deck_is_nearly_silent() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(2);
    scratch.send(&["pause"]);
    scratch.wait_for_phase("paused");
    let mut deck = Terminal::open(
        &scratch,
        200,
        60,
        &["attach", scratch.run.to_str().unwrap()],
    );
    deck.wait_for("paused");
    std::thread::sleep(Duration::from_secs(3));
    let before = deck.raw.lock().unwrap().len();
    std::thread::sleep(Duration::from_secs(10));
    let bytes = deck.raw.lock().unwrap().len() - before;
    assert!(bytes <= 2000, "{bytes} bytes in 10 s of pause");
    deck.keys("q");
    deck.ends_within(Duration::from_secs(5));
}

#[test]
fn a_broken_config_is_told_in_the_terminal_with_exit_code_2() {
    let scratch = Scratch::new("");
    fs::write(
        &scratch.config,
        "base_model: builtin:tiny-llama\nlora_r: 8\n",
    )
    .unwrap();
    let mut deck = Terminal::open(&scratch, 80, 24, &train(&scratch));
    assert_eq!(deck.ends_within(Duration::from_secs(10)), 2);
    deck.wait_for("lora_rank");
}
