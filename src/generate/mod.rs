//! Text from a base with adapters.

use anyhow::Result;

use crate::model::{Active, Decoder, Tokenizer};

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    pub max_tokens: usize,
    /// 0: greedy.
    pub temperature: f64,
    pub top_p: f64,
    pub top_k: usize,
    pub repetition_penalty: f64,
    pub seed: u64,
}

/// Continues `prompt_ids`; `on_text` gets each piece of text as it appears and ends the generation
/// by returning false.
pub fn generate(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    adapters: &[Active<'_>],
    prompt_ids: &[u32],
    options: &SamplingOptions,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<String> {
    let _ = (decoder, tokenizer, adapters, prompt_ids, options, on_text);
    todo!("train room")
}
