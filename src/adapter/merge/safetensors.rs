//! Merging into a safetensors file: the same tensors in the same types at the same places, so that
//! its header is copied as it is.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use candle_core::quantized::GgmlDType;
use serde_json::{Map, Value};

use super::stream::{Matrix, Stream};
use super::update::Update;
use super::{Job, Updates};
use crate::error::input_error;

/// No header is longer; the length may be damaged.
const LONGEST_HEADER: u64 = 100 << 20;

/// A tensor of the file.
pub(super) struct Stored {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: String,
    /// From the start of the file.
    pub start: u64,
    pub end: u64,
}

/// The tensors of a file in the order in which they lie, and where the first begins.
///
/// # Errors
/// The file cannot be read; its header is damaged.
pub(super) fn header(path: &Path) -> Result<(Vec<Stored>, u64)> {
    let file = path.display().to_string();
    let damaged = |what: &str| input_error(format!("{file} is damaged or incomplete: {what}"));
    let mut input =
        File::open(path).map_err(|e| input_error(format!("{file} cannot be read: {e}")))?;
    let size = input.metadata()?.len();
    let mut length = [0; 8];
    input
        .read_exact(&mut length)
        .map_err(|_| damaged("it has no header"))?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER || length > size {
        return Err(damaged("its header's length cannot be"));
    }
    let mut text = vec![0; length as usize];
    input
        .read_exact(&mut text)
        .map_err(|_| damaged("it ends in its header"))?;
    let json: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|e| damaged(&format!("its header: {e}")))?;
    let begin = 8 + length;
    let mut tensors = Vec::new();
    for (name, info) in json {
        if name == "__metadata__" {
            continue;
        }
        let numbers = |key: &str| -> Option<Vec<u64>> {
            let list = info.get(key)?.as_array()?;
            list.iter().map(Value::as_u64).collect()
        };
        let (shape, offsets) = (numbers("shape"), numbers("data_offsets"));
        let dtype = info.get("dtype").and_then(Value::as_str);
        let (Some(shape), Some(&[start, end]), Some(dtype)) = (shape, offsets.as_deref(), dtype)
        else {
            return Err(damaged(&format!("the entry of {name}")));
        };
        if start > end || begin.checked_add(end).is_none_or(|end| end > size) {
            return Err(damaged(&format!("{name} lies beyond its end")));
        }
        tensors.push(Stored {
            name,
            shape: shape.into_iter().map(|n| n as usize).collect(),
            dtype: dtype.to_owned(),
            start: begin + start,
            end: begin + end,
        });
    }
    tensors.sort_by_key(|tensor| (tensor.start, tensor.end));
    Ok((tensors, begin))
}

/// Writes `output`: `input` with the updates of its tensors.
///
/// # Errors
/// Damaged files, tensors of another shape or of a type that is not supported; the disk fails.
pub(super) fn merge(
    job: &mut Job<'_, '_>,
    input: &Path,
    output: &Path,
    updates: &Updates,
) -> Result<()> {
    let (tensors, begin) = header(input)?;
    let size = std::fs::metadata(input)?.len();
    let mut stream = Stream::open(input, output, &mut *job.progress)?;
    stream.copy(0, begin)?;
    let mut at = begin;
    for tensor in tensors {
        // Gaps stay; a tensor that shares bytes with one before lies there already.
        if tensor.start < at {
            continue;
        }
        stream.copy(at, tensor.start - at)?;
        at = tensor.end;
        match updates.get(&tensor.name) {
            None => stream.copy(tensor.start, tensor.end - tensor.start)?,
            Some(updates) => {
                let matrix = matrix(&tensor, updates, &input.display().to_string())?;
                stream.merge(&matrix, updates, matrix.encoding, &mut job.loss)?;
                job.found.insert(tensor.name);
            }
        }
    }
    stream.copy(at, size - at)?;
    stream.finish()
}

/// A tensor that updates fit, as a matrix: convolutions are their rows, flattened.
fn matrix(tensor: &Stored, updates: &[Update], file: &str) -> Result<Matrix> {
    let encoding = match tensor.dtype.as_str() {
        "F32" => GgmlDType::F32,
        "F16" => GgmlDType::F16,
        "BF16" => GgmlDType::BF16,
        other => {
            return Err(input_error(format!(
                "{file}: {} is of type {other}, which no adapter can be merged into; F32, F16 and \
                 BF16 are supported",
                tensor.name
            )));
        }
    };
    let matrix = Matrix {
        name: tensor.name.clone(),
        start: tensor.start,
        rows: tensor.shape.first().copied().unwrap_or(0),
        columns: tensor.shape.iter().skip(1).product(),
        encoding,
    };
    if matrix.bytes(encoding) != tensor.end - tensor.start {
        return Err(input_error(format!(
            "{file} is damaged: {} has another number of bytes than its shape",
            tensor.name
        )));
    }
    super::check_shape(&matrix, updates, file)?;
    Ok(matrix)
}
