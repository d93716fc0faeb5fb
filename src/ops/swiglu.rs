//! The gated activation of LLaMA's MLP.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::tensors::{floats, fused, with_floats};

/// Numbers per task: enough to be worth a thread.
const CHUNK: usize = 16 * 1024;

/// `silu(gate) * up`.
///
/// # Errors
/// Shapes that differ; the device fails.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if fused(gate) && gate.shape() == up.shape() {
        return gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu);
    }
    gate.silu()? * up
}

struct SwiGlu;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (floats(gate, gate_layout)?, floats(up, up_layout)?);
        let mut out = vec![0.0; gate.len()];
        out.par_chunks_mut(CHUNK)
            .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
            .for_each(|(out, (gate, up))| {
                for ((out, &gate), up) in out.iter_mut().zip(gate).zip(up) {
                    *out = gate * sigmoid(gate) * up;
                }
            });
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (d_gate, d_up) = with_floats(gate, |gate| {
            with_floats(up, |up| {
                with_floats(dy, |dy| {
                    let mut d_gate = vec![0.0; gate.len()];
                    let mut d_up = vec![0.0; gate.len()];
                    d_gate
                        .par_chunks_mut(CHUNK)
                        .zip(d_up.par_chunks_mut(CHUNK))
                        .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
                        .zip(dy.par_chunks(CHUNK))
                        .for_each(|(((d_gate, d_up), (gate, up)), dy)| {
                            for i in 0..dy.len() {
                                let s = sigmoid(gate[i]);
                                d_gate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
                                d_up[i] = dy[i] * gate[i] * s;
                            }
                        });
                    (d_gate, d_up)
                })
            })
        })???;
        Ok((
            Some(Tensor::from_vec(d_gate, gate.shape(), gate.device())?),
            Some(Tensor::from_vec(d_up, up.shape(), up.device())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::*;

    #[test]
    fn gradients_of_swiglu_are_its_slopes() {
        let wide = (numbers(1, &[4, 6]) * 4.0).unwrap();
        check("swiglu", &[wide, numbers(2, &[4, 6])], |t| {
            swiglu(&t[0], &t[1])
        });
    }
}
