//! Text from a base with adapters.

mod choose;
mod prompt;
mod text_stream;

use anyhow::Result;

pub use prompt::encode_prompt;

use crate::error::input_error;
use crate::model::{Active, Decoder, Tokenizer};
use choose::choose;
use text_stream::TextStream;

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

/// Continues `prompt_ids` up to `max_tokens` tokens, an end-of-sequence token or the end of the
/// base's context; `on_text` gets
/// each piece of text as it appears and ends the generation by returning false. The pieces together
/// are the returned text.
///
/// # Errors
/// An empty prompt, or a failure of the device.
pub fn generate(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    adapters: &[Active<'_>],
    prompt_ids: &[u32],
    options: &SamplingOptions,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<String> {
    if prompt_ids.is_empty() {
        return Err(input_error(
            "the prompt has no tokens: give a prompt that is not empty",
        ));
    }
    let mut cache = decoder.cache(adapters)?;
    let mut logits = decoder.next_logits(prompt_ids, &mut cache)?;
    let mut ids = prompt_ids.to_vec();
    let mut stream = TextStream::default();
    let mut text = String::new();
    let decode = |ids: &[u32]| tokenizer.decode(ids, false);
    // A base computes nothing beyond the positions it was trained on.
    let room = decoder.config().max_position_embeddings;
    let max_tokens = options.max_tokens.min(room.saturating_sub(ids.len()));
    for position in 0..max_tokens {
        let next = choose(&logits.to_vec1::<f32>()?, &ids, options, position as u64)?;
        if tokenizer.eos.contains(&next) {
            break;
        }
        ids.push(next);
        let piece = stream.push(next, decode)?;
        text.push_str(&piece);
        if !piece.is_empty() && !on_text(&piece) {
            return Ok(text);
        }
        if position + 1 < max_tokens {
            logits = decoder.next_logits(&[next], &mut cache)?;
        }
    }
    let rest = stream.finish(decode)?;
    if !rest.is_empty() {
        text.push_str(&rest);
        on_text(&rest);
    }
    Ok(text)
}
