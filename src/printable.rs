//! Text of others (data, captions, samples, file names, answers of a base) on its way to a terminal:
//! nothing in it may move the cursor, write the clipboard or set the title.
//!
//! Everything that loradeck prints outside the deck goes through here; `tests/printable.rs` holds it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Whether a terminal shows the character and does nothing else with it. Direction overrides only
/// reorder what is seen, which is enough to make a line say something else.
pub fn is_harmless(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with harmful characters written out (`\u{1b}`); line ends and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    let stays = |c: char| c == '\n' || c == '\t' || is_harmless(c);
    if text.chars().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            // The end of a line elsewhere.
            '\r' if rest.peek() == Some(&'\n') => {}
            c if stays(c) => out.push(c),
            // Writing to a String cannot fail.
            c => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

/// JSON for people and scripts: what serde_json leaves as it is, but a terminal obeys, is escaped as
/// JSON does it.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let stays = |c: char| c == '\n' || is_harmless(c);
    if json.chars().all(stays) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match stays(c) {
            true => out.push(c),
            false => drop(write!(out, "\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

/// Writes text to stdout as it may be printed.
///
/// # Errors
/// Stdout is closed, or its disk is full.
pub fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(printable(text).as_bytes())?;
    out.flush()
}

/// Writes JSON to stdout, with a line end.
///
/// # Errors
/// As [`write_out`].
pub fn write_json(json: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(printable_json(json).as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// A line on stdout. Whoever reads may have left (`| head`), which is no failure.
pub fn say(line: &str) {
    let _ = write_out(&format!("{line}\n"));
}

/// A line on stderr.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_out_and_the_rest_stays() {
        assert_eq!(printable("häß\t你好 👋🏽\n"), "häß\t你好 👋🏽\n");
        assert!(matches!(printable("plain"), Cow::Borrowed(_)));
        assert_eq!(printable("a\r\nb\rc"), "a\nb\\u{d}c");
        for (harmful, shown) in [
            ("\u{1b}]52;c;aGk=\u{7}", "\\u{1b}]52;c;aGk=\\u{7}"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}txt", "\\u{202e}txt"),
            ("\u{7f}\u{8}", "\\u{7f}\\u{8}"),
        ] {
            assert_eq!(printable(harmful), shown);
        }
    }

    #[test]
    fn json_stays_json() {
        let value = serde_json::json!({"a": "x\u{9b}31m\u{7f}\u{1b}\u{202e}"});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let shown = printable_json(&text);
        assert!(shown.chars().all(|c| c == '\n' || is_harmless(c)));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }
}
