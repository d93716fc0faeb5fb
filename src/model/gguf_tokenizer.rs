//! The tokenizer in a GGUF file's metadata: byte-level BPE, or LLaMA's SentencePiece.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::gguf::Header;
use super::sentencepiece::{self, Kind, Options, Piece};
use crate::error::input_error;

/// llama.cpp's name for SentencePiece's BPE with bytes to fall back on.
pub(super) const LLAMA: &str = "llama";

/// Llama 3's split, also used by many others.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: as Llama 3's, but every digit alone.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Splits that are Llama 3's, whose tokenizer also takes whole words without merging.
pub(super) fn is_llama3(pre: &str) -> bool {
    ["llama-bpe", "llama3", "llama-v3"].contains(&pre)
}

/// Other names under which llama.cpp splits as Llama 3 does: SmolLM3's and Phi-4's.
fn splits_as_llama3(pre: &str) -> bool {
    is_llama3(pre) || ["smaug-bpe", "dbrx"].contains(&pre)
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
        "gpt-2" | "default" | "phi-2" => vec![bytes(true)],
        "smollm" => vec![
            json!({"type": "Digits", "individual_digits": true}),
            bytes(true),
        ],
        "qwen2" | "deepseek-r1-qwen" => vec![split(QWEN2), bytes(false)],
        pre if splits_as_llama3(pre) => vec![split(LLAMA3), bytes(false)],
        _ => return None,
    };
    Some(json!({"type": "Sequence", "pretokenizers": steps}))
}

/// LLaMA's tokenizer by its tokens, scores and kinds.
fn sentencepiece(header: &Header, file: &str) -> Result<tokenizers::Tokenizer> {
    let missing = |key: &str| input_error(format!("{file} has no metadata tokenizer.ggml.{key}"));
    let tokens = header.texts("tokenizer.ggml.tokens");
    let tokens = tokens.ok_or_else(|| missing("tokens"))?;
    let scores = header.numbers("tokenizer.ggml.scores");
    let scores = scores.ok_or_else(|| missing("scores"))?;
    let kinds = header.integers("tokenizer.ggml.token_type");
    let kinds = kinds.ok_or_else(|| missing("token_type"))?;
    let pieces: Vec<Piece> = tokens
        .iter()
        .zip(scores)
        .zip(kinds)
        .map(|((text, &score), &kind)| Piece {
            text: text.clone(),
            score,
            kind: Kind::of(kind),
        })
        .collect();
    let options = Options {
        space_prefix: header
            .boolean("tokenizer.ggml.add_space_prefix")
            .unwrap_or(true),
        strip_after_special: header.text("general.architecture") == Some("phi3"),
    };
    sentencepiece::build(&pieces, &options)
        .map_err(|e| input_error(format!("{file} cannot be used: {e:#}")))
}

/// # Errors
/// No tokenizer, one of another kind, or a split that is not known.
pub(super) fn build(header: &Header, file: &str) -> Result<tokenizers::Tokenizer> {
    let model = header.text("tokenizer.ggml.model").unwrap_or("none");
    if model == LLAMA {
        return sentencepiece(header, file);
    }
    if model != "gpt2" {
        return Err(input_error(format!(
            "{file} has a tokenizer of kind \"{model}\", which is not supported: byte-level BPE \
             (\"gpt2\") and SentencePiece (\"llama\") are; use the base's Hugging Face folder instead"
        )));
    }
    let pre = header.text("tokenizer.ggml.pre").unwrap_or("default");
    let Some(pre_tokenizer) = pre_tokenizer(pre) else {
        return Err(input_error(format!(
            "{file} splits text as \"{pre}\", which is not supported (gpt-2, smollm, llama-bpe, \
             smaug-bpe, dbrx and qwen2 are); use the base's Hugging Face folder instead"
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
        let kind = Kind::of(types.get(id).copied().unwrap_or(1));
        if matches!(kind, Kind::Control | Kind::UserDefined) {
            added.push(
                json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": kind == Kind::Control}),
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
