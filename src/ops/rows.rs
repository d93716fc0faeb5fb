//! Some of a tensor's rows.

use candle_core::{Device, Result, Tensor, bail};

use super::cuda;
use super::tape::Tape;
use super::tensors::with_floats;

/// The rows `indices` (rising) of `x` `[rows, features]`; all of them are `x` itself.
///
/// # Errors
/// An index beyond the rows, or not above the one before it; the device fails.
pub fn select_rows(tape: &Tape, x: &Tensor, indices: &[u32]) -> Result<Tensor> {
    let (rows, features) = x.dims2()?;
    let rising = indices.windows(2).all(|pair| pair[0] < pair[1]);
    if !rising || indices.last().is_some_and(|&last| last as usize >= rows) {
        bail!("rows {indices:?} are no rising choice of {rows}");
    }
    if indices.len() == rows {
        return Ok(x.clone());
    }
    if cuda::serves(x) {
        return cuda::rows::select_rows(tape, x, indices);
    }
    let y = x.index_select(&Tensor::new(indices, &Device::Cpu)?, 0)?;
    let (input, indices) = (x.id(), indices.to_vec());
    tape.record(&y, &[x], move |dy, gradients| {
        let dx = with_floats(&dy, |dy| {
            let mut dx = vec![0.0; rows * features];
            for (&row, dy) in indices.iter().zip(dy.chunks_exact(features)) {
                dx[row as usize * features..][..features].copy_from_slice(dy);
            }
            dx
        })?;
        gradients.add(input, Tensor::from_vec(dx, (rows, features), &Device::Cpu)?)
    });
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::super::swiglu;
    use super::*;

    #[test]
    fn gradients_reach_the_chosen_rows() {
        for indices in [&[1, 3][..], &[0, 1, 2, 3]] {
            let up = numbers(2, &[indices.len(), 3]);
            check("select_rows", &[numbers(1, &[4, 3])], |tape, t| {
                swiglu(tape, &select_rows(tape, &t[0], indices)?, &up)
            });
        }
    }

    #[test]
    fn rows_that_are_not_there_are_refused() {
        for indices in [&[4][..], &[1, 1], &[2, 0]] {
            assert!(select_rows(&Tape::off(), &numbers(1, &[4, 3]), indices).is_err());
        }
    }
}
