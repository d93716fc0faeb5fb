//! Home, `new`, `doctor`, `replay` and what stays on the terminal, by the built program.

mod program;

use std::fs;
use std::time::Duration;

use program::terminal::Terminal;
use program::{Scratch, text};

/// A home of its own, with a config that trains a few steps.
fn house(extra: &str) -> Scratch {
    let mut scratch = Scratch::new(extra);
    let configs = scratch.folder.path().join("configs");
    fs::create_dir(&configs).unwrap();
    let text = fs::read_to_string(&scratch.config).unwrap();
    let run = scratch.folder.path().join("output/clinic");
    let text = text.replace(scratch.run.to_str().unwrap(), run.to_str().unwrap());
    fs::write(configs.join("clinic.yaml"), text).unwrap();
    fs::write(configs.join("broken.yaml"), "lora_r: 8\n").unwrap();
    scratch.run = run;
    scratch
}

const LONG: &str = "epochs: 500\nbatch_size: 4\nsequence_len: 64\nsave_steps: 100\neval_split: 4\n";

#[test]
fn from_home_a_config_is_started_attached_to_and_its_run_deleted() {
    let scratch = house(LONG);
    let mut home = Terminal::open(&scratch, 120, 40, &[]);
    home.wait_for("no run yet");
    home.wait_for("no problem");
    home.wait_for("called `lora_rank` here");
    home.keys("2j\r");
    home.wait_for("passes its checks");
    home.keys("s");
    home.wait_for("training");
    scratch.wait_for_step(2);
    home.keys("r");
    home.wait_for("1 runs, 1 live");
    home.keys("1\r");
    home.wait_until("the deck again", |s| s.contains("● live"));
    home.keys("Q");
    home.wait_for("discard");
    home.keys("s");
    home.wait_for("stopped");
    home.keys("q");
    home.wait_for("0 live");
    home.keys("1d");
    home.wait_for("cannot be undone");
    home.keys("y");
    home.wait_for("no run yet");
    assert!(!scratch.run.exists());
    home.keys("q");
    assert_eq!(home.ends_within(Duration::from_secs(5)), 0);
    home.assert_restored();
}

#[test]
fn the_form_writes_a_config_that_passes_its_check() {
    let scratch = house(LONG);
    let data = program::repository().join("configs/demo/train.jsonl");
    let mut form = Terminal::open(
        &scratch,
        120,
        40,
        &[
            "new",
            "--base",
            "builtin:tiny-llama",
            "--data",
            data.to_str().unwrap(),
        ],
    );
    form.wait_for("the longest record has");
    form.wait_until("the check", |s| {
        s.contains("no problem") || s.contains("warning")
    });
    form.keys("\x13");
    assert_eq!(form.ends_within(Duration::from_secs(10)), 0);
    form.assert_restored();
    let written = scratch.folder.path().join("configs/train.yaml");
    assert!(
        fs::read_to_string(&written)
            .unwrap()
            .contains("# the longest record has")
    );
    let out = scratch.output(&["check", written.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out));
}

#[test]
fn new_yes_writes_the_defaults_without_questions_and_never_over_a_file() {
    let scratch = house(LONG);
    let data = program::repository().join("configs/demo");
    let data = data.to_str().unwrap();
    let arguments = [
        "new",
        "--yes",
        "--base",
        "builtin:tiny-llama",
        "--data",
        data,
    ];
    let out = scratch.output(&arguments);
    assert!(out.status.success(), "{}", text(&out));
    let written = scratch.folder.path().join("configs/demo.yaml");
    let out = scratch.output(&["check", written.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out));
    let out = scratch.output(&arguments);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    let out = scratch.output(&["new", "--yes", "--base", "builtin:tiny-llama"]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    let mut missing = arguments.to_vec();
    missing[3] = "./no/such/base.gguf";
    let out = scratch.output(&missing);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    assert!(text(&out).contains("does not exist"), "{}", text(&out));
}

#[test]
fn new_writes_an_image_run_by_itself_and_in_the_form() {
    let scratch = house(LONG);
    let data = program::repository().join("configs/demo_image");
    let data = data.to_str().unwrap();
    let sources = ["--base", "builtin:tiny-sd", "--data", data];
    let mut arguments = vec!["new", "--yes"];
    arguments.extend(sources);
    let out = scratch.output(&arguments);
    assert!(out.status.success(), "{}", text(&out));
    let written = scratch.folder.path().join("configs/demo_image.yaml");
    let yaml = fs::read_to_string(&written).unwrap();
    for line in [
        "# the base was made for pictures of 64x64\nresolution: 64\n",
        "\nlearning_rate: 1e-4\n",
        "\nbuckets: true\n",
        "\nexport_formats: [kohya, diffusers]\n",
        "--d 42\"]\n",
    ] {
        assert!(yaml.contains(line), "{line}: {yaml}");
    }
    assert!(!yaml.contains("sequence_len"), "{yaml}");
    let out = scratch.output(&["check", written.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out));
    fs::remove_file(&written).unwrap();

    let mut arguments = vec!["new"];
    arguments.extend(sources);
    let mut form = Terminal::open(&scratch, 120, 40, &arguments);
    form.wait_for("pictures of 64x64");
    form.wait_until("the check", |s| {
        s.contains("no problem") || s.contains("warning")
    });
    for part in ["resolution", "trigger_word", "what fits", "encoding"] {
        form.wait_for(part);
    }
    form.keys("\x13");
    assert_eq!(form.ends_within(Duration::from_secs(10)), 0);
    assert_eq!(fs::read_to_string(&written).unwrap(), yaml);
}

#[test]
fn a_lost_terminal_ends_home() {
    let scratch = house(LONG);
    let mut home = Terminal::open(&scratch, 80, 24, &[]);
    home.wait_for("no problem");
    home.let_go
        .store(true, std::sync::atomic::Ordering::Relaxed);
    home.keys("t");
    std::thread::sleep(Duration::from_millis(500));
    home.writer = Box::new(std::io::sink());
    home.master = None;
    home.ends_within(Duration::from_secs(2));
}

#[test]
fn doctor_tells_what_there_is() {
    let scratch = house(LONG);
    let out = scratch.output(&["doctor"]);
    let told = text(&out);
    for topic in [
        "program",
        "devices",
        "machine",
        "runs",
        "terminal",
        "computes on",
    ] {
        assert!(told.contains(topic), "{topic}: {told}");
    }
    let out = scratch.output(&["doctor", "--json"]);
    let lines: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(lines.as_array().is_some_and(|l| l.len() > 5));
}

#[test]
fn the_last_screen_of_an_ended_run_stays_on_the_terminal() {
    let scratch = Scratch::new("max_steps: 6\nbatch_size: 4\nsequence_len: 64\n");
    scratch.detach();
    scratch.wait_for_phase("done");
    let mut deck = Terminal::open(
        &scratch,
        100,
        30,
        &["attach", scratch.run.to_str().unwrap()],
    );
    deck.wait_for("done");
    deck.keys("q");
    assert_eq!(deck.ends_within(Duration::from_secs(5)), 0);
    deck.assert_restored();
    deck.wait_until("loss, chart and export", |s| {
        s.contains("step 6 / 6")
            && s.contains("loss ")
            && s.contains("exports/peft")
            && s.contains("└──")
    });
}

#[test]
fn a_replay_plays_a_run_once_more_and_changes_nothing() {
    let scratch = Scratch::new("max_steps: 30\nbatch_size: 4\nsequence_len: 64\neval_split: 0\n");
    scratch.detach();
    scratch.wait_for_phase("done");
    let before = scratch.events().len();
    let run = scratch.run.to_str().unwrap();
    let mut deck = Terminal::open(&scratch, 120, 40, &["replay", run, "--speed", "2"]);
    deck.wait_for("replay ×2");
    deck.keys("p");
    deck.wait_for("stands still");
    deck.keys("p");
    deck.keys("c");
    deck.wait_for("it changes nothing");
    deck.wait_until("the end", |s| s.contains("ended "));
    deck.keys("q");
    deck.ends_within(Duration::from_secs(5));
    assert_eq!(scratch.events().len(), before);
    let out = scratch.output(&["replay", run, "--speed", "0"]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
}
