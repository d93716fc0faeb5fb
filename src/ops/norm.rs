//! RMSNorm with a frozen weight.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::tensors::{floats, fused, with_floats};

/// `x / sqrt(mean(x^2) + eps) * weight` per token, for `x` of `[tokens, features]`.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if weight.elem_count() != x.dim(D::Minus1)? {
        bail!("a norm of {:?} features got {:?}", weight.dims(), x.dims());
    }
    if fused(x) {
        return x.contiguous()?.apply_op1(RmsNorm {
            weight: weight.detach(),
            eps: eps as f32,
        });
    }
    let wide = x.to_dtype(DType::F32)?;
    let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
    wide.broadcast_div(&(mean + eps)?.sqrt()?)?
        .broadcast_mul(&weight.to_dtype(DType::F32)?)?
        .to_dtype(x.dtype())
}

struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    fn inverse_rms(&self, x: &[f32]) -> f32 {
        let squares: f32 = dot(x, x);
        1.0 / (squares / x.len() as f32 + self.eps).sqrt()
    }
}

/// Eight partial sums: vectorises, and is more exact than one running sum.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8
        .remainder()
        .iter()
        .zip(b8.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(storage, layout)?;
        let out = with_floats(&self.weight, |weight| {
            let mut out = vec![0.0; x.len()];
            out.par_chunks_mut(weight.len())
                .zip(x.par_chunks(weight.len()))
                .for_each(|(out, x)| {
                    let scale = self.inverse_rms(x);
                    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                        *out = x * scale * weight;
                    }
                });
            out
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_floats(x, |x| {
            with_floats(dy, |dy| {
                with_floats(&self.weight, |weight| {
                    let mut dx = vec![0.0; x.len()];
                    let n = weight.len();
                    dx.par_chunks_mut(n)
                        .zip(x.par_chunks(n).zip(dy.par_chunks(n)))
                        .for_each(|(dx, (x, dy))| {
                            let scale = self.inverse_rms(x);
                            for ((dx, dy), weight) in dx.iter_mut().zip(dy).zip(weight) {
                                *dx = dy * weight;
                            }
                            // d(scale)/dx_i = -scale^3 x_i / n
                            let mean = dot(dx, x) * scale * scale / n as f32;
                            for (dx, x) in dx.iter_mut().zip(x) {
                                *dx = scale * (*dx - x * mean);
                            }
                        });
                    dx
                })
            })
        })???;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::*;

    #[test]
    fn gradient_of_rms_norm_is_its_slope() {
        let weight = numbers(1, &[13]);
        check("rms_norm", &[numbers(2, &[5, 13])], |t| {
            rms_norm(&t[0], &weight, 1e-5)
        });
    }
}
