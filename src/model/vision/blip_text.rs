//! BLIP's text decoder: a BERT (norms after the sums) with a look at the picture in every layer.

use anyhow::{Result, bail};
use candle_core::Tensor;
use serde_json::Value;

use super::Section;
use super::layers::{Activation, LayerNorm, Linear, attend, join_heads, split_heads};
use super::weights::Weights;
use crate::error::input_error;

pub(super) struct Decoder {
    pub begin: u32,
    pub end: u32,
    pub positions: usize,
    vocabulary: usize,
    heads: usize,
    words: Tensor,
    places: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    transform: Linear,
    activation: Activation,
    transform_norm: LayerNorm,
    output: Linear,
}

/// Keys and values, `[rows, heads, tokens, size]`.
pub(super) struct Layered {
    pub keys: Tensor,
    pub values: Tensor,
}

struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm: LayerNorm,
}

struct Layer {
    own: Attention,
    cross: Attention,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

const BERT: &str = "text_decoder.bert";
const HEAD: &str = "text_decoder.cls.predictions";

impl Decoder {
    pub fn read(weights: &Weights, config: &Value, file: &str, seen: usize) -> Result<Self> {
        let section = Section {
            value: config,
            file: format!("{file}, text_config"),
        };
        let width = section.size("hidden_size", 768)?;
        let inner = section.size("intermediate_size", 3072)?;
        let heads = section.size("num_attention_heads", 8)?;
        let count = section.size("num_hidden_layers", 12)?;
        let vocabulary = section.size("vocab_size", 30524)?;
        let positions = section.size("max_position_embeddings", 512)?;
        let eps = section.real("layer_norm_eps", 1e-12)?;
        let activation = section.activation("gelu")?;
        if width % heads != 0 {
            return Err(input_error(format!(
                "{file}: {width} features do not divide by {heads} heads"
            )));
        }
        let norm = |name: &str| LayerNorm::read(weights, name, width, eps);
        let attention = |name: String, from: usize| -> Result<Attention> {
            let part = |leaf: &str| format!("{name}.{leaf}");
            Ok(Attention {
                query: Linear::read(weights, &part("self.query"), width, width)?,
                key: Linear::read(weights, &part("self.key"), from, width)?,
                value: Linear::read(weights, &part("self.value"), from, width)?,
                out: Linear::read(weights, &part("output.dense"), width, width)?,
                norm: norm(&part("output.LayerNorm"))?,
            })
        };
        let layer = |index: usize| -> Result<Layer> {
            let part = |leaf: &str| format!("{BERT}.encoder.layer.{index}.{leaf}");
            Ok(Layer {
                own: attention(part("attention"), width)?,
                cross: attention(part("crossattention"), seen)?,
                up: Linear::read(weights, &part("intermediate.dense"), width, inner)?,
                down: Linear::read(weights, &part("output.dense"), inner, width)?,
                norm: norm(&part("output.LayerNorm"))?,
            })
        };
        let embedding = |leaf: &str| format!("{BERT}.embeddings.{leaf}");
        let words = weights.get(&embedding("word_embeddings.weight"), &[vocabulary, width])?;
        // Both are tied, and a file may hold either name or both.
        let tied = |names: &[String], shape: &[usize]| {
            let name = names
                .iter()
                .find(|name| weights.has(name))
                .unwrap_or(&names[0]);
            weights.get(name, shape)
        };
        let head = |leaf: &str| format!("{HEAD}.{leaf}");
        let bias = tied(&[head("bias"), head("decoder.bias")], &[vocabulary])?;
        let output = match weights.has(&head("decoder.weight")) {
            true => Linear::without_bias(weights, &head("decoder"), width, vocabulary)?,
            false => {
                Linear::without_bias(weights, &embedding("word_embeddings"), width, vocabulary)?
            }
        };
        Ok(Decoder {
            begin: section.id("bos_token_id", 30522)?,
            end: section.id("sep_token_id", 102)?,
            positions,
            vocabulary,
            heads,
            words,
            places: weights.get(
                &embedding("position_embeddings.weight"),
                &[positions, width],
            )?,
            norm: norm(&embedding("LayerNorm"))?,
            layers: (0..count).map(layer).collect::<Result<_>>()?,
            transform: Linear::read(weights, &head("transform.dense"), width, width)?,
            activation,
            transform_norm: norm(&head("transform.LayerNorm"))?,
            output: output.with_bias(bias),
        })
    }

    /// Keys and values of pictures, `[pictures * tokens, width]`, for every layer.
    pub fn cross(&self, states: &Tensor, pictures: usize) -> Result<Vec<Layered>> {
        let layers = self.layers.iter();
        layers
            .map(|layer| layer.cross.look(states, pictures, self.heads))
            .collect()
    }

    /// Scores after one more token in each row, `[rows, vocabulary]`.
    pub fn step(
        &self,
        tokens: &[u32],
        place: usize,
        said: &mut Vec<Layered>,
        pictures: &[Layered],
        owners: &[usize],
    ) -> Result<Tensor> {
        if place >= self.positions {
            bail!(
                "a caption is longer than the model's {} positions",
                self.positions
            );
        }
        if let Some(token) = tokens
            .iter()
            .find(|token| **token as usize >= self.vocabulary)
        {
            bail!(input_error(format!(
                "the token {token} is beyond the model's vocabulary of {}",
                self.vocabulary
            )));
        }
        let rows = tokens.len();
        let ids = Tensor::new(tokens, self.words.device())?;
        let words = self.words.index_select(&ids, 0)?;
        let mut x = self
            .norm
            .forward(&words.broadcast_add(&self.places.get(place)?)?)?;
        for (at, layer) in self.layers.iter().enumerate() {
            let new = layer.own.look(&x, rows, self.heads)?;
            match said.get_mut(at) {
                Some(all) => {
                    all.keys = Tensor::cat(&[&all.keys, &new.keys], 2)?;
                    all.values = Tensor::cat(&[&all.values, &new.values], 2)?;
                }
                None => said.push(new),
            }
            let q = split_heads(&layer.own.query.forward(&x)?, rows, self.heads)?;
            let own = attend(&q, &said[at].keys, &said[at].values)?;
            x = layer.own.close(&join_heads(&own)?, &x)?;
            let seen = layer
                .cross
                .of_pictures(&x, &pictures[at], owners, self.heads)?;
            x = layer.cross.close(&seen, &x)?;
            let inner = self.activation.forward(&layer.up.forward(&x)?)?;
            x = layer.norm.forward(&(layer.down.forward(&inner)? + &x)?)?;
        }
        let x = self.activation.forward(&self.transform.forward(&x)?)?;
        self.output.forward(&self.transform_norm.forward(&x)?)
    }
}

impl Attention {
    fn look(&self, x: &Tensor, rows: usize, heads: usize) -> Result<Layered> {
        Ok(Layered {
            keys: split_heads(&self.key.forward(x)?, rows, heads)?,
            values: split_heads(&self.value.forward(x)?, rows, heads)?,
        })
    }

    fn close(&self, seen: &Tensor, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(&(self.out.forward(seen)? + x)?)
    }

    /// What each row sees of its own picture: neighbouring rows of one picture look together.
    fn of_pictures(
        &self,
        x: &Tensor,
        pictures: &Layered,
        owners: &[usize],
        heads: usize,
    ) -> Result<Tensor> {
        let q = self.query.forward(x)?;
        let mut all = Vec::new();
        let mut from = 0;
        for group in owners.chunk_by(|a, b| a == b) {
            let rows = q.narrow(0, from, group.len())?.contiguous()?;
            let rows = split_heads(&rows, 1, heads)?;
            let picture = |all: &Tensor| all.narrow(0, group[0], 1);
            let seen = attend(
                &rows,
                &picture(&pictures.keys)?,
                &picture(&pictures.values)?,
            )?;
            all.push(join_heads(&seen)?);
            from += group.len();
        }
        Ok(Tensor::cat(&all, 0)?)
    }
}
