//! The decoder, described: sizes, and what sets one family of the LLaMA kind apart from another.

use anyhow::Result;

use super::rope::RopeScaling;
use crate::error::input_error;

/// Everything that is to be known of a decoder before its weights are read. One decoder serves all
/// families: what they differ in is told here.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The family, by Hugging Face's `model_type`: "llama", "mistral", "qwen2", ...
    pub architecture: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// The features of a head that are rotated: all, or the first few.
    pub rotary_dim: usize,
    pub rope_scaling: RopeScaling,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    /// Phi-3: q, k and v are one linear, gate and up are one.
    pub fused: bool,
    pub bias: Bias,
    /// Qwen3: the heads of q and k are normed before they are rotated.
    pub qk_norm: bool,
    pub attention: LayerAttention,
}

/// Which linears of a block have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bias {
    pub qkv: bool,
    pub output: bool,
    pub mlp: bool,
}

/// What the layers' attention differs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerAttention {
    /// Tokens that a token of a windowed layer sees, itself included.
    pub window: Option<usize>,
    pub windowed: Layers,
    /// The layers whose q and k are not rotated (NoPE).
    pub unrotated: Layers,
}

/// Some of the layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layers {
    #[default]
    None,
    All,
    /// From this one on.
    From(usize),
    /// The last of every so many.
    Every(usize),
    Listed(Vec<usize>),
}

impl Layers {
    pub fn contains(&self, layer: usize) -> bool {
        match self {
            Layers::None => false,
            Layers::All => true,
            Layers::From(first) => layer >= *first,
            Layers::Every(step) => (layer + 1).is_multiple_of((*step).max(1)),
            Layers::Listed(layers) => layers.contains(&layer),
        }
    }
}

impl LayerAttention {
    /// The window of a layer, if it has one.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.window.filter(|_| self.windowed.contains(layer))
    }
}

/// A linear of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Within its block: `self_attn.q_proj`.
    pub name: &'static str,
    pub inputs: usize,
    pub outputs: usize,
    pub bias: bool,
}

/// No real decoder has more of anything; a corrupt header may claim it.
const LARGEST: usize = 1 << 24;

impl DecoderConfig {
    /// The linears of a block, in the order in which they are used: q, k, v, o, gate, up and down,
    /// or, fused, qkv, o, gate_up and down.
    pub fn block_linears(&self) -> Vec<Linear> {
        let (hidden, mlp) = (self.hidden_size, self.intermediate_size);
        let (q, k) = (self.q_features(), self.k_features());
        let linear = |name, inputs, outputs, bias| Linear {
            name,
            inputs,
            outputs,
            bias,
        };
        let o = linear("self_attn.o_proj", q, hidden, self.bias.output);
        let down = linear("mlp.down_proj", mlp, hidden, self.bias.mlp);
        if self.fused {
            return vec![
                linear("self_attn.qkv_proj", hidden, q + 2 * k, self.bias.qkv),
                o,
                linear("mlp.gate_up_proj", hidden, 2 * mlp, self.bias.mlp),
                down,
            ];
        }
        vec![
            linear("self_attn.q_proj", hidden, q, self.bias.qkv),
            linear("self_attn.k_proj", hidden, k, self.bias.qkv),
            linear("self_attn.v_proj", hidden, k, self.bias.qkv),
            o,
            linear("mlp.gate_proj", hidden, mlp, self.bias.mlp),
            linear("mlp.up_proj", hidden, mlp, self.bias.mlp),
            down,
        ]
    }

    /// Every linear of the blocks as `(name, in_features, out_features)`, in order:
    /// `model.layers.0.self_attn.q_proj`, ...
    pub fn linears(&self) -> Vec<(String, usize, usize)> {
        let block = self.block_linears();
        (0..self.layers)
            .flat_map(|layer| {
                block.iter().map(move |linear| {
                    let name = format!("model.layers.{layer}.{}", linear.name);
                    (name, linear.inputs, linear.outputs)
                })
            })
            .collect()
    }

    /// Features of all heads of q.
    pub(super) fn q_features(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Features of all heads of k, or of v.
    pub(super) fn k_features(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Refuses sizes that no model has, before anything is computed with them.
    pub(super) fn check(&self, file: &str) -> Result<()> {
        let sizes = [
            ("vocabulary", self.vocab_size),
            ("hidden", self.hidden_size),
            ("intermediate", self.intermediate_size),
            ("number of layers", self.layers),
            ("number of attention heads", self.heads),
            ("number of key/value heads", self.kv_heads),
            ("head", self.head_dim),
            ("rotated", self.rotary_dim),
            ("context", self.max_position_embeddings),
        ];
        for (what, size) in sizes {
            // A context length of a million tokens and more is only a number.
            let largest = if what == "context" { 1 << 40 } else { LARGEST };
            if size == 0 || size > largest {
                return Err(input_error(format!(
                    "{file} says that the model's {what} size is {size}, which cannot be; the \
                     file is damaged or of another kind"
                )));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) || !self.head_dim.is_multiple_of(2) {
            return Err(input_error(format!(
                "{file} says {} attention heads of {} features over {} key/value heads, which do \
                 not divide",
                self.heads, self.head_dim, self.kv_heads
            )));
        }
        if self.rotary_dim > self.head_dim || !self.rotary_dim.is_multiple_of(2) {
            return Err(input_error(format!(
                "{file} says that {} of a head's {} features are rotated, which cannot be",
                self.rotary_dim, self.head_dim
            )));
        }
        if self.attention.window == Some(0) {
            return Err(input_error(format!(
                "{file} says a sliding window of 0 tokens, which cannot be"
            )));
        }
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !positive(self.rope_theta) || !positive(self.rms_norm_eps) {
            return Err(input_error(format!(
                "{file} says rope_theta {} and rms_norm_eps {}; both must be positive",
                self.rope_theta, self.rms_norm_eps
            )));
        }
        self.rope_scaling.check(self.rotary_dim, file)
    }

    /// A tiny LLaMA, for tests to change.
    #[cfg(test)]
    pub fn tiny() -> Self {
        DecoderConfig {
            architecture: "llama".to_owned(),
            vocab_size: 10,
            hidden_size: 8,
            intermediate_size: 12,
            layers: 3,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rotary_dim: 4,
            rope_scaling: RopeScaling::None,
            max_position_embeddings: 16,
            tie_word_embeddings: true,
            fused: false,
            bias: Bias::default(),
            qk_norm: false,
            attention: LayerAttention::default(),
        }
    }
}
