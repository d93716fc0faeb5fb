//! Choosing the next token from its logits.

use anyhow::{Result, bail};

use super::SamplingOptions;
use crate::random::{Purpose, Stream};

/// The next token after `ids`. In transformers' order: repetition penalty, temperature, top-k,
/// top-p. The draw at `position` (tokens generated so far) depends on seed and position alone.
///
/// # Errors
/// No logit is a number.
pub fn choose(
    logits: &[f32],
    ids: &[u32],
    options: &SamplingOptions,
    position: u64,
) -> Result<u32> {
    let mut logits: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    penalize(&mut logits, ids, options.repetition_penalty);
    if options.temperature == 0.0 {
        return greedy(&logits);
    }
    let mut candidates: Vec<(usize, f64)> = logits
        .into_iter()
        .enumerate()
        .filter(|(_, l)| !l.is_nan())
        .collect();
    // Likeliest first; equal ones by id, so that the order never depends on the sort.
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if options.top_k > 0 {
        candidates.truncate(options.top_k);
    }
    let Some(&(_, highest)) = candidates.first() else {
        bail!("the model's output is not a number: the adapter or the base is damaged");
    };
    for (_, value) in &mut candidates {
        *value = ((*value - highest) / options.temperature).exp();
    }
    keep_top_p(&mut candidates, options.top_p);
    let total: f64 = candidates.iter().map(|c| c.1).sum();
    let mut left = Stream::new(options.seed, Purpose::Sampling, position, 0).uniform_f64() * total;
    for &(id, weight) in &candidates {
        left -= weight;
        if left < 0.0 {
            return Ok(id as u32);
        }
    }
    Ok(candidates[candidates.len() - 1].0 as u32)
}

fn greedy(logits: &[f64]) -> Result<u32> {
    let mut best: Option<(usize, f64)> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if !logit.is_nan() && best.is_none_or(|(_, b)| logit > b) {
            best = Some((id, logit));
        }
    }
    match best {
        Some((id, _)) => Ok(id as u32),
        None => bail!("the model's output is not a number: the adapter or the base is damaged"),
    }
}

/// Makes tokens that have appeared less likely (arXiv:1909.05858).
fn penalize(logits: &mut [f64], ids: &[u32], penalty: f64) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = vec![false; logits.len()];
    for &id in ids {
        let id = id as usize;
        if id < logits.len() && !seen[id] {
            seen[id] = true;
            if logits[id] > 0.0 {
                logits[id] /= penalty;
            } else {
                logits[id] *= penalty;
            }
        }
    }
}

/// Keeps the fewest likeliest tokens that together have at least `top_p` of the probability.
fn keep_top_p(candidates: &mut Vec<(usize, f64)>, top_p: f64) {
    if top_p >= 1.0 {
        return;
    }
    let total: f64 = candidates.iter().map(|c| c.1).sum();
    let mut sum = 0.0;
    let mut kept = 0;
    while kept < candidates.len() && (kept == 0 || sum < top_p * total) {
        sum += candidates[kept].1;
        kept += 1;
    }
    candidates.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64) -> SamplingOptions {
        SamplingOptions {
            temperature,
            seed: 7,
            ..SamplingOptions::greedy(1)
        }
    }

    /// Share of 20,000 draws that each token gets.
    fn shares(logits: &[f32], options: &SamplingOptions) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for position in 0..20_000 {
            counts[choose(logits, &[], options, position).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_highest_and_ignores_nan() {
        let options = SamplingOptions::greedy(1);
        let logits = [f32::NAN, 1.0, 3.0, 3.0];
        assert_eq!(choose(&logits, &[], &options, 0).unwrap(), 2);
        assert!(choose(&[f32::NAN, f32::NAN], &[], &options, 0).is_err());
    }

    #[test]
    fn draws_follow_the_softmax_at_the_temperature() {
        // softmax([0, ln 2, ln 4] / T): T = 1 gives 1/7, 2/7, 4/7; T = 0.5 gives 1/21, 4/21, 16/21.
        let logits = [0.0, std::f32::consts::LN_2, 2.0 * std::f32::consts::LN_2];
        for (temperature, expected) in [
            (1.0, [1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0]),
            (0.5, [1.0 / 21.0, 4.0 / 21.0, 16.0 / 21.0]),
        ] {
            for (share, e) in shares(&logits, &sampling(temperature)).iter().zip(expected) {
                assert!((share - e).abs() < 0.015, "{share} {e}");
            }
        }
    }

    #[test]
    fn top_k_and_top_p_leave_only_the_likeliest() {
        let logits = [0.0, std::f32::consts::LN_2, 2.0 * std::f32::consts::LN_2];
        let top_k = SamplingOptions {
            top_k: 2,
            ..sampling(1.0)
        };
        let share = shares(&logits, &top_k);
        assert_eq!(share[0], 0.0);
        assert!((share[2] - 2.0 / 3.0).abs() < 0.015);
        // 4/7 alone is less than 0.6, with 2/7 it is more.
        for (top_p, kept) in [(0.5, 1), (0.6, 2), (0.99, 3)] {
            let options = SamplingOptions {
                top_p,
                ..sampling(1.0)
            };
            let share = shares(&logits, &options);
            assert_eq!(share.iter().filter(|s| **s > 0.0).count(), kept, "{top_p}");
        }
    }

    #[test]
    fn the_repetition_penalty_divides_positive_and_multiplies_negative_logits() {
        let mut logits = [2.0, -2.0, 1.0];
        penalize(&mut logits, &[0, 1, 1], 2.0);
        assert_eq!(logits, [1.0, -4.0, 1.0]);
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_alone() {
        let logits = vec![0.0; 1000];
        let draw = |seed, position| {
            let options = SamplingOptions {
                seed,
                ..sampling(1.0)
            };
            choose(&logits, &[], &options, position).unwrap()
        };
        assert_eq!(draw(1, 5), draw(1, 5));
        assert_ne!(draw(1, 5), draw(1, 6));
        assert_ne!(draw(1, 5), draw(2, 5));
    }
}
