//! A transformer block of the UNet: self-attention, attention to the text, feed-forward.

use std::sync::Arc;

use anyhow::Result;
use candle_core::Tensor;

use super::layers::{LayerNorm, Linear, Pass, Reader};
use crate::ops::{Heads, Sight, Span, attention, geglu};

/// Of diffusers' `BasicTransformerBlock`.
const EPS: f64 = 1e-5;

struct Attention {
    norm: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: Heads,
}

pub(super) struct TransformerBlock {
    own: Attention,
    text: Attention,
    norm: LayerNorm,
    up: Linear,
    down: Linear,
}

/// Which rows of the feature map look at which: those of an image at each other, and at their text.
pub(super) struct Rows {
    pub own: Arc<Vec<Span>>,
    pub text: Arc<Vec<Span>>,
}

impl Rows {
    /// Of images of so many pixels with texts of the given lengths.
    pub fn new(pixels: usize, lengths: &[usize]) -> Self {
        let (mut own, mut text) = (Vec::new(), Vec::new());
        let mut first = 0;
        for (image, length) in lengths.iter().enumerate() {
            let queries = image * pixels..(image + 1) * pixels;
            own.push(Span {
                queries: queries.clone(),
                keys: queries.clone(),
            });
            text.push(Span {
                queries,
                keys: first..first + length,
            });
            first += length;
        }
        Rows {
            own: Arc::new(own),
            text: Arc::new(text),
        }
    }
}

impl Attention {
    fn read(reader: &Reader<'_>, name: &str, norm: &str, heads: Heads) -> Result<Self> {
        let linear = |part: &str| reader.linear(&format!("{name}.{part}"));
        Ok(Attention {
            norm: reader.layer_norm(norm, EPS)?,
            q: linear("to_q")?,
            k: linear("to_k")?,
            v: linear("to_v")?,
            out: linear("to_out.0")?,
            heads,
        })
    }

    /// Added to `x`; keys and values are of `context`, or of `x` itself.
    fn forward(
        &self,
        pass: Pass<'_>,
        x: &Tensor,
        context: Option<&Tensor>,
        spans: &Arc<Vec<Span>>,
    ) -> Result<Tensor> {
        let normed = self.norm.forward(pass.tape, x)?;
        let seen = context.unwrap_or(&normed);
        let q = self.q.forward(pass, &normed, None)?;
        let k = self.k.forward(pass, seen, None)?;
        let v = self.v.forward(pass, seen, None)?;
        let y = attention(pass.tape, &q, &k, &v, spans, self.heads, Sight::All)?;
        self.out.forward(pass, &y, Some(x))
    }
}

impl TransformerBlock {
    pub fn read(reader: &Reader<'_>, name: &str, channels: usize, heads: usize) -> Result<Self> {
        let heads = Heads {
            queries: heads,
            keys: heads,
            size: channels / heads,
        };
        let part = |part: &str| format!("{name}.{part}");
        let attention = |which: usize| {
            let norm = part(&format!("norm{which}"));
            Attention::read(reader, &part(&format!("attn{which}")), &norm, heads)
        };
        Ok(TransformerBlock {
            own: attention(1)?,
            text: attention(2)?,
            norm: reader.layer_norm(&part("norm3"), EPS)?,
            up: reader.linear(&part("ff.net.0.proj"))?,
            down: reader.linear(&part("ff.net.2"))?,
        })
    }

    /// `x` `[pixels of all images, channels]`, `context` `[tokens of all texts, features]`.
    pub fn forward(
        &self,
        pass: Pass<'_>,
        x: &Tensor,
        context: &Tensor,
        rows: &Rows,
    ) -> Result<Tensor> {
        let x = self.own.forward(pass, x, None, &rows.own)?;
        let x = self.text.forward(pass, &x, Some(context), &rows.text)?;
        let normed = self.norm.forward(pass.tape, &x)?;
        let up = self.up.forward(pass, &normed, None)?;
        drop(normed);
        let gated = geglu(pass.tape, &up)?;
        drop(up);
        self.down.forward(pass, &gated, Some(&x))
    }
}
