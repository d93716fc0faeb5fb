//! Checkpoints: folders `step-000100` in a run's `checkpoints/`.
//!
//! A checkpoint is written under a hidden temporary name, fsynced and renamed, so a folder with a
//! checkpoint's name is whole or damaged by something else than a crash of ours; [`verify`] tells.
//!
//! | file | holds |
//! |---|---|
//! | `adapter_config.json`, `adapter_model.safetensors` | the adapter, as PEFT reads it |
//! | `optimizer.safetensors` | both moments, f32: `exp_avg.<module>.lora_A`, ... |
//! | `state.json` | [`State`], with the BLAKE3 sums of the other files |

mod files;
mod state;
mod write;

pub use files::{
    Checkpoint, Newest, find, list, newest, read, remove_leftovers, set_aside_after, verify,
};
pub use state::{BestEval, DataFingerprint, FileSum, STATE_VERSION, State};
pub use write::{Written, delete, read_moments, write};

/// Name of the folder with checkpoints inside a run's folder.
pub const CHECKPOINTS: &str = "checkpoints";
/// Name of the file with the [`State`].
pub const STATE_FILE: &str = "state.json";
/// Name of the file with both moments.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Name of the link to the newest checkpoint; for people, nothing here relies on it.
pub const LATEST: &str = "latest";

/// A checkpoint's folder name.
pub fn name(step: u64) -> String {
    format!("step-{step:06}")
}

/// The step in a checkpoint's folder name.
fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    (digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}
