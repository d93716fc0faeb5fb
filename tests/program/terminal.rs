//! The built program in a real pseudo-terminal.

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use super::{PROGRAM, Scratch};

pub struct Terminal {
    pub child: Box<dyn Child + Send + Sync>,
    pub master: Option<Box<dyn MasterPty + Send>>,
    pub writer: Box<dyn Write + Send>,
    pub screen: Arc<Mutex<vt100::Parser>>,
    pub raw: Arc<Mutex<Vec<u8>>>,
    /// Makes the reading thread let go of its copy of the master.
    pub let_go: Arc<AtomicBool>,
}

impl Terminal {
    /// Opens the program with these arguments, in the scratch folder.
    pub fn open(scratch: &Scratch, columns: u16, rows: u16, arguments: &[&str]) -> Terminal {
        Self::open_with(scratch, (columns, rows), arguments, &[])
    }

    /// [`Terminal::open`] with more of an environment.
    pub fn open_with(
        scratch: &Scratch,
        (columns, rows): (u16, u16),
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Terminal {
        let pair = native_pty_system()
            .openpty(PtySize {
                rows,
                cols: columns,
                pixel_width: 0,
                pixel_height: 0,
            })
            .unwrap();
        let mut command = CommandBuilder::new(PROGRAM);
        command.args(arguments);
        command.cwd(scratch.folder.path());
        command.env("XDG_RUNTIME_DIR", scratch.folder.path());
        command.env("TERM", "xterm-256color");
        command.env("LC_ALL", "C.UTF-8");
        command.env_remove("NO_COLOR");
        for (name, value) in environment {
            command.env(name, value);
        }
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(
            cells(rows),
            cells(columns),
            0,
        )));
        let raw = Arc::new(Mutex::new(Vec::new()));
        let mut reader = pair.master.try_clone_reader().unwrap();
        let let_go = Arc::new(AtomicBool::new(false));
        let (s, r, gone) = (screen.clone(), raw.clone(), let_go.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 16384];
            while let Ok(n) = reader.read(&mut buffer) {
                if n == 0 || gone.load(Ordering::Relaxed) {
                    break;
                }
                s.lock().unwrap().process(&buffer[..n]);
                r.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Terminal {
            child,
            writer: pair.master.take_writer().unwrap(),
            master: Some(pair.master),
            screen,
            raw,
            let_go,
        }
    }

    pub fn resize(&mut self, columns: u16, rows: u16) {
        let size = PtySize {
            rows,
            cols: columns,
            pixel_width: 0,
            pixel_height: 0,
        };
        self.master.as_ref().unwrap().resize(size).unwrap();
        let mut parser = self.screen.lock().unwrap();
        parser.screen_mut().set_size(cells(rows), cells(columns));
    }

    pub fn keys(&mut self, keys: &str) {
        self.writer.write_all(keys.as_bytes()).unwrap();
        self.writer.flush().unwrap();
    }

    pub fn contents(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    pub fn wait_for(&self, text: &str) {
        self.wait_until(text, |s| s.to_lowercase().contains(text));
    }

    pub fn wait_until(&self, what: &str, holds: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !holds(&self.contents()) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "never saw {what:?}; the screen:\n{}",
                self.contents()
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    pub fn ends_within(&mut self, limit: Duration) -> u32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.exit_code();
            }
            assert!(
                start.elapsed() < limit,
                "still there; the screen:\n{}",
                self.contents()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Alternate screen left, cursor shown again.
    pub fn assert_restored(&self) {
        std::thread::sleep(Duration::from_millis(100));
        let parser = self.screen.lock().unwrap();
        assert!(
            !parser.screen().alternate_screen(),
            "the alternate screen was left on"
        );
        assert!(!parser.screen().hide_cursor(), "the cursor was left hidden");
        assert_eq!(
            parser.screen().mouse_protocol_mode(),
            vt100::MouseProtocolMode::None
        );
        assert!(
            !parser.screen().bracketed_paste(),
            "bracketed paste was left on"
        );
    }
}

fn cells(n: u16) -> NonZero<u16> {
    NonZero::new(n).unwrap()
}
