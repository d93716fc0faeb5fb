//! How many steps a run has.

use crate::config::RunConfig;
use crate::data::Cursor;
use crate::protocol::EventKind;

/// Steps of a run.
///
/// A step never crosses the end of an epoch: the last step of an epoch has as many micro-batches
/// as are left, so each record is used exactly once per epoch whatever the accumulation. Counts
/// are functions of config and data alone, so no number of resumes changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub steps_per_epoch: u64,
    /// `max_steps` when set, else `epochs` (which may be fractional) in whole steps, rounded up.
    pub total_steps: u64,
}

impl Plan {
    /// `per_epoch`: micro-batches of an epoch.
    pub fn new(config: &RunConfig, per_epoch: u64) -> Plan {
        let accumulation = config.gradient_accumulation_steps.max(1) as u64;
        let steps_per_epoch = per_epoch.div_ceil(accumulation).max(1);
        // 0.1 epochs of 30 steps are 3, not the 4 that 0.1's binary neighbour would round up to.
        let by_epochs = (config.epochs * steps_per_epoch as f64 - 1e-9).ceil() as u64;
        Plan {
            steps_per_epoch,
            total_steps: config.max_steps.unwrap_or(by_epochs.max(1)),
        }
    }

    pub(super) fn event(self) -> EventKind {
        EventKind::Plan {
            total_steps: self.total_steps,
            steps_per_epoch: self.steps_per_epoch,
        }
    }
}

/// Passes over the data at `cursor`, fractional; `per_epoch`: micro-batches of an epoch.
pub fn epoch(per_epoch: u64, cursor: Cursor) -> f64 {
    cursor.epoch as f64 + cursor.micro_batch as f64 / per_epoch.max(1) as f64
}
