//! A linear layer whose weight is frozen.

use candle_core::{Device, Result, Tensor, bail};

use super::cuda;
use super::tape::Tape;
use super::tensors::with_floats;
use super::weight::{FrozenWeight, HostWeight, Products};

/// `x W^T` for `x` of `[tokens, in]`; the gradient reaches `x` only.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn frozen_linear(tape: &Tape, x: &Tensor, weight: &FrozenWeight) -> Result<Tensor> {
    let y = linear_forward(x, weight)?;
    let (input, weight) = (x.id(), weight.clone());
    tape.record(&y, &[x], move |dy, gradients| {
        gradients.add(input, linear_backward(&dy, &weight)?)
    });
    Ok(y)
}

/// `x W^T`, with nothing noted.
pub(super) fn linear_forward(x: &Tensor, weight: &FrozenWeight) -> Result<Tensor> {
    let tokens = tokens(x, weight.columns())?;
    if cuda::serves(x) {
        return cuda::linear::forward(x, weight, x.dtype());
    }
    on_host(x, weight, weight.rows(), |weight, x, out| {
        weight.times_transposed(x, tokens, out, &Products::alone());
    })
}

/// `dy W` for `dy` of `[tokens, out]`.
pub(super) fn linear_backward(dy: &Tensor, weight: &FrozenWeight) -> Result<Tensor> {
    let tokens = tokens(dy, weight.rows())?;
    if cuda::serves(dy) {
        let dy = dy.contiguous()?;
        return cuda::linear::backward(cuda::Factor::new(&dy)?, tokens, weight);
    }
    on_host(dy, weight, weight.columns(), |weight, dy, out| {
        weight.times(dy, tokens, out, &Products::alone());
    })
}

fn tokens(x: &Tensor, expected: usize) -> Result<usize> {
    let (tokens, features) = x.dims2()?;
    if features != expected {
        bail!("a linear layer of {expected} features got {features}");
    }
    Ok(tokens)
}

fn on_host(
    x: &Tensor,
    weight: &FrozenWeight,
    columns: usize,
    product: impl FnOnce(&HostWeight, &[f32], &mut [f32]),
) -> Result<Tensor> {
    let weight = weight.on_host()?;
    let tokens = x.dim(0)?;
    let out = with_floats(x, |x| {
        let mut out = vec![0.0; tokens * columns];
        product(weight, x, &mut out);
        out
    })?;
    Tensor::from_vec(out, (tokens, columns), &Device::Cpu)
}
