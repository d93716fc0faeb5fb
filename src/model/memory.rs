//! How much host memory a run will take.

use super::Description;
use super::config::DecoderConfig;
use crate::ops::tokens_at_once;

/// Bytes by purpose, for training on the CPU in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The base as it lies in memory: its files, mapped.
    pub weights: u64,
    /// A and B and their gradients.
    pub adapter: u64,
    /// AdamW's two moments.
    pub optimizer: u64,
    /// What a training pass keeps and computes with, at its peak.
    pub activations: u64,
    /// One chunk of logits.
    pub logits: u64,
}

impl MemoryEstimate {
    pub fn total(&self) -> u64 {
        self.weights + self.adapter + self.optimizer + self.activations + self.logits
    }
}

/// The memory of training `adapter_parameters` numbers with micro-batches of `batch_size` rows of
/// `sequence_len` tokens, all trained on.
pub fn memory_estimate(
    base: &Description,
    adapter_parameters: u64,
    batch_size: usize,
    sequence_len: usize,
    recompute: bool,
) -> MemoryEstimate {
    let config = &base.config;
    let tokens = (batch_size * sequence_len) as u64;
    let hidden = config.hidden_size as u64;
    let outputs = config.block_linears().into_iter().map(|l| l.outputs as u64);
    let outputs: u64 = outputs.sum();
    let (q, k) = (config.q_features() as u64, config.k_features() as u64);
    // Kept by a block's graph per token: its input, two norms, two residuals, every linear's
    // output, rotated q and k, the attended values and the gated activation.
    let graph = 5 * hidden + outputs + 2 * q + k + config.intermediate_size as u64;
    let layers = config.layers as u64;
    let kept = match recompute {
        true => layers * hidden + graph,
        false => layers * graph,
    };
    MemoryEstimate {
        weights: base.bytes,
        adapter: 2 * 4 * adapter_parameters,
        optimizer: 2 * 4 * adapter_parameters,
        activations: 4 * tokens * kept + widest_part(config, tokens),
        logits: chunk_of_logits(config, tokens),
    }
}

/// Bytes that a pass over so many tokens holds for a moment, beyond what it keeps: what one
/// operation may still ask for.
pub fn momentary_bytes(config: &DecoderConfig, tokens: u64) -> u64 {
    widest_part(config, tokens) + chunk_of_logits(config, tokens)
}

/// The backward of the widest part (the MLP) holds a few gradients, with a zero to add to.
fn widest_part(config: &DecoderConfig, tokens: u64) -> u64 {
    4 * tokens * (6 * config.intermediate_size as u64 + 4 * config.hidden_size as u64)
}

fn chunk_of_logits(config: &DecoderConfig, tokens: u64) -> u64 {
    4 * (tokens_at_once(config.vocab_size) as u64).min(tokens) * config.vocab_size as u64
}
