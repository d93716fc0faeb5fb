//! One block of the decoder: attention and MLP, each behind a norm and beside a residual.

use std::sync::Arc;

use anyhow::Result;
use candle_core::Tensor;

use super::cache::LayerCache;
use super::config::LINEARS;
use crate::ops::{
    FrozenWeight, Heads, LoraTerm, Residual, RopeTable, Span, Tape, attention, lora_linear,
    rms_norm, rope, swiglu,
};

/// A block's frozen weights.
pub(super) struct Block {
    pub input_norm: Tensor,
    pub post_attention_norm: Tensor,
    /// In the order of [`LINEARS`].
    pub linears: [FrozenWeight; LINEARS.len()],
}

/// The adapters of a block's linears, in the order of [`LINEARS`].
pub(super) type BlockTerms = [Vec<LoraTerm>; LINEARS.len()];

/// What all blocks of a pass share.
pub(super) struct Pass {
    pub table: RopeTable,
    pub spans: Arc<Vec<Span>>,
    pub heads: Heads,
    pub eps: f64,
}

/// Why a block's input is passed through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Output,
    /// For the backward alone, the output being known from before: what only the output needs is
    /// left out.
    Replay,
}

impl Block {
    /// `x` of `[tokens, hidden]` to the same shape. Keys and values go through `cache` when there
    /// is one.
    pub fn forward(
        &self,
        tape: &Tape,
        x: &Tensor,
        terms: &BlockTerms,
        pass: &Pass,
        cache: Option<&mut LayerCache>,
        goal: Goal,
    ) -> Result<Tensor> {
        let linear = |kind: usize, x: &Tensor, residual: Residual<'_>| {
            lora_linear(tape, x, &self.linears[kind], &terms[kind], residual)
        };
        let normed = rms_norm(tape, x, &self.input_norm, pass.eps)?;
        let q = rope(tape, &linear(0, &normed, Residual::None)?, &pass.table)?;
        let k = rope(tape, &linear(1, &normed, Residual::None)?, &pass.table)?;
        let v = linear(2, &normed, Residual::None)?;
        let (k, v) = match cache {
            Some(cache) => cache.append(&k, &v)?,
            None => (k, v),
        };
        let attended = attention(tape, &q, &k, &v, &pass.spans, pass.heads, None)?;
        let x = linear(3, &attended, Residual::Add(x))?;
        let normed = rms_norm(tape, &x, &self.post_attention_norm, pass.eps)?;
        let gate = linear(4, &normed, Residual::None)?;
        let up = linear(5, &normed, Residual::None)?;
        let gated = swiglu(tape, &gate, &up)?;
        let residual = match goal {
            Goal::Output => Residual::Add(&x),
            Goal::Replay => Residual::Replay(&x),
        };
        Ok(linear(6, &gated, residual)?)
    }
}
