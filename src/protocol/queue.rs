//! What a deck shows of the queue that its run is in.

use serde::{Deserialize, Serialize};

/// A run's place in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePlace {
    /// From 1, counting the runs whose turn is over.
    pub place: u64,
    /// Runs in the queue.
    pub of: u64,
    /// Names of those that wait behind it, in the order of their turns; the first ones.
    pub next: Vec<String>,
    /// Nothing is started after this run: the queue was told to stop, or does not go on.
    pub stops: bool,
}

/// Where a queued run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueState {
    #[default]
    Waiting,
    Running,
    Done,
    Failed,
    /// By a person, in its own deck: its turn is over.
    Stopped,
    /// By a person, in the queue.
    Skipped,
}

impl QueueState {
    pub fn as_str(self) -> &'static str {
        match self {
            QueueState::Waiting => "waiting",
            QueueState::Running => "running",
            QueueState::Done => "done",
            QueueState::Failed => "failed",
            QueueState::Stopped => "stopped",
            QueueState::Skipped => "skipped",
        }
    }

    /// Whether its turn is over.
    pub fn is_over(self) -> bool {
        !matches!(self, QueueState::Waiting | QueueState::Running)
    }
}
