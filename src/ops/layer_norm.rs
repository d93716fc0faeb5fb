//! LayerNorm with frozen weight and bias.

use candle_core::{D, Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::profile::{Part, timed};
use super::tape::Tape;
use super::tensors::with_floats;
use super::wide::{dot, sum, wide};

/// `(x - mean) / sqrt(variance + eps) * weight + bias` per row, for `x` of `[rows, features]`.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn layer_norm(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let features = x.dim(D::Minus1)?;
    if features == 0 || weight.dims() != [features] || bias.dims() != [features] {
        bail!("a norm of {:?} features got {:?}", weight.dims(), x.dims());
    }
    if cuda::serves(x) {
        return cuda::norm::layer_norm(tape, x, weight, bias, eps);
    }
    let time = timed(Part::Norm);
    let y = with_floats(x, |x| {
        with_floats(weight, |weight| {
            with_floats(bias, |bias| forward(x, weight, bias, eps as f32))
        })
    })???;
    let y = Tensor::from_vec(y, x.shape(), &Device::Cpu)?;
    drop(time);
    let (input, weight) = (x.clone(), weight.clone());
    tape.record(&y, &[x], move |dy, gradients| {
        let time = timed(Part::Norm);
        let dx = with_floats(&input, |x| {
            with_floats(&dy, |dy| {
                with_floats(&weight, |weight| backward(x, dy, weight, eps as f32))
            })
        })???;
        drop(time);
        let dx = Tensor::from_vec(dx, input.shape(), &Device::Cpu)?;
        gradients.add(input.id(), dx)
    });
    Ok(y)
}

fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(weight.len())
        .zip(x.par_chunks(weight.len()))
        .for_each(|(y, x)| forward_row(y, x, weight, bias, eps));
    y
}

fn backward(x: &[f32], dy: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut dx = vec![0.0; x.len()];
    let n = weight.len();
    dx.par_chunks_mut(n)
        .zip(x.par_chunks(n).zip(dy.par_chunks(n)))
        .for_each(|(dx, (x, dy))| backward_row(dx, x, dy, weight, eps));
    dx
}

wide! {
    fn forward_row(y: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
        let inverse = centre(y, x, eps);
        for (y, (weight, bias)) in y.iter_mut().zip(weight.iter().zip(bias)) {
            *y = *y * inverse * weight + bias;
        }
    }
}

wide! {
    /// With `g = weight * dy`: `dx = inverse * (g - mean(g) - xhat * mean(g * xhat))`.
    fn backward_row(dx: &mut [f32], x: &[f32], dy: &[f32], weight: &[f32], eps: f32) {
        let n = x.len() as f32;
        let mean = sum(x) / n;
        let inverse = centre(dx, x, eps);
        let (mut g, mut g_centred) = (0.0, 0.0);
        for ((centred, dy), weight) in dx.iter().zip(dy).zip(weight) {
            g += dy * weight;
            g_centred += dy * weight * centred;
        }
        let (g, slope) = (g / n, g_centred / n * inverse * inverse);
        for ((dx, x), (dy, weight)) in dx.iter_mut().zip(x).zip(dy.iter().zip(weight)) {
            *dx = inverse * (dy * weight - g - (x - mean) * slope);
        }
    }
}

/// Writes `x - mean`; the inverse of the standard deviation.
#[inline(always)]
fn centre(y: &mut [f32], x: &[f32], eps: f32) -> f32 {
    let mean = sum(x) / x.len() as f32;
    for (y, x) in y.iter_mut().zip(x) {
        *y = x - mean;
    }
    1.0 / (dot(y, y) / x.len() as f32 + eps).sqrt()
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::finite_differences::{check, numbers};
    use super::super::to_vec;
    use super::*;

    /// Out of candle's operations.
    fn composed(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        centred
            .broadcast_div(&(variance + eps)?.sqrt()?)?
            .broadcast_mul(&weight.to_dtype(DType::F32)?)?
            .broadcast_add(&bias.to_dtype(DType::F32)?)?
            .to_dtype(x.dtype())
    }

    #[test]
    fn gradient_of_layer_norm_is_its_slope() {
        let (weight, bias) = (numbers(1, &[41]), numbers(2, &[41]));
        check("layer_norm", &[numbers(3, &[5, 41])], |tape, t| {
            layer_norm(tape, &t[0], &weight, &bias, 1e-5)
        });
    }

    #[test]
    fn the_fused_norm_is_the_composed_one_also_far_from_zero() {
        let (weight, bias) = (numbers(1, &[41]), numbers(2, &[41]));
        let x = (numbers(3, &[5, 41]) + 30.0).unwrap();
        let fused = layer_norm(&Tape::off(), &x, &weight, &bias, 1e-5).unwrap();
        let plain = composed(&x, &weight, &bias, 1e-5).unwrap();
        for (a, b) in to_vec(&fused).unwrap().iter().zip(to_vec(&plain).unwrap()) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
}
