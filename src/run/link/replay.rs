//! A link that plays a run's events once more, for a look back.

use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::protocol::{Command, Level, Reply};

use super::super::folder::{RunFolder, now};
use super::super::segments::{for_each_line, parse_event};
use super::super::store::{Answer, Store, refusal};
use super::{Request, Shared, Update, clear_wake};

/// Longest wait between two events, in seconds of the person who looks on: a night's pause is none.
pub const MAX_GAP: f64 = 2.0;

/// The link's thread.
pub struct Worker<F> {
    shared: Arc<Shared>,
    woken: UnixStream,
    speed: f64,
    paused: bool,
    on_update: F,
}

impl<F: FnMut(Update)> Worker<F> {
    /// `speed`: seconds of the run in one of this replay.
    pub fn new(shared: Arc<Shared>, woken: UnixStream, speed: f64, on_update: F) -> Self {
        Worker {
            shared,
            woken,
            speed,
            paused: false,
            on_update,
        }
    }

    /// Plays the log to its end, then answers questions until the link is dropped.
    pub fn run(mut self, folder: &RunFolder) {
        let store = Store::new(folder.clone());
        (self.on_update)(Update::Snapshot(Box::default()));
        (self.on_update)(Update::Replay { speed: self.speed });
        let mut at: Option<f64> = None;
        let mut shift = 0.0;
        let read = for_each_line(folder.root(), 1, |_, line| {
            let Some(mut event) = parse_event(line) else {
                return ControlFlow::Continue(());
            };
            let gap = match at {
                Some(before) => (event.time - before).max(0.0) / self.speed,
                None => {
                    // The run begins now: what the deck calls "ago" is reckoned from its clock.
                    shift = now() - event.time;
                    0.0
                }
            };
            at = Some(event.time);
            event.time += shift;
            if !self.wait(gap.min(MAX_GAP), &store) {
                return ControlFlow::Break(());
            }
            (self.on_update)(Update::Event(Box::new(event)));
            ControlFlow::Continue(())
        });
        let reason = match read {
            Ok(()) => "the replay has ended".to_owned(),
            Err(e) => format!("{e:#}"),
        };
        (self.on_update)(Update::Disconnected { reason });
        while self.wait(3600.0, &store) {}
    }

    /// Waits so many seconds, and as long as the replay stands still; false when the link was
    /// dropped.
    fn wait(&mut self, seconds: f64, store: &Store) -> bool {
        let mut left = Duration::from_secs_f64(seconds);
        loop {
            if self.shared.is_closed() {
                return false;
            }
            if left < Duration::from_millis(1) && !self.paused {
                // Too short to sleep, but the next key must not wait for the end.
                return self.serve(store);
            }
            let time = if self.paused {
                Duration::from_secs(3600)
            } else {
                left
            };
            let since = Instant::now();
            let timeout = Timespec {
                tv_sec: time.as_secs() as _,
                tv_nsec: time.subsec_nanos().into(),
            };
            let mut wanted = [PollFd::new(&self.woken, PollFlags::IN)];
            let _ = poll(&mut wanted, Some(&timeout));
            if !self.paused {
                left = left.saturating_sub(since.elapsed());
            }
            if !self.serve(store) {
                return false;
            }
        }
    }

    fn serve(&mut self, store: &Store) -> bool {
        clear_wake(&self.woken);
        for request in self.shared.take() {
            match request {
                Request::Command(id, Command::Pause | Command::Resume) => {
                    self.paused = !self.paused;
                    let message = if self.paused {
                        "the replay stands still"
                    } else {
                        "the replay goes on"
                    };
                    let reply = Reply::Error {
                        level: Level::Info,
                        message: message.to_owned(),
                    };
                    (self.on_update)(Update::Reply { id, reply });
                }
                Request::Command(id, _) => {
                    let reply = refusal("this is a replay: it changes nothing");
                    (self.on_update)(Update::Reply { id, reply });
                }
                Request::Query(id, query) => {
                    let shared = self.shared.clone();
                    let answer = Answer::new(move |reply| shared.push(Request::Answer(id, reply)));
                    store.answer(query, answer);
                }
                Request::Answer(id, reply) => (self.on_update)(Update::Reply { id, reply }),
                Request::StartRunner(id) => {
                    let result = Err("this is a replay".to_owned());
                    (self.on_update)(Update::RunnerStarted { id, result });
                }
                Request::Started(id, result) => {
                    (self.on_update)(Update::RunnerStarted { id, result });
                }
            }
        }
        !self.shared.is_closed()
    }
}
