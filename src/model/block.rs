//! One block of the decoder: attention and MLP, each behind a norm and beside a residual.

use std::sync::Arc;

use anyhow::Result;
use candle_core::Tensor;

use super::cache::LayerCache;
use super::config::LINEARS;
use crate::ops::{
    FrozenWeight, Heads, LoraTerm, RopeTable, Span, attention, lora_linear, rms_norm, rope, swiglu,
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

impl Block {
    /// `x` of `[tokens, hidden]` to the same shape. Keys and values go through `cache` when there
    /// is one.
    pub fn forward(
        &self,
        x: &Tensor,
        terms: &BlockTerms,
        pass: &Pass,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let linear = |kind: usize, x: &Tensor| lora_linear(x, &self.linears[kind], &terms[kind]);
        let normed = rms_norm(x, &self.input_norm, pass.eps)?;
        let q = rope(&linear(0, &normed)?, &pass.table)?;
        let k = rope(&linear(1, &normed)?, &pass.table)?;
        let v = linear(2, &normed)?;
        let (k, v) = match cache {
            Some(cache) => cache.append(&k, &v)?,
            None => (k, v),
        };
        let attended = attention(&q, &k, &v, &pass.spans, pass.heads, None)?;
        let x = (x + linear(3, &attended)?)?;
        let normed = rms_norm(&x, &self.post_attention_norm, pass.eps)?;
        let gated = swiglu(&linear(4, &normed)?, &linear(5, &normed)?)?;
        Ok((&x + linear(6, &gated)?)?)
    }
}
