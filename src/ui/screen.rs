//! What the terminal shows, and the bytes that make it show something else.

use std::io::{self, Write};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::encode::{encode, settle_wide};

/// Synchronized output: the terminal shows a frame at once, or not yet.
const BEGIN: &[u8] = b"\x1b[?2026h";
const END: &[u8] = b"\x1b[?2026l";
const CLEAR: &[u8] = b"\x1b[0m\x1b[2J";

/// A terminal's screen. A frame that changes nothing writes nothing.
#[derive(Debug)]
pub struct Screen<W: Write> {
    out: W,
    /// `None`: not known, everything must be drawn.
    shown: Option<Buffer>,
}

impl<W: Write> Screen<W> {
    pub fn new(out: W) -> Self {
        Screen { out, shown: None }
    }

    /// For what is no part of a frame and moves no cursor: a bell, the clipboard.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Makes the next frame draw everything.
    pub fn forget(&mut self) {
        self.shown = None;
    }

    /// Draws a frame and returns the bytes it took.
    ///
    /// # Errors
    /// The terminal cannot be written to: it is gone.
    pub fn draw(&mut self, size: (u16, u16), draw: impl FnOnce(&mut Buffer)) -> io::Result<usize> {
        let area = Rect::new(0, 0, size.0, size.1);
        let mut next = Buffer::empty(area);
        draw(&mut next);
        settle_wide(&mut next);
        let shown = self.shown.take().filter(|b| b.area == area);
        let mut bytes = BEGIN.to_vec();
        match &shown {
            Some(shown) => encode(shown, &next, &mut bytes),
            None => {
                bytes.extend(CLEAR);
                encode(&Buffer::empty(area), &next, &mut bytes);
            }
        }
        if shown.is_some() && bytes.len() == BEGIN.len() {
            self.shown = Some(next);
            return Ok(0);
        }
        bytes.extend(END);
        self.out.write_all(&bytes)?;
        self.out.flush()?;
        self.shown = Some(next);
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Style;

    #[test]
    fn an_unchanged_frame_writes_nothing_and_a_changed_one_is_bracketed() {
        let mut screen = Screen::new(Vec::new());
        let text = |t: &'static str| move |b: &mut Buffer| b.set_string(1, 1, t, Style::new());
        let first = screen.draw((20, 5), text("one")).unwrap();
        assert!(first > 0);
        assert_eq!(screen.draw((20, 5), text("one")).unwrap(), 0);
        let before = screen.out.len();
        let second = screen.draw((20, 5), text("onf")).unwrap();
        let written = &screen.out[before..];
        assert_eq!(written.len(), second);
        assert!(written.starts_with(BEGIN) && written.ends_with(END));
        assert!(!written.windows(4).any(|w| w == b"\x1b[2J"));
    }

    #[test]
    fn a_new_size_or_a_forgotten_screen_is_drawn_whole() {
        let mut screen = Screen::new(Vec::new());
        let draw = |b: &mut Buffer| b.set_string(0, 0, "x", Style::new());
        let first = screen.draw((20, 5), draw).unwrap();
        assert_eq!(screen.draw((21, 5), draw).unwrap(), first);
        screen.forget();
        assert_eq!(screen.draw((21, 5), draw).unwrap(), first);
    }
}
