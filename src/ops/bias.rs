//! The frozen bias of a linear.

use candle_core::{D, Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::profile::{Part, timed};
use super::tape::Tape;
use super::tensors::with_floats;
use super::wide::wide;

/// `x + bias` for `x` of `[tokens, features]`; the gradient reaches `x` only.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn add_bias(tape: &Tape, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if bias.elem_count() != x.dim(D::Minus1)? {
        bail!("a bias of {:?} meets {:?}", bias.dims(), x.dims());
    }
    let y = if cuda::serves(x) {
        cuda::pointwise::add_bias(x, bias)?
    } else {
        let _time = timed(Part::Linear);
        let y = with_floats(x, |x| {
            with_floats(bias, |bias| {
                let mut y = vec![0.0; x.len()];
                y.par_chunks_mut(bias.len())
                    .zip(x.par_chunks(bias.len()))
                    .for_each(|(y, x)| {
                        for ((y, x), bias) in y.iter_mut().zip(x).zip(bias) {
                            *y = x + bias;
                        }
                    });
                y
            })
        })??;
        Tensor::from_vec(y, x.shape(), &Device::Cpu)?
    };
    let input = x.id();
    tape.record(&y, &[x], move |dy, gradients| {
        gradients.add_shared(input, dy)
    });
    Ok(y)
}

/// Adds the bias to every row in place.
pub(super) fn add_to_rows(y: &mut [f32], bias: &[f32]) {
    y.par_chunks_mut(bias.len())
        .for_each(|y| add_slice(y, bias));
}

wide! {
    /// `sum += addend`.
    pub(super) fn add_slice(sum: &mut [f32], addend: &[f32]) {
        for (sum, addend) in sum.iter_mut().zip(addend) {
            *sum += addend;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::*;

    #[test]
    fn gradient_beside_a_bias_is_its_slope() {
        let bias = numbers(1, &[7]);
        check("add_bias", &[numbers(2, &[3, 7])], |tape, t| {
            add_bias(tape, &t[0], &bias)
        });
    }
}
