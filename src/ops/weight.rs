//! Frozen weights in the encoding of their file: mapped on the CPU and decoded a panel at a time,
//! so that a base costs its file's size and no copy.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::cuda::weight::{BlockWeight, stays_in_blocks};
use super::decode::{alignment, cast, decode};
use super::encode::encode;
use super::matrix::{Matrix, Target, Write, product};

/// Rows of a weight decoded at once: few enough that a panel stays in the core's cache.
const PANEL_ROWS: usize = 256;

/// What a product with a weight is put together with.
pub(super) struct Products<'a> {
    /// Whether the product is added to what the target holds.
    pub write: Write,
    /// Further products added to it, while it is still in the core's cache.
    pub beside: &'a [LowRank<'a>],
}

/// `factor * left right`, of `[tokens, rank]` and `[rank, features]`.
#[derive(Clone, Copy)]
pub(super) struct LowRank<'a> {
    pub left: &'a [f32],
    pub right: Matrix<'a>,
    pub rank: usize,
    pub factor: f32,
}

impl Products<'_> {
    /// The product and nothing else.
    pub fn alone() -> Self {
        Products {
            write: Write::Replace,
            beside: &[],
        }
    }

    /// Adds the low-rank products to the columns from `first` on of the target that `target` begins
    /// at.
    ///
    /// # Safety
    /// As [`product`].
    unsafe fn add_beside(&self, target: Target<'_>, first: usize, m: usize, columns: usize) {
        for low in self.beside {
            // SAFETY: passed on.
            unsafe {
                product(
                    target,
                    Matrix::new(low.left, low.rank),
                    low.right.from(0, first),
                    (m, columns, low.rank),
                    low.factor,
                    Write::Add,
                );
            }
        }
    }
}

/// Bytes that live as long as the weights in them: a mapped file, or memory.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A `[rows, columns]` matrix in the encoding of its file, in host memory.
#[derive(Clone)]
pub struct HostWeight {
    bytes: Bytes,
    range: Range<usize>,
    encoding: GgmlDType,
    rows: usize,
    columns: usize,
    /// Heads whose rows GGUF keeps in the order of interleaved RoPE pairs; `None`: as they are.
    interleaved_heads: Option<usize>,
}

/// A frozen `[out_features, in_features]` weight on some device. Clones share the numbers.
#[derive(Clone)]
pub struct FrozenWeight {
    storage: Storage,
    rows: usize,
    columns: usize,
    /// Computed when first asked for.
    squared_row_norms: Arc<OnceLock<Tensor>>,
}

#[derive(Clone)]
enum Storage {
    Host(HostWeight),
    Dense(Tensor),
    Blocks(BlockWeight),
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

    pub(super) fn rows(&self) -> usize {
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

    fn bytes(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.range.clone()]
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
    fn decode_row(&self, row: usize, columns: &Range<usize>, out: &mut [f32]) {
        let (block, size) = (self.encoding.block_size(), self.encoding.type_size());
        let start = self.file_row(row) * self.row_bytes();
        let bytes = &self.bytes()
            [start + columns.start / block * size..start + columns.end.div_ceil(block) * size];
        // SAFETY: `new` aligned the whole matrix, and rows are whole blocks.
        unsafe { decode(self.encoding, bytes, out) };
    }

    /// The numbers `[rows, columns]` of a part of the matrix: in place when they are plain f32,
    /// else decoded into `scratch`.
    fn panel<'a>(
        &'a self,
        rows: Range<usize>,
        columns: Range<usize>,
        scratch: &'a mut Vec<f32>,
    ) -> Matrix<'a> {
        if self.encoding == GgmlDType::F32 && self.interleaved_heads.is_none() {
            // SAFETY: alignment was established in `new`; any bits are a valid f32.
            let numbers: &[f32] = unsafe { cast(self.bytes()) };
            return Matrix::new(
                &numbers[rows.start * self.columns + columns.start..],
                self.columns,
            );
        }
        let width = columns.len();
        scratch.resize(rows.len() * width, 0.0);
        for (row, out) in rows.zip(scratch.chunks_exact_mut(width)) {
            self.decode_row(row, &columns, out);
        }
        Matrix::new(scratch, width)
    }

    /// The given rows, one after another.
    pub(super) fn gather(&self, rows: &[u32]) -> Vec<f32> {
        let mut out = vec![0.0; rows.len() * self.columns];
        out.par_chunks_mut(self.columns)
            .zip(rows)
            .for_each(|(out, &row)| self.decode_row(row as usize, &(0..self.columns), out));
        out
    }

    /// The square of the norm of each row, decoding one at a time.
    fn squared_row_norms(&self) -> Vec<f32> {
        let square = |scratch: &mut Vec<f32>, row: usize| {
            scratch.resize(self.columns, 0.0);
            self.decode_row(row, &(0..self.columns), scratch);
            let sum: f64 = scratch.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            sum as f32
        };
        let rows = (0..self.rows).into_par_iter();
        rows.map_init(Vec::new, square).collect()
    }

    /// `out[m, rows] = x[m, columns] W^T`, with what is put beside it.
    pub(super) fn times_transposed(
        &self,
        x: &[f32],
        m: usize,
        out: &mut [f32],
        products: &Products<'_>,
    ) {
        let threads = rayon::current_num_threads();
        let panels = threads * self.rows.div_ceil(threads * PANEL_ROWS);
        let size = self.rows.div_ceil(panels);
        let target = Target::new(out, self.rows);
        (0..self.rows.div_ceil(size))
            .into_par_iter()
            .for_each_init(Vec::new, |scratch, panel| {
                let start = panel * size;
                let end = (start + size).min(self.rows);
                let weight = self.panel(start..end, 0..self.columns, scratch);
                // SAFETY: each panel writes columns of its own.
                unsafe {
                    product(
                        target.from(0, start),
                        Matrix::new(x, self.columns),
                        weight.transposed(),
                        (m, end - start, self.columns),
                        1.0,
                        products.write,
                    );
                    products.add_beside(target.from(0, start), start, m, end - start);
                }
            });
    }

    /// `out[m, columns] = dy[m, rows] W`, with what is put beside it.
    pub(super) fn times(&self, dy: &[f32], m: usize, out: &mut [f32], products: &Products<'_>) {
        // Each task owns columns of the result and walks all rows of W in order, so that the sums
        // do not depend on which thread is faster.
        let unit = self.encoding.block_size().max(32);
        let units = self.columns.div_ceil(unit);
        let tasks = units.min(rayon::current_num_threads());
        let target = Target::new(out, self.columns);
        (0..tasks)
            .into_par_iter()
            .for_each_init(Vec::new, |scratch, task| {
                let start = task * units / tasks * unit;
                let end = ((task + 1) * units / tasks * unit).min(self.columns);
                let mut write = products.write;
                for first in (0..self.rows).step_by(PANEL_ROWS) {
                    let last = (first + PANEL_ROWS).min(self.rows);
                    let weight = self.panel(first..last, start..end, scratch);
                    // SAFETY: each task writes columns of its own.
                    unsafe {
                        product(
                            target.from(0, start),
                            Matrix::new(dy, self.rows).from(0, first),
                            weight,
                            (m, end - start, last - first),
                            1.0,
                            write,
                        );
                    }
                    write = Write::Add;
                }
                // SAFETY: as above.
                unsafe { products.add_beside(target.from(0, start), start, m, end - start) };
            });
    }
}

impl FrozenWeight {
    /// Puts a weight on `device`: mapped as it is on the CPU; elsewhere dense ones in `dtype`,
    /// quantised ones as they are, decoded to `dtype` when used.
    ///
    /// # Errors
    /// The device fails (memory).
    pub fn new(weight: HostWeight, device: &Device, dtype: DType) -> Result<Self> {
        let (rows, columns) = (weight.rows, weight.columns);
        let storage = if matches!(device, Device::Cpu) && !cuda::emulating() {
            Storage::Host(weight)
        } else if !stays_in_blocks(weight.encoding) {
            let mut numbers = vec![0.0; rows * columns];
            for (row, out) in numbers.chunks_exact_mut(columns).enumerate() {
                weight.decode_row(row, &(0..columns), out);
            }
            Storage::Dense(Tensor::from_vec(numbers, (rows, columns), device)?.to_dtype(dtype)?)
        } else {
            Storage::Blocks(BlockWeight::new(
                weight.bytes(),
                weight.encoding,
                (rows, columns),
                weight.interleaved_heads.unwrap_or(0),
                device,
                dtype,
            )?)
        };
        Ok(FrozenWeight {
            storage,
            rows,
            columns,
            squared_row_norms: Arc::default(),
        })
    }

    /// The number of output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of input features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The weight in host memory, when it lies there.
    pub(super) fn host(&self) -> Option<&HostWeight> {
        match &self.storage {
            Storage::Host(weight) => Some(weight),
            _ => None,
        }
    }

    /// The float type in which products with it are computed.
    pub(super) fn compute_dtype(&self) -> DType {
        match &self.storage {
            Storage::Host(_) => DType::F32,
            Storage::Dense(tensor) => tensor.dtype(),
            Storage::Blocks(blocks) => blocks.dtype,
        }
    }

    /// `[rows]`, f32: the square of the norm of each row.
    pub(super) fn squared_row_norms(&self) -> Result<Tensor> {
        if let Some(known) = self.squared_row_norms.get() {
            return Ok(known.clone());
        }
        let squares = match &self.storage {
            Storage::Host(weight) => {
                Tensor::from_vec(weight.squared_row_norms(), self.rows, &Device::Cpu)?
            }
            _ => self.dense()?.to_dtype(DType::F32)?.sqr()?.sum(1)?,
        };
        Ok(self.squared_row_norms.get_or_init(|| squares).clone())
    }

    /// The weight in host memory, where the activations are.
    ///
    /// # Errors
    /// It lies elsewhere.
    pub(super) fn on_host(&self) -> Result<&HostWeight> {
        match self.host() {
            Some(weight) => Ok(weight),
            None => bail!("the activations are on the CPU, the weight is not"),
        }
    }

    /// The whole weight as a tensor of its device.
    pub(super) fn dense(&self) -> Result<Tensor> {
        match &self.storage {
            Storage::Host(weight) => {
                let all: Vec<u32> = (0..self.rows as u32).collect();
                Tensor::from_vec(weight.gather(&all), (self.rows, self.columns), &Device::Cpu)
            }
            Storage::Dense(tensor) => Ok(tensor.clone()),
            Storage::Blocks(blocks) => blocks.dense(),
        }
    }

    /// The rows `indices`, where the weight lies on a device.
    pub(super) fn gather(&self, indices: &Tensor) -> Result<Tensor> {
        match &self.storage {
            Storage::Host(_) => bail!("the weight is not on the indices' device"),
            Storage::Dense(tensor) => cuda::rows::gather(tensor, indices),
            Storage::Blocks(blocks) => blocks.gather(indices),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;

    use super::super::finite_differences::numbers;
    use super::super::to_vec;
    use super::*;

    /// A quantised weight and candle's own dequantisation of it.
    fn quantised(encoding: GgmlDType, rows: usize, columns: usize) -> (HostWeight, Vec<f32>) {
        let tensor = QTensor::quantize(&numbers(5, &[rows, columns]), encoding).unwrap();
        let bytes = tensor.data().unwrap().into_owned();
        let plain = to_vec(&tensor.dequantize(&Device::Cpu).unwrap()).unwrap();
        let weight = HostWeight::new(Arc::new(bytes), 0, encoding, rows, columns).unwrap();
        (weight, plain)
    }

    fn close(got: &[f32], expected: &[f32]) {
        for (a, b) in got.iter().zip(expected) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn products_with_every_encoding_match_the_dequantised_weight() {
        use GgmlDType::*;
        for (encoding, columns) in [
            (F32, 70),
            (F16, 70),
            (BF16, 70),
            (Q4_0, 96),
            (Q4_1, 96),
            (Q5_0, 96),
            (Q5_1, 96),
            (Q8_0, 96),
            (Q2K, 512),
            (Q3K, 512),
            (Q4K, 512),
            (Q5K, 512),
            (Q6K, 512),
        ] {
            let (rows, m) = (PANEL_ROWS + 9, 3);
            let (weight, plain) = quantised(encoding, rows, columns);
            let dense = HostWeight::from_floats(&plain, rows, columns).unwrap();
            let x = to_vec(&numbers(1, &[m, columns])).unwrap();
            let dy = to_vec(&numbers(2, &[m, rows])).unwrap();
            let (mut y, mut y_dense) = (vec![0.0; m * rows], vec![0.0; m * rows]);
            weight.times_transposed(&x, m, &mut y, &Products::alone());
            dense.times_transposed(&x, m, &mut y_dense, &Products::alone());
            close(&y, &y_dense);
            let (mut dx, mut dx_dense) = (vec![0.0; m * columns], vec![0.0; m * columns]);
            weight.times(&dy, m, &mut dx, &Products::alone());
            dense.times(&dy, m, &mut dx_dense, &Products::alone());
            close(&dx, &dx_dense);
            let by_hand: f32 = (0..rows).map(|i| dy[i] * plain[i * columns + 5]).sum();
            assert!((dx[5] - by_hand).abs() < 1e-3);
        }
    }

    #[test]
    fn quantising_gives_the_bytes_that_candle_gives() {
        use GgmlDType::*;
        let numbers = numbers(5, &[6, 512]);
        let dense = HostWeight::from_floats(&to_vec(&numbers).unwrap(), 6, 512).unwrap();
        for encoding in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
            let expected = QTensor::quantize(&numbers, encoding).unwrap();
            let got = dense.quantised(encoding).unwrap();
            assert_eq!(got.bytes(), &*expected.data().unwrap(), "{encoding:?}");
        }
        assert!(dense.quantised(F16).is_err());
    }

    #[test]
    fn interleaved_heads_are_put_into_hugging_faces_order() {
        // Two heads of four rows; llama.cpp's order of a head's rows 0 1 2 3 is 0 2 1 3.
        let file: Vec<f32> = vec![0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
        let weight = HostWeight::from_floats(&file, 8, 1).unwrap();
        let weight = weight.with_interleaved_heads(2).unwrap();
        assert_eq!(
            weight.gather(&[0, 1, 2, 3, 4, 5, 6, 7]),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
        );
    }

    #[test]
    fn unaligned_numbers_are_read_right_and_missing_ones_refused() {
        let mut bytes = vec![0u8];
        bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_ne_bytes()));
        let bytes: Bytes = Arc::new(bytes);
        let weight = HostWeight::new(bytes.clone(), 1, GgmlDType::F32, 1, 2).unwrap();
        assert_eq!(weight.gather(&[0]), [1.5, -2.0]);
        for (start, rows) in [(1, 2), (usize::MAX, 1), (1, usize::MAX)] {
            assert!(HostWeight::new(bytes.clone(), start, GgmlDType::F32, rows, 2).is_err());
        }
    }
}
