//! The runner is killed at random moments, most of them moments of writing, until it has been killed
//! `LORADECK_KILLS` times (300: `LORADECK_KILLS=300 cargo test --test kills -- --nocapture`).

mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use loradeck::random::{Purpose, Stream};
use loradeck::run::folder::RunFolder;
use loradeck::run::status::load_state;
use loradeck::train::checkpoint;
use program::{Scratch, files_below};
use serde_json::Value;

const CONFIG: &str = "max_steps: 8\nbatch_size: 2\ngradient_accumulation_steps: 2\n\
    lora_dropout: 0.1\nlora_rank: 2\nlearning_rate: 2e-3\nsave_steps: 1\nkeep_checkpoints: 3\n\
    eval_steps: 4\neval_split: 4\nsequence_len: 64\n";

/// When to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// While a checkpoint's hidden folder is there.
    Checkpoint,
    /// While one is being deleted.
    Deletion,
    /// When the event log has grown a few times.
    EventLog,
    /// While an export's hidden folder is there.
    Export,
    /// While a small file is being replaced.
    SmallFile,
    AnyTime,
}

fn draw(stream: &mut Stream) -> Moment {
    match stream.below(12) {
        0..=3 => Moment::Checkpoint,
        4 => Moment::Deletion,
        5..=6 => Moment::EventLog,
        7..=8 => Moment::Export,
        9 => Moment::SmallFile,
        _ => Moment::AnyTime,
    }
}

fn any_name(folder: &Path, is: impl Fn(&str) -> bool) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|e| is(&e.file_name().to_string_lossy()))
    })
}

fn log_bytes(run: &Path) -> u64 {
    fs::metadata(run.join("events.000001.jsonl")).map_or(0, |m| m.len())
}

/// Waits for the moment and kills; false when the run has ended before it came.
fn kill_at(child: &mut Child, moment: Moment, run: &Path, stream: &mut Stream) -> bool {
    let start = Instant::now();
    let patience = Duration::from_secs(60);
    let after = Duration::from_millis(u64::from(stream.below(900)));
    let growths = stream.below(40);
    let settle = Duration::from_micros(u64::from(stream.below(1500)));
    // How many of its kind are let pass.
    let mut pass = stream.below(3);
    let (mut grown, mut bytes, mut inside) = (0, log_bytes(run), false);
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < patience, "{moment:?} never came");
        let now = match moment {
            Moment::AnyTime => start.elapsed() >= after,
            Moment::Checkpoint => any_name(&run.join("checkpoints"), |n| n.contains(".tmp-")),
            Moment::Deletion => any_name(&run.join("checkpoints"), |n| n.contains(".deleted-")),
            Moment::Export => any_name(&run.join("exports"), |n| n.starts_with('.')),
            Moment::SmallFile => any_name(run, |n| n.ends_with(".new")),
            Moment::EventLog => {
                let size = log_bytes(run);
                grown += u32::from(size != bytes);
                bytes = size;
                grown > growths
            }
        };
        if now && !inside && pass > 0 && !matches!(moment, Moment::AnyTime | Moment::EventLog) {
            pass -= 1;
        } else if now && (!inside || matches!(moment, Moment::AnyTime | Moment::EventLog)) {
            std::thread::sleep(settle);
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        inside = now;
        std::thread::sleep(Duration::from_micros(100));
    }
}

type Numbers = (Vec<u8>, Vec<u8>, Vec<(u64, Value, Value)>);

fn numbers(scratch: &Scratch) -> Numbers {
    let read = |name: &str| fs::read(scratch.run.join(name)).unwrap();
    (
        read("exports/peft/adapter_model.safetensors"),
        read("checkpoints/step-000008/optimizer.safetensors"),
        scratch.losses(),
    )
}

/// What a reader finds after a kill: whole checkpoints, a log that folds.
fn assert_whole(scratch: &Scratch) {
    for (_, path) in checkpoint::list(&scratch.run.join("checkpoints")).unwrap() {
        checkpoint::verify(&path).unwrap_or_else(|e| panic!("after a kill: {e:#}"));
    }
    load_state(&RunFolder::new(&scratch.run)).unwrap();
}

fn assert_tidy_and_equal(scratch: &Scratch, expected: &Numbers) {
    let (adapter, moments, losses) = numbers(scratch);
    assert!(adapter == expected.0, "the final adapter has other bits");
    assert!(moments == expected.1, "the moments have other bits");
    assert_eq!(losses, expected.2);
    for folder in ["", "checkpoints", "exports", "samples"] {
        let left = |n: &str| {
            n.contains(".tmp") || n.contains(".deleted") || n.contains(".new") || n.starts_with('.')
        };
        assert!(
            !any_name(&scratch.run.join(folder), left),
            "a temporary file is left in {folder:?}"
        );
    }
    // `events` fails on a line that does not parse.
    for (i, event) in scratch.events().iter().enumerate() {
        assert_eq!(
            event["seq"].as_u64(),
            Some(i as u64 + 1),
            "a hole in the log: {event}"
        );
    }
}

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// A tenth as many kills again, while scans of the data are being kept.
#[test]
fn a_check_killed_while_it_writes_its_cache_leaves_nothing_that_is_taken_for_whole() {
    let wanted = parameter("LORADECK_KILLS", 8).div_ceil(10).max(2);
    let scratch = Scratch::new("");
    let config = scratch.large_data();
    let cache = scratch.folder.path().join("cache");
    let expected = scratch.check_with_cache(&config, &cache);
    let whole: Vec<_> = files_below(&cache)
        .into_iter()
        .map(|f| (fs::read(&f).unwrap(), f))
        .collect();
    assert!(!whole.is_empty(), "nothing was kept");
    let mut stream = Stream::new(2, Purpose::Sampling, 0, 0);
    let (mut inside, mut after) = (0, 0);
    for _ in 0..wanted {
        whole.iter().for_each(|(_, f)| fs::remove_file(f).unwrap());
        let mut check = scratch
            .check_command(&config, &cache)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let begun = || {
            let mut files = files_below(&cache).into_iter();
            files.any(|f| f.extension().is_some_and(|e| e == "partial"))
        };
        while !begun() && check.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(50));
        }
        std::thread::sleep(Duration::from_micros(u64::from(stream.below(3000))));
        match check.try_wait().unwrap() {
            None => inside += 1,
            Some(_) => after += 1,
        }
        let _ = check.kill();
        check.wait().unwrap();
        assert_eq!(scratch.check_with_cache(&config, &cache), expected);
        for (bytes, file) in &whole {
            assert!(&fs::read(file).unwrap() == bytes, "{}", file.display());
        }
    }
    println!("{inside} kills while a cache was written ({after} came too late)");
}

#[test]
fn a_runner_killed_at_any_moment_of_writing_ends_with_the_undisturbed_runs_bits() {
    let (wanted, seed) = (
        parameter("LORADECK_KILLS", 8),
        parameter("LORADECK_SEED", 1),
    );
    let undisturbed = Scratch::new(CONFIG);
    assert!(undisturbed.headless().wait().unwrap().success());
    let expected = numbers(&undisturbed);
    let mut stream = Stream::new(seed, Purpose::Sampling, 0, 0);
    let mut kills = BTreeMap::<Moment, u64>::new();
    let (mut total, mut runs, mut resumed) = (0, 0, 0);
    while total < wanted {
        let scratch = Scratch::new(CONFIG);
        // Kills of one run; then it may end.
        for _ in 0..12 {
            let moment = draw(&mut stream);
            let mut child = scratch.headless();
            if !kill_at(&mut child, moment, &scratch.run, &mut stream) {
                break;
            }
            total += 1;
            *kills.entry(moment).or_default() += 1;
            if scratch.run.is_dir() {
                assert_whole(&scratch);
            }
            if total >= wanted {
                break;
            }
        }
        let out = scratch.output(&["train", scratch.config.to_str().unwrap(), "--headless"]);
        assert!(out.status.success(), "{}", program::text(&out));
        assert_tidy_and_equal(&scratch, &expected);
        runs += 1;
        resumed += scratch
            .events()
            .iter()
            .filter(|e| e["type"] == "resumed")
            .count();
    }
    println!(
        "{total} kills (seed {seed}) of {runs} runs, {resumed} resumes: {kills:?}; every run ended with \
         the undisturbed run's bits"
    );
}
