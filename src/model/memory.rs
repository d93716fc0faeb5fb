//! How much host memory a run will take.

use super::Description;
use super::config::DecoderConfig;
use crate::ops::tokens_at_once;

/// Bytes by purpose, for training on the CPU in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The program and the tokenizer.
    pub program: u64,
    /// The base as it lies in memory: its files, mapped.
    pub weights: u64,
    /// A and B, a pass's gradients, and their sum over a step.
    pub adapter: u64,
    /// AdamW's two moments.
    pub optimizer: u64,
    /// What a training pass keeps and computes with, at its peak.
    pub activations: u64,
    /// One chunk of logits; 0 where the peak is later, in the backward of a block.
    pub logits: u64,
    /// All of the process while pictures and captions are encoded before the first step, or a sample
    /// is decoded; 0 in text runs.
    pub pictures: u64,
}

impl MemoryEstimate {
    /// The peak: that of training, unless encoding pictures takes more.
    pub fn total(&self) -> u64 {
        let training = self.program
            + self.weights
            + self.adapter
            + self.optimizer
            + self.activations
            + self.logits;
        training.max(self.pictures)
    }
}

/// The program's code and its buffers, and what a tokenizer takes for each token of its vocabulary,
/// as measured.
const PROGRAM: u64 = 16 << 20;
const PER_TOKEN_OF_VOCABULARY: u64 = 1024;

/// The memory of training an adapter of so many numbers on `modules` (`(name, in, out)`) with
/// micro-batches of `batch_size` rows of `sequence_len` tokens, all trained on.
pub fn memory_estimate(
    base: &Description,
    adapter_parameters: u64,
    modules: &[(String, usize, usize)],
    batch_size: usize,
    sequence_len: usize,
    recompute: bool,
) -> MemoryEstimate {
    let config = &base.config;
    let per_token = 4 * (batch_size * sequence_len) as u64;
    let hidden = config.hidden_size as u64;
    let kept_by_block: Vec<u64> = (0..config.layers)
        .map(|layer| kept_by_block(config, layer, modules))
        .collect();
    // Blocks below the first adapted one take part in no backward.
    let first = (0..config.layers).find(|&layer| adapted(layer, modules).next().is_some());
    let in_backward = &kept_by_block[first.unwrap_or(0)..];
    let largest = in_backward.iter().copied().max().unwrap_or(0);
    let (kept, repeated) = match recompute {
        true => (in_backward.len() as u64 * hidden, largest),
        false => (in_backward.iter().sum(), 0),
    };
    // The peak is where the loss is computed, or in the backward of a block.
    let logits = chunk_of_logits(config, per_token / 4);
    let at_the_loss = per_token * 3 * hidden + logits;
    let in_a_block = per_token * (repeated + backward_of_mlp(config));
    let (momentary, logits) = match at_the_loss > in_a_block {
        true => (at_the_loss - logits, logits),
        false => (in_a_block, 0),
    };
    MemoryEstimate {
        program: PROGRAM + PER_TOKEN_OF_VOCABULARY * config.vocab_size as u64,
        weights: base.bytes,
        adapter: 3 * 4 * adapter_parameters,
        optimizer: 2 * 4 * adapter_parameters,
        activations: per_token * kept + momentary,
        logits,
        pictures: 0,
    }
}

/// The names, within the block, of its linears that have an adapter.
fn adapted(layer: usize, modules: &[(String, usize, usize)]) -> impl Iterator<Item = &str> {
    let prefix = format!("model.layers.{layer}.");
    modules
        .iter()
        .filter_map(move |(name, ..)| name.strip_prefix(&prefix))
}

/// Numbers per token that a block's pass keeps for its backward.
fn kept_by_block(config: &DecoderConfig, layer: usize, modules: &[(String, usize, usize)]) -> u64 {
    let (hidden, mlp) = (config.hidden_size as u64, config.intermediate_size as u64);
    let (q, k) = (config.q_features() as u64, config.k_features() as u64);
    // Both norms' inputs; rotated q and k, v, the attended values and the normalisers; gate and up.
    let mut kept = 2 * hidden + 2 * q + 2 * k + config.heads as u64 + 2 * mlp;
    if config.qk_norm {
        kept += q + k;
    }
    // The gradients of A and B need the linear's input: a norm's output serves several linears, the
    // attended values are kept anyway.
    let has = |names: &[&str]| adapted(layer, modules).any(|name| names.contains(&name));
    if has(&[
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.qkv_proj",
    ]) {
        kept += hidden;
    }
    if has(&["mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"]) {
        kept += hidden;
    }
    if has(&["mlp.down_proj"]) {
        kept += mlp;
    }
    kept
}

/// Bytes that a pass over so many tokens holds for a moment, beyond what it keeps: what one
/// operation may still ask for.
pub fn momentary_bytes(config: &DecoderConfig, tokens: u64) -> u64 {
    widest_part(config, tokens) + chunk_of_logits(config, tokens)
}

/// The widest part is the MLP, forward and backward.
fn widest_part(config: &DecoderConfig, tokens: u64) -> u64 {
    4 * tokens * (2 * config.intermediate_size as u64 + backward_of_mlp(config))
}

/// Numbers per token: the gradients of gate, up and their product, and of the norm around them.
fn backward_of_mlp(config: &DecoderConfig) -> u64 {
    3 * config.intermediate_size as u64 + 3 * config.hidden_size as u64
}

fn chunk_of_logits(config: &DecoderConfig, tokens: u64) -> u64 {
    4 * (tokens_at_once(config.vocab_size) as u64).min(tokens) * config.vocab_size as u64
}
