//! How a runner starts, ends and is resumed.

use std::fs;
use std::io::Write;

use loradeck::config;
use loradeck::error::exit_code;
use loradeck::protocol::EventKind;
use loradeck::run::folder::{RunInfo, live_runner};
use loradeck::run::resume::{self, Decision, ResumeMode};
use loradeck::run::status::{Status, current_state, load_state};

use super::support::{Run, eventually};

#[test]
fn a_run_ends_done_with_every_event_in_the_log_and_its_exit_code_recorded() {
    let run = Run::new("max_steps: 50");
    assert_eq!(run.start("").wait(), 0);
    let events = run.events();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event.seq, i as u64 + 1);
    }
    let steps = events
        .iter()
        .filter(|e| matches!(e.kind, EventKind::Step(_)))
        .count();
    assert_eq!(steps, 50);
    assert!(matches!(
        events.last().unwrap().kind,
        EventKind::Finished { step: 50, .. }
    ));
    let info = RunInfo::read(&run.folder).unwrap();
    assert_eq!(info.ended.unwrap().exit_code, 0);
    assert_eq!(info.socket, None);
    assert_eq!(live_runner(&run.folder), None);
    assert_eq!(current_state(&run.folder).unwrap().last.step, 50);
}

#[test]
fn a_second_runner_on_the_same_folder_is_refused_with_the_pid_of_the_first() {
    let run = Run::new("max_steps: 100000");
    let first = run.start("");
    first.answers();
    let second = run.start("");
    let (code, stderr) = second.wait_with_stderr();
    assert_eq!(code, 2);
    assert!(
        stderr.contains(&format!("process {}", first.pid())),
        "{stderr}"
    );
    assert_eq!(live_runner(&run.folder), Some(first.pid()));
}

#[test]
fn a_lock_left_by_a_killed_runner_is_stale_and_the_log_goes_on_where_it_was() {
    let run = Run::new("max_steps: 100000");
    let first = run.start("");
    first.answers();
    eventually("three steps", || run.steps() >= 3);
    first.kill("KILL");
    first.wait();
    let state = load_state(&run.folder).unwrap();
    assert_eq!(state.phase.as_str(), "failed");
    assert_eq!(state.error.as_deref(), Some("runner gone"));
    let logged = run.events().len() as u64;

    // As a power loss would leave it.
    let log = run.folder.root().join("events.000001.jsonl");
    let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(b"{\"seq\":99999,\"time\":1.0,\"ty").unwrap();

    let second = run.start("");
    second.answers();
    eventually("the second runner's steps", || {
        run.events().len() as u64 > logged + 5
    });
    second.kill("TERM");
    assert_eq!(second.wait(), 143);
    let events = run.events();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event.seq, i as u64 + 1, "a hole or a repeated number");
    }
    let after = &events[logged as usize..];
    assert!(matches!(after[0].kind, EventKind::Started { .. }));
    assert!(
        after
            .iter()
            .any(|e| matches!(&e.kind, EventKind::Message(m) if m.text.contains("torn"))),
        "the cut is told"
    );
    assert!(
        after
            .iter()
            .any(|e| matches!(e.kind, EventKind::Resumed { step: 0, .. })),
        "without a checkpoint the old steps no longer count"
    );
}

#[test]
fn sighup_changes_nothing_and_sigterm_and_sigint_end_the_run_with_their_codes() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let run = Run::new("max_steps: 100000");
        let runner = run.start("");
        runner.answers();
        runner.kill("HUP");
        let before = run.steps();
        eventually("steps after SIGHUP", || run.steps() > before + 3);
        runner.kill(signal);
        assert_eq!(runner.wait(), code);
        assert_eq!(run.phase(), "stopped");
        let info = RunInfo::read(&run.folder).unwrap();
        assert_eq!(info.ended.unwrap().exit_code as i32, code);
    }
}

#[test]
fn a_second_signal_ends_a_trainer_that_does_not_listen() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("deaf");
    runner.answers();
    eventually("the trainer works", || run.phase() == "training");
    runner.kill("TERM");
    eventually("the first signal is told", || {
        run.events()
            .iter()
            .any(|e| matches!(&e.kind, EventKind::Message(m) if m.text.contains("SIGTERM")))
    });
    runner.kill("TERM");
    assert_eq!(runner.wait(), 143);
    assert_eq!(run.phase(), "stopped");
}

#[test]
fn a_signal_ends_a_run_that_hangs_while_loading() {
    let run = Run::new("max_steps: 5");
    let runner = run.start("hung-loading");
    runner.answers();
    runner.kill("INT");
    assert_eq!(runner.wait(), 130);
    assert_eq!(run.phase(), "stopped");
}

#[test]
fn a_panic_of_the_trainer_is_a_failed_run_with_one_sentence_and_the_trace_in_runner_log() {
    let run = Run::new("max_steps: 5");
    let (code, stderr) = run.start("panic").wait_with_stderr();
    assert_eq!(code, 1);
    let state = load_state(&run.folder).unwrap();
    assert_eq!(state.phase.as_str(), "failed");
    let error = state.error.unwrap();
    assert!(error.contains("runner.log"), "{error}");
    assert!(!error.contains('\n') && !error.contains("panicked"));
    assert!(!stderr.contains("panicked"), "{stderr}");
    let log = fs::read_to_string(run.folder.runner_log()).unwrap();
    assert!(log.contains("the fake trainer fell over"), "{log}");
}

#[test]
fn bad_input_found_by_the_trainer_ends_with_code_2_and_its_sentence() {
    let run = Run::new("max_steps: 5");
    assert_eq!(run.start("bad-input").wait(), 2);
    let state = load_state(&run.folder).unwrap();
    assert_eq!(
        state.error.as_deref(),
        Some("train.jsonl:3: not a record; mend it")
    );
    assert_eq!(
        RunInfo::read(&run.folder).unwrap().ended.unwrap().exit_code,
        2
    );
}

#[test]
fn an_edited_config_acts_and_a_broken_one_keeps_the_old_values_and_says_so() {
    let run = Run::new("max_steps: 100000\nlearning_rate: 1e-4");
    let runner = run.start("");
    runner.answers();
    let changed = |test: &dyn Fn(&EventKind) -> bool| {
        eventually("a config change", || {
            run.events().iter().any(|e| test(&e.kind))
        })
    };
    // As editors do: beside it, then renamed.
    let edit = |body: &str| {
        let beside = run.config_path.with_extension("swp");
        fs::write(&beside, run.config_text(body)).unwrap();
        fs::rename(&beside, &run.config_path).unwrap();
    };
    edit("max_steps: 100000\nlearning_rate: 5e-5");
    changed(&|k| {
        matches!(k, EventKind::ConfigChanged { changes, errors, .. }
            if errors.is_empty() && changes.len() == 1 && changes[0].key == "learning_rate"
            && changes[0].applies == "live")
    });
    eventually("steps at the new rate", || {
        run.events()
            .iter()
            .any(|e| matches!(&e.kind, EventKind::Step(m) if m.learning_rate == 5e-5))
    });
    edit("max_steps: 100000\nlearning_rate: [oops");
    changed(&|k| {
        matches!(k, EventKind::ConfigChanged { changes, errors, .. }
            if changes.is_empty() && errors.len() == 1)
    });
    edit("max_steps: 100000\nlearning_rate: 5e-5\nlora_rank: 4");
    changed(&|k| {
        matches!(k, EventKind::ConfigChanged { changes, .. }
            if changes.iter().any(|c| c.key == "lora_rank" && c.applies == "restart"))
    });
    runner.kill("TERM");
    assert_eq!(runner.wait(), 143);
    let state = load_state(&run.folder).unwrap();
    assert_eq!(state.last.learning_rate, 5e-5, "the old value stayed");
    let rank = state.config.iter().find(|e| e.key == "lora_rank").unwrap();
    assert_eq!(rank.value, "8", "a restart key is shown as it runs");
}

#[test]
fn a_nan_loss_survives_log_socket_and_status() {
    let run = Run::new("max_steps: 3");
    assert_eq!(run.start("nan").wait(), 0);
    let state = load_state(&run.folder).unwrap();
    assert!(state.last.loss.0.is_nan());
    let status = Status::new(&run.folder, &state);
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["loss"], "NaN");
    assert_eq!(json["grad_norm"], "Infinity");
    assert_eq!(json["phase"], "done");
    for key in [
        "run",
        "pid",
        "step",
        "total_steps",
        "epoch",
        "eval_loss",
        "base_eval_loss",
        "learning_rate",
        "tokens_per_second",
        "eta_seconds",
        "peak_memory_bytes",
        "checkpoints",
        "exports",
        "error",
    ] {
        assert!(json.get(key).is_some(), "{key} is missing");
    }
    assert!(json["pid"].is_null() && json["eta_seconds"].is_null());
}

#[test]
fn a_run_in_the_foreground_prints_progress_and_outlives_its_stdout() {
    let run = Run::new("max_steps: 40");
    let output = run.start_foreground("");
    assert_eq!(output.code, 0);
    for expected in ["step 1/40", "step 40/40", "done: 40 steps"] {
        assert!(output.stdout.contains(expected), "{}", output.stdout);
    }
    let run = Run::new("max_steps: 40");
    assert_eq!(run.start_with_closed_stdout(), 0);
    assert_eq!(run.steps(), 40);
}

#[test]
fn the_socket_comes_back_when_its_folder_was_cleaned_away() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("");
    runner.answers();
    let socket = RunInfo::read(&run.folder).unwrap().socket.unwrap();
    fs::remove_file(&socket).unwrap();
    fs::remove_dir(socket.parent().unwrap()).unwrap();
    runner.answers();
    runner.kill("TERM");
    runner.wait();
    assert!(!socket.exists(), "it is removed at the end");
}

fn decide(run: &Run, mode: &str) -> anyhow::Result<Decision> {
    let config = config::load(&run.config_path, &[]).unwrap().config;
    resume::decide(&run.folder, &config, &ResumeMode::new(mode))
}

#[test]
fn resume_never_renames_the_old_folder_and_deletes_nothing() {
    let run = Run::new("max_steps: 3");
    let root = run.folder.root().display().to_string();
    for number in 1..=2 {
        assert_eq!(run.start("").wait(), 0);
        let log = fs::read(run.folder.root().join("events.000001.jsonl")).unwrap();
        let Decision::Start { checkpoint, notes } = decide(&run, "never").unwrap() else {
            panic!("it starts anew");
        };
        let old = format!("{root}.old-{number}");
        assert_eq!(checkpoint, None);
        assert!(notes[0].contains(&old), "{notes:?}");
        assert_eq!(fs::read(format!("{old}/events.000001.jsonl")).unwrap(), log);
        assert!(!run.folder.root().exists());
    }
}

#[test]
fn a_finished_run_says_so_and_goes_on_only_with_more_steps() {
    let run = Run::new("max_steps: 3");
    assert_eq!(run.start("").wait(), 0);
    let Decision::Finished(sentence) = decide(&run, "auto").unwrap() else {
        panic!("nothing is left to do");
    };
    assert!(sentence.contains("finished (3 steps)"), "{sentence}");
    fs::write(&run.config_path, run.config_text("max_steps: 5")).unwrap();
    assert!(matches!(
        decide(&run, "auto").unwrap(),
        Decision::Start { .. }
    ));
}

#[test]
fn what_cannot_be_resumed_is_refused_with_code_2_and_the_reason() {
    let run = Run::new("max_steps: 100000");
    let runner = run.start("");
    runner.answers();
    let refused = |mode: &str, reason: &str| {
        let error = decide(&run, mode).unwrap_err();
        assert_eq!(exit_code(&error), 2);
        assert!(error.to_string().contains(reason), "{error}");
    };
    for mode in ["auto", "never"] {
        refused(mode, &format!("process {}", runner.pid()));
    }
    runner.kill("TERM");
    runner.wait();
    refused("step-000777", "there is no checkpoint step-000777");
    fs::write(
        &run.config_path,
        run.config_text("lora_rank: 4\nsave_steps: 7"),
    )
    .unwrap();
    refused("auto", "lora_rank: 8 -> 4");
    let error = decide(&run, "auto").unwrap_err().to_string();
    assert!(
        !error.contains("save_steps"),
        "a live key may change: {error}"
    );
}
