//! The vision transformer (Dosovitskiy et al., 2021) of CLIP and BLIP, which differ in names, in
//! fused projections, and in the norms at its ends.

use anyhow::{Result, bail};
use candle_core::Tensor;
use serde_json::Value;

use super::Section;
use super::layers::{Activation, LayerNorm, Linear, attend, join_heads, split_heads};
use super::weights::Weights;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Style {
    Clip,
    Blip,
}

pub(super) struct Tower {
    pub width: usize,
    /// Pixels of a side.
    pub side: usize,
    patch: usize,
    heads: usize,
    class: Tensor,
    patches: Linear,
    positions: Tensor,
    before: Option<LayerNorm>,
    layers: Vec<Layer>,
    after: LayerNorm,
}

struct Layer {
    norm1: LayerNorm,
    qkv: Qkv,
    out: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    activation: Activation,
}

enum Qkv {
    Fused(Linear),
    Apart([Linear; 3]),
}

impl Tower {
    pub fn read(weights: &Weights, config: &Value, file: &str, style: Style) -> Result<Self> {
        let section = Section {
            value: config,
            file: format!("{file}, vision_config"),
        };
        let width = section.size("hidden_size", 768)?;
        let inner = section.size("intermediate_size", 3072)?;
        let heads = section.size("num_attention_heads", 12)?;
        let layers = section.size("num_hidden_layers", 12)?;
        let (patch, side) = match style {
            Style::Clip => (
                section.size("patch_size", 32)?,
                section.size("image_size", 224)?,
            ),
            Style::Blip => (
                section.size("patch_size", 16)?,
                section.size("image_size", 384)?,
            ),
        };
        let activation = section.activation(match style {
            Style::Clip => "quick_gelu",
            Style::Blip => "gelu",
        })?;
        let eps = section.real("layer_norm_eps", 1e-5)?;
        if width % heads != 0 || side % patch != 0 {
            bail!(crate::error::input_error(format!(
                "{file}: {width} features do not divide by {heads} heads, or {side} pixels by \
                 patches of {patch}"
            )));
        }
        let tokens = (side / patch).pow(2) + 1;
        let at = |part: &str| format!("vision_model.{part}");
        let norm = |part: &str| LayerNorm::read(weights, &at(part), width, eps);
        let embedding = at("embeddings.patch_embedding");
        let pixels = 3 * patch * patch;
        let patches = match style {
            Style::Clip => Linear::without_bias(weights, &embedding, pixels, width)?,
            Style::Blip => Linear::read(weights, &embedding, pixels, width)?,
        };
        let positions = match style {
            Style::Clip => "embeddings.position_embedding.weight",
            Style::Blip => "embeddings.position_embedding",
        };
        let shape = Shape {
            width,
            inner,
            eps,
            activation,
        };
        let layer = |index: usize| {
            Layer::read(
                weights,
                &at(&format!("encoder.layers.{index}")),
                &shape,
                style,
            )
        };
        Ok(Tower {
            width,
            side,
            patch,
            heads,
            class: weights.get(&at("embeddings.class_embedding"), &[1, width])?,
            patches,
            positions: weights.get(&at(positions), &[tokens, width])?,
            before: match style {
                // Spelt so in transformers.
                Style::Clip => Some(norm("pre_layrnorm")?),
                Style::Blip => None,
            },
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
            after: norm("post_layernorm")?,
        })
    }

    /// Hidden states after the last layer, before the norm that follows it, of pictures as
    /// `[3, side, side]` numbers each: `[pictures, 1 + patches, width]`.
    pub fn states(&self, pixels: &[Vec<f32>]) -> Result<Tensor> {
        let device = self.class.device();
        let mut all = Vec::with_capacity(pixels.len());
        for picture in pixels {
            let patches = Tensor::from_vec(self.cut(picture)?, self.grid(), device)?;
            let patches = self.patches.forward(&patches)?;
            let tokens = Tensor::cat(&[&self.class, &patches], 0)?;
            all.push((tokens + &self.positions)?);
        }
        let rows = all.len();
        let mut x = Tensor::cat(&all, 0)?;
        if let Some(norm) = &self.before {
            x = norm.forward(&x)?;
        }
        for layer in &self.layers {
            x = layer.forward(&x, rows, self.heads)?;
        }
        let tokens = x.dim(0)? / rows;
        Ok(x.reshape((rows, tokens, self.width))?)
    }

    /// The norm that follows the last layer, of rows.
    pub fn after(&self, x: &Tensor) -> Result<Tensor> {
        self.after.forward(x)
    }

    fn grid(&self) -> (usize, usize) {
        ((self.side / self.patch).pow(2), 3 * self.patch * self.patch)
    }

    /// The patches one after another, each by channel, row and column: a convolution whose stride is
    /// its kernel's size reads them so.
    fn cut(&self, picture: &[f32]) -> Result<Vec<f32>> {
        let (side, patch) = (self.side, self.patch);
        if picture.len() != 3 * side * side {
            bail!(
                "a picture of {} numbers came to a model of {side} pixels",
                picture.len()
            );
        }
        let mut out = Vec::with_capacity(picture.len());
        for top in (0..side).step_by(patch) {
            for left in (0..side).step_by(patch) {
                for channel in 0..3 {
                    for row in top..top + patch {
                        let from = (channel * side + row) * side + left;
                        out.extend_from_slice(&picture[from..from + patch]);
                    }
                }
            }
        }
        Ok(out)
    }
}

/// What the layers of a tower have in common.
struct Shape {
    width: usize,
    inner: usize,
    eps: f64,
    activation: Activation,
}

impl Layer {
    fn read(weights: &Weights, name: &str, shape: &Shape, style: Style) -> Result<Self> {
        let width = shape.width;
        let part = |leaf: &str| format!("{name}.{leaf}");
        let linear =
            |leaf: &str, inputs, outputs| Linear::read(weights, &part(leaf), inputs, outputs);
        let norm = |leaf: &str| LayerNorm::read(weights, &part(leaf), width, shape.eps);
        let (qkv, out) = match style {
            Style::Clip => (
                Qkv::Apart([
                    linear("self_attn.q_proj", width, width)?,
                    linear("self_attn.k_proj", width, width)?,
                    linear("self_attn.v_proj", width, width)?,
                ]),
                linear("self_attn.out_proj", width, width)?,
            ),
            Style::Blip => (
                Qkv::Fused(linear("self_attn.qkv", width, 3 * width)?),
                linear("self_attn.projection", width, width)?,
            ),
        };
        Ok(Layer {
            norm1: norm("layer_norm1")?,
            qkv,
            out,
            norm2: norm("layer_norm2")?,
            up: linear("mlp.fc1", width, shape.inner)?,
            down: linear("mlp.fc2", shape.inner, width)?,
            activation: shape.activation,
        })
    }

    /// Of `rows` pictures.
    fn forward(&self, x: &Tensor, rows: usize, heads: usize) -> Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let [q, k, v] = match &self.qkv {
            Qkv::Fused(linear) => {
                let all = linear.forward(&normed)?;
                let width = all.dim(1)? / 3;
                let part = |i: usize| all.narrow(1, i * width, width);
                [part(0)?, part(1)?, part(2)?]
            }
            Qkv::Apart([q, k, v]) => [
                q.forward(&normed)?,
                k.forward(&normed)?,
                v.forward(&normed)?,
            ],
        };
        let split = |x: &Tensor| split_heads(&x.contiguous()?, rows, heads);
        let seen = join_heads(&attend(&split(&q)?, &split(&k)?, &split(&v)?)?)?;
        let x = (x + self.out.forward(&seen)?)?;
        let inner = self
            .activation
            .forward(&self.up.forward(&self.norm2.forward(&x)?)?)?;
        Ok((&x + self.down.forward(&inner)?)?)
    }
}
