//! Copying a base's file piece by piece, with updates added on the way: the memory used does not
//! depend on the file's size. Files are read, not mapped: mapped pages would count as ours.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::update::{Update, apply};
use super::{Loss, Progress};
use crate::adapter::numbers::Dtype;
use crate::error::input_error;

/// Bytes copied, and numbers merged, at once.
const CHUNK_BYTES: usize = 8 << 20;
const CHUNK_NUMBERS: usize = 4 << 20;

/// A matrix in the base's file.
pub(super) struct Matrix {
    pub name: String,
    /// From the start of the file.
    pub start: u64,
    pub rows: usize,
    pub columns: usize,
    pub encoding: GgmlDType,
}

impl Matrix {
    fn row_bytes(&self, encoding: GgmlDType) -> usize {
        self.columns / encoding.block_size() * encoding.type_size()
    }

    pub fn bytes(&self, encoding: GgmlDType) -> u64 {
        self.rows as u64 * self.row_bytes(encoding) as u64
    }
}

/// A base's file and the file that becomes of it.
pub(super) struct Stream<'a, 'p> {
    input: File,
    output: BufWriter<File>,
    file: String,
    progress: &'a mut Progress<'p>,
}

impl<'a, 'p> Stream<'a, 'p> {
    /// # Errors
    /// One of the files cannot be opened.
    pub fn open(input: &Path, output: &Path, progress: &'a mut Progress<'p>) -> Result<Self> {
        let file = input.display().to_string();
        Ok(Stream {
            input: File::open(input)
                .map_err(|e| input_error(format!("{file} cannot be read: {e}")))?,
            output: BufWriter::with_capacity(1 << 20, File::create(output)?),
            file,
            progress,
        })
    }

    /// Writes bytes that are not the base's.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.output.write_all(bytes)?)
    }

    /// Copies bytes of the base as they are.
    pub fn copy(&mut self, start: u64, length: u64) -> Result<()> {
        self.seek(start)?;
        let mut left = length;
        let mut buffer = vec![0; CHUNK_BYTES.min(length as usize)];
        while left > 0 {
            let size = left.min(CHUNK_BYTES as u64) as usize;
            self.read(size, &mut buffer)?;
            self.output.write_all(&buffer[..size])?;
            left -= size as u64;
            (self.progress)(size as u64)?;
        }
        Ok(())
    }

    /// Writes a matrix with updates added, in `target`'s encoding; measures what rounding costs.
    pub fn merge(
        &mut self,
        matrix: &Matrix,
        updates: &[Update],
        target: GgmlDType,
        loss: &mut Loss,
    ) -> Result<()> {
        self.seek(matrix.start)?;
        let row_bytes = matrix.row_bytes(matrix.encoding);
        let at_once = (CHUNK_NUMBERS / matrix.columns).clamp(1, matrix.rows);
        let mut buffer = vec![0; at_once * row_bytes];
        for first in (0..matrix.rows).step_by(at_once) {
            let rows = at_once.min(matrix.rows - first);
            self.read(rows * row_bytes, &mut buffer)?;
            let before = decode(
                &buffer[..rows * row_bytes],
                matrix.encoding,
                rows,
                matrix.columns,
            )?;
            let mut after = before.clone();
            apply(updates, first, matrix.columns, &mut after);
            if let Some(number) = after.iter().find(|x| !x.is_finite()) {
                return Err(input_error(format!(
                    "{}: merging makes {} hold {number}; lower the strengths",
                    self.file, matrix.name
                )));
            }
            let bytes = encode(&after, target, rows, matrix.columns)?;
            let rounded = decode(&bytes, target, rows, matrix.columns)?;
            loss.add(&before, &after, &rounded);
            self.output.write_all(&bytes)?;
            (self.progress)((rows * row_bytes) as u64)?;
        }
        Ok(())
    }

    /// Brings everything onto the disk.
    pub fn finish(mut self) -> Result<()> {
        self.output.flush()?;
        Ok(self.output.get_ref().sync_all()?)
    }

    fn seek(&mut self, start: u64) -> Result<()> {
        self.input.seek(SeekFrom::Start(start))?;
        Ok(())
    }

    fn read(&mut self, size: usize, buffer: &mut [u8]) -> Result<()> {
        self.input
            .read_exact(&mut buffer[..size])
            .map_err(|e| input_error(format!("{} is damaged or incomplete: {e}", self.file)))
    }
}

fn dense(encoding: GgmlDType) -> Option<Dtype> {
    match encoding {
        GgmlDType::F32 => Some(Dtype::F32),
        GgmlDType::F16 => Some(Dtype::F16),
        GgmlDType::BF16 => Some(Dtype::Bf16),
        _ => None,
    }
}

fn decode(bytes: &[u8], encoding: GgmlDType, rows: usize, columns: usize) -> Result<Vec<f32>> {
    if let Some(dtype) = dense(encoding) {
        return Ok(dtype.decode(bytes));
    }
    let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, encoding)?;
    let tensor = QTensor::new(storage, (rows, columns))?;
    Ok(tensor
        .dequantize(&Device::Cpu)?
        .flatten_all()?
        .to_vec1::<f32>()?)
}

fn encode(numbers: &[f32], encoding: GgmlDType, rows: usize, columns: usize) -> Result<Vec<u8>> {
    if let Some(dtype) = dense(encoding) {
        return Ok(dtype.encode(numbers));
    }
    let tensor = Tensor::from_slice(numbers, (rows, columns), &Device::Cpu)?;
    let quantised = QTensor::quantize(&tensor, encoding).context("quantising")?;
    Ok(quantised.data()?.into_owned())
}
