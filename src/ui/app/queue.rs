//! Where the run stands in its queue, looked at now and then.

use super::{Action, App, Connection};
use crate::protocol::{Query, QueuePlace};

/// Seconds between two looks: others may move the queue's runs.
const LOOK_EVERY: f64 = 10.0;

/// The place, and when it was last asked for.
#[derive(Debug, Default)]
pub struct Queued {
    pub place: Option<QueuePlace>,
    asked: Option<f64>,
}

impl Queued {
    pub(super) fn take(&mut self, place: Option<QueuePlace>) {
        self.place = place;
    }
}

impl App {
    /// Asks for the place when it is time.
    pub(super) fn wanted_place(&mut self) -> Option<Action> {
        let reads = matches!(
            self.connection,
            Connection::Live | Connection::NoRunner { .. }
        );
        let due = self
            .queued
            .asked
            .is_none_or(|asked| asked + LOOK_EVERY <= self.now);
        if !reads || !due {
            return None;
        }
        // A run that has ended is not looked at for ever: its turn is over.
        if self.state.phase.is_end() && self.queued.place.is_none() && self.queued.asked.is_some() {
            return None;
        }
        self.queued.asked = Some(self.now);
        Some(Action::Query(Query::QueuePlace))
    }
}
