//! A progress bar on stderr, where that is a terminal.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::printable::printable;

/// Nothing is drawn for what takes less than this, nor more often.
const PACE: Duration = Duration::from_millis(150);

const WIDTH: usize = 24;

/// Shows how much of something is done, on one line that goes away with it.
pub(super) struct Bar {
    label: String,
    terminal: bool,
    drawn: Mutex<Drawn>,
}

struct Drawn {
    begun: Instant,
    last: Instant,
    any: bool,
}

impl Bar {
    pub fn new(label: impl Into<String>) -> Self {
        let now = Instant::now();
        Bar {
            label: label.into(),
            terminal: std::io::stderr().is_terminal(),
            drawn: Mutex::new(Drawn {
                begun: now,
                last: now,
                any: false,
            }),
        }
    }

    /// Shows `done` of `total` (0: not known), as `written` writes numbers.
    pub fn show(&self, done: u64, total: u64, written: impl Fn(u64) -> String) {
        if !self.terminal {
            return;
        }
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now - drawn.last < PACE {
            return;
        }
        drawn.last = now;
        drawn.any = true;
        let share = (done as f64 / total.max(1) as f64).min(1.0);
        let filled = (share * WIDTH as f64) as usize;
        let mut line = match total {
            0 => format!("{} {}", self.label, written(done)),
            _ => format!(
                "{} [{}{}] {} of {}",
                self.label,
                "#".repeat(filled),
                ".".repeat(WIDTH - filled),
                written(done),
                written(total)
            ),
        };
        let elapsed = (now - drawn.begun).as_secs_f64();
        if done > 0 && total > 0 && elapsed > 3.0 {
            let left = (elapsed * (1.0 - share) / share.max(1e-9)) as u64;
            line += &format!(", {}:{:02} left", left / 60, left % 60);
        }
        write!(std::io::stderr(), "\r\x1b[K{}", printable(&line)).ok();
        std::io::stderr().flush().ok();
    }

    /// As [`Bar::show`], with plain numbers.
    pub fn update(&self, done: u64, total: u64) {
        self.show(done, total, |n| n.to_string());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        let drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.any {
            write!(std::io::stderr(), "\r\x1b[K").ok();
        }
    }
}
