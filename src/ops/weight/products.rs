//! Products with weights in host memory, decoded a panel at a time.

use std::ops::Range;

use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use super::super::decode::cast;
use super::super::matrix::{Matrix, Target, Write, product};
use super::host::HostWeight;

/// Rows of a weight decoded at once: few enough that a panel stays in the core's cache.
pub(super) const PANEL_ROWS: usize = 256;

/// What a product with a weight is put together with.
pub(in crate::ops) struct Products<'a> {
    /// Whether the product is added to what the target holds.
    pub write: Write,
    /// Further products added to it, while it is still in the core's cache.
    pub beside: &'a [LowRank<'a>],
}

/// `factor * left right`, of `[tokens, rank]` and `[rank, features]`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct LowRank<'a> {
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

impl HostWeight {
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

    /// `out[m, rows] = x[m, columns] W^T`, with what is put beside it.
    pub(in crate::ops) fn times_transposed(
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
    pub(in crate::ops) fn times(
        &self,
        dy: &[f32],
        m: usize,
        out: &mut [f32],
        products: &Products<'_>,
    ) {
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
