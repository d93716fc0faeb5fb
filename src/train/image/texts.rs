//! Captions as the UNet reads them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};

use crate::data::images::{Array, Cache, Key};
use crate::model::Active;
use crate::model::diffusion::{ClipTokenizer, Source, TextCondition, TextEncoders};

/// A text encoder's tokens of one chunk of a caption.
const CHUNK: usize = 75;

/// Captions as ids, and, where the text encoders are frozen, as they are encoded: each once, kept
/// on disk for other runs.
pub(super) struct Texts {
    tokenizer: ClipTokenizer,
    max_chunks: usize,
    clip_skip: usize,
    device: Device,
    dtype: DType,
    /// In memory while they are trained, or captions change from epoch to epoch.
    encoders: RefCell<Option<TextEncoders>>,
    cache: Rc<Cache>,
    /// Of the text encoders' weights.
    weights: blake3::Hash,
    /// What was encoded.
    known: RefCell<HashMap<String, TextCondition>>,
}

/// What `Texts` is made with.
pub(super) struct Settings {
    pub max_token_length: usize,
    pub clip_skip: usize,
    pub cache: Rc<Cache>,
    pub weights: blake3::Hash,
}

impl Texts {
    /// # Errors
    /// The base has no tokenizer that can be read.
    pub fn new(source: &Source, settings: Settings, device: &Device, dtype: DType) -> Result<Self> {
        Ok(Texts {
            tokenizer: source.tokenizer()?,
            max_chunks: settings.max_token_length.div_ceil(CHUNK),
            clip_skip: settings.clip_skip,
            device: device.clone(),
            dtype,
            encoders: RefCell::new(None),
            cache: settings.cache,
            weights: settings.weights,
            known: RefCell::default(),
        })
    }

    pub fn clip_skip(&self) -> usize {
        self.clip_skip
    }

    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// The chunks of a caption, as text encoders that are trained read them.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn chunks(&self, caption: &str) -> Result<Vec<Vec<u32>>> {
        self.tokenizer.chunks(caption, self.max_chunks)
    }

    /// The encoders, opened where they are not yet.
    ///
    /// # Errors
    /// The base cannot be read; the device has too little memory.
    pub fn open(&self, source: &Source) -> Result<std::cell::Ref<'_, TextEncoders>> {
        if self.encoders.borrow().is_none() {
            let opened = source.text_encoders(&self.device, self.dtype)?;
            *self.encoders.borrow_mut() = Some(opened);
        }
        std::cell::Ref::filter_map(self.encoders.borrow(), Option::as_ref)
            .map_err(|_| anyhow::anyhow!("the text encoders are not open"))
    }

    /// Frees the encoders.
    pub fn close(&self) {
        *self.encoders.borrow_mut() = None;
    }

    /// A caption through adapted text encoders.
    ///
    /// # Errors
    /// As [`Texts::open`].
    pub fn encode_adapted(
        &self,
        source: &Source,
        caption: &str,
        adapters: &[Active<'_>],
    ) -> Result<TextCondition> {
        let chunks = self.chunks(caption)?;
        self.open(source)?
            .encode(&[chunks], self.clip_skip, adapters)
    }

    /// A caption through the frozen text encoders.
    ///
    /// # Errors
    /// As [`Texts::open`].
    pub fn encode(&self, source: &Source, caption: &str) -> Result<TextCondition> {
        if let Some(condition) = self.known.borrow().get(caption) {
            return Ok(condition.clone());
        }
        let arrays = self.cache.get_or(&self.key(caption)?, || {
            to_arrays(&self.encode_adapted(source, caption, &[])?)
        })?;
        let condition = from_arrays(&arrays, &self.device)?;
        let mut known = self.known.borrow_mut();
        known.insert(caption.to_owned(), condition.clone());
        Ok(condition)
    }

    /// A caption that comes once: neither kept nor looked for.
    ///
    /// # Errors
    /// As [`Texts::open`].
    pub fn encode_once(&self, source: &Source, caption: &str) -> Result<TextCondition> {
        match self.known.borrow().get(caption) {
            Some(condition) => Ok(condition.clone()),
            None => self.encode_adapted(source, caption, &[]),
        }
    }

    fn key(&self, caption: &str) -> Result<Key> {
        let ids: Vec<u8> = self
            .chunks(caption)?
            .concat()
            .iter()
            .flat_map(|id| id.to_le_bytes())
            .collect();
        Ok(Key::new("text")
            .of("weights", self.weights.as_bytes())
            .of("clip_skip", &(self.clip_skip as u64).to_le_bytes())
            .of("dtype", format!("{:?}", self.dtype).as_bytes())
            .of("ids", &ids))
    }
}

/// A condition of one caption as arrays: the context, and the pooled output where there is one.
fn to_arrays(condition: &TextCondition) -> Result<Vec<Array>> {
    let array = |tensor: &Tensor| -> Result<Array> {
        let flat = tensor.to_dtype(DType::F32)?.flatten_all()?;
        Ok(Array {
            shape: tensor.dims().to_vec(),
            data: flat.to_vec1()?,
        })
    };
    let mut arrays = vec![array(&condition.context)?];
    arrays.extend(condition.pooled.as_ref().map(array).transpose()?);
    Ok(arrays)
}

fn from_arrays(arrays: &[Array], device: &Device) -> Result<TextCondition> {
    let tensor = |array: &Array| -> Result<Tensor> {
        Ok(Tensor::from_slice(&array.data, &array.shape[..], device)?)
    };
    let context = tensor(arrays.first().context("the cache holds no text")?)?;
    ensure!(arrays.len() <= 2, "the cache holds another kind of text");
    Ok(TextCondition {
        lengths: vec![context.dim(0)?],
        context,
        pooled: arrays.get(1).map(tensor).transpose()?,
    })
}
