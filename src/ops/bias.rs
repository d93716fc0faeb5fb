//! The frozen bias of a linear.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::tensors::{floats, fused, with_floats};

/// `x + bias` for `x` of `[tokens, features]`; the gradient reaches `x` only.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if bias.elem_count() != x.dim(D::Minus1)? {
        bail!("a bias of {:?} meets {:?}", bias.dims(), x.dims());
    }
    if fused(x) {
        let bias = bias.detach();
        return x.contiguous()?.apply_op1(AddBias { bias });
    }
    x.broadcast_add(&bias.to_dtype(x.dtype())?)
}

struct AddBias {
    bias: Tensor,
}

impl CustomOp1 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(storage, layout)?;
        let out = with_floats(&self.bias, |bias| {
            let mut out = vec![0.0; x.len()];
            out.par_chunks_mut(bias.len())
                .zip(x.par_chunks(bias.len()))
                .for_each(|(out, x)| {
                    for ((out, x), bias) in out.iter_mut().zip(x).zip(bias) {
                        *out = x + bias;
                    }
                });
            out
        })?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::super::pull_gradients;
    use super::*;
    use candle_core::Var;

    #[test]
    fn gradient_beside_a_bias_is_its_slope_and_the_bias_gets_none() {
        let bias = numbers(1, &[7]);
        check("add_bias", &[numbers(2, &[3, 7])], |t| {
            add_bias(&t[0], &bias)
        });
        let (x, bias) = (numbers(2, &[3, 7]), Var::from_tensor(&bias).unwrap());
        let x = Var::from_tensor(&x).unwrap();
        let y = add_bias(&x, &bias).unwrap();
        let store = pull_gradients(&y, &y.ones_like().unwrap()).unwrap();
        assert!(store.get(&x).is_some() && store.get(&bias).is_none());
    }
}
