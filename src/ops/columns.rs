//! A part of the features: what a fused linear's output is taken apart with.

use std::ops::Range;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::tape::Tape;
use super::tensors::with_floats;

/// The features `columns` of `x` of `[tokens, features]`.
///
/// # Errors
/// Columns beyond the features; the device fails.
pub fn select_columns(tape: &Tape, x: &Tensor, columns: Range<usize>) -> Result<Tensor> {
    let (tokens, features) = x.dims2()?;
    if columns.is_empty() || columns.end > features {
        bail!("columns {columns:?} of {features} features");
    }
    if cuda::serves(x) {
        return cuda::columns::select(tape, x, columns);
    }
    let width = columns.len();
    let y = with_floats(x, |x| {
        let mut y = vec![0.0; tokens * width];
        y.par_chunks_mut(width)
            .zip(x.par_chunks(features))
            .for_each(|(y, x)| y.copy_from_slice(&x[columns.clone()]));
        y
    })?;
    let y = Tensor::from_vec(y, (tokens, width), &Device::Cpu)?;
    let input = x.id();
    tape.record(&y, &[x], move |dy, gradients| {
        let dx = with_floats(&dy, |dy| {
            let mut dx = vec![0.0; tokens * features];
            dx.par_chunks_mut(features)
                .zip(dy.par_chunks(width))
                .for_each(|(dx, dy)| dx[columns.clone()].copy_from_slice(dy));
            dx
        })?;
        let dx = Tensor::from_vec(dx, (tokens, features), &Device::Cpu)?;
        gradients.add(input, dx)
    });
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::*;

    #[test]
    fn gradients_of_two_parts_are_their_slopes() {
        check("select_columns", &[numbers(2, &[3, 7])], |tape, t| {
            let first = select_columns(tape, &t[0], 0..3)?;
            let second = select_columns(tape, &t[0], 3..6)?;
            super::super::swiglu(tape, &first, &second)
        });
    }
}
