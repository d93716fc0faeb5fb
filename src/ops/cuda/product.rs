//! Matrix products on the device.

use candle_core::{DType, Result, Tensor, bail};

use super::super::matrix::Write;
use super::super::profile;

/// A matrix as a product's factor: `[rows, columns]` as it lies, or its transpose.
#[derive(Clone, Copy)]
pub struct Factor<'a> {
    pub tensor: &'a Tensor,
    /// Of the numbers in the tensor's memory.
    pub dtype: DType,
    pub(super) transposed: bool,
    /// Numbers from one row, as it lies, to the next.
    pub(super) row: usize,
}

impl<'a> Factor<'a> {
    /// The contiguous matrix `tensor`.
    pub fn new(tensor: &'a Tensor) -> Result<Self> {
        let (_, columns) = tensor.dims2()?;
        Ok(Factor {
            tensor,
            dtype: tensor.dtype(),
            transposed: false,
            row: columns,
        })
    }

    /// A contiguous f32 matrix in whose rows a kernel left as many numbers of type `dtype`, from the
    /// row's first byte on.
    pub fn narrowed(tensor: &'a Tensor, dtype: DType) -> Result<Self> {
        let (_, columns) = tensor.dims2()?;
        if tensor.dtype() != DType::F32 {
            bail!("rows of {:?} hold no other numbers", tensor.dtype());
        }
        Ok(Factor {
            tensor,
            dtype,
            transposed: false,
            row: columns * (DType::F32.size_in_bytes() / dtype.size_in_bytes()),
        })
    }

    pub fn transposed(self) -> Self {
        Factor {
            transposed: !self.transposed,
            ..self
        }
    }
}

/// A product in the words of BLAS, which counts matrices column by column: what is row-major to us
/// is its own transpose there, so `c = left right` is asked for as `c^T = right^T left^T`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Of both factors.
    pub dtype: DType,
    pub transpose_a: bool,
    pub transpose_b: bool,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub lda: usize,
    pub ldb: usize,
    pub ldc: usize,
    pub alpha: f32,
    pub beta: f32,
}

/// `out[m, n] = factor * left[m, k] right[k, n]`, or that added to it. The factors are of one type,
/// sums are in f32; `out` may be f32 beside narrower factors.
///
/// # Errors
/// Types that do not fit; the device fails.
pub fn multiply(
    out: &Tensor,
    left: Factor<'_>,
    right: Factor<'_>,
    (m, n, k): (usize, usize, usize),
    factor: f32,
    write: Write,
) -> Result<()> {
    if left.dtype != right.dtype {
        let (a, b) = (left.dtype, right.dtype);
        bail!("a product of {a:?} with {b:?}");
    }
    if out.elem_count() != m * n {
        bail!("a product of [{m}, {n}] into {:?}", out.dims());
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    profile::count(m, n, k);
    let call = Call {
        dtype: left.dtype,
        transpose_a: right.transposed,
        transpose_b: left.transposed,
        m: n,
        n: m,
        k,
        lda: right.row,
        ldb: left.row,
        ldc: n,
        alpha: factor,
        beta: if write == Write::Add { 1.0 } else { 0.0 },
    };
    #[cfg(test)]
    if super::emulated::is_on() {
        super::emulated::product(out, right.tensor, left.tensor, call);
        return Ok(());
    }
    #[cfg(feature = "cuda")]
    return super::driver::product(out, right.tensor, left.tensor, call);
    #[cfg(not(feature = "cuda"))]
    bail!("{call:?} on a device that this program was not built for")
}
