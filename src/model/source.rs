//! What the files of a base hold, found by reading headers only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::config::DecoderConfig;
use super::quantize::Quantization;
use super::tokenizer::Tokenizer;
use super::{Description, builtin, ggjt, gguf_base, hugging_face};
use crate::error::input_error;
use crate::ops::{Bytes, FrozenWeight, HostWeight};

/// A tensor in a file, not yet touched.
#[derive(Clone)]
pub(super) struct Stored {
    pub bytes: Bytes,
    pub start: usize,
    pub encoding: GgmlDType,
    /// Row-major.
    pub shape: Vec<usize>,
    /// See [`HostWeight::with_interleaved_heads`].
    pub interleaved_heads: Option<usize>,
}

/// An opened base: its shape, and its tensors by their Hugging Face names.
pub(super) struct Source {
    pub name: String,
    pub format: &'static str,
    pub config: DecoderConfig,
    pub tensors: BTreeMap<String, Stored>,
    pub files: Vec<PathBuf>,
    pub tokenizer: TokenizerFiles,
    /// What had to be assumed.
    pub notes: Vec<String>,
    /// What dense linears are quantised to when they are read.
    pub quantization: Option<Quantization>,
    /// The mapped files whose pages need not stay once they are quantised.
    pub mapped: Vec<Arc<Mapped>>,
}

/// Where the tokenizer is read from.
pub(super) enum TokenizerFiles {
    Folder(PathBuf),
    Gguf(Box<super::gguf::Header>, String),
    Ggml(ggjt::Vocabulary, String),
    Builtin,
}

impl Source {
    /// # Errors
    /// Nothing there, a kind of file that is not supported, damaged headers, tensors missing or of
    /// other shapes than the hyperparameters say.
    pub fn open(base_model: &str) -> Result<Self> {
        let source = if let Some(name) = base_model.strip_prefix("builtin:") {
            builtin::open(name)?
        } else {
            let path = Path::new(base_model);
            let metadata = std::fs::metadata(path).map_err(|e| {
                input_error(format!(
                    "the base {base_model} cannot be read: {e}; name a Hugging Face folder, a \
                     .gguf file, a GGML .bin file or builtin:tiny-llama"
                ))
            })?;
            if metadata.is_dir() {
                hugging_face::open(path)?
            } else if is_gguf(path) {
                gguf_base::open(path)?
            } else if magic(path).is_some_and(|magic| ggjt::is_ggml(&magic)) {
                ggjt::open(path)?
            } else {
                return Err(input_error(format!(
                    "{base_model} is not a base that can be opened: it must be a \
                     Hugging Face folder (with config.json, *.safetensors and tokenizer.json), a \
                     .gguf file, a GGML .bin file (ggjt v3) or builtin:tiny-llama"
                )));
            }
        };
        source.check_shapes()?;
        Ok(source)
    }

    /// As [`Source::open`], of a base whose dense linears will be quantised.
    ///
    /// # Errors
    /// As [`Source::open`]; no linear is dense.
    pub fn open_quantised(base_model: &str, quantization: Option<Quantization>) -> Result<Self> {
        let mut source = Self::open(base_model)?;
        source.quantization = quantization;
        let mut linears = source.tensors.iter();
        let mut any = || linears.any(|(name, at)| source.encoding(name, at) != at.encoding);
        if quantization.is_some() && !any() {
            return Err(input_error(format!(
                "quantize: {base_model} has no linears that can be quantised: they are {} already; \
                 remove the line",
                source.description().dtype
            )));
        }
        Ok(source)
    }

    /// The encoding of a tensor in memory.
    fn encoding(&self, name: &str, stored: &Stored) -> GgmlDType {
        let dense = stored.encoding.block_size() == 1;
        match (self.quantization, &stored.shape[..]) {
            (Some(quantization), &[_, columns]) if dense && name.contains(".layers.") => {
                quantization.encoding(columns).unwrap_or(stored.encoding)
            }
            _ => stored.encoding,
        }
    }

    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.tokenizer {
            TokenizerFiles::Folder(folder) => Tokenizer::from_folder(folder),
            TokenizerFiles::Gguf(header, file) => Tokenizer::from_gguf(header, file),
            TokenizerFiles::Ggml(vocabulary, file) => Tokenizer::from_ggml(vocabulary, file),
            TokenizerFiles::Builtin => builtin::tokenizer(),
        }
    }

    pub fn description(&self) -> Description {
        let mut by_encoding: BTreeMap<String, u64> = BTreeMap::new();
        let (mut parameters, mut bytes) = (0, 0);
        for (name, _) in self.expected() {
            let stored = &self.tensors[&name];
            let count = stored.shape.iter().map(|&n| n as u64).product::<u64>();
            let encoding = self.encoding(&name, stored);
            parameters += count;
            bytes += count / encoding.block_size() as u64 * encoding.type_size() as u64;
            *by_encoding.entry(format!("{encoding:?}")).or_default() += count;
        }
        let most = by_encoding.into_iter().max_by_key(|(_, count)| *count);
        Description {
            name: self.name.clone(),
            format: self.format.to_owned(),
            dtype: most.map(|(encoding, _)| encoding).unwrap_or_default(),
            parameters,
            bytes,
            config: self.config.clone(),
            files: self.files.clone(),
            notes: self.notes.clone(),
        }
    }

    /// The matrix `name` on a device.
    ///
    /// # Errors
    /// It does not fit on the device.
    pub fn frozen(&self, name: &str, device: &Device, dtype: DType) -> Result<FrozenWeight> {
        let weight = self.weight(name)?;
        let encoding = self.encoding(name, &self.tensors[name]);
        let weight = match encoding == self.tensors[name].encoding {
            true => weight,
            false => {
                let quantised = weight.quantised(encoding)?;
                for mapped in &self.mapped {
                    mapped.forget(weight.range_in_memory());
                }
                quantised
            }
        };
        FrozenWeight::new(weight, device, dtype)
            .with_context(|| format!("the weight {name} does not fit on the device"))
    }

    /// The vector `name`, a norm's weight or a bias, in f32 on a device.
    ///
    /// # Errors
    /// It does not fit on the device.
    pub fn vector(&self, name: &str, device: &Device) -> Result<Tensor> {
        let numbers = self.weight(name)?.column()?;
        let count = numbers.len();
        Ok(Tensor::from_vec(numbers, count, device)?)
    }

    /// The tensor `name` as a matrix; a vector is one column.
    pub fn weight(&self, name: &str) -> Result<HostWeight> {
        let stored = &self.tensors[name];
        let (rows, columns) = match stored.shape[..] {
            [rows, columns] => (rows, columns),
            _ => (stored.shape.iter().product(), 1),
        };
        let read = || {
            let weight = HostWeight::new(
                stored.bytes.clone(),
                stored.start,
                stored.encoding,
                rows,
                columns,
            )?;
            match stored.interleaved_heads {
                Some(heads) => weight.with_interleaved_heads(heads),
                None => Ok(weight),
            }
        };
        read().map_err(|e| input_error(format!("{}: tensor {name}: {e}", self.name)))
    }

    /// Names and shapes of every tensor that the decoder needs.
    fn expected(&self) -> Vec<(String, Vec<usize>)> {
        let config = &self.config;
        let embedding = vec![config.vocab_size, config.hidden_size];
        let linears = config.block_linears();
        let mut all = vec![("model.embed_tokens.weight".to_owned(), embedding.clone())];
        for layer in 0..config.layers {
            let name = |part: &str, kind: &str| format!("model.layers.{layer}.{part}.{kind}");
            for linear in &linears {
                let shape = vec![linear.outputs, linear.inputs];
                all.push((name(linear.name, "weight"), shape));
                if linear.bias {
                    all.push((name(linear.name, "bias"), vec![linear.outputs]));
                }
            }
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                all.push((name(norm, "weight"), vec![config.hidden_size]));
            }
            if config.qk_norm {
                for norm in ["self_attn.q_norm", "self_attn.k_norm"] {
                    all.push((name(norm, "weight"), vec![config.head_dim]));
                }
            }
        }
        all.push(("model.norm.weight".to_owned(), vec![config.hidden_size]));
        if !config.tie_word_embeddings {
            all.push(("lm_head.weight".to_owned(), embedding));
        }
        all
    }

    fn check_shapes(&self) -> Result<()> {
        // Every layer has tensors of its own: a header that claims more layers is damaged, and is
        // not worth a list of millions of names.
        if self.config.layers > self.tensors.len() {
            return Err(input_error(format!(
                "{}: {} layers are declared, but there are only {} tensors",
                self.name,
                self.config.layers,
                self.tensors.len()
            )));
        }
        let expected = self.expected();
        for (name, shape) in &expected {
            match self.tensors.get(name) {
                None => {
                    return Err(input_error(format!(
                        "{} lacks the tensor {name} that its hyperparameters ask for; the \
                         download may be incomplete",
                        self.name
                    )));
                }
                Some(stored) if stored.shape != *shape => {
                    return Err(input_error(format!(
                        "{}: the tensor {name} is of shape {:?}, but the hyperparameters ask for \
                         {shape:?}",
                        self.name, stored.shape
                    )));
                }
                Some(_) => {}
            }
        }
        let known: BTreeSet<&String> = expected.iter().map(|(name, _)| name).collect();
        let unknown = |name: &&String| name.contains(".layers.") && !known.contains(name);
        if let Some(name) = self.tensors.keys().find(unknown) {
            return Err(input_error(format!(
                "{} has the tensor {name}, which a model of the type {} does not have as its \
                 hyperparameters describe it; this variant is not supported",
                self.name, self.config.architecture
            )));
        }
        Ok(())
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "gguf") || magic(path).is_some_and(|m| &m == b"GGUF")
}

/// The first bytes of a file.
fn magic(path: &Path) -> Option<[u8; 4]> {
    use std::io::Read;
    let mut magic = [0; 4];
    File::open(path).ok()?.read_exact(&mut magic).ok()?;
    Some(magic)
}

/// A file as bytes, without reading it.
pub(super) struct Mapped(Mmap);

impl Mapped {
    /// Lets go of the whole pages within a range of addresses, if they are this file's: what was
    /// read stays on disk, and need not count as this process's memory.
    pub fn forget(&self, addresses: Range<usize>) {
        let start = self.0.as_ptr() as usize;
        let within = start..=start + self.0.len();
        if !within.contains(&addresses.start) || !within.contains(&addresses.end) {
            return;
        }
        let (first, length) = (addresses.start - start, addresses.len());
        // SAFETY: the mapping is of a file and read-only, so that a dropped page comes back from
        // the file as it was.
        #[cfg(unix)]
        let forgotten = unsafe {
            self.0
                .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, length)
        };
        // Memory that is not given back is only memory.
        #[cfg(unix)]
        drop(forgotten);
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// # Errors
/// The file cannot be opened or is empty.
pub(super) fn map(path: &Path) -> Result<Arc<Mapped>> {
    let open = || {
        let file = File::open(path)?;
        // SAFETY: as with every mapped file, another process that truncates it meanwhile can break
        // this one; bases are read-only by custom, and copying them would double their memory.
        unsafe { Mmap::map(&file) }
    };
    let mapped =
        open().map_err(|e| input_error(format!("{} cannot be read: {e}", path.display())))?;
    Ok(Arc::new(Mapped(mapped)))
}

/// Adds the `wanted` tensors of a safetensors file's bytes, by their names; only its header is read.
///
/// # Errors
/// A damaged header, or a tensor of a type that weights do not come in.
pub(super) fn read_safetensors(
    bytes: Bytes,
    file: &str,
    wanted: impl Fn(&str) -> bool,
    tensors: &mut BTreeMap<String, Stored>,
) -> Result<()> {
    let whole: &[u8] = (*bytes).as_ref();
    let damaged = |e| input_error(format!("{file} is damaged or incomplete: {e}"));
    let parsed = SafeTensors::deserialize(whole).map_err(damaged)?;
    for (name, view) in parsed.iter() {
        if !wanted(name) {
            continue;
        }
        let encoding = match view.dtype() {
            Dtype::F32 => GgmlDType::F32,
            Dtype::F16 => GgmlDType::F16,
            Dtype::BF16 => GgmlDType::BF16,
            other => {
                return Err(input_error(format!(
                    "{file}: the tensor {name} is of type {other:?}; weights must be F32, F16 or \
                     BF16"
                )));
            }
        };
        let stored = Stored {
            bytes: bytes.clone(),
            start: view.data().as_ptr() as usize - whole.as_ptr() as usize,
            encoding,
            shape: view.shape().to_vec(),
            interleaved_heads: None,
        };
        tensors.insert(name.to_owned(), stored);
    }
    Ok(())
}

/// Not a buffer such as rotary_emb.inv_freq, which is computed anew.
pub(super) fn is_parameter(name: &str) -> bool {
    name.ends_with(".weight") || name.ends_with(".bias")
}

/// # Errors
/// The file cannot be read.
pub(super) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| path.display().to_string())
        .map_err(|e| input_error(format!("{e:#}")))
}
