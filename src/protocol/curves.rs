//! What is compared between runs.

use serde::{Deserialize, Serialize};

use super::{ConfigEntry, Num, PhaseName, RunState, Series};

/// A run's curves and what made them, without the rest of its state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunCurves {
    pub run: String,
    pub phase: PhaseName,
    pub step: u64,
    pub total_steps: u64,
    pub loss: Series,
    /// Held-out losses by step.
    pub evals: Vec<(u64, Num)>,
    /// Tokens seen, and seconds trained, by step: what the curves can be aligned by.
    pub tokens: Series,
    pub seconds: Series,
    pub config: Vec<ConfigEntry>,
}

impl RunCurves {
    pub fn of(state: &RunState) -> RunCurves {
        RunCurves {
            run: state.run.clone(),
            phase: state.phase,
            step: state.last.step,
            total_steps: state.total_steps,
            loss: state.loss.clone(),
            evals: state.evals.clone(),
            tokens: state.tokens.clone(),
            seconds: state.seconds.clone(),
            config: state.config.clone(),
        }
    }
}
