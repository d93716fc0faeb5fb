//! One block of the decoder: attention and MLP, each behind a norm and beside a residual.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::cache::LayerCache;
use super::config::DecoderConfig;
use super::source::Source;
use crate::ops::{
    FrozenWeight, Heads, LoraTerm, RopeTable, Span, add_bias, attention, lora_linear, rms_norm,
    rope, swiglu,
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
        x: &Tensor,
        terms: &[Vec<LoraTerm>],
        pass: &Pass,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let mut linears = self.linears.iter().zip(terms);
        let mut linear = |x: &Tensor| -> Result<Tensor> {
            let (linear, terms) = linears.next().context("a block has too few linears")?;
            let y = lora_linear(x, &linear.weight, terms)?;
            Ok(match &linear.bias {
                Some(bias) => add_bias(&y, bias)?,
                None => y,
            })
        };
        let normed = rms_norm(x, &self.input_norm, pass.eps)?;
        let (q, k, v) = if self.fused {
            let Heads {
                queries,
                keys,
                size,
            } = pass.heads;
            let qkv = linear(&normed)?;
            let part = |start: usize, heads: usize| qkv.narrow(1, start * size, heads * size);
            (
                part(0, queries)?,
                part(queries, keys)?,
                part(queries + keys, keys)?.contiguous()?,
            )
        } else {
            (linear(&normed)?, linear(&normed)?, linear(&normed)?)
        };
        let (q, k) = match &self.qk_norm {
            Some((q_norm, k_norm)) => (
                norm_heads(&q, q_norm, pass.eps)?,
                norm_heads(&k, k_norm, pass.eps)?,
            ),
            None => (q, k),
        };
        let (q, k) = match self.rotated {
            true => (rope(&q, &pass.table)?, rope(&k, &pass.table)?),
            false => (q, k.contiguous()?),
        };
        let (k, v) = match cache {
            Some(cache) => cache.append(&k, &v)?,
            None => (k, v),
        };
        let attended = attention(&q, &k, &v, &pass.spans, pass.heads, self.window)?;
        let x = (x + linear(&attended)?)?;
        let normed = rms_norm(&x, &self.post_attention_norm, pass.eps)?;
        let (gate, up) = if self.fused {
            let both = linear(&normed)?;
            let half = both.dim(1)? / 2;
            (both.narrow(1, 0, half)?, both.narrow(1, half, half)?)
        } else {
            (linear(&normed)?, linear(&normed)?)
        };
        Ok((&x + linear(&swiglu(&gate, &up)?)?)?)
    }
}

/// RMSNorm over each head of `[tokens, heads * size]`.
fn norm_heads(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let by_head = x.contiguous()?.reshape(((), weight.elem_count()))?;
    Ok(rms_norm(&by_head, weight, eps)?.reshape(x.shape())?)
}

/// Terms of a pass without adapters.
pub(super) fn no_terms(config: &DecoderConfig) -> BlockTerms {
    vec![Vec::new(); config.block_linears().len()]
}
