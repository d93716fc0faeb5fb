//! What a person writes as token ids.

use anyhow::Result;

use crate::data::{Message, Role, render_chat};
use crate::model::Tokenizer;

/// Token ids of a user's message, through the chat template unless `raw`. `template` replaces the
/// tokenizer's own. A base without a template gets the text as it is.
///
/// # Errors
/// The template fails on the message.
pub fn encode_prompt(
    tokenizer: &Tokenizer,
    template: Option<&str>,
    prompt: &str,
    raw: bool,
) -> Result<Vec<u32>> {
    if raw || !has_template(tokenizer, template) {
        return encode_plain(tokenizer, prompt);
    }
    let message = Message {
        role: Role::User,
        content: prompt.to_owned(),
    };
    encode_chat(tokenizer, template, &[message])
}

/// Token ids of a conversation up to the opening of the assistant's next turn.
///
/// # Errors
/// The template fails on the conversation.
pub fn encode_chat(
    tokenizer: &Tokenizer,
    template: Option<&str>,
    messages: &[Message],
) -> Result<Vec<u32>> {
    let text = render_chat(tokenizer, template, messages)?;
    match has_template(tokenizer, template) {
        true => tokenizer.encode(&text),
        false => encode_plain(tokenizer, &text),
    }
}

fn has_template(tokenizer: &Tokenizer, template: Option<&str>) -> bool {
    template.is_some() || tokenizer.chat_template.is_some()
}

/// No template writes the begin-of-sequence token: it is put before the text if the base wants one.
fn encode_plain(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let mut ids = tokenizer.encode(text)?;
    if let Some(bos) = tokenizer.bos
        && tokenizer.add_bos
        && ids.first() != Some(&bos)
    {
        ids.insert(0, bos);
    }
    Ok(ids)
}
