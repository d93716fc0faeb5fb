//! Bases: opening any format, the tokenizer, the decoder with its frozen and LoRA layers.
//!
//! Opening reads headers and maps the files ([`source`]); on the CPU the weights stay in the
//! mapping, in their own encoding, and are decoded where they are used ([`crate::ops`]).

mod batch;
mod block;
mod builtin;
mod cache;
mod config;
mod decoder;
mod device;
pub mod diffusion;
mod family;
mod ggjt;
pub mod gguf;
mod gguf_base;
mod gguf_names;
mod gguf_tokenizer;
mod hugging_face;
mod lora;
mod memory;
mod quantize;
mod rope;
mod sentencepiece;
mod source;
mod tokenizer;
mod vision;

use anyhow::Result;
use candle_core::{DType, Device};

pub use crate::ops::Variable;
pub use batch::TokenBatch;
pub use cache::KvCache;
pub use config::{Bias, DecoderConfig, LayerAttention, Layers, Linear};
pub use decoder::{Decoder, DropoutKey, LossAndGradients};
pub use device::{DeviceRequest, device};
pub use diffusion::{ClipText, ClipTokenizer, open_clip_tokenizer};
pub use gguf_names::{
    gguf_architecture, gguf_module, hugging_face_module, hugging_face_row, interleaved_row,
    interleaves_heads,
};
pub use lora::{Active, LoraPair, LoraSet, LoraSpec, Parameter, Part, match_targets, peft_targets};
pub use memory::{MemoryEstimate, memory_estimate, momentary_bytes};
pub use quantize::Quantization;
pub use rope::RopeScaling;
pub use tokenizer::Tokenizer;
pub use vision::{Blip, ClipVision, Preprocessing, Size, Speech, vision_model_type};

use source::Source;

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
    /// "safetensors", "gguf", "ggml" or "builtin".
    pub format: String,
    /// "F32", "Q4_1", ...: of most weights.
    pub dtype: String,
    pub parameters: u64,
    /// Bytes of the weights as they will lie in memory on the CPU.
    pub bytes: u64,
    pub config: DecoderConfig,
    /// The files read, for hashing; empty for a built-in base.
    pub files: Vec<std::path::PathBuf>,
    /// What the files do not say and had to be assumed, a sentence each.
    pub notes: Vec<String>,
}

/// Reads the headers of a base: a Hugging Face folder, a `.gguf` file, a GGML `.bin` file or
/// `builtin:tiny-llama`.
///
/// # Errors
/// Nothing there, damaged headers, an architecture or encoding that is not supported: one sentence.
pub fn describe(base_model: &str) -> Result<Description> {
    Ok(Source::open(base_model)?.description())
}

/// As [`describe`], of a base whose dense linears will be quantised.
///
/// # Errors
/// As [`describe`]; there is nothing to quantise.
pub fn describe_quantised(
    base_model: &str,
    quantization: Option<Quantization>,
) -> Result<Description> {
    Ok(Source::open_quantised(base_model, quantization)?.description())
}

/// Reads only the tokenizer of a base.
///
/// # Errors
/// As [`describe`]; no tokenizer, or one that is not supported.
pub fn open_tokenizer(base_model: &str) -> Result<Tokenizer> {
    Source::open(base_model)?.tokenizer()
}

/// Opens only the decoder of a base, as [`open`] does.
///
/// # Errors
/// As [`describe`]; too little memory on the device.
pub fn open_decoder(base_model: &str, device: &Device, dtype: DType) -> Result<Decoder> {
    open_decoder_quantised(base_model, None, device, dtype)
}

/// Opens only the decoder of a base, as [`open_quantised`] does.
///
/// # Errors
/// As [`open_quantised`].
pub fn open_decoder_quantised(
    base_model: &str,
    quantization: Option<Quantization>,
    device: &Device,
    dtype: DType,
) -> Result<Decoder> {
    let source = Source::open_quantised(base_model, quantization)?;
    Decoder::new(&source, device, dtype)
}

/// Opens a base for computing on `device` in `dtype` (f32 on the CPU). Quantised weights stay so.
///
/// # Errors
/// As [`describe`] and [`open_tokenizer`]; too little memory on the device.
pub fn open(base_model: &str, device: &Device, dtype: DType) -> Result<Base> {
    open_quantised(base_model, None, device, dtype)
}

/// As [`open`], and quantises the dense linears of the blocks, one after another: the base is never
/// whole in memory otherwise.
///
/// # Errors
/// As [`open`]; there is nothing to quantise.
pub fn open_quantised(
    base_model: &str,
    quantization: Option<Quantization>,
    device: &Device,
    dtype: DType,
) -> Result<Base> {
    let source = Source::open_quantised(base_model, quantization)?;
    Ok(Base {
        tokenizer: source.tokenizer()?,
        decoder: Decoder::new(&source, device, dtype)?,
        description: source.description(),
    })
}
