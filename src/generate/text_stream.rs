//! Text that appears token by token, never with half a character.

use anyhow::Result;

/// Turns tokens into text as they come. A tokenizer decodes a token differently at the start of a
/// text (a leading space may go), so each piece is the difference of two decodings of the same
/// window, and is held back while a character's bytes are incomplete.
#[derive(Default)]
pub struct TextStream {
    /// Tokens of the window: those already shown that give context, then those not yet shown.
    window: Vec<u32>,
    shown: usize,
}

/// Decoders put it where bytes are no character.
const INCOMPLETE: char = '\u{FFFD}';
/// A character has at most four bytes, a token at least one: what is still incomplete after more
/// tokens never becomes a character.
const LONGEST_WAIT: usize = 4;

impl TextStream {
    /// The text that `id` completes; empty while it completes none.
    pub fn push(&mut self, id: u32, decode: impl Fn(&[u32]) -> Result<String>) -> Result<String> {
        self.window.push(id);
        let whole = decode(&self.window)?;
        if whole.ends_with(INCOMPLETE) && self.window.len() - self.shown < LONGEST_WAIT {
            return Ok(String::new());
        }
        self.take(&whole, decode)
    }

    /// What is left at the end, incomplete characters as U+FFFD.
    pub fn finish(&mut self, decode: impl Fn(&[u32]) -> Result<String>) -> Result<String> {
        if self.shown == self.window.len() {
            return Ok(String::new());
        }
        let whole = decode(&self.window)?;
        self.take(&whole, decode)
    }

    fn take(&mut self, whole: &str, decode: impl Fn(&[u32]) -> Result<String>) -> Result<String> {
        let before = decode(&self.window[..self.shown])?;
        let piece = whole.strip_prefix(before.as_str()).unwrap_or(whole);
        let piece = piece.to_owned();
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens are bytes; a leading space of the whole text is dropped, as SentencePiece does.
    fn decode(ids: &[u32]) -> Result<String> {
        let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(text.strip_prefix(' ').map(str::to_owned).unwrap_or(text))
    }

    fn pieces(bytes: &[u8]) -> Vec<String> {
        let mut stream = TextStream::default();
        let mut pieces: Vec<String> = bytes
            .iter()
            .map(|&b| stream.push(u32::from(b), decode).unwrap())
            .collect();
        pieces.push(stream.finish(decode).unwrap());
        pieces
    }

    #[test]
    fn the_pieces_together_are_the_text() {
        for text in ["plain words, spaces  too", "naïve 日本語 🙂 end", "👩‍⚕️"] {
            assert_eq!(pieces(text.as_bytes()).concat(), text);
        }
    }

    #[test]
    fn no_piece_holds_half_a_character() {
        for piece in pieces("é日🙂".as_bytes()) {
            assert!(!piece.contains(INCOMPLETE), "{piece:?}");
        }
    }

    #[test]
    fn bytes_that_never_become_a_character_are_shown_at_last() {
        assert_eq!(pieces(b"a\xF0\x9F").concat(), "a\u{FFFD}");
        let stuck = pieces(&[0xFF, 0xFF, 0xFF, 0xFF, b'x']);
        assert!(stuck[3].contains(INCOMPLETE), "{stuck:?}");
        assert!(stuck.concat().ends_with('x'));
    }
}
