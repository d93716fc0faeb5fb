//! Generating one text after another, without computing again what stands before both.

use anyhow::Result;

use super::SamplingOptions;
use super::choose::choose;
use super::text_stream::TextStream;
use crate::error::input_error;
use crate::model::{Active, Decoder, KvCache, Tokenizer};

/// A base with adapters, and the tokens it has read. Other adapters or strengths need another
/// session: what was read would have been read otherwise.
pub struct Session<'a> {
    decoder: &'a Decoder,
    tokenizer: &'a Tokenizer,
    cache: KvCache,
    /// The tokens in the cache.
    read: Vec<u32>,
}

impl<'a> Session<'a> {
    /// # Errors
    /// An adapter of another base; the device fails.
    pub fn new(
        decoder: &'a Decoder,
        tokenizer: &'a Tokenizer,
        adapters: &[Active<'_>],
    ) -> Result<Self> {
        Ok(Session {
            decoder,
            tokenizer,
            cache: decoder.cache(adapters)?,
            read: Vec::new(),
        })
    }

    /// Continues `prompt_ids` up to `max_tokens` tokens, an end-of-sequence token or the end of the
    /// base's context; `on_text` gets each piece of text as it appears and ends the generation by
    /// returning false. The pieces together are the returned text.
    ///
    /// # Errors
    /// An empty prompt, or a failure of the device.
    pub fn generate(
        &mut self,
        prompt_ids: &[u32],
        options: &SamplingOptions,
        on_text: &mut dyn FnMut(&str) -> bool,
    ) -> Result<String> {
        if prompt_ids.is_empty() {
            return Err(input_error(
                "the prompt has no tokens: give a prompt that is not empty",
            ));
        }
        let mut logits = self.read(prompt_ids)?;
        let mut ids = prompt_ids.to_vec();
        let mut stream = TextStream::default();
        let mut text = String::new();
        let tokenizer = self.tokenizer;
        let decode = |ids: &[u32]| tokenizer.decode(ids, false);
        // A base computes nothing beyond the positions it was trained on.
        let room = self.decoder.config().max_position_embeddings;
        let max_tokens = options.max_tokens.min(room.saturating_sub(ids.len()));
        for position in 0..max_tokens {
            let next = choose(&logits, &ids, options, position as u64)?;
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
                logits = self.read(&ids)?;
            }
        }
        let rest = stream.finish(decode)?;
        if !rest.is_empty() {
            text.push_str(&rest);
            on_text(&rest);
        }
        Ok(text)
    }

    /// The logits after `ids`; of those that were read before, only what differs is read again.
    fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let common = self
            .read
            .iter()
            .zip(ids)
            .take_while(|(a, b)| a == b)
            .count();
        // The last is always read: its logits are wanted.
        let kept = common.min(ids.len() - 1);
        self.cache.truncate(kept);
        self.read.truncate(kept);
        let logits = self.decoder.next_logits(&ids[kept..], &mut self.cache)?;
        self.read.extend_from_slice(&ids[kept..]);
        Ok(logits.to_vec1()?)
    }
}
