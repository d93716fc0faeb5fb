//! Layers that only compute forward. Activations are rows: `[rows, features]`.

use anyhow::Result;
use candle_core::{D, Tensor};
use candle_nn::ops::{layer_norm, sigmoid, softmax_last_dim};

use super::weights::Weights;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Activation {
    /// By the error function.
    Gelu,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
}

impl Activation {
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::Gelu => x.gelu_erf()?,
            Activation::QuickGelu => (x * sigmoid(&(x * 1.702)?)?)?,
        })
    }
}

pub(super) struct Linear {
    /// `[inputs, outputs]`, a view of the stored one.
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub fn read(weights: &Weights, name: &str, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = weights.get(&format!("{name}.bias"), &[outputs])?;
        Ok(Linear {
            bias: Some(bias),
            ..Self::without_bias(weights, name, inputs, outputs)?
        })
    }

    pub fn without_bias(
        weights: &Weights,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        let weight = weights.get(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok(Linear {
            weight: weight.t()?,
            bias: None,
        })
    }

    pub fn with_bias(mut self, bias: Tensor) -> Self {
        self.bias = Some(bias);
        self
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }
}

pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    pub fn read(weights: &Weights, name: &str, width: usize, eps: f64) -> Result<Self> {
        Ok(LayerNorm {
            weight: weights.get(&format!("{name}.weight"), &[width])?,
            bias: weights.get(&format!("{name}.bias"), &[width])?,
            eps: eps as f32,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(layer_norm(
            &x.contiguous()?,
            &self.weight,
            &self.bias,
            self.eps,
        )?)
    }
}

/// `[rows * tokens, heads * size]` as `[rows, heads, tokens, size]`.
pub(super) fn split_heads(x: &Tensor, rows: usize, heads: usize) -> Result<Tensor> {
    let (count, width) = x.dims2()?;
    let shape = (rows, count / rows, heads, width / heads);
    Ok(x.reshape(shape)?.transpose(1, 2)?.contiguous()?)
}

/// The other way.
pub(super) fn join_heads(x: &Tensor) -> Result<Tensor> {
    let (rows, heads, tokens, size) = x.dims4()?;
    let joined = x.transpose(1, 2)?.contiguous()?;
    Ok(joined.reshape((rows * tokens, heads * size))?)
}

/// Every query looks at every key of its row, `[rows, heads, tokens, size]` all. One row after
/// another, so that the scores of one lie in memory.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (rows, _, _, size) = q.dims4()?;
    let scale = 1.0 / (size as f64).sqrt();
    let one = |row: usize| -> Result<Tensor> {
        let (q, k, v) = (q.get(row)?, k.get(row)?, v.get(row)?);
        let keys = k.transpose(D::Minus1, D::Minus2)?;
        let scores = (q.contiguous()?.matmul(&keys)? * scale)?;
        Ok(softmax_last_dim(&scores)?.matmul(&v.contiguous()?)?)
    };
    let all: Vec<Tensor> = (0..rows).map(one).collect::<Result<_>>()?;
    Ok(Tensor::stack(&all, 0)?)
}
