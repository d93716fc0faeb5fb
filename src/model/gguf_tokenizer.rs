//! The byte-level BPE tokenizer in a GGUF file's metadata.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::gguf::Header;
use crate::error::input_error;

/// llama.cpp's token types: 3 is a control token, 4 one that a user added.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Llama 3's split, also used by many others.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: as Llama 3's, but every digit alone.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn is_llama3(pre: &str) -> bool {
    ["llama-bpe", "llama3", "llama-v3"].contains(&pre)
}

/// The steps that split a text before BPE, as `tokenizer.json` writes them.
fn pre_tokenizer(pre: &str) -> Option<Value> {
    let bytes = |use_regex: bool| {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
               "use_regex": use_regex})
    };
    let split = |regex: &str| {
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated",
               "invert": false})
    };
    let steps = match pre {
        // The tokenizer's own name for GPT-2's split is its absence.
        "gpt-2" | "default" => vec![bytes(true)],
        "smollm" => vec![
            json!({"type": "Digits", "individual_digits": true}),
            bytes(true),
        ],
        "qwen2" => vec![split(QWEN2), bytes(false)],
        pre if is_llama3(pre) => vec![split(LLAMA3), bytes(false)],
        _ => return None,
    };
    Some(json!({"type": "Sequence", "pretokenizers": steps}))
}

/// # Errors
/// No tokenizer, one that is not BPE, or a split that is not known.
pub(super) fn build(header: &Header, file: &str) -> Result<tokenizers::Tokenizer> {
    let model = header.text("tokenizer.ggml.model").unwrap_or("none");
    if model != "gpt2" {
        return Err(input_error(format!(
            "{file} has a tokenizer of kind \"{model}\", which is not supported: byte-level BPE \
             (\"gpt2\") is; use the base's Hugging Face folder instead"
        )));
    }
    let pre = header.text("tokenizer.ggml.pre").unwrap_or("default");
    let Some(pre_tokenizer) = pre_tokenizer(pre) else {
        return Err(input_error(format!(
            "{file} splits text as \"{pre}\", which is not supported (gpt-2, smollm, llama-bpe and \
             qwen2 are); use the base's Hugging Face folder instead"
        )));
    };
    let missing = |key: &str| input_error(format!("{file} has no metadata tokenizer.ggml.{key}"));
    let tokens = header.texts("tokenizer.ggml.tokens");
    let tokens = tokens.ok_or_else(|| missing("tokens"))?;
    let merges = header.texts("tokenizer.ggml.merges");
    let merges = merges.ok_or_else(|| missing("merges"))?;
    let types = header.integers("tokenizer.ggml.token_type").unwrap_or(&[]);
    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        vocab.insert(token.clone(), id.into());
        let kind = types.get(id).copied().unwrap_or(1);
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(
                json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": kind == CONTROL}),
            );
        }
    }
    let description = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": is_llama3(pre),
                  "vocab": vocab, "merges": merges},
    });
    serde_json::from_value(description)
        .map_err(|e| input_error(format!("{file}: its tokenizer is damaged: {e}")))
}
