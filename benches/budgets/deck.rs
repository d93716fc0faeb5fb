//! A run's folder, and the built program on it in a pseudo-terminal.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

const PROGRAM: &str = env!("CARGO_BIN_EXE_loradeck");
pub const COLUMNS: u16 = 200;
pub const ROWS: u16 = 60;
/// Ends a frame.
const FRAME_END: &[u8] = b"\x1b[?2026l";

/// A folder with a config of the demo's base and data.
pub struct Scratch {
    pub folder: tempfile::TempDir,
}

impl Scratch {
    pub fn new(extra: &str) -> Scratch {
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

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    pub fn send(&self, words: &[&str]) {
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
pub struct Deck {
    child: Box<dyn Child + Send + Sync>,
    master: Option<Box<dyn MasterPty + Send>>,
    writer: Option<Box<dyn Write + Send>>,
    output: Output,
    let_go: Arc<AtomicBool>,
    times: PathBuf,
    opened: Instant,
}

impl Deck {
    pub fn attach(scratch: &Scratch) -> Deck {
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

    pub fn bytes(&self) -> usize {
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
    pub fn wait_for(&self, text: &str) -> Duration {
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
    pub fn bytes_until(&self, text: &str) -> usize {
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
    pub fn key(&mut self, key: &str) -> Duration {
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
    pub fn cpu(&self) -> Duration {
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

    pub fn leave(mut self) -> Vec<f64> {
        self.writer.as_mut().unwrap().write_all(b"q").unwrap();
        let _ = self.child.wait();
        let text = fs::read_to_string(&self.times).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).collect()
    }

    /// Closes the terminal; how long the deck takes to be gone. The run must be writing to it, as
    /// the reading thread lets go with the next bytes.
    pub fn hang_up(mut self) -> Duration {
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
