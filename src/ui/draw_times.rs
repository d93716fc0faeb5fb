//! How long frames take, for `benches/budgets.rs`: milliseconds, a line each, in the file that
//! `LORADECK_DRAW_TIMES` names, written when the deck is left.

use std::fs;
use std::path::PathBuf;

/// Most frames that are kept.
const FRAMES: usize = 1 << 20;

/// The times, if they were asked for.
#[derive(Debug)]
pub struct DrawTimes {
    path: Option<PathBuf>,
    milliseconds: Vec<f32>,
}

impl DrawTimes {
    pub fn new() -> DrawTimes {
        DrawTimes {
            path: std::env::var_os("LORADECK_DRAW_TIMES").map(PathBuf::from),
            milliseconds: Vec::new(),
        }
    }

    /// Notes a frame that took so many seconds.
    pub fn note(&mut self, seconds: f64) {
        if self.path.is_some() && self.milliseconds.len() < FRAMES {
            self.milliseconds.push((seconds * 1000.0) as f32);
        }
    }
}

impl Drop for DrawTimes {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let lines: String = self.milliseconds.iter().map(|t| format!("{t}\n")).collect();
            // Whoever measures sees that there is none.
            let _ = fs::write(path, lines);
        }
    }
}
