//! Text to token ids and back.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

use anyhow::{Result, anyhow};
use serde_json::Value;
use tokenizers::normalizers::Precompiled;

use super::gguf::Header;
use super::sentencepiece::{self, Options};
use super::source::read_text;
use super::{ggjt, gguf_tokenizer};
use crate::error::input_error;

/// Text to token ids and back, with what the base says about its special tokens and chat template.
pub struct Tokenizer {
    pub bos: Option<u32>,
    /// Any of these ends a text; the first is the tokenizer's own end-of-sequence token.
    pub eos: Vec<u32>,
    pub chat_template: Option<String>,
    pub add_bos: bool,
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Token ids of `text`; special tokens written in it are recognised; no BOS/EOS is added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = contained(|| self.inner.encode_fast(text, false));
        let encoding = encoding.map_err(|e| anyhow!("the tokenizer failed: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`; special tokens are left out unless `special`.
    pub fn decode(&self, ids: &[u32], special: bool) -> Result<String> {
        let text = contained(|| self.inner.decode(ids, !special));
        text.map_err(|e| anyhow!("the tokenizer failed: {e}"))
    }

    /// A hash of all that decides the ids of a text.
    ///
    /// # Errors
    /// The tokenizer cannot be written down.
    pub fn fingerprint(&self) -> Result<blake3::Hash> {
        let written = self.inner.to_string(false);
        let mut hasher = blake3::Hasher::new();
        hasher.update(
            written
                .map_err(|e| anyhow!("the tokenizer failed: {e}"))?
                .as_bytes(),
        );
        hasher.update(format!("{:?} {:?} {}", self.bos, self.eos, self.add_bos).as_bytes());
        Ok(hasher.finalize())
    }

    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The text of one token, as needed by templates (`bos_token`, `eos_token`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// # Errors
    /// `tokenizer.json` is missing or damaged.
    pub(super) fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            return Err(input_error(format!(
                "{} has no tokenizer.json; a base needs its tokenizer in that form",
                folder.display()
            )));
        }
        let optional = |name: &str| -> Result<Option<String>> {
            let path = folder.join(name);
            path.exists().then(|| read_text(&path)).transpose()
        };
        let json = |name: &str| -> Result<Option<Value>> {
            optional(name)?
                .map(|text| {
                    serde_json::from_str(&text).map_err(|e| {
                        input_error(format!(
                            "{} is not valid JSON: {e}",
                            folder.join(name).display()
                        ))
                    })
                })
                .transpose()
        };
        Self::from_parts(Parts {
            tokenizer: &read_text(&path)?,
            file: &path.display().to_string(),
            config: json("tokenizer_config.json")?.unwrap_or_default(),
            model: json("config.json")?.unwrap_or_default(),
            generation: json("generation_config.json")?.unwrap_or_default(),
            template: optional("chat_template.jinja")?,
        })
    }

    pub(super) fn from_parts(parts: Parts<'_>) -> Result<Self> {
        let mut inner = parse(parts.tokenizer)
            .map_err(|e| input_error(format!("{} is no tokenizer: {e}", parts.file)))?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| anyhow!("the tokenizer failed: {e}"))?;
        let config = &parts.config;
        let named = |key: &str| {
            let token = config.get(key)?;
            let token = token.as_str().or_else(|| token.get("content")?.as_str())?;
            inner.token_to_id(token)
        };
        let id = |json: &Value, key: &str| match json.get(key) {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
            Some(id) => id.as_u64().into_iter().collect::<Vec<_>>(),
            None => Vec::new(),
        };
        let mut eos: Vec<u32> = named("eos_token").into_iter().collect();
        for json in [&parts.generation, &parts.model] {
            for id in id(json, "eos_token_id") {
                if !eos.contains(&(id as u32)) {
                    eos.push(id as u32);
                }
            }
        }
        let model_bos = || {
            id(&parts.model, "bos_token_id")
                .first()
                .map(|&id| id as u32)
        };
        let bos = named("bos_token").or_else(model_bos);
        // Whether BOS is added is mostly left to the post-processor in tokenizer.json: ask it.
        let add_bos = match config.get("add_bos_token").and_then(Value::as_bool) {
            Some(add) => add,
            None => match contained(|| inner.encode("", true)) {
                Ok(encoding) => bos.is_some() && encoding.get_ids().first().copied() == bos,
                Err(_) => false,
            },
        };
        Ok(Tokenizer {
            bos,
            eos,
            chat_template: parts.template.or_else(|| template(config)),
            add_bos,
            inner,
        })
    }

    /// # Errors
    /// The file has no tokenizer, or one of a kind that is not supported.
    pub(super) fn from_gguf(header: &Header, file: &str) -> Result<Self> {
        let inner = gguf_tokenizer::build(header, file)?;
        let id = |key: &str| header.size(key).and_then(|id| u32::try_from(id).ok());
        let mut eos: Vec<u32> = Vec::new();
        for key in ["eos_token_id", "eot_token_id"] {
            if let Some(id) = id(&format!("tokenizer.ggml.{key}"))
                && !eos.contains(&id)
            {
                eos.push(id);
            }
        }
        let sentencepiece = header.text("tokenizer.ggml.model") == Some(gguf_tokenizer::LLAMA);
        let mut bos = id("tokenizer.ggml.bos_token_id");
        if sentencepiece {
            // llama.cpp's defaults for this kind.
            bos = bos.or(Some(1));
            if eos.is_empty() {
                eos.push(2);
            }
        }
        let pre = header.text("tokenizer.ggml.pre");
        let add_bos = header.boolean("tokenizer.ggml.add_bos_token");
        Ok(Tokenizer {
            bos,
            eos,
            chat_template: header.text("tokenizer.chat_template").map(str::to_owned),
            // llama.cpp's default for SentencePiece and Llama 3's tokenizer, and for no other BPE.
            add_bos: add_bos.unwrap_or(sentencepiece || pre.is_some_and(gguf_tokenizer::is_llama3)),
            inner,
        })
    }

    /// LLaMA's tokenizer, with LLaMA 2's chat template, which a GGML file does not hold.
    ///
    /// # Errors
    /// A vocabulary that is damaged.
    pub(super) fn from_ggml(vocabulary: &ggjt::Vocabulary, file: &str) -> Result<Self> {
        let pieces = sentencepiece::pieces_of_ggml(vocabulary);
        let options = Options {
            space_prefix: true,
            strip_after_special: false,
        };
        let inner = sentencepiece::build(&pieces, &options)
            .map_err(|e| input_error(format!("{file} cannot be used: {e:#}")))?;
        Ok(Tokenizer {
            bos: Some(1),
            eos: vec![2],
            chat_template: Some(LLAMA2_TEMPLATE.to_owned()),
            add_bos: true,
            inner,
        })
    }
}

/// `tokenizer.json`. The library takes for granted that its text is JSON and that a normaliser's table
/// is one, and panics where they are not; so they are looked at first.
pub(super) fn parse(text: &str) -> tokenizers::Result<tokenizers::Tokenizer> {
    let json: Value = serde_json::from_str(text)?;
    check_tables(&json["normalizer"])?;
    contained(|| text.parse())
}

fn check_tables(normalizer: &Value) -> tokenizers::Result<()> {
    if normalizer["type"] == "Precompiled" {
        serde_json::from_value::<Precompiled>(normalizer.clone())?;
    }
    let inner = normalizer["normalizers"].as_array();
    inner.into_iter().flatten().try_for_each(check_tables)
}

/// What the library does with a vocabulary or table that someone else made: should it panic, that is an
/// error of the file, of which nothing else is printed.
fn contained<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    thread_local!(static CONTAINED: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CONTAINED.get() {
                print(info);
            }
        }));
    });
    CONTAINED.set(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(false);
    done.unwrap_or_else(|_| Err("it is damaged".into()))
}

/// The format that LLaMA 2 Chat was trained with: `chat_completion` of Meta's `generation.py`.
const LLAMA2_TEMPLATE: &str = "\
{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}\
{%- for message in messages[first:] -%}\
{%- set text = message['content'] | trim -%}\
{%- if loop.first and first == 1 -%}\
{%- set text = '<<SYS>>\n' ~ messages[0]['content'] ~ '\n<</SYS>>\n\n' ~ text -%}\
{%- endif -%}\
{%- if message['role'] == 'user' -%}\
{{- bos_token ~ '[INST] ' ~ text ~ ' [/INST]' -}}\
{%- else -%}\
{{- ' ' ~ text ~ ' ' ~ eos_token -}}\
{%- endif -%}\
{%- endfor -%}";

/// The texts a tokenizer is made of.
pub(super) struct Parts<'a> {
    pub tokenizer: &'a str,
    /// Named in errors.
    pub file: &'a str,
    /// `tokenizer_config.json`.
    pub config: Value,
    /// `config.json`.
    pub model: Value,
    /// `generation_config.json`.
    pub generation: Value,
    /// `chat_template.jinja`, which wins over the one in `config`.
    pub template: Option<String>,
}

/// The chat template in `tokenizer_config.json`: a string, or the one named "default" of a list.
fn template(config: &Value) -> Option<String> {
    let template = config.get("chat_template")?;
    let text = template.as_str().or_else(|| {
        let named = template.as_array()?.iter();
        let mut default = named.filter(|t| t.get("name").is_some_and(|name| name == "default"));
        default.next()?.get("template")?.as_str()
    })?;
    Some(text.to_owned())
}
