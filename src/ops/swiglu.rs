//! The gated activation of LLaMA's MLP.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::profile::{Part, timed};
use super::tape::Tape;
use super::tensors::with_floats;
use super::wide::{sigmoid, wide};

/// Numbers per task: enough to be worth a thread.
const CHUNK: usize = 16 * 1024;

/// `silu(gate) * up`.
///
/// # Errors
/// Shapes that differ; the device fails.
pub fn swiglu(tape: &Tape, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("a gate of {:?} meets {:?}", gate.dims(), up.dims());
    }
    if cuda::serves(gate) {
        return cuda::pointwise::swiglu(tape, gate, up);
    }
    let time = timed(Part::SwiGlu);
    let y = with_floats(gate, |gate| with_floats(up, |up| forward(gate, up)))??;
    let y = Tensor::from_vec(y, gate.shape(), &Device::Cpu)?;
    drop(time);
    let inputs = (gate.clone(), up.clone());
    tape.record(&y, &[gate, up], move |dy, gradients| {
        let time = timed(Part::SwiGlu);
        let (gate, up) = inputs;
        let (d_gate, d_up) = with_floats(&gate, |gate| {
            with_floats(&up, |up| with_floats(&dy, |dy| backward(gate, up, dy)))
        })???;
        drop(time);
        gradients.add(
            gate.id(),
            Tensor::from_vec(d_gate, gate.shape(), &Device::Cpu)?,
        )?;
        gradients.add(up.id(), Tensor::from_vec(d_up, up.shape(), &Device::Cpu)?)
    });
    Ok(y)
}

fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; gate.len()];
    y.par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
        .for_each(|(y, (gate, up))| forward_chunk(y, gate, up));
    y
}

/// Gradients of gate and up.
fn backward(gate: &[f32], up: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut d_gate = vec![0.0; gate.len()];
    let mut d_up = vec![0.0; gate.len()];
    d_gate
        .par_chunks_mut(CHUNK)
        .zip(d_up.par_chunks_mut(CHUNK))
        .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
        .zip(dy.par_chunks(CHUNK))
        .for_each(|(((d_gate, d_up), (gate, up)), dy)| {
            backward_chunk(d_gate, d_up, gate, up, dy);
        });
    (d_gate, d_up)
}

wide! {
    fn forward_chunk(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((y, &gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(gate) * up;
        }
    }
}

wide! {
    fn backward_chunk(d_gate: &mut [f32], d_up: &mut [f32], gate: &[f32], up: &[f32], dy: &[f32]) {
        let outputs = d_gate.iter_mut().zip(d_up);
        let inputs = gate.iter().zip(up).zip(dy);
        for ((d_gate, d_up), ((&gate, up), dy)) in outputs.zip(inputs) {
            let s = sigmoid(gate);
            *d_gate = dy * up * s * (1.0 + gate * (1.0 - s));
            *d_up = dy * gate * s;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::super::to_vec;
    use super::*;

    #[test]
    fn gradients_of_swiglu_are_its_slopes() {
        let wide = (numbers(1, &[4, 6]) * 4.0).unwrap();
        check("swiglu", &[wide, numbers(2, &[4, 6])], |tape, t| {
            swiglu(tape, &t[0], &t[1])
        });
    }

    #[test]
    fn gates_far_from_zero_stay_finite() {
        let gate = Tensor::new(&[[-1e4f32, -100.0, 100.0, 1e4]], &Device::Cpu).unwrap();
        let y = swiglu(&Tape::off(), &gate, &gate.ones_like().unwrap()).unwrap();
        let y = to_vec(&y).unwrap();
        assert!(y[0].abs() < 1e-30 && y[1].abs() < 1e-30, "{y:?}");
        assert_eq!(y[2..], [100.0, 1e4]);
    }
}
