//! RMSNorm with a frozen weight.

use candle_core::{D, Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::profile::{Part, timed};
use super::tape::Tape;
use super::tensors::with_floats;
use super::wide::{dot, wide};

/// `x / sqrt(mean(x^2) + eps) * weight` per token, for `x` of `[tokens, features]`; where the weight
/// has the size of a head, per head.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn rms_norm(tape: &Tape, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if weight.elem_count() == 0 || !x.dim(D::Minus1)?.is_multiple_of(weight.elem_count()) {
        bail!("a norm of {:?} features got {:?}", weight.dims(), x.dims());
    }
    if cuda::serves(x) {
        return cuda::norm::rms_norm(tape, x, weight, eps);
    }
    let time = timed(Part::Norm);
    let y = with_floats(x, |x| with_floats(weight, |w| forward(x, w, eps as f32)))??;
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
        gradients.add(
            input.id(),
            Tensor::from_vec(dx, input.shape(), &Device::Cpu)?,
        )
    });
    Ok(y)
}

fn forward(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(weight.len())
        .zip(x.par_chunks(weight.len()))
        .for_each(|(y, x)| forward_row(y, x, weight, eps));
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

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

wide! {
    fn forward_row(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let scale = inverse_rms(x, eps);
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = x * scale * weight;
        }
    }
}

wide! {
    fn backward_row(dx: &mut [f32], x: &[f32], dy: &[f32], weight: &[f32], eps: f32) {
        let scale = inverse_rms(x, eps);
        for ((dx, dy), weight) in dx.iter_mut().zip(dy).zip(weight) {
            *dx = dy * weight;
        }
        // d(scale)/dx_i = -scale^3 x_i / n
        let mean = dot(dx, x) * scale * scale / x.len() as f32;
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = scale * (*dx - x * mean);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::finite_differences::{check, numbers};
    use super::*;

    /// Out of candle's operations.
    fn composed(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let wide = wide.reshape(((), weight.elem_count()))?;
        let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
        wide.broadcast_div(&(mean + eps)?.sqrt()?)?
            .broadcast_mul(&weight.to_dtype(DType::F32)?)?
            .reshape(x.shape())?
            .to_dtype(x.dtype())
    }

    #[test]
    fn gradient_of_rms_norm_is_its_slope() {
        let weight = numbers(1, &[41]);
        check("rms_norm", &[numbers(2, &[5, 41])], |tape, t| {
            rms_norm(tape, &t[0], &weight, 1e-5)
        });
    }

    #[test]
    fn the_fused_norm_is_the_composed_one() {
        let (weight, x) = (numbers(1, &[41]), numbers(2, &[5, 41]));
        let fused = rms_norm(&Tape::off(), &x, &weight, 1e-5).unwrap();
        let plain = composed(&x, &weight, 1e-5).unwrap();
        let difference = (fused - plain).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-5);
    }
}
