//! Matrix products on slices, with the bounds checked that the underlying library trusts.

use std::marker::PhantomData;
use std::time::Instant;

use gemm::Parallelism;
use rayon::prelude::*;

use super::profile;

/// A strided view of numbers: element `(i, j)` lies at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major, rows `row` numbers apart.
    pub fn new(data: &'a [f32], row: usize) -> Self {
        Matrix {
            data,
            row,
            column: 1,
        }
    }

    pub fn transposed(self) -> Self {
        Matrix {
            row: self.column,
            column: self.row,
            ..self
        }
    }

    /// The view from element `(i, j)` on.
    pub fn from(self, i: usize, j: usize) -> Self {
        Matrix {
            data: &self.data[i * self.row + j * self.column..],
            ..self
        }
    }
}

/// A row-major matrix that parallel tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    data: *mut f32,
    len: usize,
    row: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `Target` is only written through `product` and `slice`, whose callers promise that
// tasks running at the same time write disjoint elements.
unsafe impl Send for Target<'_> {}
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    pub fn new(data: &'a mut [f32], row: usize) -> Self {
        Target {
            data: data.as_mut_ptr(),
            len: data.len(),
            row,
            lifetime: PhantomData,
        }
    }

    /// The view from element `(i, j)` on.
    pub fn from(self, i: usize, j: usize) -> Self {
        let skip = i * self.row + j;
        assert!(skip <= self.len, "a view beyond its matrix");
        Target {
            // SAFETY: within or one past the slice, as just asserted.
            data: unsafe { self.data.add(skip) },
            len: self.len - skip,
            ..self
        }
    }
}

impl<'a> Target<'a> {
    /// The first `count` numbers of the view.
    ///
    /// # Safety
    /// No other task may touch them meanwhile, and nobody may hold them already.
    pub unsafe fn slice(self, count: usize) -> &'a mut [f32] {
        assert!(count <= self.len, "a slice beyond its matrix");
        // SAFETY: in bounds, as just asserted; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data, count) }
    }
}

/// `(m, n, k)` of a product `[m, k] x [k, n]`.
pub(super) type Dims = (usize, usize, usize);

/// What happens to the numbers already in the target.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Write {
    Replace,
    Add,
}

/// `target = factor * left right` (or `+=`), on the calling thread.
///
/// # Safety
/// No other task may touch the target's `m x n` elements meanwhile.
pub(super) unsafe fn product(
    target: Target<'_>,
    left: Matrix<'_>,
    right: Matrix<'_>,
    dims: Dims,
    factor: f32,
    write: Write,
) {
    // SAFETY: passed on.
    unsafe { multiply(target, left, right, dims, factor, write, Parallelism::None) }
}

/// `target = factor * left right` (or `+=`), on all threads.
pub(super) fn parallel_product(
    target: &mut [f32],
    left: Matrix<'_>,
    right: Matrix<'_>,
    dims: Dims,
    factor: f32,
    write: Write,
) {
    let parallelism = match rayon::current_num_threads() {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    // SAFETY: the target is borrowed exclusively.
    unsafe {
        multiply(
            Target::new(target, dims.1),
            left,
            right,
            dims,
            factor,
            write,
            parallelism,
        );
    }
}

unsafe fn multiply(
    target: Target<'_>,
    left: Matrix<'_>,
    right: Matrix<'_>,
    (m, n, k): Dims,
    factor: f32,
    write: Write,
    parallelism: Parallelism,
) {
    if m == 0 || n == 0 {
        return;
    }
    profile::count(m, n, k);
    let last = |rows: usize, columns: usize, row: usize, column: usize| {
        rows.saturating_sub(1) * row + columns.saturating_sub(1) * column
    };
    assert!(last(m, n, target.row, 1) < target.len, "target too small");
    assert!(
        k == 0 || last(m, k, left.row, left.column) < left.data.len(),
        "left factor too small"
    );
    assert!(
        k == 0 || last(k, n, right.row, right.column) < right.data.len(),
        "right factor too small"
    );
    // SAFETY: all three matrices are in bounds, as just asserted; exclusive by the caller's
    // promise. Strides fit isize because the slices exist.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.data,
            1,
            target.row as isize,
            write == Write::Add,
            left.data.as_ptr(),
            left.column as isize,
            left.row as isize,
            right.data.as_ptr(),
            right.column as isize,
            right.row as isize,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Floating-point operations a second that large products reach on all threads of this machine:
/// the best of several, each of a linear's size.
pub fn product_rate() -> f64 {
    let threads = rayon::current_num_threads();
    let (m, n, k) = (1024, 768 * threads, 768);
    let (left, right) = (vec![0.5; m * k], vec![0.25; n * k]);
    let mut results = vec![0.0; m * n];
    let target = Target::new(&mut results, n);
    let mut best = f64::INFINITY;
    for _ in 0..12 {
        let clock = Instant::now();
        // Each thread its own columns, as the linears do it.
        (0..threads).into_par_iter().for_each(|thread| {
            let (first, columns) = (thread * n / threads, n / threads);
            // SAFETY: each task writes columns of its own.
            unsafe {
                product(
                    target.from(0, first),
                    Matrix::new(&left, k),
                    Matrix::new(&right, k).from(first, 0).transposed(),
                    (m, columns, k),
                    1.0,
                    Write::Replace,
                );
            }
        });
        best = best.min(clock.elapsed().as_secs_f64());
    }
    2.0 * (m * n * k) as f64 / best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_views_match_the_sum_of_the_definition() {
        let (m, n, k) = (5, 7, 3);
        let left: Vec<f32> = (0..m * k).map(|i| i as f32 * 0.5 - 3.0).collect();
        let right: Vec<f32> = (0..n * k).map(|i| 2.0 - i as f32 * 0.25).collect();
        let mut target = vec![1.0f32; m * n];
        parallel_product(
            &mut target,
            Matrix::new(&left, k),
            Matrix::new(&right, k).transposed(),
            (m, n, k),
            2.0,
            Write::Add,
        );
        for i in 0..m {
            for j in 0..n {
                let dot: f32 = (0..k).map(|l| left[i * k + l] * right[j * k + l]).sum();
                assert_eq!(target[i * n + j], 1.0 + 2.0 * dot);
            }
        }
    }

    #[test]
    #[should_panic(expected = "left factor too small")]
    fn a_factor_too_small_is_never_read_beyond_its_end() {
        parallel_product(
            &mut [0.0; 4],
            Matrix::new(&[1.0; 3], 2),
            Matrix::new(&[1.0; 4], 2),
            (2, 2, 2),
            1.0,
            Write::Replace,
        );
    }
}
