//! The deck's budgets, measured on the built program in a real pseudo-terminal of 200 x 60 with a
//! stream of 10 updates a second, and printed as a table:
//!
//! ```sh
//! cargo bench --bench budgets
//! ```
//!
//! The stream comes from a runner in this process whose trainer only pretends; the step times come
//! from a real run of the demo. Times need a machine that does nothing else. Exit code 1: a budget
//! is exceeded.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loradeck::config;
use loradeck::protocol::{Event, EventKind, Num, PhaseName, RunState, StepMetrics};
use loradeck::run::folder::RunFolder;
use loradeck::run::runner::{self, Place};
use loradeck::run::start::Request;
use loradeck::train::{Control, Outcome, Reporter};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

const PROGRAM: &str = env!("CARGO_BIN_EXE_loradeck");
const COLUMNS: u16 = 200;
const ROWS: u16 = 60;
const UPDATES_PER_SECOND: u64 = 10;
/// Steps of the long log.
const LONG: u64 = 1_000_000;
/// Ends a frame.
const FRAME_END: &[u8] = b"\x1b[?2026l";

fn main() {
    // `cargo test --benches` runs it as well: nothing is measured in passing.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let quick = std::env::args().any(|a| a == "--quick");
    let mut table = Table::default();
    stream(&mut table, if quick { 8 } else { 30 });
    long_log(&mut table);
    step_time(&mut table, if quick { 3 } else { 8 });
    table.print();
    std::process::exit(i32::from(table.exceeded()));
}

#[derive(Default)]
struct Table {
    rows: Vec<(String, String, String, bool)>,
}

impl Table {
    fn row(&mut self, what: &str, measured: String, budget: &str, holds: bool) {
        eprintln!("{what}: {measured} (budget {budget})");
        self.rows
            .push((what.into(), measured, budget.into(), holds));
    }

    fn most(&mut self, what: &str, value: f64, budget: f64, unit: &str) {
        let shown = |v: f64| match v {
            0.0 => format!("0 {unit}"),
            v if v < 10.0 => format!("{v:.2} {unit}"),
            v => format!("{v:.0} {unit}"),
        };
        self.row(
            what,
            shown(value),
            &format!("<= {}", shown(budget)),
            value <= budget,
        );
    }

    fn print(&self) {
        println!("\n| budget, {COLUMNS} x {ROWS} | measured | allowed | |\n|---|---|---|---|");
        for (what, measured, budget, holds) in &self.rows {
            let mark = if *holds { "holds" } else { "EXCEEDED" };
            println!("| {what} | {measured} | {budget} | {mark} |");
        }
    }

    fn exceeded(&self) -> bool {
        self.rows.iter().any(|r| !r.3)
    }
}

/// A folder with a config of the demo's base and data.
struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new(extra: &str) -> Scratch {
        let folder = tempfile::tempdir().unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/demo");
        let text = format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: {}\noutput_dir: {}\ndevice: cpu\n{extra}",
            data.display(),
            folder.path().join("run").display()
        );
        fs::write(folder.path().join("config.yaml"), text).unwrap();
        Scratch { folder }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn send(&self, words: &[&str]) {
        self.command()
            .arg("send")
            .arg(self.run())
            .args(words)
            .status()
            .unwrap();
    }
}

/// What was written, with its times.
type Output = Arc<Mutex<Vec<(Instant, Vec<u8>)>>>;

/// The deck in a pseudo-terminal; what it writes is kept with its time.
struct Deck {
    child: Box<dyn Child + Send + Sync>,
    master: Option<Box<dyn MasterPty + Send>>,
    writer: Option<Box<dyn Write + Send>>,
    output: Output,
    let_go: Arc<AtomicBool>,
    times: PathBuf,
    opened: Instant,
}

impl Deck {
    fn attach(scratch: &Scratch) -> Deck {
        let pair = native_pty_system()
            .openpty(PtySize {
                rows: ROWS,
                cols: COLUMNS,
                pixel_width: 0,
                pixel_height: 0,
            })
            .unwrap();
        let times = scratch.folder.path().join("draw-times");
        let mut command = CommandBuilder::new(PROGRAM);
        command.args(["attach", scratch.run().to_str().unwrap()]);
        command.cwd(scratch.folder.path());
        command.env("XDG_RUNTIME_DIR", scratch.folder.path());
        command.env("TERM", "xterm-256color");
        command.env("COLORTERM", "truecolor");
        command.env("LC_ALL", "C.UTF-8");
        command.env("LORADECK_DRAW_TIMES", &times);
        command.env_remove("NO_COLOR");
        let opened = Instant::now();
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let output = Output::default();
        let let_go = Arc::new(AtomicBool::new(false));
        let mut reader = pair.master.try_clone_reader().unwrap();
        let (kept, gone) = (output.clone(), let_go.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(n) = reader.read(&mut buffer) {
                if n == 0 || gone.load(Ordering::Relaxed) {
                    break;
                }
                kept.lock()
                    .unwrap()
                    .push((Instant::now(), buffer[..n].to_vec()));
            }
        });
        Deck {
            child,
            writer: Some(pair.master.take_writer().unwrap()),
            master: Some(pair.master),
            output,
            let_go,
            times,
            opened,
        }
    }

    fn bytes(&self) -> usize {
        self.output
            .lock()
            .unwrap()
            .iter()
            .map(|(_, b)| b.len())
            .sum()
    }

    fn text(&self) -> String {
        let output = self.output.lock().unwrap();
        let all: Vec<u8> = output.iter().flat_map(|(_, b)| b.clone()).collect();
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Waits for a text; when it came, counted from the start of the program.
    fn wait_for(&self, text: &str) -> Duration {
        while !self.text().contains(text) {
            assert!(
                self.opened.elapsed() < Duration::from_secs(60),
                "never saw {text:?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        self.opened.elapsed()
    }

    /// Bytes of the first frames, up to the end of the one that shows `text`.
    fn bytes_until(&self, text: &str) -> usize {
        self.wait_for(text);
        std::thread::sleep(Duration::from_millis(50));
        let all: Vec<u8> = {
            let output = self.output.lock().unwrap();
            output.iter().flat_map(|(_, b)| b.clone()).collect()
        };
        let find = |what: &[u8], from: usize| {
            all[from..]
                .windows(what.len())
                .position(|w| w == what)
                .map(|at| from + at)
        };
        let shown = find(text.as_bytes(), 0).unwrap();
        find(FRAME_END, shown).map_or(all.len(), |at| at + FRAME_END.len())
    }

    /// From a key to the first bytes after it.
    fn key(&mut self, key: &str) -> Duration {
        let before = self.output.lock().unwrap().len();
        let pressed = Instant::now();
        self.writer
            .as_mut()
            .unwrap()
            .write_all(key.as_bytes())
            .unwrap();
        loop {
            if let Some((at, _)) = self.output.lock().unwrap().get(before) {
                return *at - pressed;
            }
            assert!(
                pressed.elapsed() < Duration::from_secs(5),
                "no answer to {key:?}"
            );
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// User and system time of the process so far.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.process_id().unwrap()))
            .unwrap_or_default();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        let ticks: u64 = [11, 12]
            .iter()
            .filter_map(|&i| fields.get(i)?.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    fn leave(mut self) -> Vec<f64> {
        self.writer.as_mut().unwrap().write_all(b"q").unwrap();
        let _ = self.child.wait();
        let text = fs::read_to_string(&self.times).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).collect()
    }

    /// Closes the terminal; how long the deck takes to be gone. The run must be writing to it, as
    /// the reading thread lets go with the next bytes.
    fn hang_up(mut self) -> Duration {
        self.let_go.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(2));
        drop(self.writer.take());
        drop(self.master.take());
        let closed = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(closed.elapsed() < Duration::from_secs(20), "the deck stays");
            std::thread::sleep(Duration::from_millis(1));
        }
        closed.elapsed()
    }
}

fn step(step: u64) -> StepMetrics {
    let x = step as f64;
    StepMetrics {
        step,
        epoch: x / 100.0,
        loss: Num(3.0 / (1.0 + x / 200.0) + 0.2 * (x * 0.7).sin().abs()),
        learning_rate: 2e-4 * (1.0 - x / LONG as f64),
        grad_norm: Num(0.5 + 0.3 * (x * 0.3).cos()),
        tokens: 512,
        total_tokens: 512 * step,
        images: 0,
        seconds: 0.1,
        peak_memory_bytes: 1 << 30,
    }
}

/// Starts a runner in this process that makes `UPDATES_PER_SECOND` steps until it is stopped.
fn pretend(scratch: &Scratch) -> std::thread::JoinHandle<u8> {
    // SAFETY: no other thread of this process reads or writes the environment now.
    unsafe { std::env::set_var("XDG_RUNTIME_DIR", scratch.folder.path()) };
    let loaded = config::load(&scratch.config(), &[]).unwrap();
    let request = Request {
        run_dir: loaded.config.output_dir.clone(),
        config_path: loaded.path.clone(),
        sets: Vec::new(),
        resume: None,
        argv: Vec::new(),
    };
    let train = move |_: config::RunConfig,
                      _: Option<&Path>,
                      _: &loradeck::train::Folders,
                      reporter: &dyn Reporter,
                      controls: &std::sync::mpsc::Receiver<Control>| {
        let phase = |phase| EventKind::Phase {
            phase,
            detail: String::new(),
            error: None,
        };
        reporter.emit(EventKind::Plan {
            total_steps: 100_000,
            steps_per_epoch: 100,
        });
        // A run that has done something already, so that the charts are full.
        for done in 1..=3000 {
            reporter.emit(EventKind::Step(step(done)));
        }
        reporter.emit(phase(PhaseName::Training));
        let (mut done, mut paused) = (3000, false);
        loop {
            while let Ok(control) = controls.try_recv() {
                let Control::Command {
                    id,
                    sender,
                    command,
                } = control
                else {
                    continue;
                };
                reporter.emit(EventKind::Ack {
                    id,
                    sender,
                    command: command.word(),
                    ok: true,
                    message: "done".into(),
                });
                match command.word().as_str() {
                    "pause" => paused = true,
                    "resume" => paused = false,
                    "stop" => return Ok(Outcome::Stopped),
                    _ => continue,
                }
                reporter.emit(phase(if paused {
                    PhaseName::Paused
                } else {
                    PhaseName::Training
                }));
            }
            if !paused {
                done += 1;
                reporter.emit(EventKind::Step(step(done)));
            }
            std::thread::sleep(Duration::from_millis(1000 / UPDATES_PER_SECOND));
        }
    };
    let run = scratch.run();
    let runner = std::thread::spawn(move || {
        runner::run(request, loaded, Place::Background, Box::new(train))
    });
    let started = Instant::now();
    while !RunFolder::new(&run).has_run() {
        assert!(started.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(1500));
    runner
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1));
    values.get(at - 1).copied().unwrap_or(f64::NAN)
}

/// Everything that one deck on a stream shows.
fn stream(table: &mut Table, seconds: u64) {
    let scratch = Scratch::new("");
    let runner = pretend(&scratch);
    let mut deck = Deck::attach(&scratch);
    let first = deck.bytes_until("training");
    table.most("first frame", first as f64, 15_000.0, "B");
    std::thread::sleep(Duration::from_secs(5));

    let (bytes, cpu) = (deck.bytes(), deck.cpu());
    std::thread::sleep(Duration::from_secs(seconds));
    let per_second = (deck.bytes() - bytes) as f64 / seconds as f64;
    let share = (deck.cpu() - cpu).as_secs_f64() / seconds as f64 * 100.0;
    table.most("steady output", per_second, 2000.0, "B/s");
    table.most("CPU of one core", share, 1.0, "%");

    let mut keys: Vec<f64> = (0..40)
        .map(|i| {
            let took = deck.key(if i % 2 == 0 { "2" } else { "1" });
            std::thread::sleep(Duration::from_millis(137));
            took.as_secs_f64() * 1000.0
        })
        .collect();
    table.most(
        "key to bytes, median",
        percentile(&mut keys, 0.5),
        16.0,
        "ms",
    );
    table.most(
        "key to bytes, worst of 40",
        percentile(&mut keys, 1.0),
        16.0,
        "ms",
    );

    scratch.send(&["pause"]);
    std::thread::sleep(Duration::from_secs(8));
    let bytes = deck.bytes();
    std::thread::sleep(Duration::from_secs(seconds));
    let per_second = (deck.bytes() - bytes) as f64 / seconds as f64;
    table.most("paused", per_second, 200.0, "B/s");
    scratch.send(&["resume"]);
    std::thread::sleep(Duration::from_secs(1));
    let mut draws = deck.leave();
    let n = draws.len();
    let p99 = percentile(&mut draws, 0.99);
    table.most(&format!("draw, p99 of {n} frames"), p99, 5.0, "ms");

    let gone = Deck::attach(&scratch);
    gone.wait_for("training");
    let took = gone.hang_up().as_secs_f64() * 1000.0;
    table.most("gone after a hang-up", took, 1000.0, "ms");

    scratch.send(&["stop"]);
    runner.join().unwrap();
    // "ended 1 min ago" stands still for a minute, and with it everything.
    let stopped = Instant::now();
    let ended = Deck::attach(&scratch);
    ended.wait_for("stopped");
    std::thread::sleep(Duration::from_secs(70).saturating_sub(stopped.elapsed()));
    let bytes = ended.bytes();
    std::thread::sleep(Duration::from_secs(30));
    let silent = (ended.bytes() - bytes) as f64;
    table.most("nothing changing, 30 s", silent, 0.0, "B");
    ended.leave();
}

/// Attaching to a finished run with a million steps in its log: with the fold that its runner kept,
/// and without, as after a power cut.
fn long_log(table: &mut Table) {
    let scratch = Scratch::new("");
    let runner = pretend(&scratch);
    scratch.send(&["stop"]);
    runner.join().unwrap();
    let log = scratch.run().join("events.000001.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    let mut state = RunState::default();
    for line in text.lines() {
        state.apply(&serde_json::from_str::<Event>(line).unwrap());
    }
    // Segments as a runner rotates them.
    let (mut number, mut size, mut seq) = (2, 0, state.seq);
    let mut out = std::io::BufWriter::new(
        fs::File::create(scratch.run().join("events.000002.jsonl")).unwrap(),
    );
    for n in state.last.step + 1..=LONG {
        seq += 1;
        let event = Event {
            seq,
            time: state.time + n as f64 * 0.1,
            kind: EventKind::Step(step(n)),
        };
        let line = serde_json::to_vec(&event).unwrap();
        size += line.len() + 1;
        out.write_all(&line).unwrap();
        out.write_all(b"\n").unwrap();
        if size > 64 << 20 {
            number += 1;
            size = 0;
            let path = scratch.run().join(format!("events.{number:06}.jsonl"));
            out = std::io::BufWriter::new(fs::File::create(path).unwrap());
        }
    }
    drop(out);
    let shown = "1,000,000";
    let attach = |what: &str, table: &mut Table| {
        let mut best = f64::MAX;
        for _ in 0..3 {
            let deck = Deck::attach(&scratch);
            best = best.min(deck.wait_for(shown).as_secs_f64());
            deck.leave();
        }
        table.most(what, best, 1.0, "s");
    };
    let _ = fs::remove_file(scratch.run().join("snapshot.json"));
    attach("attach to 1,000,000 steps, log alone", table);
    // The next runner folds the log and keeps it.
    let runner = pretend(&scratch);
    let deck = Deck::attach(&scratch);
    let took = deck.wait_for("training").as_secs_f64();
    table.most("attach to 1,000,000 steps, live", took, 1.0, "s");
    deck.leave();
    scratch.send(&["stop"]);
    runner.join().unwrap();
}

/// A real run's step time with 0, 1 and 5 decks, in turns so that a machine that warms up or gets
/// busy weighs on all of them.
fn step_time(table: &mut Table, rounds: usize) {
    let scratch = Scratch::new(
        "epochs: 100000\nbatch_size: 8\neval_split: 0\nsave_steps: 1000000\nsequence_len: 128\n",
    );
    let config = scratch.config();
    let run = ["train", config.to_str().unwrap(), "--detach"];
    assert!(scratch.command().args(run).status().unwrap().success());
    let steps_between = |seconds: u64| -> Vec<f64> {
        let last = newest_seq(&scratch.run());
        std::thread::sleep(Duration::from_secs(seconds));
        events_after(&scratch.run(), last)
    };
    // The first seconds hash base and data.
    steps_between(10);
    let (mut none, mut more) = (Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..rounds {
        // Each against the same run just before and after, without a deck.
        let bare = || percentile(&mut steps_between(4), 0.5);
        let mut before = bare();
        none.push(before);
        for (at, decks) in [1, 5].into_iter().enumerate() {
            let open: Vec<Deck> = (0..decks).map(|_| Deck::attach(&scratch)).collect();
            std::thread::sleep(Duration::from_secs(1));
            let with = bare();
            for deck in open {
                deck.leave();
            }
            let after = bare();
            more[at].push((2.0 * with / (before + after) - 1.0) * 100.0);
            before = after;
        }
    }
    scratch.send(&["stop", "discard"]);
    let shown = format!("{:.2} ms", percentile(&mut none, 0.5) * 1000.0);
    table.row("step time without a deck", shown, "-", true);
    let [mut one, mut five] = more;
    let what = "step time with 1 deck, median of rounds";
    table.most(what, percentile(&mut one, 0.5), 1.0, "% more");
    let what = "step time with 5 decks, median of rounds";
    table.most(what, percentile(&mut five, 0.5), 3.0, "% more");
}

fn log_text(run: &Path) -> String {
    fs::read_to_string(run.join("events.000001.jsonl")).unwrap_or_default()
}

fn newest_seq(run: &Path) -> u64 {
    let text = log_text(run);
    let last = text.lines().rev().find_map(|l| {
        let value: serde_json::Value = serde_json::from_str(l).ok()?;
        value["seq"].as_u64()
    });
    last.unwrap_or(0)
}

/// Seconds of the steps after an event.
fn events_after(run: &Path, seq: u64) -> Vec<f64> {
    log_text(run)
        .lines()
        .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok())
        .filter(|e| e["seq"].as_u64() > Some(seq) && e["type"] == "step")
        .filter_map(|e| e["seconds"].as_f64())
        .collect()
}
