//! The deck in a real tmux: its session detached and attached again, resized, split, its pane closed.

mod program;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use program::{PROGRAM, Scratch, alive, text};

const LONG: &str = "epochs: 500\nbatch_size: 4\nsequence_len: 64\nlearning_rate: 1e-3\n\
    save_steps: 100\neval_split: 4\neval_steps: 1000\n";

struct Client {
    _terminal: Box<dyn portable_pty::MasterPty + Send>,
    child: Box<dyn portable_pty::Child + Send + Sync>,
}

/// A tmux server of the test's own.
struct Tmux {
    socket: String,
    folder: std::path::PathBuf,
}

impl Tmux {
    /// Starts a session with a command in it.
    fn start(scratch: &Scratch, name: &str, size: (u16, u16), command: &str) -> Tmux {
        let tmux = Tmux {
            socket: format!("loradeck-{name}-{}", std::process::id()),
            folder: scratch.folder.path().to_owned(),
        };
        let (columns, rows) = (size.0.to_string(), size.1.to_string());
        let out = tmux.run(&[
            "new-session",
            "-d",
            "-s",
            "deck",
            "-x",
            &columns,
            "-y",
            &rows,
            command,
        ]);
        assert!(out.status.success(), "{}", text(&out));
        tmux
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command
            .args(["-L", &self.socket, "-f", "/dev/null"])
            .current_dir(&self.folder)
            .env("XDG_RUNTIME_DIR", &self.folder)
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .env_remove("NO_COLOR");
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command()
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("tmux is installed")
    }

    fn screen(&self, pane: &str) -> String {
        let out = self.run(&["capture-pane", "-p", "-t", pane]);
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !holds(&self.screen("deck:0.0")) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "never saw {what}; the screen:\n{}",
                self.screen("deck:0.0")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A person's terminal that is attached to the session, and the client in it.
    fn client(&self, columns: u16, rows: u16) -> Client {
        let pair = native_pty_system()
            .openpty(PtySize {
                rows,
                cols: columns,
                pixel_width: 0,
                pixel_height: 0,
            })
            .unwrap();
        let mut command = CommandBuilder::new("tmux");
        command.args(["-L", &self.socket, "attach", "-t", "deck"]);
        command.env("TERM", "xterm-256color");
        command.env("LC_ALL", "C.UTF-8");
        command.env_remove("TMUX");
        let child = pair.slave.spawn_command(command).unwrap();
        let mut reader = pair.master.try_clone_reader().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while std::io::Read::read(&mut reader, &mut bytes).is_ok_and(|n| n > 0) {}
        });
        Client {
            _terminal: pair.master,
            child,
        }
    }

    fn clients(&self) -> usize {
        let out = self.run(&["list-clients", "-F", "x"]);
        String::from_utf8_lossy(&out.stdout).lines().count()
    }

    fn wait_for_clients(&self, n: usize) {
        let start = Instant::now();
        while self.clients() != n {
            assert!(start.elapsed() < Duration::from_secs(20), "{n} clients");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

/// Every row of the pane is there: the header at the top, the hints at the bottom, nothing torn.
fn whole(screen: &str, rows: usize) -> bool {
    let lines: Vec<&str> = screen.lines().collect();
    lines.len() == rows
        && lines[..3].iter().any(|l| l.contains("training"))
        && lines.last().is_some_and(|l| l.contains("detach"))
        && screen.contains('●')
}

#[test]
#[ignore = "needs tmux"]
fn a_deck_in_tmux_is_whole_after_detach_attach_resize_and_split_and_its_pane_may_be_closed() {
    let scratch = Scratch::new(LONG);
    let command = format!("{PROGRAM} train {}", scratch.config.display());
    let tmux = Tmux::start(&scratch, "whole", (120, 40), &command);
    tmux.wait_until("a whole deck", |s| whole(s, 40));
    let pid = scratch.wait_for_step(2)["pid"].as_u64().unwrap();

    // A person comes with a terminal of another size, leaves, and comes back with a third.
    let mut first = tmux.client(150, 45);
    tmux.wait_for_clients(1);
    tmux.wait_until("the first terminal's size", |s| whole(s, 44));
    tmux.run(&["detach-client", "-s", "deck"]);
    tmux.wait_for_clients(0);
    first.child.wait().unwrap();
    let step = scratch.step();
    scratch.wait_for_step(step + 3);
    let mut second = tmux.client(100, 30);
    tmux.wait_until("the second terminal's size", |s| whole(s, 29));
    // A line that breaks takes the client with it, and nothing else.
    second.child.kill().unwrap();
    second.child.wait().unwrap();
    tmux.wait_for_clients(0);
    tmux.wait_until("the deck as it was left", |s| whole(s, 29));

    for (columns, rows) in [("200", "60"), ("40", "12"), ("80", "24")] {
        let out = tmux.run(&["resize-window", "-t", "deck", "-x", columns, "-y", rows]);
        assert!(out.status.success(), "{}", text(&out));
        let rows: usize = rows.parse().unwrap();
        tmux.wait_until("the new size", |s| {
            s.lines().count() == rows && s.contains("training")
        });
    }
    tmux.run(&["split-window", "-t", "deck:0.0", "-h", "sleep 1000"]);
    tmux.wait_until("half the width", |s| {
        s.lines().all(|l| l.chars().count() <= 40) && s.contains("training")
    });
    // Keys still reach it.
    tmux.run(&["send-keys", "-t", "deck:0.0", "p"]);
    scratch.wait_for_phase("paused");
    tmux.wait_until("paused", |s| s.contains("paused"));
    tmux.run(&["send-keys", "-t", "deck:0.0", "p"]);
    scratch.wait_for_phase("training");

    let out = tmux.run(&["list-panes", "-t", "deck:0", "-F", "#{pane_pid}"]);
    let deck: u64 = String::from_utf8_lossy(&out.stdout)
        .lines()
        .next()
        .and_then(|l| l.trim().parse().ok())
        .unwrap();
    assert!(alive(deck));
    tmux.run(&["kill-pane", "-t", "deck:0.0"]);
    let closed = Instant::now();
    while alive(deck) {
        assert!(
            closed.elapsed() < Duration::from_secs(1),
            "the deck outlives its pane"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let step = scratch.step();
    scratch.wait_for_step(step + 3);
    assert!(alive(pid), "the run goes on");
}

#[test]
#[ignore = "needs tmux"]
fn home_in_tmux_starts_a_run_and_comes_back_to_it() {
    let mut scratch = Scratch::new(LONG);
    let configs = scratch.folder.path().join("configs");
    std::fs::create_dir(&configs).unwrap();
    let config = std::fs::read_to_string(&scratch.config).unwrap();
    let run = scratch.folder.path().join("output/clinic");
    let config = config.replace(scratch.run.to_str().unwrap(), run.to_str().unwrap());
    std::fs::write(configs.join("clinic.yaml"), config).unwrap();
    scratch.run = run;
    let tmux = Tmux::start(&scratch, "home", (80, 24), PROGRAM);
    tmux.wait_until("home", |s| s.contains("no problem"));
    let keys = |k: &str| {
        tmux.run(&["send-keys", "-t", "deck:0.0", k]);
    };
    keys("Enter");
    tmux.wait_until("the question", |s| s.contains("passes its checks"));
    keys("Enter");
    tmux.wait_until("the deck", |s| whole(s, 24));
    scratch.wait_for_step(2);
    keys("r");
    tmux.wait_until("home with the run", |s| s.contains("1 live"));
    keys("q");
    let step = scratch.step();
    scratch.wait_for_step(step + 2);
}

#[test]
#[ignore = "needs tmux"]
fn a_deck_is_suspended_to_its_shell_and_comes_back_whole() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    let tmux = Tmux::start(&scratch, "suspend", (120, 40), "bash --norc");
    let attach = format!("{PROGRAM} attach {}", scratch.run.display());
    tmux.run(&["send-keys", "-t", "deck:0.0", &attach, "Enter"]);
    tmux.wait_until("a whole deck", |s| whole(s, 40));
    tmux.run(&["send-keys", "-t", "deck:0.0", "C-z"]);
    tmux.wait_until("the shell's word", |s| {
        s.contains("Stopped") && !s.contains("detach")
    });
    let step = scratch.step();
    scratch.wait_for_step(step + 3);
    tmux.run(&["send-keys", "-t", "deck:0.0", "fg", "Enter"]);
    tmux.wait_until("a whole deck again", |s| whole(s, 40));
}
