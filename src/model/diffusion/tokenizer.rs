//! CLIP's tokenizer: one vocabulary for all kinds of Stable Diffusion. Checkpoints carry none, so it
//! is looked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use crate::error::input_error;
use crate::model::source::read_text;
use crate::model::tokenizer;

/// Ids of a chunk: begin, text, end.
pub const CHUNK: usize = 77;
const BEGIN: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// The vocabulary as OpenAI published it, compressed or not.
const OPENAI: [&str; 2] = ["bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt"];
/// Merges that OpenAI's file holds beyond those that are used.
const VOCABULARY: usize = 49408;
/// Folders of Hugging Face's cache that have the vocabulary, the whole of it or in `tokenizer/`.
const CACHED: [&str; 9] = [
    "models--openai--clip-vit-large-patch14",
    "models--openai--clip-vit-base-patch32",
    "models--openai--clip-vit-base-patch16",
    "models--stable-diffusion-v1-5--stable-diffusion-v1-5",
    "models--runwayml--stable-diffusion-v1-5",
    "models--CompVis--stable-diffusion-v1-4",
    "models--stabilityai--stable-diffusion-2-1",
    "models--stabilityai--stable-diffusion-xl-base-1.0",
    "models--laion--CLIP-ViT-bigG-14-laion2B-39B-b160k",
];

/// Captions to token ids.
pub struct ClipTokenizer {
    inner: tokenizers::Tokenizer,
    pub bos: u32,
    pub eos: u32,
}

impl ClipTokenizer {
    /// Token ids of a caption, without begin and end.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|e| anyhow!("the tokenizer failed: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// A caption as chunks of 77 ids: begin, up to 75 of its tokens, end, and ends to fill up. An
    /// empty caption is one chunk; of a long one what lies beyond `max_chunks` is cut off.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn chunks(&self, text: &str, max_chunks: usize) -> Result<Vec<Vec<u32>>> {
        let ids = self.ids(text)?;
        let chunk = |ids: &[u32]| {
            let mut chunk = vec![self.bos];
            chunk.extend_from_slice(ids);
            chunk.resize(CHUNK, self.eos);
            chunk
        };
        if ids.is_empty() {
            return Ok(vec![chunk(&[])]);
        }
        let chunks = ids.chunks(CHUNK - 2).take(max_chunks.max(1));
        Ok(chunks.map(chunk).collect())
    }

    /// How many of a caption's tokens are cut off with so many chunks.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn cut_off(&self, text: &str, max_chunks: usize) -> Result<usize> {
        let room = max_chunks.max(1) * (CHUNK - 2);
        Ok(self.ids(text)?.len().saturating_sub(room))
    }

    /// From the texts of `vocab.json` and `merges.txt`; `file` names them in errors.
    ///
    /// # Errors
    /// They are damaged.
    pub(super) fn from_texts(vocabulary: &str, merges: &str, file: &str) -> Result<Self> {
        let vocabulary: Value = serde_json::from_str(vocabulary)
            .map_err(|e| input_error(format!("{file}: vocab.json is not valid JSON: {e}")))?;
        let merges: Vec<&str> = merges
            .lines()
            .filter(|line| !line.starts_with("#version") && !line.trim().is_empty())
            .collect();
        Self::from_json(&description(&vocabulary, &merges), file)
    }

    /// From `tokenizer.json`.
    fn from_json(text: &str, file: &str) -> Result<Self> {
        let mut inner = tokenizer::parse(text)
            .map_err(|e| input_error(format!("{file} is no tokenizer: {e}")))?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| anyhow!("the tokenizer failed: {e}"))?;
        let id = |token: &str| {
            inner.token_to_id(token).ok_or_else(|| {
                input_error(format!("{file} is not CLIP's tokenizer: it has no {token}"))
            })
        };
        let (bos, eos) = (id(BEGIN)?, id(END)?);
        Ok(ClipTokenizer { inner, bos, eos })
    }

    /// From OpenAI's list of merges: bytes, bytes at the end of a word, merges, begin and end.
    fn from_openai(text: &str, file: &str) -> Result<Self> {
        let letters: Vec<String> = byte_letters().iter().map(char::to_string).collect();
        let merges: Vec<&str> = text
            .lines()
            .skip(1)
            .take(VOCABULARY - 2 * letters.len() - 2)
            .collect();
        let ends = letters.iter().map(|letter| format!("{letter}</w>"));
        let merged = merges.iter().map(|merge| merge.replace(' ', ""));
        let tokens = letters.iter().cloned().chain(ends).chain(merged);
        let tokens = tokens.chain([BEGIN.to_owned(), END.to_owned()]);
        let ids: BTreeMap<String, usize> =
            tokens.enumerate().map(|(id, token)| (token, id)).collect();
        Self::from_json(&description(&json!(ids), &merges), file)
    }
}

/// The letters that GPT-2's byte-level BPE writes bytes with, in the order of OpenAI's vocabulary.
fn byte_letters() -> Vec<char> {
    let plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let printed = (0..=255u8).filter(plain).map(char::from);
    let others = (0..=255u8).filter(|byte| !plain(byte)).count() as u32;
    printed
        .chain((0..others).filter_map(|index| char::from_u32(256 + index)))
        .collect()
}

/// `tokenizer.json` of CLIP's tokenizer, as transformers converts it
/// (`convert_slow_tokenizer.CLIPConverter`).
fn description(vocabulary: &Value, merges: &[&str]) -> String {
    let merges: Vec<Vec<&str>> = merges
        .iter()
        .map(|merge| merge.splitn(2, ' ').collect())
        .collect();
    let special = |token: &str| {
        json!({
            "id": vocabulary.get(token), "content": token, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": true, "special": true,
        })
    };
    let pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let known = [BEGIN, END]
        .into_iter()
        .filter(|token| vocabulary.get(*token).is_some());
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": known.map(special).collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": merges,
        },
    })
    .to_string()
}

/// Opens the tokenizer of a folder: `vocab.json` and `merges.txt`, `tokenizer.json`, or OpenAI's
/// `bpe_simple_vocab_16e6.txt.gz`.
///
/// # Errors
/// The folder has none of them; they are damaged.
pub fn open_clip_tokenizer(folder: &Path) -> Result<ClipTokenizer> {
    match open(folder)? {
        Some(tokenizer) => Ok(tokenizer),
        None => Err(input_error(format!(
            "{} has no CLIP tokenizer: it must hold vocab.json and merges.txt, tokenizer.json, or {}",
            folder.display(),
            OPENAI[0]
        ))),
    }
}

/// `None`: the folder has none.
fn open(folder: &Path) -> Result<Option<ClipTokenizer>> {
    let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let name = folder.display().to_string();
    if vocabulary.exists() && merges.exists() {
        let (vocabulary, merges) = (read_text(&vocabulary)?, read_text(&merges)?);
        return ClipTokenizer::from_texts(&vocabulary, &merges, &name).map(Some);
    }
    let whole = folder.join("tokenizer.json");
    if whole.exists() {
        let file = whole.display().to_string();
        return ClipTokenizer::from_json(&read_text(&whole)?, &file).map(Some);
    }
    for name in OPENAI {
        let path = folder.join(name);
        if path.exists() {
            let file = path.display().to_string();
            return ClipTokenizer::from_openai(&read_openai(&path)?, &file).map(Some);
        }
    }
    Ok(None)
}

fn read_openai(path: &Path) -> Result<String> {
    use std::io::Read;
    let unreadable =
        |e: std::io::Error| input_error(format!("{} cannot be read: {e}", path.display()));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    // It has 3 MB; a file that unpacks to more is another.
    const MOST: u64 = 64 << 20;
    match path.extension().is_some_and(|extension| extension == "gz") {
        true => flate2::read::GzDecoder::new(file)
            .take(MOST)
            .read_to_string(&mut text),
        false => file.take(MOST).read_to_string(&mut text),
    }
    .map_err(unreadable)?;
    Ok(text)
}

/// The tokenizer for a single-file checkpoint: from a folder beside it or above, from Hugging Face's
/// cache, or from an installed Python package of CLIP.
///
/// # Errors
/// None is found; the first that is found is damaged.
pub(super) fn find(checkpoint: &Path) -> Result<ClipTokenizer> {
    for folder in places(checkpoint) {
        if folder.is_dir()
            && let Some(tokenizer) = open(&folder)?
        {
            return Ok(tokenizer);
        }
    }
    let beside = checkpoint.parent().unwrap_or(Path::new("."));
    Err(input_error(format!(
        "{} has no tokenizer in it, as all single-file checkpoints, and CLIP's vocabulary is found \
         neither beside it nor in Hugging Face's cache; put vocab.json and merges.txt (the folder \
         'tokenizer' of any Stable Diffusion on huggingface.co, or openai/clip-vit-large-patch14) \
         into {}",
        checkpoint.display(),
        beside.join("tokenizer").display()
    )))
}

/// Where the vocabulary is looked for, in order.
fn places(checkpoint: &Path) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let absolute = std::path::absolute(checkpoint).unwrap_or_else(|_| checkpoint.to_owned());
    // Beside the checkpoint, then above it: ComfyUI keeps models in models/checkpoints and the
    // vocabulary in comfy/sd1_tokenizer.
    for folder in absolute.ancestors().skip(1).take(4) {
        for name in ["tokenizer", "clip-vit-large-patch14", "comfy/sd1_tokenizer"] {
            places.push(folder.join(name));
        }
        if Some(folder) == absolute.parent() {
            // Not a tokenizer.json there: it may be any model's.
            let own = |name: &str| folder.join(name).exists();
            if OPENAI.iter().any(|name| own(name)) || (own("vocab.json") && own("merges.txt")) {
                places.push(folder.to_owned());
            }
        }
    }
    for hub in hubs() {
        for model in CACHED {
            for snapshot in sorted(&hub.join(model).join("snapshots")) {
                places.push(snapshot.join("tokenizer"));
                places.push(snapshot);
            }
        }
    }
    if let Some(environment) = variable("VIRTUAL_ENV").or_else(|| variable("CONDA_PREFIX")) {
        for python in sorted(&environment.join("lib")) {
            for package in ["open_clip", "clip"] {
                places.push(python.join("site-packages").join(package));
            }
        }
    }
    places
}

/// Hugging Face's caches, by the variables that its library reads.
fn hubs() -> Vec<PathBuf> {
    let home = variable("HF_HOME")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(variable("HOME")?.join(".cache/huggingface")));
    let hub = variable("HF_HUB_CACHE").or_else(|| Some(home?.join("hub")));
    hub.into_iter().collect()
}

fn variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name)?;
    (!value.is_empty()).then(|| PathBuf::from(value))
}

/// What lies in a folder, in the order of names.
fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
