//! What waits to be sent to one client: bounded, so that a slow one never holds up the run.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::protocol::ServerMessage;

/// Lines that may wait before metrics are dropped.
const METRICS_ROOM: usize = 1024;
/// Lines that may wait before the client is let go.
const ROOM: usize = 8192;

/// Something to send.
pub enum Out {
    /// A line shared by all clients, with its newline.
    Line(Arc<[u8]>),
    /// Made into a line by the client's own thread, as it may be long.
    Message(Box<ServerMessage>),
}

/// The queue of one client, between the threads that push and the one that writes.
pub struct Outbox {
    stream: UnixStream,
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Out>,
    /// Metric events left out since the last `Dropped` line.
    dropped: u64,
    closed: bool,
    /// The writer has taken the last line out and is still writing it.
    writing: bool,
}

impl Outbox {
    /// `stream` is shut down when the queue closes, which ends a write that hangs.
    pub fn new(stream: UnixStream) -> Self {
        Outbox {
            stream,
            waiting: Mutex::default(),
            ready: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds an event's line, or counts it as dropped; false when the client is gone.
    pub fn push_event(&self, line: &Arc<[u8]>, droppable: bool) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return false;
        }
        if droppable && waiting.lines.len() >= METRICS_ROOM {
            waiting.dropped += 1;
            return true;
        }
        waiting.note_dropped();
        self.add(waiting, Out::Line(line.clone()))
    }

    /// Adds a message; false when the client is gone.
    pub fn push(&self, message: ServerMessage) -> bool {
        let waiting = self.lock();
        if waiting.closed {
            return false;
        }
        self.add(waiting, Out::Message(Box::new(message)))
    }

    fn add(&self, mut waiting: MutexGuard<'_, Waiting>, out: Out) -> bool {
        if waiting.lines.len() >= ROOM {
            drop(waiting);
            self.close();
            return false;
        }
        waiting.lines.push_back(out);
        self.ready.notify_all();
        true
    }

    /// The next thing to send; waits for it. `None` when the queue is closed.
    pub fn pop(&self) -> Option<Out> {
        let mut waiting = self.lock();
        waiting.writing = false;
        self.ready.notify_all();
        loop {
            if waiting.closed {
                return None;
            }
            if waiting.lines.is_empty() {
                waiting.note_dropped();
            }
            if let Some(out) = waiting.lines.pop_front() {
                waiting.writing = true;
                return Some(out);
            }
            waiting = self.ready.wait(waiting).unwrap_or_else(|e| e.into_inner());
        }
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Lets the client go: what waits is not sent.
    pub fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.lines.clear();
        self.ready.notify_all();
        // Already gone is as good.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Waits until everything is sent or the client is gone, `patience` at most.
    pub fn drain(&self, patience: std::time::Duration) {
        let waiting = self.lock();
        let _ = self
            .ready
            .wait_timeout_while(waiting, patience, |w| {
                !w.closed && (w.writing || !w.lines.is_empty())
            })
            .map(|_| ());
    }
}

impl Waiting {
    fn note_dropped(&mut self) {
        if self.dropped > 0 {
            let count = std::mem::take(&mut self.dropped);
            self.lines
                .push_back(Out::Message(Box::new(ServerMessage::Dropped { count })));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Arc<[u8]> {
        Arc::from(&b"{}\n"[..])
    }

    fn queue() -> Outbox {
        Outbox::new(UnixStream::pair().unwrap().0)
    }

    #[test]
    fn a_full_queue_drops_metrics_counts_them_and_takes_what_matters() {
        let queue = queue();
        for _ in 0..METRICS_ROOM + 7 {
            assert!(queue.push_event(&line(), true));
        }
        assert!(queue.push_event(&line(), false));
        for _ in 0..METRICS_ROOM {
            assert!(matches!(queue.pop(), Some(Out::Line(_))));
        }
        match queue.pop() {
            Some(Out::Message(m)) => assert_eq!(*m, ServerMessage::Dropped { count: 7 }),
            _ => panic!("the count comes before the line after the gap"),
        }
        assert!(matches!(queue.pop(), Some(Out::Line(_))));
    }

    #[test]
    fn a_client_that_never_reads_is_let_go_instead_of_filling_the_memory() {
        let queue = queue();
        let pushed = (0..2 * ROOM)
            .take_while(|_| queue.push_event(&line(), false))
            .count();
        assert_eq!(pushed, ROOM);
        assert!(queue.is_closed());
        assert!(queue.pop().is_none());
    }
}
