//! Copying to the clipboard of whoever sits in front of the terminal.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Terminals drop an OSC 52 whose base64 is longer than this (xterm, and older ones still in use).
const LONGEST: usize = 74_994;

/// Copies a text: inside tmux through its own buffer (`-w` hands it on to the terminal), else by
/// OSC 52. Returns the bytes that were copied.
///
/// # Errors
/// A sentence: tmux refuses, the terminal is gone, or the text is too long for OSC 52.
pub fn copy(text: &str, tmux: bool, out: &mut impl Write) -> Result<usize, String> {
    if tmux && load_buffer(text).is_ok() {
        return Ok(text.len());
    }
    let sequence = osc52(text).ok_or_else(|| {
        format!(
            "{} bytes are more than terminals take by OSC 52 ({} bytes)",
            text.len(),
            LONGEST / 4 * 3
        )
    })?;
    out.write_all(sequence.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| e.to_string())?;
    Ok(text.len())
}

/// The escape sequence that sets the clipboard; `None` for a text that is too long.
pub fn osc52(text: &str) -> Option<String> {
    let encoded = STANDARD.encode(text);
    (encoded.len() <= LONGEST).then(|| format!("\x1b]52;c;{encoded}\x07"))
}

/// `tmux load-buffer -w -`.
fn load_buffer(text: &str) -> io::Result<()> {
    let mut child = Command::new("tmux")
        .args(["load-buffer", "-w", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    match child.wait()?.success() {
        true => Ok(()),
        false => Err(io::Error::other("tmux refuses")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_carries_the_text_and_a_long_one_is_refused() {
        assert_eq!(osc52("hé").unwrap(), "\x1b]52;c;aMOp\x07");
        let longest = LONGEST / 4 * 3;
        assert!(osc52(&"x".repeat(longest)).is_some());
        assert!(osc52(&"x".repeat(longest + 3)).is_none());
        let mut out = Vec::new();
        assert_eq!(copy("hé", false, &mut out), Ok(3));
        assert_eq!(out, b"\x1b]52;c;aMOp\x07");
    }
}
