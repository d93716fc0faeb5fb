//! Safetensors files: tensors and the text metadata beside them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use safetensors::tensor::{Dtype as StoredDtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::numbers::{Dtype, Numbers};
use crate::error::input_error;

/// What a file holds.
pub(super) struct Content {
    pub tensors: BTreeMap<String, Numbers>,
    pub metadata: BTreeMap<String, String>,
}

/// Reads a whole file.
///
/// # Errors
/// It cannot be read, is damaged, or holds numbers of a type that adapters do not have.
pub(super) fn read(path: &Path) -> Result<Content> {
    let file = path.display().to_string();
    let bytes =
        std::fs::read(path).map_err(|e| input_error(format!("{file} cannot be read: {e}")))?;
    let damaged = |e| input_error(format!("{file} is damaged or incomplete: {e}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let parsed = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in parsed.iter() {
        let dtype = match view.dtype() {
            StoredDtype::F32 => Dtype::F32,
            StoredDtype::F16 => Dtype::F16,
            StoredDtype::BF16 => Dtype::Bf16,
            other => {
                return Err(input_error(format!(
                    "{file}: {name} holds numbers of type {other:?}; F32, F16 and BF16 are \
                     supported"
                )));
            }
        };
        let numbers = Numbers {
            dtype,
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        tensors.insert(name.to_owned(), numbers);
    }
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok(Content {
        tensors,
        metadata: metadata.into_iter().collect(),
    })
}

/// Writes a file: metadata and tensors sorted by name, so that equal content gives equal bytes.
pub(super) fn to_bytes(
    tensors: &BTreeMap<String, &Numbers>,
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    // Wider numbers first, so that each lies aligned.
    let mut order: Vec<(&String, &&Numbers)> = tensors.iter().collect();
    order.sort_by_key(|(_, numbers)| std::cmp::Reverse(numbers.dtype.size()));
    let mut end = 0;
    for (name, numbers) in &order {
        let start = end;
        end += numbers.bytes.len();
        let dtype = match numbers.dtype {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
        };
        let info = json!({"dtype": dtype, "shape": numbers.shape, "data_offsets": [start, end]});
        header.insert((*name).clone(), info);
    }
    let mut text = Value::Object(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut bytes = Vec::with_capacity(8 + text.len() + end);
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
    for (_, numbers) in order {
        bytes.extend(&numbers.bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_read_back_is_the_one_written() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.safetensors");
        let a = Numbers::new(&[2, 3], &[1.0, -2.0, 0.5, 0.1, 7.0, 1e-9]);
        let b = a.cast(Dtype::F16).unwrap();
        let scalar = Numbers::new(&[], &[4.0]);
        let tensors = BTreeMap::from([
            ("a".to_owned(), &b),
            ("b".to_owned(), &a),
            ("c".to_owned(), &scalar),
        ]);
        let metadata = BTreeMap::from([
            ("x".to_owned(), "1".to_owned()),
            ("a".to_owned(), "\"quoted\"".to_owned()),
        ]);
        std::fs::write(&path, to_bytes(&tensors, &metadata)).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back.metadata, metadata);
        assert_eq!(back.tensors["a"], b);
        assert_eq!(back.tensors["b"], a);
        assert_eq!(back.tensors["c"], scalar);
    }
}
