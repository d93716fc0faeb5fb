//! A batch's rows, laid one after another without padding.

use std::ops::Range;

use anyhow::{Result, bail};
use candle_core::Tensor;

use crate::ops::Span;

/// A batch: token ids, right-padded or ragged, and targets.
pub struct TokenBatch {
    pub input_ids: Vec<Vec<u32>>,
    /// Per row, per position: the token to predict at that position, or `None` (masked).
    /// `targets[b][t]` is `Some(input_ids[b][t + 1])` where token `t + 1` is trained on.
    pub targets: Vec<Vec<Option<u32>>>,
}

impl TokenBatch {
    /// Some of its rows.
    pub fn rows(&self, range: Range<usize>) -> TokenBatch {
        TokenBatch {
            input_ids: self.input_ids[range.clone()].to_vec(),
            targets: self.targets[range].to_vec(),
        }
    }
}

/// Rows of tokens one after another.
pub(super) struct Packed {
    pub ids: Vec<u32>,
    /// Of each token within its row.
    pub positions: Vec<usize>,
    pub spans: Vec<Span>,
    /// The tokens that have a target, in order, and their targets.
    pub trained: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Packed {
    fn empty() -> Self {
        Packed {
            ids: Vec::new(),
            positions: Vec::new(),
            spans: Vec::new(),
            trained: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Adds one row's tokens.
    fn push(&mut self, ids: &[u32]) {
        let range = self.ids.len()..self.ids.len() + ids.len();
        self.ids.extend_from_slice(ids);
        self.positions.extend(0..ids.len());
        self.spans.push(Span {
            queries: range.clone(),
            keys: range,
        });
    }

    /// All tokens of every row, none trained on.
    pub fn whole(input_ids: &[Vec<u32>]) -> Self {
        let mut packed = Self::empty();
        for ids in input_ids {
            packed.push(ids);
        }
        packed
    }

    /// Every row up to its last target: what comes after (padding included) is seen by no token
    /// that counts.
    pub fn trained(batch: &TokenBatch) -> Result<Self> {
        if batch.input_ids.len() != batch.targets.len() {
            bail!(
                "a batch of {} rows has targets for {}",
                batch.input_ids.len(),
                batch.targets.len()
            );
        }
        let mut packed = Self::empty();
        for (ids, targets) in batch.input_ids.iter().zip(&batch.targets) {
            let Some(last) = targets.iter().rposition(Option::is_some) else {
                continue;
            };
            if last >= ids.len() {
                bail!("a row of {} tokens has a target at {last}", ids.len());
            }
            let start = packed.ids.len();
            packed.push(&ids[..=last]);
            for (at, target) in targets[..=last].iter().enumerate() {
                if let Some(target) = target {
                    packed.trained.push((start + at) as u32);
                    packed.targets.push(*target);
                }
            }
        }
        Ok(packed)
    }

    /// `[tokens, features]` as `[B, T, features]`: T is the longest row's length, and what lies
    /// after the end of a shorter one is 0.
    pub fn rows(&self, x: &Tensor) -> Result<Tensor> {
        let lengths = self.spans.iter().map(|span| span.queries.len());
        let longest = lengths.max().unwrap_or(0);
        let mut rows = Vec::new();
        for span in &self.spans {
            let row = x.narrow(0, span.queries.start, span.queries.len())?;
            rows.push(row.pad_with_zeros(0, 0, longest - span.queries.len())?);
        }
        Ok(Tensor::stack(&rows, 0)?)
    }

    /// One row that goes on after `cached` tokens.
    pub fn continued(ids: &[u32], cached: usize) -> Self {
        let mut packed = Self::empty();
        packed.push(ids);
        packed.positions = (cached..cached + ids.len()).collect();
        packed.spans[0].keys = 0..cached + ids.len();
        packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_end_at_their_last_target_and_rows_without_one_vanish() {
        let packed = Packed::trained(&TokenBatch {
            input_ids: vec![
                vec![1, 2, 3, 0, 0],
                vec![4, 5, 0, 0, 0],
                vec![6, 7, 8, 9, 1],
            ],
            targets: vec![
                vec![None, Some(3), None, None, None],
                vec![None; 5],
                vec![Some(7), None, None, Some(1), None],
            ],
        })
        .unwrap();
        assert_eq!(packed.ids, [1, 2, 6, 7, 8, 9]);
        assert_eq!(packed.positions, [0, 1, 0, 1, 2, 3]);
        assert_eq!(packed.trained, [1, 2, 5]);
        assert_eq!(packed.targets, [3, 7, 1]);
        assert_eq!(packed.spans[1].keys, 2..6);
    }
}
