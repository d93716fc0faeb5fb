//! N steps straight equal k steps, an abrupt end, a resume and N - k steps: adapter, moments and
//! logged losses, bit for bit. (Real SIGKILLs of the built program are tested elsewhere.)

#[path = "support/training.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use loradeck::protocol::{Command, EventKind, StopMode};
use loradeck::train::{Outcome, checkpoint};
use support::{Run, losses};

/// 17 records in micro-batches of 2, two to a step: 5 steps an epoch, the last one shorter.
const SETTINGS: &str = "epochs: 2.4\ngradient_accumulation_steps: 2\nlora_dropout: 0.1\n\
    weight_decay: 0.01\nsave_steps: 3\neval_steps: 4\nsample_steps: 100";
const STEPS: u64 = 12;

/// Everything that must come out equal.
#[derive(Debug, PartialEq)]
struct Result {
    losses: BTreeMap<u64, u64>,
    adapter: Vec<u8>,
    moments: Vec<u8>,
    exported: Vec<u8>,
    total_tokens: u64,
    cursor: (u64, u64),
}

fn result(run: &Run, losses: BTreeMap<u64, u64>) -> Result {
    let last = run.checkpoint(STEPS);
    let state = checkpoint::verify(&last).unwrap();
    Result {
        losses,
        adapter: fs::read(last.join("adapter_model.safetensors")).unwrap(),
        moments: fs::read(last.join("optimizer.safetensors")).unwrap(),
        exported: fs::read(run.folders().exports.join("peft/adapter_model.safetensors")).unwrap(),
        total_tokens: state.total_tokens,
        cursor: (state.cursor.epoch, state.cursor.micro_batch),
    }
}

fn straight(folder: &Path, settings: &str) -> Result {
    let run = Run::new(folder, settings);
    let (outcome, events) = run.train(None);
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let losses: BTreeMap<_, _> = losses(&events).into_iter().collect();
    assert_eq!(losses.len() as u64, STEPS);
    result(&run, losses)
}

/// Ends abruptly in the step after each of `ends`, then goes on from the newest checkpoint.
/// `meddle` acts on the run's folder between two runners.
fn interrupted(folder: &Path, settings: &str, ends: &[u64], meddle: impl Fn(&Run)) -> Result {
    let run = Run::new(folder, settings);
    let mut losses_by_step = BTreeMap::new();
    for end in ends.iter().copied().map(Some).chain([None]) {
        let newest = checkpoint::newest(&run.folders().checkpoints).unwrap();
        let resume = newest.checkpoint.map(|c| c.path);
        checkpoint::remove_leftovers(&run.folders().checkpoints).unwrap();
        let (outcome, events) = run.train_with(resume.as_deref(), move |event, hand| {
            if let EventKind::Step(m) = event
                && Some(m.step) == end
            {
                let mode = StopMode::Discard;
                hand.send(1, Command::Stop { mode });
            }
        });
        let outcome = outcome.unwrap();
        losses_by_step.extend(losses(&events));
        // A stop in the last step may come too late.
        if outcome == Outcome::Done {
            assert!(end.is_none_or(|end| end + 1 == STEPS), "not cut off");
            break;
        }
        meddle(&run);
    }
    result(&run, losses_by_step)
}

#[test]
fn a_run_that_was_cut_off_anywhere_ends_with_the_same_bits() {
    let temp = tempfile::tempdir().unwrap();
    let whole = straight(&temp.path().join("straight"), SETTINGS);
    // Before the first checkpoint; right after a save; mid-epoch; at an epoch's end; in the last step.
    for k in [1, 3, 4, 5, 11] {
        let folder = temp.path().join(format!("cut-{k}"));
        assert_eq!(
            interrupted(&folder, SETTINGS, &[k], |_| ()),
            whole,
            "cut off after step {k}"
        );
    }
}

#[test]
fn every_kind_of_adapter_ends_with_the_same_bits() {
    let temp = tempfile::tempdir().unwrap();
    for (name, kind) in [
        ("dora", "use_dora: true\nloraplus_ratio: 4"),
        ("shared", "share_adapters: layers"),
        ("grouped by length", "group_by_length: true"),
        (
            "both",
            "share_adapters: layers\nuse_dora: true\nlayers: 1-2",
        ),
    ] {
        let settings = format!("{SETTINGS}\n{kind}");
        let folder = |part: &str| temp.path().join(format!("{name} {part}"));
        let whole = straight(&folder("straight"), &settings);
        let cut = interrupted(&folder("cut"), &settings, &[4, 7], |_| ());
        assert_eq!(cut, whole, "{name}");
    }
}

/// Packed rows come in fewer, larger steps than [`STEPS`].
#[test]
fn a_packed_run_ends_with_the_same_bits() {
    let temp = tempfile::tempdir().unwrap();
    let settings = format!("{SETTINGS}\npacking: true\nsequence_len: 110\nepochs: 4");
    let settings = settings.replace("epochs: 2.4\n", "");
    let bits = |folder: &Path, step: u64| {
        let run = Run::new(folder, &settings);
        ["adapter_model.safetensors", "optimizer.safetensors"]
            .map(|file| fs::read(run.checkpoint(step).join(file)).unwrap())
    };
    let whole = temp.path().join("straight");
    let (outcome, events) = Run::new(&whole, &settings).train(None);
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let expected = losses(&events);
    let steps = expected.len() as u64;
    assert!((6..=12).contains(&steps), "{steps} steps");
    for cut in 3..steps {
        let folder = temp.path().join(format!("cut-{cut}"));
        let run = Run::new(&folder, &settings);
        let (outcome, events) = run.train_with(None, move |event, hand| {
            if let EventKind::Step(m) = event
                && m.step == cut
            {
                let mode = StopMode::Discard;
                hand.send(1, Command::Stop { mode });
            }
        });
        let mut losses_by_step: BTreeMap<_, _> = losses(&events).into_iter().collect();
        if outcome.unwrap() == Outcome::Stopped {
            let newest = checkpoint::newest(&run.folders().checkpoints).unwrap();
            let resume = newest.checkpoint.unwrap().path;
            let (outcome, events) = run.train(Some(&resume));
            assert_eq!(outcome.unwrap(), Outcome::Done);
            losses_by_step.extend(losses(&events));
        }
        assert_eq!(losses_by_step.into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(
            bits(&folder, steps),
            bits(&whole, steps),
            "cut off after {cut}"
        );
    }
}

#[test]
fn a_run_that_was_cut_off_twice_ends_with_the_same_bits() {
    let temp = tempfile::tempdir().unwrap();
    let whole = straight(&temp.path().join("straight"), SETTINGS);
    for ends in [[4, 7], [8, 7], [6, 11]] {
        let folder = temp.path().join(format!("cut-{}-{}", ends[0], ends[1]));
        assert_eq!(
            interrupted(&folder, SETTINGS, &ends, |_| ()),
            whole,
            "cut off after {ends:?}"
        );
    }
}

#[test]
fn a_run_that_was_cut_off_during_a_save_goes_on_from_the_one_before() {
    let temp = tempfile::tempdir().unwrap();
    let whole = straight(&temp.path().join("straight"), SETTINGS);
    // What a kill leaves: a temporary folder with part of the files. What a broken disk leaves: a
    // checkpoint with a file cut short, or with a flipped bit.
    let half_written = |run: &Run| {
        let half = run.folders().checkpoints.join(".step-000006.tmp-4711");
        fs::create_dir_all(&half).unwrap();
        fs::write(half.join("adapter_model.safetensors"), b"half").unwrap();
    };
    let folder = temp.path().join("half");
    assert_eq!(interrupted(&folder, SETTINGS, &[5], half_written), whole);

    let cut_short = |run: &Run| {
        let file = run.checkpoint(6).join("optimizer.safetensors");
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    };
    let folder = temp.path().join("short");
    assert_eq!(interrupted(&folder, SETTINGS, &[7], cut_short), whole);

    let flipped = |run: &Run| {
        let file = run.checkpoint(6).join("adapter_model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let at = bytes.len() - 5;
        bytes[at] ^= 1;
        fs::write(&file, &bytes).unwrap();
    };
    let folder = temp.path().join("flipped");
    assert_eq!(interrupted(&folder, SETTINGS, &[7], flipped), whole);
}

#[test]
fn a_stop_that_saves_loses_no_step() {
    let temp = tempfile::tempdir().unwrap();
    let whole = straight(&temp.path().join("straight"), SETTINGS);
    let run = Run::new(&temp.path().join("stopped"), SETTINGS);
    let (outcome, mut events) = run.train_with(None, |event, hand| {
        if let EventKind::Step(m) = event
            && m.step == 7
        {
            let mode = StopMode::Save;
            hand.send(1, Command::Stop { mode });
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
    let (outcome, rest) = run.train(Some(&run.checkpoint(7)));
    assert_eq!(outcome.unwrap(), Outcome::Done);
    events.extend(rest);
    let all = losses(&events);
    assert_eq!(all.len() as u64, STEPS, "no step was made twice");
    assert_eq!(result(&run, all.into_iter().collect()), whole);
    let resumed = events.iter().find_map(|e| match e {
        EventKind::Resumed { step, epoch, .. } => Some((*step, *epoch)),
        _ => None,
    });
    // Step 7 is the second of the second epoch: 4 of 9 micro-batches.
    assert_eq!(resumed, Some((7, 1.0 + 4.0 / 9.0)));
}

#[test]
fn going_on_from_an_older_checkpoint_never_comes_back_to_the_abandoned_ones() {
    let temp = tempfile::tempdir().unwrap();
    let run = Run::new(temp.path(), SETTINGS);
    let stop_after = |step: u64| {
        move |event: &EventKind, hand: &support::Hand| {
            if let EventKind::Step(m) = event
                && m.step == step
            {
                let mode = StopMode::Discard;
                hand.send(1, Command::Stop { mode });
            }
        }
    };
    run.train_with(None, stop_after(10)).0.unwrap();
    run.train_with(Some(&run.checkpoint(3)), stop_after(4))
        .0
        .unwrap();
    let newest = checkpoint::newest(&run.folders().checkpoints).unwrap();
    assert_eq!(newest.checkpoint.unwrap().state.step, 3);
    // Nothing was deleted.
    for step in ["000006", "000009"] {
        let aside = format!("set-aside-step-{step}");
        assert!(run.folders().checkpoints.join(aside).is_dir());
    }
}

#[test]
fn other_data_or_another_adapter_shape_is_refused_with_what_differs() {
    let temp = tempfile::tempdir().unwrap();
    let run = Run::new(temp.path(), "max_steps: 3\nsave_steps: 3\neval_split: 0");
    run.train(None).0.unwrap();
    let refused = |run: &Run| {
        let error = run.train(Some(&run.checkpoint(3))).0.unwrap_err();
        assert_eq!(loradeck::error::exit_code(&error), 2);
        format!("{error:#}")
    };

    let other_rank = Run::new(
        temp.path(),
        "max_steps: 3\nsave_steps: 3\neval_split: 0\nlora_rank: 8",
    );
    let sentence = refused(&other_rank);
    assert!(sentence.contains("its rank is 4, not 8"), "{sentence}");

    let data = temp.path().join("data.jsonl");
    let text = fs::read_to_string(&data).unwrap();
    fs::write(&data, text.replace("two", "2").replace("cough", "cold")).unwrap();
    let sentence = refused(&run);
    assert!(sentence.contains("with other content"), "{sentence}");

    fs::write(&data, text.lines().take(10).collect::<Vec<_>>().join("\n")).unwrap();
    let sentence = refused(&run);
    assert!(
        sentence.contains("20 training and 0 held-out records then, 10"),
        "{sentence}"
    );
}

#[test]
fn a_finished_run_goes_further_when_it_is_given_more_epochs() {
    let temp = tempfile::tempdir().unwrap();
    let settings = |epochs: u32| format!("epochs: {epochs}\nlr_scheduler: constant");
    let short = Run::new(temp.path(), &settings(1));
    short.train(None).0.unwrap();
    let long = Run::new(temp.path(), &settings(2));
    let (outcome, events) = long.train(Some(&long.checkpoint(9)));
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let steps: Vec<u64> = losses(&events).iter().map(|(s, _)| *s).collect();
    assert_eq!(steps, (10..=18).collect::<Vec<u64>>());
}
