//! A disk that is full, read-only or broken at any call: the run pauses with a sentence, nothing
//! earlier is damaged, and it goes on to the same bits. `LORADECK_DISK_FAULTS=40` tries more places.

mod program;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use loradeck::train::checkpoint;
use program::{Scratch, repository, text};
use serde_json::Value;

const CONFIG: &str = "max_steps: 6\nbatch_size: 2\nlearning_rate: 2e-3\nsave_steps: 2\n\
    eval_split: 2\neval_steps: 3\nsequence_len: 64\nlora_rank: 2\n";

/// `tests/tools/faulty_disk.c`, built once; `None` where there is no C compiler.
fn shim() -> Option<&'static Path> {
    static SHIM: OnceLock<Option<PathBuf>> = OnceLock::new();
    SHIM.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faulty_disk.so");
        let built = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-w", "-o"])
            .arg(&library)
            .arg(repository().join("tests/tools/faulty_disk.c"))
            .arg("-ldl")
            .status();
        if built.is_ok_and(|s| s.success()) {
            Some(library)
        } else {
            println!("not run: the faulty disk needs a C compiler");
            None
        }
    })
    .as_deref()
}

struct Disk {
    scratch: Scratch,
}

impl Disk {
    fn new() -> Disk {
        let disk = Disk {
            scratch: Scratch::new(CONFIG),
        };
        fs::create_dir(&disk.scratch.run).unwrap();
        disk
    }

    fn rule(&self) -> PathBuf {
        self.scratch.folder.path().join("rule")
    }

    fn break_it(&self, rule: &str) {
        let beside = self.scratch.folder.path().join("rule.new");
        fs::write(&beside, rule).unwrap();
        fs::rename(beside, self.rule()).unwrap();
    }

    fn mend(&self) {
        let _ = fs::remove_file(self.rule());
    }

    fn train(&self, how: &str, shim: &Path) -> Output {
        self.scratch
            .command(&["train", self.scratch.config.to_str().unwrap(), how])
            .env("LD_PRELOAD", shim)
            .env("FAULTY_ROOT", &self.scratch.run)
            .env("FAULTY_RULE", self.rule())
            .env("FAULTY_LOG", self.scratch.folder.path().join("calls"))
            .env("FAULTY_CLOCK", self.scratch.folder.path().join("clock"))
            .output()
            .unwrap()
    }

    fn checkpoints(&self) -> Vec<(u64, PathBuf)> {
        checkpoint::list(&self.scratch.run.join("checkpoints")).unwrap()
    }

    fn phase(&self) -> String {
        self.scratch.status()["phase"]
            .as_str()
            .unwrap_or("")
            .to_owned()
    }

    /// Waits until the run rests or has ended.
    fn rests(&self) -> String {
        let until = Instant::now() + Duration::from_secs(90);
        loop {
            let phase = self.phase();
            if ["paused", "done", "failed", "stopped"].contains(&phase.as_str()) {
                return phase;
            }
            assert!(Instant::now() < until, "still {phase}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

/// Adapter, moments, and the losses and norms of every step.
type Outcome = (Vec<u8>, Vec<u8>, Vec<(u64, Value, Value)>);

fn result(scratch: &Scratch) -> Outcome {
    let read = |name: &str| fs::read(scratch.run.join(name)).unwrap();
    (
        read("exports/peft/adapter_model.safetensors"),
        read("checkpoints/step-000006/optimizer.safetensors"),
        scratch.losses(),
    )
}

fn undisturbed() -> &'static Outcome {
    static RESULT: OnceLock<Outcome> = OnceLock::new();
    RESULT.get_or_init(|| {
        let scratch = Scratch::new(CONFIG);
        assert!(scratch.headless().wait().unwrap().success());
        result(&scratch)
    })
}

/// Runs with the fault until the run rests, mends the disk, goes on, and holds the result against the
/// undisturbed run's. Returns how the run rested.
fn survives(rule: &str, shim: &Path) -> String {
    let disk = Disk::new();
    disk.break_it(rule);
    let out = disk.train("--detach", shim);
    let rested = if out.status.success() {
        disk.rests()
    } else {
        "not started".to_owned()
    };
    if rested == "paused" {
        // The log may lie on the full disk as well: then its lines are written once there is room.
        let events = disk.scratch.events();
        if let Some(said) = events.iter().rev().find(|e| e["phase"] == "paused") {
            let sentence = said["detail"].as_str().unwrap();
            assert!(
                sentence.contains("resume to try again"),
                "{rule}: {sentence}"
            );
        }
    } else if rested == "not started" {
        // One sentence, and nothing that a person would have to clean up.
        assert!(text(&out).contains("loradeck: "), "{rule}: {}", text(&out));
    }
    // What is named a checkpoint is one.
    for (_, path) in disk.checkpoints() {
        checkpoint::verify(&path).unwrap_or_else(|e| panic!("{rule}: {e:#}"));
    }
    disk.mend();
    if rested == "paused" {
        let out = disk.scratch.send(&["resume"]);
        assert!(out.status.success(), "{rule}: {}", text(&out));
        let end = Instant::now() + Duration::from_secs(60);
        while disk.phase() != "done" && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(30));
        }
    }
    if disk.phase() != "done" {
        let out = disk.train("--headless", shim);
        assert!(out.status.success(), "{rule} ({rested}): {}", text(&out));
    }
    let (adapter, moments, losses) = result(&disk.scratch);
    let expected = undisturbed();
    assert!(
        adapter == expected.0 && moments == expected.1,
        "{rule}: other bits"
    );
    assert_eq!(losses, expected.2, "{rule}");
    for (i, event) in disk.scratch.events().iter().enumerate() {
        assert_eq!(event["seq"].as_u64(), Some(i as u64 + 1), "{rule}: {event}");
    }
    rested
}

const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EIO: i32 = 5;
const EBUSY: i32 = 16;
const ESTALE: i32 = 116;

#[test]
fn a_checkpoint_that_cannot_be_written_pauses_the_run_and_resume_goes_on() {
    let Some(shim) = shim() else { return };
    for (call, errno, path) in [
        ("write", ENOSPC, "checkpoints/"),
        ("open", EROFS, "checkpoints/"),
        ("fsync", EIO, "checkpoints/"),
        ("rename", EIO, "checkpoints/"),
        // Network file systems: the name is in use elsewhere, the server has forgotten the file.
        ("rename", EBUSY, "checkpoints/"),
        ("rename", ESTALE, "checkpoints/"),
    ] {
        // The first calls are those that prove before the first step that it could be saved.
        let rested = survives(&format!("{call} {errno} 4 {path}"), shim);
        println!("{call} fails with {errno} in {path}: {rested}");
    }
}

#[test]
fn an_export_that_cannot_be_written_pauses_the_run_and_resume_goes_on() {
    let Some(shim) = shim() else { return };
    for (call, errno) in [("write", ENOSPC), ("fsync", EIO)] {
        let rested = survives(&format!("{call} {errno} 1 exports/"), shim);
        println!("{call} fails with {errno} in exports/: {rested}");
    }
}

/// The disk is full from the n-th write of the run on, for many n.
#[test]
fn a_disk_that_is_full_from_any_write_on_costs_no_run() {
    let Some(shim) = shim() else { return };
    let places: u64 = std::env::var("LORADECK_DISK_FAULTS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(4);
    let mut rested = std::collections::BTreeMap::<String, u64>::new();
    for i in 0..places {
        let (call, errno) = [("write", ENOSPC), ("any", EROFS), ("any", EIO)][(i % 3) as usize];
        let skip = 3 + i * 97 % 90;
        *rested
            .entry(survives(&format!("{call} {errno} {skip} -"), shim))
            .or_default() += 1;
    }
    println!("{places} places: {rested:?}; every run ended with the undisturbed run's bits");
}

/// Every file of a checkpoint is on disk, and the log with it, before the name says that it is one;
/// then the folder is.
#[test]
fn a_checkpoint_is_written_synced_and_renamed_in_this_order() {
    let Some(shim) = shim() else { return };
    let disk = Disk::new();
    assert!(disk.train("--headless", shim).status.success());
    let calls = fs::read_to_string(disk.scratch.folder.path().join("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    let mut renames = 0;
    for (at, call) in calls.iter().enumerate() {
        let words: Vec<&str> = call.split(' ').collect();
        if words[0] != "rename" || !words[1].contains("checkpoints/.step-") {
            continue;
        }
        renames += 1;
        let temporary = words[1];
        let last = |what: &str, path: &str| {
            calls[..at]
                .iter()
                .rposition(|c| c.starts_with(what) && c[what.len()..].contains(path))
        };
        for file in [
            "adapter_config.json",
            "adapter_model.safetensors",
            "optimizer.safetensors",
            "state.json",
        ] {
            let path = format!("{temporary}/{file}");
            let written = last("write ", &path).unwrap_or_else(|| panic!("{path} was not written"));
            let synced = last("fsync ", &path).unwrap_or_else(|| panic!("{path} was not synced"));
            assert!(written < synced, "{path}: written after its fsync");
        }
        let folder = calls[..at]
            .iter()
            .rposition(|c| *c == format!("fsync {temporary}"));
        assert!(folder.is_some(), "the folder {temporary} was not synced");
        let log_written = last("write ", "events.").unwrap();
        let log_synced = last("fsync ", "events.").unwrap();
        assert!(
            log_written < log_synced,
            "the log was written after its fsync"
        );
        let parent = Path::new(temporary).parent().unwrap().display().to_string();
        assert!(
            calls[at..].iter().any(|c| *c == format!("fsync {parent}")),
            "{parent} was not synced after the rename"
        );
    }
    assert_eq!(renames, 3);
}

/// A folder with something mounted on it, until dropped.
struct Mount<'a>(&'a Path);

impl Mount<'_> {
    /// `None` where this test may not mount: not root, or in a container.
    fn new<'a>(on: &'a Path, arguments: &[&str], what: &Path) -> Option<Mount<'a>> {
        let done = Command::new("mount")
            .args(arguments)
            .arg(what)
            .arg(on)
            .output();
        if done.is_ok_and(|d| d.status.success()) {
            return Some(Mount(on));
        }
        println!("not run: this needs the right to mount");
        None
    }

    fn again(&self, options: &str) -> bool {
        let done = Command::new("mount")
            .args(["-o", options])
            .arg(self.0)
            .output();
        done.is_ok_and(|d| d.status.success())
    }

    /// Unmounts once nobody has a file open there: the kernel forgets the disk as it was.
    fn release(self) {
        let until = Instant::now() + Duration::from_secs(30);
        let unmounted = || Command::new("umount").arg(self.0).output();
        while !unmounted().is_ok_and(|d| d.status.success()) {
            assert!(Instant::now() < until, "somebody has it open");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::mem::forget(self);
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// A run of sixty steps with a checkpoint at every second.
fn sixty_steps() -> Disk {
    let disk = Disk::new();
    let config = fs::read_to_string(&disk.scratch.config).unwrap();
    let config = config.replace("max_steps: 6", "max_steps: 60\nkeep_checkpoints: 3");
    fs::write(&disk.scratch.config, config).unwrap();
    disk
}

fn assert_sixty_steps_and_whole_checkpoints(disk: &Disk) {
    let steps: Vec<u64> = disk.scratch.losses().iter().map(|l| l.0).collect();
    assert_eq!(steps, (1..=60).collect::<Vec<u64>>());
    for (i, event) in disk.scratch.events().iter().enumerate() {
        assert_eq!(event["seq"].as_u64(), Some(i as u64 + 1), "{event}");
    }
    assert_whole(disk);
}

fn assert_whole(disk: &Disk) {
    let checkpoints = disk.checkpoints();
    assert!(!checkpoints.is_empty());
    for (_, path) in checkpoints {
        checkpoint::verify(&path).unwrap();
    }
}

fn resume_to_the_end(disk: &Disk) {
    let out = disk.scratch.send(&["resume"]);
    assert!(out.status.success(), "{}", text(&out));
    disk.scratch.wait_for_phase("done");
    assert_sixty_steps_and_whole_checkpoints(disk);
}

/// A real disk that is full: a small tmpfs.
#[test]
fn a_full_tmpfs_pauses_the_run_and_freed_space_lets_it_go_on() {
    let disk = sixty_steps();
    let run = &disk.scratch.run;
    let Some(_mount) = Mount::new(run, &["-t", "tmpfs", "-o", "size=3m"], Path::new("tmpfs"))
    else {
        return;
    };
    disk.scratch.detach();
    disk.scratch.wait_for_step(1);
    // Someone else fills it while the run works.
    let filler = run.join("filler");
    let until = Instant::now() + Duration::from_secs(90);
    while !["paused", "done"].contains(&disk.phase().as_str()) {
        let mut file = fs::File::options().create(true).append(true).open(&filler);
        // Ends with an error once nothing more fits.
        let _ = file.as_mut().map(|f| f.write_all(&[1; 4 << 20]));
        assert!(
            Instant::now() < until,
            "neither paused nor done: {}\n{}",
            disk.scratch.status(),
            fs::read_to_string(run.join("runner.log")).unwrap_or_default()
        );
    }
    assert_eq!(disk.phase(), "paused");
    assert_whole(&disk);
    fs::remove_file(&filler).unwrap();
    resume_to_the_end(&disk);
}

/// Someone remounts the checkpoints' folder read-only, and writable again.
#[test]
fn a_read_only_remount_pauses_the_run_and_a_writable_one_lets_it_go_on() {
    let disk = sixty_steps();
    disk.scratch.detach();
    let folder = disk.scratch.run.join("checkpoints");
    disk.scratch
        .wait(Duration::from_secs(60), "a checkpoint", |_| {
            folder.join("latest").exists()
        });
    disk.scratch.send(&["pause"]);
    disk.scratch.wait_for_phase("paused");
    let Some(mount) = Mount::new(&folder, &["--bind"], &folder) else {
        return;
    };
    assert!(mount.again("remount,bind,ro"));
    assert!(disk.scratch.send(&["resume"]).status.success());
    disk.scratch.wait(Duration::from_secs(60), "a pause", |s| {
        s["error"].is_string() || s["phase"] == "paused" && said_of_pause(&disk).contains("resume")
    });
    let said = said_of_pause(&disk);
    assert!(said.contains("Read-only file system"), "{said}");
    assert_whole(&disk);
    assert!(mount.again("remount,bind,rw"));
    resume_to_the_end(&disk);
}

/// Why the run rests, as its log says it.
fn said_of_pause(disk: &Disk) -> String {
    let events = disk.scratch.events();
    let pause = events.iter().rev().find(|e| e["phase"] == "paused");
    pause.map_or(String::new(), |e| {
        e["detail"].as_str().unwrap_or("").to_owned()
    })
}

/// What a kernel does with a disk that has errors: read-only at once, under open files. Only a
/// repair and a new mount help, and then the same command.
#[test]
fn an_ext4_that_its_kernel_has_shut_pauses_the_run_and_the_repaired_one_is_gone_on_with() {
    let disk = sixty_steps();
    let image = disk.scratch.folder.path().join("image");
    fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
    if !Command::new("mkfs.ext4")
        .arg("-q")
        .arg(&image)
        .status()
        .is_ok_and(|s| s.success())
    {
        println!("not run: there is no mkfs.ext4");
        return;
    }
    let run = &disk.scratch.run;
    let Some(mount) = Mount::new(run, &["-o", "loop"], &image) else {
        return;
    };
    disk.scratch.detach();
    disk.scratch.wait_for_step(3);
    assert!(mount.again("remount,abort"));
    let paused = disk.scratch.wait_for_phase("paused");
    assert_whole(&disk);
    program::kill(paused["pid"].as_u64().unwrap(), "KILL");
    mount.release();
    let _ = Command::new("e2fsck")
        .args(["-p", "-f"])
        .arg(&image)
        .output();
    let repaired = Mount::new(run, &["-o", "loop"], &image).expect("it was mounted before");
    let again = ["train", disk.scratch.config.to_str().unwrap(), "--headless"];
    let out = disk.scratch.output(&again);
    assert!(out.status.success(), "{}", text(&out));
    assert_sixty_steps_and_whole_checkpoints(&disk);
    drop(repaired);
}

/// The machine's clock is set back and forth by a day during a run.
#[test]
fn a_clock_that_jumps_changes_neither_the_order_of_events_nor_the_time_left() {
    let Some(shim) = shim() else { return };
    let disk = Disk::new();
    let config = fs::read_to_string(&disk.scratch.config).unwrap();
    fs::write(
        &disk.scratch.config,
        config.replace("max_steps: 6", "max_steps: 60"),
    )
    .unwrap();
    let clock = disk.scratch.folder.path().join("clock");
    assert!(disk.train("--detach", shim).status.success());
    for jump in ["-86400", "86400", "-3600", "0"] {
        let step = disk.scratch.step();
        fs::write(&clock, jump).unwrap();
        disk.scratch
            .wait(Duration::from_secs(60), "another step", |s| {
                s["step"].as_u64().unwrap_or(0) > step || s["phase"] == "done"
            });
        if let Some(eta) = disk.scratch.status()["eta_seconds"].as_f64() {
            assert!((0.0..600.0).contains(&eta), "{eta} s left after {jump}");
        }
    }
    disk.scratch.wait_for_phase("done");
    let times: Vec<f64> = disk
        .scratch
        .events()
        .iter()
        .map(|e| e["time"].as_f64().unwrap())
        .collect();
    assert!(
        times.windows(2).all(|t| t[0] <= t[1]),
        "events go back in time"
    );
    let whole = times.last().unwrap() - times[0];
    assert!(whole < 600.0, "the run took {whole} s by its log");
}
