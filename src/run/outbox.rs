//! What waits to be sent to one client: bounded, so that a slow one never holds up the run, and
//! metrics in bundles, so that many clients cost the run few wake-ups.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::protocol::ServerMessage;

/// Lines that may wait before metrics are dropped.
const METRICS_ROOM: usize = 1024;
/// Lines that may wait before the client is let go.
const ROOM: usize = 8192;
/// Metrics are sent together, so far apart at least: a run of a hundred steps a second would else
/// wake its own client threads and every deck a hundred times a second, on the cores it trains on.
const BUNDLE: Duration = Duration::from_millis(100);

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
    /// Something waits that is sent at once.
    urgent: bool,
    /// When lines were last taken out.
    taken: Option<Instant>,
    /// The writer has taken lines out and is still writing them.
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

    /// Adds an event's line, or counts it as dropped; false when the client is gone. What may be
    /// dropped may also wait for its bundle.
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
        self.add(waiting, Out::Line(line.clone()), !droppable)
    }

    /// Adds a message; false when the client is gone.
    pub fn push(&self, message: ServerMessage) -> bool {
        let waiting = self.lock();
        if waiting.closed {
            return false;
        }
        self.add(waiting, Out::Message(Box::new(message)), true)
    }

    fn add(&self, mut waiting: MutexGuard<'_, Waiting>, out: Out, urgent: bool) -> bool {
        if waiting.lines.len() >= ROOM {
            drop(waiting);
            self.close();
            return false;
        }
        let first = waiting.lines.is_empty();
        waiting.lines.push_back(out);
        // A writer that waits for its bundle need not be told of another line.
        if first || (urgent && !waiting.urgent) {
            self.ready.notify_all();
        }
        waiting.urgent |= urgent;
        true
    }

    /// Everything that is to be sent next, in order; waits for it. `None` when the queue is closed.
    pub fn pop(&self) -> Option<VecDeque<Out>> {
        let mut waiting = self.lock();
        waiting.writing = false;
        self.ready.notify_all();
        loop {
            if waiting.closed {
                return None;
            }
            let pause = match waiting.taken {
                Some(taken) if !waiting.urgent => {
                    (taken + BUNDLE).saturating_duration_since(Instant::now())
                }
                _ => Duration::ZERO,
            };
            if waiting.lines.is_empty() {
                waiting = self.ready.wait(waiting).unwrap_or_else(|e| e.into_inner());
            } else if pause.is_zero() {
                waiting.note_dropped();
                waiting.writing = true;
                waiting.urgent = false;
                waiting.taken = Some(Instant::now());
                return Some(std::mem::take(&mut waiting.lines));
            } else {
                let waited = self.ready.wait_timeout(waiting, pause);
                waiting = waited.unwrap_or_else(|e| e.into_inner()).0;
            }
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
    pub fn drain(&self, patience: Duration) {
        let mut waiting = self.lock();
        waiting.urgent = true;
        self.ready.notify_all();
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
        let mut sent = queue.pop().unwrap();
        assert_eq!(sent.len(), METRICS_ROOM + 2);
        assert!(matches!(sent.pop_back(), Some(Out::Line(_))));
        match sent.pop_back() {
            Some(Out::Message(m)) => assert_eq!(*m, ServerMessage::Dropped { count: 7 }),
            _ => panic!("the count comes before the line after the gap"),
        }
    }

    #[test]
    fn metrics_come_in_bundles_and_what_matters_takes_them_along_at_once() {
        let queue = queue();
        queue.push_event(&line(), true);
        assert_eq!(queue.pop().unwrap().len(), 1, "the first waits for nothing");
        queue.push_event(&line(), true);
        queue.push_event(&line(), true);
        assert_eq!(queue.pop().unwrap().len(), 2);
        assert!(queue.lock().taken.is_some_and(|t| t.elapsed() < BUNDLE));
        queue.push_event(&line(), true);
        queue.push_event(&line(), false);
        // Neither is kept back for the bundle's sake.
        assert!(queue.lock().urgent);
        assert_eq!(queue.pop().unwrap().len(), 2);
        assert!(!queue.lock().urgent);
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
