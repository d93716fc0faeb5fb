//! What comes in, cut into lines.

use crate::protocol::Event;

use super::super::segments::parse_event;

/// Bytes received that are no whole line yet.
#[derive(Default)]
pub struct Lines {
    received: Vec<u8>,
    /// How much of `received` holds no newline.
    searched: usize,
}

impl Lines {
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The whole lines received so far, each with its newline.
    pub fn take(&mut self) -> Vec<u8> {
        let last = self.received[self.searched..]
            .iter()
            .rposition(|&b| b == b'\n');
        let rest = match last {
            Some(at) => self.received.split_off(self.searched + at + 1),
            None => std::mem::take(&mut self.received),
        };
        self.searched = rest.len();
        std::mem::replace(&mut self.received, rest)
    }
}

/// The event of a `ServerMessage::Event` line as runners write it, read the fast way.
pub fn event_line(line: &[u8]) -> Option<Box<Event>> {
    let event = line
        .strip_prefix(b"{\"type\":\"event\",\"event\":")?
        .strip_suffix(b"}")?;
    parse_event(event).map(Box::new)
}
