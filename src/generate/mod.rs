//! Text and pictures from a base with adapters.

mod beam;
mod chat;
mod choose;
pub mod image;
mod label;
mod prompt;
mod session;
mod text_stream;

use anyhow::Result;

pub use beam::{EarlyStopping, Scores, SearchOptions, search};
pub use chat::{Chat, Loaded, Outcome, Reply};
pub use label::{Labeller, Ranker};
pub use prompt::{encode_chat, encode_prompt};
pub use session::Session;

use crate::model::{Active, Decoder, Tokenizer};

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    pub max_tokens: usize,
    /// 0: greedy.
    pub temperature: f64,
    pub top_p: f64,
    /// 0: no limit.
    pub top_k: usize,
    pub repetition_penalty: f64,
    pub seed: u64,
}

impl SamplingOptions {
    /// The first setting that cannot be, and what it must be.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Some(("temperature", "must be a number, 0 (greedy) or more"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Some(("top-p", "must be above 0 and at most 1"));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return Some(("repetition-penalty", "must be above 0 (1: none)"));
        }
        None
    }

    /// The likeliest token each time.
    pub fn greedy(max_tokens: usize) -> Self {
        SamplingOptions {
            max_tokens,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// Continues `prompt_ids` once: see [`Session::generate`].
///
/// # Errors
/// An empty prompt, an adapter of another base, or a failure of the device.
pub fn generate(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    adapters: &[Active<'_>],
    prompt_ids: &[u32],
    options: &SamplingOptions,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<String> {
    Session::new(decoder, tokenizer, adapters)?.generate(prompt_ids, options, on_text)
}
