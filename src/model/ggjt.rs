//! A LLaMA in GGML's last format before GGUF: a `.bin` file of the kind `ggjt`, version 3.
//!
//! Format: llama.cpp's `llama_model_loader` of June to August 2023. The header does not say the
//! size of the MLP or the number of key/value heads: the tensors' shapes do. Nor does it say the
//! norm's epsilon, RoPE's theta or the context: they are LLaMA 2's, as llama.cpp's converter
//! advises (`convert_llama_ggml_to_gguf.py`).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::config::{Bias, DecoderConfig, LayerAttention};
use super::gguf::{Reader, TensorInfo, encoding};
use super::rope::RopeScaling;
use super::source::{Source, Stored, TokenizerFiles, map};
use crate::error::input_error;
use crate::ops::Bytes;

const EPS: f64 = 1e-5;
const THETA: f64 = 10_000.0;
const CONTEXT: usize = 4096;

const NOTE: &str = "a GGML file tells neither norm epsilon, rope theta, context nor chat template: \
     LLaMA 2's are used (1e-5, 10000, 4096 and [INST] ... [/INST]; `chat_template` sets another)";

/// The four bytes that a GGML file of any version begins with.
pub(super) fn is_ggml(magic: &[u8]) -> bool {
    matches!(magic, b"tjgg" | b"fmgg" | b"lmgg" | b"algg" | b"nsgg")
}

/// A token's bytes and score, spaces being spaces; control tokens are empty.
pub(super) type Vocabulary = Vec<(Vec<u8>, f32)>;

/// # Errors
/// Another version of the format; a damaged file.
pub(super) fn open(path: &Path) -> Result<Source> {
    let file = path.display().to_string();
    let bytes: Bytes = map(path)?;
    let parsed = Parsed::read((*bytes).as_ref())
        .map_err(|e| input_error(format!("{file} cannot be used: {e:#}")))?;
    let config = parsed
        .config()
        .map_err(|e| input_error(format!("{file} cannot be used: {e:#}")))?;
    config.check(&file)?;
    let mut tensors = BTreeMap::new();
    for (name, info) in parsed.tensors {
        let Some(name) = hugging_face_name(&name) else {
            return Err(input_error(format!(
                "{file} has the tensor {name}, which LLaMA does not have"
            )));
        };
        let module = name.strip_suffix(".weight");
        let heads = module.and_then(|module| config.interleaved_heads(module));
        let stored = Stored {
            bytes: bytes.clone(),
            start: info.start,
            encoding: info.encoding,
            shape: info.shape,
            interleaved_heads: heads,
        };
        tensors.insert(name, stored);
    }
    Ok(Source {
        name: file.clone(),
        format: "ggml",
        config,
        tensors,
        files: vec![path.to_owned()],
        tokenizer: TokenizerFiles::Ggml(parsed.vocabulary, file),
        notes: vec![NOTE.to_owned()],
        quantization: None,
        mapped: Vec::new(),
    })
}

fn hugging_face_name(name: &str) -> Option<String> {
    let module = match name.strip_suffix(".weight")? {
        "tok_embeddings" => "model.embed_tokens".to_owned(),
        "norm" => "model.norm".to_owned(),
        "output" => "lm_head".to_owned(),
        other => {
            let (layer, part) = other.strip_prefix("layers.")?.split_once('.')?;
            let module = match part {
                "attention_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "attention.wq" => "self_attn.q_proj",
                "attention.wk" => "self_attn.k_proj",
                "attention.wv" => "self_attn.v_proj",
                "attention.wo" => "self_attn.o_proj",
                "feed_forward.w1" => "mlp.gate_proj",
                "feed_forward.w2" => "mlp.down_proj",
                "feed_forward.w3" => "mlp.up_proj",
                _ => return None,
            };
            format!("model.layers.{layer}.{module}")
        }
    };
    Some(format!("{module}.weight"))
}

/// A file's header and where its tensors lie.
struct Parsed {
    hidden: usize,
    heads: usize,
    layers: usize,
    rotated: usize,
    vocabulary: Vocabulary,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Parsed {
    fn read(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        check_version(&mut reader)?;
        let mut number = || Ok::<_, anyhow::Error>(reader.u32()? as usize);
        let (tokens, hidden, _multiple, heads) = (number()?, number()?, number()?, number()?);
        let (layers, rotated, _kind) = (number()?, number()?, number()?);
        ensure!(
            reader.left() / 8 >= tokens,
            "its header declares {tokens} tokens, more than the file can hold"
        );
        let mut vocabulary = Vec::with_capacity(tokens);
        for _ in 0..tokens {
            let length = reader.u32()? as usize;
            let token = reader.take(length)?.to_vec();
            vocabulary.push((token, f32::from_le_bytes(reader.array()?)));
        }
        let mut tensors = BTreeMap::new();
        while reader.left() > 0 {
            let (name, info) = tensor(&mut reader)?;
            tensors.insert(name, info);
        }
        Ok(Parsed {
            hidden,
            heads,
            layers,
            rotated,
            vocabulary,
            tensors,
        })
    }

    fn config(&self) -> Result<DecoderConfig> {
        let rows = |name: &str| {
            let info = self.tensors.get(name);
            let info = info.with_context(|| format!("it lacks the tensor {name}"))?;
            Ok::<_, anyhow::Error>(info.shape[0])
        };
        ensure!(
            self.heads > 0 && self.hidden.is_multiple_of(self.heads),
            "its {} features do not divide into {} heads",
            self.hidden,
            self.heads
        );
        let head_dim = self.hidden / self.heads;
        ensure!(
            self.rotated == head_dim && head_dim > 0,
            "{} of a head's {head_dim} features are rotated, which LLaMA does not do",
            self.rotated
        );
        let keys = rows("layers.0.attention.wk.weight")?;
        ensure!(
            keys.is_multiple_of(head_dim),
            "its keys have {keys} features, no whole number of heads of {head_dim}"
        );
        Ok(DecoderConfig {
            architecture: "llama".to_owned(),
            vocab_size: rows("tok_embeddings.weight")?,
            hidden_size: self.hidden,
            intermediate_size: rows("layers.0.feed_forward.w1.weight")?,
            layers: self.layers,
            heads: self.heads,
            kv_heads: keys / head_dim,
            head_dim,
            rms_norm_eps: EPS,
            rope_theta: THETA,
            rotary_dim: head_dim,
            rope_scaling: RopeScaling::None,
            max_position_embeddings: CONTEXT,
            tie_word_embeddings: !self.tensors.contains_key("output.weight"),
            fused: false,
            bias: Bias::default(),
            qk_norm: false,
            attention: LayerAttention::default(),
        })
    }
}

/// Magic and version; what is not version 3 lays its quantised blocks out otherwise.
fn check_version(reader: &mut Reader<'_>) -> Result<()> {
    let magic = reader.take(4)?;
    let found = match magic {
        b"tjgg" => match reader.u32()? {
            3 => return Ok(()),
            version => format!("ggjt of version {version}"),
        },
        b"fmgg" => "ggmf".to_owned(),
        b"lmgg" => "ggml without a version".to_owned(),
        b"algg" => bail!("it is an adapter (ggla), not a base"),
        b"nsgg" => bail!("it is a saved session (ggsn), not a base"),
        _ => bail!("it does not begin as a GGML file"),
    };
    bail!(
        "its format is {found}, and of the GGML formats only ggjt of version 3 is supported: take \
         a GGUF of the same model, or, when it is not quantised (f16 or f32), convert it with \
         llama.cpp's convert_llama_ggml_to_gguf.py"
    )
}

fn tensor(reader: &mut Reader<'_>) -> Result<(String, TensorInfo)> {
    let (dimensions, length, kind) = (reader.u32()?, reader.u32()? as usize, reader.u32()?);
    ensure!(
        (1..=2).contains(&dimensions),
        "a tensor of {dimensions} dimensions begins where one of 1 or 2 was expected"
    );
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(reader.u32()? as usize);
    }
    shape.reverse();
    let name = String::from_utf8_lossy(reader.take(length)?).into_owned();
    let encoding = encoding(kind, &name)?;
    reader.align(32)?;
    let columns = shape[shape.len() - 1];
    ensure!(
        columns.is_multiple_of(encoding.block_size()),
        "its tensor {name} has rows of {columns} numbers, no whole number of {encoding:?} blocks"
    );
    let size = shape
        .iter()
        .try_fold(1usize, |count, &size| count.checked_mul(size))
        .and_then(|count| (count / encoding.block_size()).checked_mul(encoding.type_size()));
    let start = reader.at();
    let size = size.with_context(|| format!("its tensor {name} is too large"))?;
    reader
        .take(size)
        .ok()
        .with_context(|| format!("it ends in the middle of its tensor {name}"))?;
    let info = TensorInfo {
        shape,
        encoding,
        start,
    };
    Ok((name, info))
}
