//! Bases: opening any format, the tokenizer, the decoder with its frozen and LoRA layers.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};

/// A base in memory, frozen.
pub struct Base {
    pub description: Description,
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
}

/// What the headers of a base's files tell, without reading weights.
#[derive(Clone, Debug)]
pub struct Description {
    /// As written in the config.
    pub name: String,
    /// "safetensors", "gguf" or "builtin".
    pub format: String,
    /// "F32", "Q4_1", ...: of most weights.
    pub dtype: String,
    pub parameters: u64,
    /// Bytes of the weights as they will lie in memory on the CPU.
    pub bytes: u64,
    pub config: DecoderConfig,
    /// The files read, for hashing; empty for a built-in base.
    pub files: Vec<std::path::PathBuf>,
}

/// Hyperparameters of a LLaMA-like decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// "llama".
    pub architecture: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// One divisor per frequency, as GGUF's `rope_freqs.weight` gives them.
    Factors(Vec<f32>),
}

impl DecoderConfig {
    /// Every linear of the blocks as `(name, in_features, out_features)`, in order:
    /// `model.layers.0.self_attn.q_proj`, ...
    pub fn linears(&self) -> Vec<(String, usize, usize)> {
        todo!("engine room")
    }
}

/// Reads the headers of a base: a Hugging Face folder, a `.gguf` file or `builtin:tiny-llama`.
pub fn describe(base_model: &str) -> Result<Description> {
    let _ = base_model;
    todo!("engine room")
}

/// Reads only the tokenizer of a base.
pub fn open_tokenizer(base_model: &str) -> Result<Tokenizer> {
    let _ = base_model;
    todo!("engine room")
}

/// Opens a base for computing on `device` in `dtype` (f32 on the CPU). Quantised weights stay so.
pub fn open(base_model: &str, device: &Device, dtype: DType) -> Result<Base> {
    let _ = (base_model, device, dtype);
    todo!("engine room")
}

/// Text to token ids and back, with what the base says about its special tokens and chat template.
pub struct Tokenizer {
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
    pub chat_template: Option<String>,
    pub add_bos: bool,
}

impl Tokenizer {
    /// Token ids of `text`; special tokens written in it are recognised; no BOS/EOS is added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let _ = text;
        todo!("engine room")
    }
    /// Text of `ids`; special tokens are left out unless `special`.
    pub fn decode(&self, ids: &[u32], special: bool) -> Result<String> {
        let _ = (ids, special);
        todo!("engine room")
    }
    pub fn vocab_size(&self) -> usize {
        todo!("engine room")
    }
    /// The text of one token, as needed by templates (`bos_token`, `eos_token`).
    pub fn token(&self, id: u32) -> Option<String> {
        let _ = id;
        todo!("engine room")
    }
}

/// One A/B pair. `scale` (alpha / r, or alpha / sqrt(r) with rsLoRA) multiplies `B A x`.
#[derive(Clone, Debug)]
pub struct LoraPair {
    /// `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// `[r, in]`, f32.
    pub a: Var,
    /// `[out, r]`, f32.
    pub b: Var,
    pub scale: f64,
}

/// An adapter in memory: its pairs by module, in the order of the base's modules.
#[derive(Clone, Debug)]
pub struct LoraSet {
    pub rank: usize,
    pub alpha: f64,
    pub use_rslora: bool,
    pub dropout: f64,
    /// As PEFT writes them: `["q_proj", "v_proj"]`.
    pub target_modules: Vec<String>,
    pub pairs: Vec<LoraPair>,
    /// Module -> index into `pairs`.
    pub index: BTreeMap<String, usize>,
}

impl LoraSet {
    /// Fresh pairs for the given modules `(name, in, out)`: A Kaiming-uniform (a = sqrt 5) from the
    /// counter-based generator, B zero.
    pub fn new(
        modules: &[(String, usize, usize)],
        rank: usize,
        alpha: f64,
        use_rslora: bool,
        dropout: f64,
        target_modules: Vec<String>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let _ = (
            modules,
            rank,
            alpha,
            use_rslora,
            dropout,
            target_modules,
            seed,
            device,
        );
        todo!("engine room")
    }
}

/// An adapter applied at a strength (1.0: as trained).
#[derive(Clone, Copy)]
pub struct Active<'a> {
    pub set: &'a LoraSet,
    pub strength: f64,
}

/// A batch on the device: token ids `[B, T]` u32, right-padded; row lengths; and targets.
pub struct TokenBatch {
    pub input_ids: Vec<Vec<u32>>,
    /// Per row, per position: the token to predict at that position, or `None` (masked).
    /// `targets[b][t]` is `Some(input_ids[b][t + 1])` where token `t + 1` is trained on.
    pub targets: Vec<Vec<Option<u32>>>,
}

/// Key of a micro-batch's dropout masks: equal keys give equal masks.
#[derive(Clone, Copy, Debug)]
pub struct DropoutKey {
    pub seed: u64,
    pub step: u64,
    pub micro_batch: u32,
}

/// What a training pass gives: sums, so that micro-batches add up to the full batch.
pub struct LossAndGradients {
    /// Sum over trained tokens of the negative log-likelihood.
    pub loss_sum: f64,
    pub trained_tokens: u64,
    /// Gradients of `loss_sum` for (A, B) of every pair of the set, in its order, f32.
    pub gradients: Vec<(Tensor, Tensor)>,
}

/// Frozen decoder; all state of a pass is local to the call.
pub struct Decoder;

impl Decoder {
    /// Logits `[B, T, V]` f32 of whole sequences.
    pub fn logits(&self, input_ids: &[Vec<u32>], adapters: &[Active<'_>]) -> Result<Tensor> {
        let _ = (input_ids, adapters);
        todo!("engine room")
    }
    /// Sum of losses and number of trained tokens; logits are never whole in memory.
    pub fn loss(&self, batch: &TokenBatch, adapters: &[Active<'_>]) -> Result<(f64, u64)> {
        let _ = (batch, adapters);
        todo!("engine room")
    }
    /// Forward and backward. With `recompute` only block inputs are kept between the two.
    pub fn loss_and_gradients(
        &self,
        batch: &TokenBatch,
        set: &LoraSet,
        dropout: Option<DropoutKey>,
        recompute: bool,
    ) -> Result<LossAndGradients> {
        let _ = (batch, set, dropout, recompute);
        todo!("engine room")
    }
    /// A fresh key/value cache for step-by-step generation of one sequence.
    pub fn cache(&self) -> KvCache {
        todo!("engine room")
    }
    /// Feeds `ids` after what the cache holds; logits `[V]` f32 after the last of them.
    pub fn next_logits(
        &self,
        ids: &[u32],
        cache: &mut KvCache,
        adapters: &[Active<'_>],
    ) -> Result<Tensor> {
        let _ = (ids, cache, adapters);
        todo!("engine room")
    }
}

/// Keys and values of the tokens fed so far.
pub struct KvCache;
