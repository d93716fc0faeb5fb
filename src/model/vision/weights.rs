//! A folder's tensors, whole and in f32.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::super::source::{Mapped, map};
use crate::error::input_error;

/// Where a tensor lies.
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    bytes: usize,
}

pub(super) struct Weights {
    folder: String,
    files: Vec<Arc<Mapped>>,
    places: BTreeMap<String, Place>,
    /// Of a folder that has PyTorch's file only.
    pickled: Option<PthTensors>,
    pub device: Device,
}

/// The names of a folder's safetensors files.
fn safetensors_of(folder: &Path) -> Result<BTreeSet<String>> {
    let index = folder.join("model.safetensors.index.json");
    if folder.join("model.safetensors").exists() {
        return Ok(BTreeSet::from(["model.safetensors".to_owned()]));
    }
    if !index.exists() {
        return Ok(BTreeSet::new());
    }
    let json = super::json(&index)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let names = map.into_iter().flat_map(|map| map.values());
    let names = names.filter_map(Value::as_str);
    Ok(names
        .filter(|name| !name.contains(['/', '\\']))
        .map(str::to_owned)
        .collect())
}

/// A hash of everything in a folder that decides what its model computes: two folders with the same
/// files have the same.
///
/// # Errors
/// A file cannot be read.
pub fn fingerprint(folder: &Path) -> Result<blake3::Hash> {
    let mut names = safetensors_of(folder)?;
    if names.is_empty() {
        names.insert("pytorch_model.bin".to_owned());
    }
    let beside = [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
    ];
    names.extend(beside.map(str::to_owned));
    let mut hasher = blake3::Hasher::new();
    for name in names {
        let path = folder.join(&name);
        if !path.exists() {
            continue;
        }
        let mapped = map(&path)?;
        let whole: &[u8] = (*mapped).as_ref();
        hasher.update(name.as_bytes());
        hasher.update(&(whole.len() as u64).to_le_bytes());
        hasher.update_rayon(whole);
    }
    Ok(hasher.finalize())
}

impl Weights {
    /// # Errors
    /// There are none, or they are damaged.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let mut weights = Weights {
            folder: folder.display().to_string(),
            files: Vec::new(),
            places: BTreeMap::new(),
            pickled: None,
            device: device.clone(),
        };
        let names = safetensors_of(folder)?;
        if names.is_empty() {
            let pickled = folder.join("pytorch_model.bin");
            if !pickled.exists() {
                return Err(input_error(format!(
                    "{} has neither model.safetensors nor pytorch_model.bin",
                    folder.display()
                )));
            }
            let read = PthTensors::new(&pickled, None).map_err(|e| {
                input_error(format!(
                    "{} is damaged or incomplete: {e}",
                    pickled.display()
                ))
            })?;
            weights.pickled = Some(read);
            return Ok(weights);
        }
        for name in names {
            weights.add(&folder.join(name))?;
        }
        Ok(weights)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let mapped = map(path)?;
        let whole: &[u8] = (*mapped).as_ref();
        let parsed = SafeTensors::deserialize(whole).map_err(|e| {
            input_error(format!("{} is damaged or incomplete: {e}", path.display()))
        })?;
        for (name, view) in parsed.iter() {
            let place = Place {
                file: self.files.len(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                start: view.data().as_ptr() as usize - whole.as_ptr() as usize,
                bytes: view.data().len(),
            };
            self.places.insert(name.to_owned(), place);
        }
        self.files.push(mapped);
        Ok(())
    }

    /// The tensor `name`, which must hold as many numbers as `shape`, in that shape.
    ///
    /// # Errors
    /// It is missing, of another size or type.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let fits = |found: &[usize]| {
            let counts = |shape: &[usize]| shape.iter().product::<usize>();
            match counts(found) == counts(shape) {
                true => Ok(()),
                false => Err(input_error(format!(
                    "{}: the tensor {name} is of shape {found:?}, but its config asks for {shape:?}",
                    self.folder
                ))),
            }
        };
        let missing = || {
            input_error(format!(
                "{} lacks the tensor {name} that its config asks for; the download may be incomplete",
                self.folder
            ))
        };
        if let Some(pickled) = &self.pickled {
            let found = pickled.get(name)?.ok_or_else(missing)?;
            fits(found.dims())?;
            let found = found.to_dtype(DType::F32)?.to_device(&self.device)?;
            return Ok(found.reshape(shape)?);
        }
        let place = self.places.get(name).ok_or_else(missing)?;
        fits(&place.shape)?;
        let whole: &[u8] = (*self.files[place.file]).as_ref();
        let bytes = &whole[place.start..place.start + place.bytes];
        let numbers: Vec<f32> = match place.dtype {
            Dtype::F32 => {
                let numbers = bytes.as_chunks::<4>().0.iter();
                numbers.map(|b| f32::from_le_bytes(*b)).collect()
            }
            Dtype::F16 => {
                let numbers = bytes.as_chunks::<2>().0.iter();
                numbers
                    .map(|b| half::f16::from_le_bytes(*b).to_f32())
                    .collect()
            }
            Dtype::BF16 => {
                let numbers = bytes.as_chunks::<2>().0.iter();
                numbers
                    .map(|b| half::bf16::from_le_bytes(*b).to_f32())
                    .collect()
            }
            other => {
                return Err(input_error(format!(
                    "{}: the tensor {name} is of type {other:?}; weights must be F32, F16 or BF16",
                    self.folder
                )));
            }
        };
        Ok(Tensor::from_vec(numbers, shape, &self.device)?)
    }

    pub fn has(&self, name: &str) -> bool {
        match &self.pickled {
            Some(pickled) => pickled.tensor_infos().contains_key(name),
            None => self.places.contains_key(name),
        }
    }
}
