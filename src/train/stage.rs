//! The run's phase as the decks see it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Reporter;
use crate::protocol::{EventKind, PhaseName};

/// Reports phases from two threads: the trainer's, and the one that takes in commands and says
/// *pausing* while the trainer is still busy with a micro-batch.
pub(super) struct Stage<'a> {
    reporter: &'a dyn Reporter,
    inner: Mutex<Inner>,
}

struct Inner {
    phase: PhaseName,
    detail: String,
    /// A pause was announced and the trainer has not reached it yet.
    pausing: bool,
}

impl<'a> Stage<'a> {
    pub fn new(reporter: &'a dyn Reporter) -> Self {
        Stage {
            reporter,
            inner: Mutex::new(Inner {
                phase: PhaseName::Loading,
                detail: String::new(),
                pausing: false,
            }),
        }
    }

    /// Enters a phase; returns the one left, for [`Stage::back`]. While a pause is announced the
    /// decks keep seeing *pausing*: work in between would only flicker.
    pub fn enter(&self, phase: PhaseName, detail: &str) -> (PhaseName, String) {
        let mut inner = self.lock();
        let left = (inner.phase, std::mem::take(&mut inner.detail));
        inner.detail = detail.to_owned();
        inner.phase = phase;
        if phase == PhaseName::Paused || phase.is_end() {
            inner.pausing = false;
        }
        if !inner.pausing && (left.0 != phase || left.1 != detail) {
            self.emit(&inner);
        }
        left
    }

    /// Returns to a phase that `enter` left.
    pub fn back(&self, (phase, detail): (PhaseName, String)) {
        self.enter(phase, &detail);
    }

    /// Announces a pause while the trainer works; nothing where it already rests or has ended.
    pub fn announce_pause(&self) {
        let mut inner = self.lock();
        let rests = inner.phase == PhaseName::Paused || inner.phase.is_end();
        if !rests && !inner.pausing {
            inner.pausing = true;
            self.reporter.emit(EventKind::Phase {
                phase: PhaseName::Pausing,
                detail: "until the micro-batch ends".into(),
                error: None,
            });
        }
    }

    /// The announced pause came to nothing, as the run was paused already: shows the phase again.
    pub fn withdraw_pause(&self) {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.pausing) {
            self.emit(&inner);
        }
    }

    fn emit(&self, inner: &Inner) {
        self.reporter.emit(EventKind::Phase {
            phase: inner.phase,
            detail: inner.detail.clone(),
            error: None,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A phase is whole after any panic: there is nothing to repair.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
