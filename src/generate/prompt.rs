//! A person's prompt as token ids.

use anyhow::Result;

use crate::data::render_prompt;
use crate::model::Tokenizer;

/// Token ids of a user's message, through the chat template unless `raw`. `template` replaces the
/// tokenizer's own. Where no template writes it, the begin-of-sequence token is put before the text
/// if the base wants one.
///
/// # Errors
/// The template fails on the message.
pub fn encode_prompt(
    tokenizer: &Tokenizer,
    template: Option<&str>,
    prompt: &str,
    raw: bool,
) -> Result<Vec<u32>> {
    let templated = !raw && (template.is_some() || tokenizer.chat_template.is_some());
    if templated {
        return tokenizer.encode(&render_prompt(tokenizer, template, prompt)?);
    }
    let mut ids = tokenizer.encode(prompt)?;
    if let Some(bos) = tokenizer.bos
        && tokenizer.add_bos
        && ids.first() != Some(&bos)
    {
        ids.insert(0, bos);
    }
    Ok(ids)
}
