//! Weights in the encoding of their file, in host memory.

use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{Result, bail};
use rayon::prelude::*;

use super::super::decode::{alignment, cast, decode};
use super::super::encode::encode;

/// Bytes that live as long as the weights in them: a mapped file, or memory.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A `[rows, columns]` matrix in the encoding of its file, in host memory.
#[derive(Clone)]
pub struct HostWeight {
    bytes: Bytes,
    range: Range<usize>,
    pub(super) encoding: GgmlDType,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Heads whose rows GGUF keeps in the order of interleaved RoPE pairs; `None`: as they are.
    pub(super) interleaved_heads: Option<usize>,
}

/// Numbers that need no decoding.
pub(super) enum Plain<'a> {
    F32(&'a [f32]),
    F16(&'a [half::f16]),
    Bf16(&'a [half::bf16]),
}

/// Plain numbers in memory that need no file.
struct Words(Vec<u64>);

impl AsRef<[u8]> for Words {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: u64 has no padding, and any byte is a valid u8.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 8) }
    }
}

impl HostWeight {
    /// The matrix that lies at `start` in `bytes`. Numbers that are not aligned are copied.
    ///
    /// # Errors
    /// Rows that are no whole number of blocks, or a matrix beyond the end of `bytes`.
    pub fn new(
        bytes: Bytes,
        start: usize,
        encoding: GgmlDType,
        rows: usize,
        columns: usize,
    ) -> Result<Self> {
        if !columns.is_multiple_of(encoding.block_size()) {
            bail!(
                "rows of {columns} numbers are no whole number of {encoding:?} blocks of {}",
                encoding.block_size()
            );
        }
        let length = (columns / encoding.block_size() * encoding.type_size()).checked_mul(rows);
        let whole: &[u8] = (*bytes).as_ref();
        let Some(range) = length
            .and_then(|length| Some(start..start.checked_add(length)?))
            .filter(|range| range.end <= whole.len())
        else {
            bail!("the file ends before its weights do");
        };
        let weight = &whole[range.clone()];
        let aligned = (weight.as_ptr() as usize).is_multiple_of(alignment(encoding));
        let (bytes, range) = if aligned {
            (bytes, range)
        } else {
            let words = weight
                .chunks(8)
                .map(|chunk| {
                    let mut word = [0; 8];
                    word[..chunk.len()].copy_from_slice(chunk);
                    u64::from_ne_bytes(word)
                })
                .collect();
            (Arc::new(Words(words)) as Bytes, 0..weight.len())
        };
        Ok(HostWeight {
            bytes,
            range,
            encoding,
            rows,
            columns,
            interleaved_heads: None,
        })
    }

    /// A dense f32 matrix of its own.
    #[cfg(test)]
    pub fn from_floats(numbers: &[f32], rows: usize, columns: usize) -> Result<Self> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_ne_bytes()).collect();
        Self::new(Arc::new(bytes), 0, GgmlDType::F32, rows, columns)
    }

    /// Undoes the order in which llama.cpp keeps the rows of q and k: it pairs the rows `2j` and
    /// `2j + 1` of a head for RoPE where Hugging Face pairs `j` and `j + head_dim / 2`.
    ///
    /// # Errors
    /// Rows that do not divide into heads of an even size.
    pub fn with_interleaved_heads(mut self, heads: usize) -> Result<Self> {
        if heads == 0 || !self.rows.is_multiple_of(2 * heads) {
            bail!("{} rows are no {heads} heads of an even size", self.rows);
        }
        self.interleaved_heads = Some(heads);
        Ok(self)
    }

    /// The same matrix in a quantised encoding, in memory of its own, its rows in order. One row
    /// per thread is dense at a time.
    ///
    /// # Errors
    /// Rows that are no whole number of blocks, an encoding that is not for weights.
    pub fn quantised(&self, encoding: GgmlDType) -> Result<Self> {
        if !self.columns.is_multiple_of(encoding.block_size()) {
            bail!(
                "rows of {} numbers are no whole number of {encoding:?} blocks",
                self.columns
            );
        }
        let row_bytes = self.columns / encoding.block_size() * encoding.type_size();
        let mut words = vec![0u64; (self.rows * row_bytes).div_ceil(8)];
        // SAFETY: u64 has no padding, any bytes are valid ones, and the words are borrowed
        // exclusively.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), words.len() * 8)
        };
        bytes[..self.rows * row_bytes]
            .par_chunks_mut(row_bytes)
            .enumerate()
            .try_for_each_init(
                || vec![0.0; self.columns],
                |numbers, (row, out)| {
                    self.decode_row(row, &(0..self.columns), numbers);
                    encode(encoding, numbers, out)
                },
            )?;
        Ok(HostWeight {
            bytes: Arc::new(Words(words)),
            range: 0..self.rows * row_bytes,
            encoding,
            interleaved_heads: None,
            ..self.clone()
        })
    }

    /// The weight of a convolution, `[out, in * taps]` in PyTorch's order, as one of patches,
    /// `[out, taps * in]`: in memory of its own unless that is the same.
    ///
    /// # Errors
    /// A quantised encoding; columns that are no whole number of taps.
    pub fn channels_last(self, taps: usize) -> Result<Self> {
        if taps <= 1 {
            return Ok(self);
        }
        let size = self.encoding.type_size();
        if self.encoding.block_size() != 1
            || self.interleaved_heads.is_some()
            || !self.columns.is_multiple_of(taps)
        {
            bail!(
                "a convolution of {taps} taps cannot be made of {} columns of {:?}",
                self.columns,
                self.encoding
            );
        }
        let mut words = vec![0u64; (self.rows * self.row_bytes()).div_ceil(8)];
        // SAFETY: u64 has no padding, any bytes are valid ones, and the words are borrowed
        // exclusively.
        let out = unsafe {
            std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), words.len() * 8)
        };
        let inputs = self.columns / taps;
        out[..self.rows * self.row_bytes()]
            .par_chunks_mut(self.row_bytes())
            .zip(self.bytes().par_chunks(self.row_bytes()))
            .for_each(|(out, row)| {
                for (tap, out) in out.chunks_exact_mut(inputs * size).enumerate() {
                    for (input, number) in out.chunks_exact_mut(size).enumerate() {
                        number.copy_from_slice(&row[(input * taps + tap) * size..][..size]);
                    }
                }
            });
        let range = 0..self.rows * self.row_bytes();
        Ok(HostWeight {
            bytes: Arc::new(Words(words)),
            range,
            ..self
        })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The addresses of its bytes.
    pub fn range_in_memory(&self) -> Range<usize> {
        let start = self.bytes().as_ptr() as usize;
        start..start + self.bytes().len()
    }

    /// The numbers of a matrix of one column.
    ///
    /// # Errors
    /// It has more.
    pub fn column(&self) -> Result<Vec<f32>> {
        if self.columns != 1 {
            bail!("a vector was expected, not {} columns", self.columns);
        }
        let all: Vec<u32> = (0..self.rows as u32).collect();
        Ok(self.gather(&all))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.range.clone()]
    }

    /// All numbers as they lie in memory; `None` where they are encoded, or their rows out of order.
    pub(super) fn plain(&self) -> Option<Plain<'_>> {
        if self.interleaved_heads.is_some() {
            return None;
        }
        let bytes = self.bytes();
        // SAFETY of every `cast`: `new` aligned the matrix; any bits are a valid number.
        match self.encoding {
            GgmlDType::F32 => Some(Plain::F32(unsafe { cast(bytes) })),
            GgmlDType::F16 => Some(Plain::F16(unsafe { cast(bytes) })),
            GgmlDType::BF16 => Some(Plain::Bf16(unsafe { cast(bytes) })),
            _ => None,
        }
    }

    fn row_bytes(&self) -> usize {
        self.columns / self.encoding.block_size() * self.encoding.type_size()
    }

    /// Where row `row` lies in the file.
    fn file_row(&self, row: usize) -> usize {
        match self.interleaved_heads {
            None => row,
            Some(heads) => {
                let size = self.rows / heads;
                let (head, within) = (row / size, row % size);
                let (half, pair) = (within / (size / 2), within % (size / 2));
                head * size + 2 * pair + half
            }
        }
    }

    /// Decodes `columns` (whole blocks) of one row.
    pub(super) fn decode_row(&self, row: usize, columns: &Range<usize>, out: &mut [f32]) {
        let (block, size) = (self.encoding.block_size(), self.encoding.type_size());
        let start = self.file_row(row) * self.row_bytes();
        let bytes = &self.bytes()
            [start + columns.start / block * size..start + columns.end.div_ceil(block) * size];
        // SAFETY: `new` aligned the whole matrix, and rows are whole blocks.
        unsafe { decode(self.encoding, bytes, out) };
    }

    /// The given rows, one after another.
    pub fn gather(&self, rows: &[u32]) -> Vec<f32> {
        let mut out = vec![0.0; rows.len() * self.columns];
        out.par_chunks_mut(self.columns)
            .zip(rows)
            .for_each(|(out, &row)| self.decode_row(row as usize, &(0..self.columns), out));
        out
    }

    /// The square of the norm of each row, decoding one at a time.
    pub(super) fn squared_row_norms(&self) -> Vec<f32> {
        let square = |scratch: &mut Vec<f32>, row: usize| {
            scratch.resize(self.columns, 0.0);
            self.decode_row(row, &(0..self.columns), scratch);
            let sum: f64 = scratch.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            sum as f32
        };
        let rows = (0..self.rows).into_par_iter();
        rows.map_init(Vec::new, square).collect()
    }
}
