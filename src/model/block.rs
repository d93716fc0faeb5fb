//! One block of the decoder: attention and MLP, each behind a norm and beside a residual.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::cache::LayerCache;
use super::config::DecoderConfig;
use super::source::Source;
use crate::ops::{
    FrozenWeight, Heads, LoraTerm, Residual, RopeTable, Sight, Span, Tape, add_bias, attention,
    lora_linear, rms_norm, rope, select_columns, swiglu,
};

/// A block's frozen weights, and what sets its layer apart.
pub(super) struct Block {
    input_norm: Tensor,
    post_attention_norm: Tensor,
    /// Of the heads of q and of k.
    qk_norm: Option<(Tensor, Tensor)>,
    /// In the order of [`DecoderConfig::block_linears`].
    linears: Vec<Linear>,
    /// Whether q, k and v are one linear, and gate and up are one.
    fused: bool,
    rotated: bool,
    window: Option<usize>,
}

struct Linear {
    weight: FrozenWeight,
    bias: Option<Tensor>,
}

/// The adapters of a block's linears, in the order of [`DecoderConfig::block_linears`].
pub(super) type BlockTerms = Vec<Vec<LoraTerm>>;

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
    /// # Errors
    /// A weight does not fit on the device.
    pub fn read(source: &Source, layer: usize, device: &Device, dtype: DType) -> Result<Self> {
        let config = &source.config;
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let linear = |linear: &super::config::Linear| -> Result<Linear> {
            let weight = source.frozen(&name(&format!("{}.weight", linear.name)), device, dtype)?;
            let bias = match linear.bias {
                true => Some(source.vector(&name(&format!("{}.bias", linear.name)), device)?),
                false => None,
            };
            Ok(Linear { weight, bias })
        };
        let norm = |part: &str| source.vector(&name(&format!("{part}.weight")), device);
        Ok(Block {
            input_norm: norm("input_layernorm")?,
            post_attention_norm: norm("post_attention_layernorm")?,
            qk_norm: match config.qk_norm {
                true => Some((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?)),
                false => None,
            },
            linears: config
                .block_linears()
                .iter()
                .map(linear)
                .collect::<Result<_>>()?,
            fused: config.fused,
            rotated: !config.attention.unrotated.contains(layer),
            window: config.attention.window(layer),
        })
    }

    /// The weight of a linear, by its place in [`DecoderConfig::block_linears`].
    pub fn weight(&self, kind: usize) -> &FrozenWeight {
        &self.linears[kind].weight
    }

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
        let mut linears = self.linears.iter().zip(terms);
        let mut linear = |x: &Tensor, residual: Residual<'_>| -> Result<Tensor> {
            let (linear, terms) = linears.next().context("a block has too few linears")?;
            let y = lora_linear(tape, x, &linear.weight, terms, residual)?;
            Ok(match (&linear.bias, residual) {
                // No numbers to add to, and none that the backward needs.
                (None, _) | (_, Residual::Replay(_)) => y,
                (Some(bias), _) => add_bias(tape, &y, bias)?,
            })
        };
        let normed = rms_norm(tape, x, &self.input_norm, pass.eps)?;
        let first = linear(&normed, Residual::None)?;
        let (q, k, v) = if self.fused {
            let q = pass.heads.queries * pass.heads.size;
            let k = pass.heads.keys * pass.heads.size;
            (
                select_columns(tape, &first, 0..q)?,
                select_columns(tape, &first, q..q + k)?,
                select_columns(tape, &first, q + k..q + 2 * k)?,
            )
        } else {
            let k = linear(&normed, Residual::None)?;
            (first, k, linear(&normed, Residual::None)?)
        };
        let (q, k) = match &self.qk_norm {
            Some((q_norm, k_norm)) => (
                rms_norm(tape, &q, q_norm, pass.eps)?,
                rms_norm(tape, &k, k_norm, pass.eps)?,
            ),
            None => (q, k),
        };
        let (q, k) = match self.rotated {
            true => (rope(tape, &q, &pass.table)?, rope(tape, &k, &pass.table)?),
            false => (q, k),
        };
        let (k, v) = match cache {
            Some(cache) => cache.append(&k, &v)?,
            None => (k, v),
        };
        let sight = Sight::Causal {
            window: self.window,
        };
        let attended = attention(tape, &q, &k, &v, &pass.spans, pass.heads, sight)?;
        let x = linear(&attended, Residual::Add(x))?;
        let normed = rms_norm(tape, &x, &self.post_attention_norm, pass.eps)?;
        let first = linear(&normed, Residual::None)?;
        let (gate, up) = if self.fused {
            let features = first.dim(1)?;
            (
                select_columns(tape, &first, 0..features / 2)?,
                select_columns(tape, &first, features / 2..features)?,
            )
        } else {
            (first, linear(&normed, Residual::None)?)
        };
        let gated = swiglu(tape, &gate, &up)?;
        let residual = match goal {
            Goal::Output => Residual::Add(&x),
            Goal::Replay => Residual::Replay(&x),
        };
        linear(&gated, residual)
    }
}

/// Terms of a pass without adapters.
pub(super) fn no_terms(config: &DecoderConfig) -> BlockTerms {
    vec![Vec::new(); config.block_linears().len()]
}
