//! Learning rate by step, as transformers' `get_*_schedule_with_warmup`.

use crate::config::LrScheduler;

/// The factor on the peak learning rate for optimizer update `step` (from 1) of `total`.
///
/// transformers builds its schedule before the first update and calls `scheduler.step()` after
/// each, so update `step` runs with the value of `step - 1`: the first of a warm-up has factor 0.
/// Past `total` (when `max_steps` was lowered during the run) linear stays at 0.
pub fn factor(scheduler: LrScheduler, warmup: u64, total: u64, step: u64) -> f64 {
    let current = step.saturating_sub(1);
    if current < warmup {
        return current as f64 / warmup as f64;
    }
    let left = total.saturating_sub(warmup).max(1) as f64;
    match scheduler {
        LrScheduler::Constant => 1.0,
        LrScheduler::Linear => (total as f64 - current as f64).max(0.0) / left,
        LrScheduler::Cosine => {
            let progress = (current - warmup) as f64 / left;
            (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        lr_scheduler: String,
        warmup_steps: u64,
        total_steps: u64,
        factors: Vec<f64>,
    }

    #[test]
    fn every_step_has_the_learning_rate_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schedules.json");
        let table: Vec<Reference> =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(table.len() >= 12);
        for reference in table {
            let scheduler = match reference.lr_scheduler.as_str() {
                "linear" => LrScheduler::Linear,
                "cosine" => LrScheduler::Cosine,
                _ => LrScheduler::Constant,
            };
            for (i, expected) in reference.factors.iter().enumerate() {
                let ours = factor(
                    scheduler,
                    reference.warmup_steps,
                    reference.total_steps,
                    i as u64 + 1,
                );
                assert!(
                    (ours - expected).abs() < 1e-12,
                    "{} warmup {} of {} at step {}: {ours}, transformers {expected}",
                    reference.lr_scheduler,
                    reference.warmup_steps,
                    reference.total_steps,
                    i + 1
                );
            }
        }
    }
}
