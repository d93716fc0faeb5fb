//! LLaMA's SentencePiece tokenizer, from the vocabulary in a GGUF or GGML file.
//!
//! SentencePiece's BPE joins the two neighbours whose union has the highest score. `tokenizers`'
//! BPE joins by a list of merges instead: all ways to cut a token in two are listed, best score
//! first, as transformers' converter does (`SentencePieceExtractor`).

use std::collections::HashMap;

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use super::ggjt;

const SPACE: char = '\u{2581}';

/// llama.cpp's kinds of tokens (`llama_token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    pub fn of(id: i64) -> Self {
        match id {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }
}

pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

/// How texts are prepared.
pub(super) struct Options {
    /// Whether a text begins as if a space came before it.
    pub space_prefix: bool,
    /// Whether special tokens swallow the spaces after them (Phi-3).
    pub strip_after_special: bool,
}

/// # Errors
/// A vocabulary that no tokenizer can be made of, without the file's name.
pub(super) fn build(pieces: &[Piece], options: &Options) -> Result<tokenizers::Tokenizer> {
    let unknown = pieces.iter().find(|piece| piece.kind == Kind::Unknown);
    let mut vocabulary = Map::new();
    let mut added = Vec::new();
    for (id, piece) in pieces.iter().enumerate() {
        let previous = vocabulary.insert(piece.text.clone(), id.into());
        ensure!(
            previous.is_none(),
            "its vocabulary has the token {:?} twice",
            piece.text
        );
        let special = matches!(piece.kind, Kind::Control | Kind::Unknown);
        if special || piece.kind == Kind::UserDefined {
            let keeps = ["<unk>", "<s>", "<|endoftext|>"].contains(&&piece.text[..]);
            added.push(
                json!({"id": id, "content": piece.text, "single_word": false,
                "lstrip": false, "rstrip": options.strip_after_special && !keeps,
                "normalized": false, "special": special}),
            );
        }
    }
    let space = SPACE.to_string();
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": space});
    let mut prepare = vec![replace];
    let mut restore = vec![
        json!({"type": "Replace", "pattern": {"String": space}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if options.space_prefix {
        prepare.insert(0, json!({"type": "Prepend", "prepend": space}));
        restore.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let description = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": prepare},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": restore},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown.map(|u| &u.text),
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocabulary, "merges": merges(pieces)},
    });
    Ok(serde_json::from_value(description)?)
}

/// Every way to join two tokens into one, best score first.
fn merges(pieces: &[Piece]) -> Vec<Value> {
    let joined = |piece: &&Piece| piece.kind == Kind::Normal;
    let ids: HashMap<&str, usize> = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| joined(piece))
        .map(|(id, piece)| (&piece.text[..], id))
        .collect();
    let mut found: Vec<(f32, usize, usize, &str, &str)> = Vec::new();
    for piece in pieces.iter().filter(joined) {
        for (at, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(at);
            if let (Some(&first), Some(&second)) = (ids.get(left), ids.get(right)) {
                found.push((piece.score, first, second, left, right));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let pair = |(_, _, _, left, right)| json!([left, right]);
    found.into_iter().map(pair).collect()
}

/// Tokens of LLaMA 1 and 2; further ones were added by a user.
const LLAMA_TOKENS: usize = 32_000;

/// The vocabulary of a GGML file as pieces: 0 is the unknown token, 1 and 2 begin and end a text,
/// 3 to 258 are the bytes.
pub(super) fn pieces_of_ggml(vocabulary: &ggjt::Vocabulary) -> Vec<Piece> {
    let piece = |(id, (token, score)): (usize, &(Vec<u8>, f32))| {
        let text = String::from_utf8_lossy(token);
        let (text, kind) = match id {
            0 => ("<unk>".to_owned(), Kind::Unknown),
            1 => ("<s>".to_owned(), Kind::Control),
            2 => ("</s>".to_owned(), Kind::Control),
            3..=258 => (format!("<0x{:02X}>", id - 3), Kind::Byte),
            LLAMA_TOKENS.. => (text.into_owned(), Kind::UserDefined),
            _ => (text.replace(' ', &SPACE.to_string()), Kind::Normal),
        };
        Piece {
            text,
            score: *score,
            kind,
        }
    };
    vocabulary.iter().enumerate().map(piece).collect()
}
