//! `loradeck attach ssh://...`: with a stand-in for `ssh`, and (ignored, as it needs one) over a real
//! sshd on loopback.

mod program;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use program::terminal::Terminal;
use program::{PROGRAM, Scratch, kill, text};
use serde_json::{Value, json};

const LONG: &str = "epochs: 500\nbatch_size: 4\nsequence_len: 64\nlearning_rate: 1e-3\n\
    save_steps: 100\neval_split: 4\neval_steps: 1000\n";

/// Does what `ssh` and an sshd do together, notes its arguments, and fails while a file `down` lies
/// beside it.
fn stand_in(scratch: &Scratch) -> PathBuf {
    let folder = scratch.folder.path();
    let path = folder.join("ssh");
    let script = format!(
        "#!/bin/sh\n\
         for word; do printf '%s\\n' \"$word\"; done > {0}/arguments\n\
         if [ -e {0}/down ]; then echo 'ssh: connect to host box: No route to host' >&2; exit 255; fi\n\
         echo $$ > {0}/pid\n\
         echo 'welcome to box'\n\
         for last; do :; done\n\
         exec sh -c \"$last\"\n",
        folder.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn attach(scratch: &Scratch, ssh: &Path, address: &str) -> Terminal {
    Terminal::open_with(
        scratch,
        (120, 40),
        &["attach", address, "--remote-program", PROGRAM],
        &[("LORADECK_SSH", ssh.to_str().unwrap())],
    )
}

fn pid_of(path: &Path) -> u64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[test]
fn a_run_is_steered_over_a_line_that_is_lost_and_comes_back() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(2);
    let ssh = stand_in(&scratch);
    let address = format!("ssh://ada@box:2222{}", scratch.run.display());
    let mut deck = attach(&scratch, &ssh, &address);
    deck.wait_for("live");
    deck.wait_for("training");
    let arguments = fs::read_to_string(scratch.folder.path().join("arguments")).unwrap();
    assert!(
        arguments.contains("\n-p\n2222\n--\nada@box\n"),
        "{arguments}"
    );
    deck.keys("p");
    deck.wait_for("paused");
    scratch.wait_for_phase("paused");
    deck.keys("p");
    scratch.wait_for_phase("training");

    let down = scratch.folder.path().join("down");
    fs::write(&down, "").unwrap();
    let bridge = scratch.folder.path().join("pid");
    kill(pid_of(&bridge), "KILL");
    deck.wait_until("reconnecting and the data's age", |s| {
        s.contains("reconnecting, data ")
    });
    deck.keys("c");
    deck.wait_for("the line is down");
    let step = scratch.step();
    scratch.wait_for_step(step + 3);
    fs::remove_file(&down).unwrap();
    deck.wait_until("the line back", |s| s.contains("● live"));
    let arguments = fs::read_to_string(scratch.folder.path().join("arguments")).unwrap();
    assert!(
        arguments.contains("BatchMode=yes"),
        "a lost line must ask nothing"
    );
    assert!(arguments.contains("--since"), "{arguments}");
    deck.keys("p");
    scratch.wait_for_phase("paused");
    deck.wait_for("paused");
    let shown = format!("step {}", scratch.step());
    deck.wait_until(&shown, |s| s.contains(&shown));

    deck.keys("q");
    assert_eq!(deck.ends_within(Duration::from_secs(5)), 0);
    deck.assert_restored();
    deck.wait_for("opens it again");
    assert_eq!(scratch.status()["phase"], "paused");
}

#[test]
fn a_run_that_has_ended_is_shown_and_its_runner_started_again_from_afar() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(2);
    scratch.send(&["stop"]);
    scratch.wait_for_phase("stopped");
    let ssh = stand_in(&scratch);
    let address = format!("ssh://box{}", scratch.run.display());
    let mut deck = attach(&scratch, &ssh, &address);
    deck.wait_for("stopped");
    deck.keys("p");
    deck.wait_for("start its runner again");
    deck.keys("y");
    scratch.wait_for_phase("training");
    deck.wait_for("training");
    deck.keys("q");
    deck.ends_within(Duration::from_secs(5));
    // The runner is nobody's child there: it outlives the line.
    let step = scratch.step();
    scratch.wait_for_step(step + 2);
}

#[test]
fn what_keeps_a_bridge_from_answering_is_told_before_the_screen_is_taken() {
    let scratch = Scratch::new(LONG);
    let ssh = stand_in(&scratch);
    let mut deck = attach(&scratch, &ssh, "ssh://box/no/such/run");
    assert_eq!(deck.ends_within(Duration::from_secs(10)), 2);
    deck.wait_for("there is no run in /no/such/run");
    let mut deck = attach(&scratch, &ssh, "ssh://-oProxyCommand=x/run");
    assert_eq!(deck.ends_within(Duration::from_secs(10)), 2);
    deck.wait_for("begins with `-`");
    fs::write(scratch.folder.path().join("down"), "").unwrap();
    let mut deck = attach(&scratch, &ssh, "ssh://box/run");
    assert_eq!(deck.ends_within(Duration::from_secs(10)), 1);
    deck.wait_for("no route to host");
    fs::remove_file(scratch.folder.path().join("down")).unwrap();
    let mut deck = Terminal::open_with(
        &scratch,
        (120, 40),
        &[
            "attach",
            "ssh://box/run",
            "--remote-program",
            "no-loradeck-here",
        ],
        &[("LORADECK_SSH", ssh.to_str().unwrap())],
    );
    assert_eq!(deck.ends_within(Duration::from_secs(10)), 2);
    deck.wait_for("--remote-program");
}

/// A bridge by itself, spoken to as a deck does.
struct Bridge {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Bridge {
    fn open(scratch: &Scratch, since: Option<String>) -> Bridge {
        let run = scratch.run.to_str().unwrap();
        let mut arguments = vec!["bridge", run];
        if let Some(since) = &since {
            arguments.extend(["--since", since]);
        }
        let mut child = scratch
            .command(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut bridge = Bridge { child, lines };
        let version = bridge.next()["version"].clone();
        bridge.say(&json!({"type": "hello", "version": version, "sender": "test", "watch": true}));
        bridge
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{message}").unwrap();
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }
}

#[test]
fn a_bridge_fills_a_short_gap_with_events_and_another_run_with_a_snapshot() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(5);
    scratch.send(&["pause"]);
    scratch.wait_for_phase("paused");
    let mut whole = Bridge::open(&scratch, None);
    let state = whole.next()["state"].clone();
    let (seq, first) = (
        state["seq"].as_u64().unwrap(),
        state["first_started"].as_f64().unwrap(),
    );
    assert_eq!(whole.next()["type"], "connected");

    let mut gap = Bridge::open(&scratch, Some(format!("{}@{first}", seq - 4)));
    for expected in seq - 3..=seq {
        let message = gap.next();
        assert_eq!(message["type"], "event", "{message}");
        assert_eq!(message["event"]["seq"], expected);
    }
    // A command through the bridge comes back with its id and sender.
    gap.say(&json!({"type": "command", "id": 41, "command": {"name": "resume"}}));
    let ack = loop {
        let message = gap.next();
        if message["event"]["type"] == "ack" {
            break message["event"].clone();
        }
    };
    assert_eq!((&ack["id"], &ack["sender"]), (&json!(41), &json!("test")));

    let mut other = Bridge::open(&scratch, Some(format!("{}@12.5", seq - 4)));
    assert_eq!(other.next()["type"], "snapshot");
    // Its end of the line closed, a bridge leaves.
    drop(other.child.stdin.take());
    let start = Instant::now();
    while other.child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(5), "the bridge stays");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A real sshd for one test, with keys of its own, on a port of loopback.
struct Sshd {
    child: Child,
    port: u16,
    wrapper: PathBuf,
}

impl Sshd {
    fn start(scratch: &Scratch) -> Sshd {
        let folder = scratch.folder.path().join("sshd");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        for name in ["host", "user"] {
            let out = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(folder.join(name))
                .output()
                .expect("ssh-keygen is installed (openssh-client)");
            assert!(out.status.success(), "{}", text(&out));
        }
        fs::copy(folder.join("user.pub"), folder.join("authorized_keys")).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\n\
             PidFile {0}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin yes\nSetEnv XDG_RUNTIME_DIR={1}\n",
            folder.display(),
            scratch.folder.path().display(),
        );
        fs::write(folder.join("config"), config).unwrap();
        // As root, sshd wants its folder for the unprivileged part.
        let _ = fs::create_dir_all("/run/sshd");
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(folder.join("config"))
            .stderr(fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .expect("sshd is installed (openssh-server)");
        let wrapper = folder.join("ssh");
        let script = format!(
            "#!/bin/sh\nexec ssh -F none -i {0}/user -o IdentitiesOnly=yes \
             -o UserKnownHostsFile={0}/known -o StrictHostKeyChecking=accept-new \"$@\"\n",
            folder.display()
        );
        fs::write(&wrapper, script).unwrap();
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "no sshd: {}",
                fs::read_to_string(folder.join("log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Sshd {
            child,
            port,
            wrapper,
        }
    }

    /// Ends every session, as a line that breaks does; new ones are taken.
    fn drop_sessions(&self) {
        let out = Command::new("pgrep")
            .args(["-P", &self.child.id().to_string()])
            .output()
            .expect("pgrep is installed");
        for pid in String::from_utf8(out.stdout).unwrap().lines() {
            kill(pid.parse().unwrap(), "KILL");
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.drop_sessions();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs openssh-server and openssh-client"]
fn a_run_is_attached_to_over_a_real_sshd_and_again_after_the_line_broke() {
    let scratch = Scratch::new(LONG);
    scratch.detach();
    scratch.wait_for_step(2);
    let sshd = Sshd::start(&scratch);
    let address = format!("ssh://127.0.0.1:{}{}", sshd.port, scratch.run.display());
    let mut deck = attach(&scratch, &sshd.wrapper, &address);
    deck.wait_for("training");
    deck.wait_until("a live deck", |s| s.contains("● live"));
    sshd.drop_sessions();
    deck.wait_for("reconnecting");
    deck.wait_until("the line back", |s| s.contains("● live"));
    deck.keys("p");
    scratch.wait_for_phase("paused");
    deck.wait_for("paused");
    deck.keys("q");
    assert_eq!(deck.ends_within(Duration::from_secs(5)), 0);
    deck.assert_restored();
}
