//! Activations by themselves, and GEGLU.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::profile::{Part, timed};
use super::tape::Tape;
use super::tensors::with_floats;
use super::wide::{erf, exp, sigmoid, wide};

/// Numbers per task: enough to be worth a thread.
const CHUNK: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)`, exactly (Hendrycks and Gimpel, arXiv:1606.08415), not its tanh form.
    Gelu,
    /// `x * sigmoid(1.702 x)`: OpenAI's CLIP.
    QuickGelu,
    Silu,
}

/// The activation of every number of `x`.
///
/// # Errors
/// The device fails.
pub fn activate(tape: &Tape, x: &Tensor, activation: Activation) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::pointwise::activate(tape, x, activation);
    }
    let time = timed(Part::Activation);
    let y = with_floats(x, |x| {
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(y, x)| match activation {
                Activation::Gelu => gelu_chunk(y, x),
                Activation::QuickGelu => sigmoid_chunk(y, x, QUICK),
                Activation::Silu => sigmoid_chunk(y, x, 1.0),
            });
        y
    })?;
    let y = Tensor::from_vec(y, x.shape(), &Device::Cpu)?;
    drop(time);
    let input = x.clone();
    tape.record(&y, &[x], move |dy, gradients| {
        let time = timed(Part::Activation);
        let dx = with_floats(&input, |x| {
            with_floats(&dy, |dy| {
                let mut dx = vec![0.0; x.len()];
                dx.par_chunks_mut(CHUNK)
                    .zip(x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK)))
                    .for_each(|(dx, (x, dy))| match activation {
                        Activation::Gelu => gelu_backward(dx, x, dy),
                        Activation::QuickGelu => sigmoid_backward(dx, x, dy, QUICK),
                        Activation::Silu => sigmoid_backward(dx, x, dy, 1.0),
                    });
                dx
            })
        })??;
        drop(time);
        let dx = Tensor::from_vec(dx, input.shape(), &Device::Cpu)?;
        gradients.add(input.id(), dx)
    });
    Ok(y)
}

/// The factor inside QuickGELU's sigmoid.
const QUICK: f32 = 1.702;

/// `value * gelu(gate)` for `x` of `[rows, 2 n]`: n values, then n gates (Shazeer,
/// arXiv:2002.05202); `[rows, n]`.
///
/// # Errors
/// An odd number of features; the device fails.
pub fn geglu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    let (rows, features) = x.dims2()?;
    if features == 0 || !features.is_multiple_of(2) {
        bail!("{features} features are no values and gates");
    }
    let width = features / 2;
    if cuda::serves(x) {
        return cuda::pointwise::geglu(tape, x);
    }
    let time = timed(Part::Activation);
    let y = with_floats(x, |x| {
        let mut y = vec![0.0; rows * width];
        y.par_chunks_mut(width)
            .zip(x.par_chunks(features))
            .for_each(|(y, x)| geglu_row(y, x));
        y
    })?;
    let y = Tensor::from_vec(y, (rows, width), &Device::Cpu)?;
    drop(time);
    let input = x.clone();
    tape.record(&y, &[x], move |dy, gradients| {
        let time = timed(Part::Activation);
        let dx = with_floats(&input, |x| {
            with_floats(&dy, |dy| {
                let mut dx = vec![0.0; x.len()];
                dx.par_chunks_mut(features)
                    .zip(x.par_chunks(features).zip(dy.par_chunks(width)))
                    .for_each(|(dx, (x, dy))| geglu_backward(dx, x, dy));
                dx
            })
        })??;
        drop(time);
        let dx = Tensor::from_vec(dx, input.shape(), &Device::Cpu)?;
        gradients.add(input.id(), dx)
    });
    Ok(y)
}

/// The normal distribution's cumulative and density functions.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const INVERSE_ROOT_TWO_PI: f32 = 0.398_942_3;
    let cumulative = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    (cumulative, INVERSE_ROOT_TWO_PI * exp(-0.5 * x * x))
}

wide! {
    fn gelu_chunk(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * normal(x).0;
        }
    }
}

wide! {
    fn gelu_backward(dx: &mut [f32], x: &[f32], dy: &[f32]) {
        for ((dx, &x), dy) in dx.iter_mut().zip(x).zip(dy) {
            let (cumulative, density) = normal(x);
            *dx = dy * (cumulative + x * density);
        }
    }
}

wide! {
    /// `x sigmoid(s x)`.
    fn sigmoid_chunk(y: &mut [f32], x: &[f32], s: f32) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(s * x);
        }
    }
}

wide! {
    fn sigmoid_backward(dx: &mut [f32], x: &[f32], dy: &[f32], s: f32) {
        for ((dx, &x), dy) in dx.iter_mut().zip(x).zip(dy) {
            let gate = sigmoid(s * x);
            *dx = dy * gate * (1.0 + s * x * (1.0 - gate));
        }
    }
}

wide! {
    fn geglu_row(y: &mut [f32], x: &[f32]) {
        let (values, gates) = x.split_at(y.len());
        for (y, (value, &gate)) in y.iter_mut().zip(values.iter().zip(gates)) {
            *y = value * (gate * normal(gate).0);
        }
    }
}

wide! {
    fn geglu_backward(dx: &mut [f32], x: &[f32], dy: &[f32]) {
        let (values, gates) = x.split_at(dy.len());
        let (d_values, d_gates) = dx.split_at_mut(dy.len());
        let outputs = d_values.iter_mut().zip(d_gates);
        for ((d_value, d_gate), (dy, (value, &gate))) in
            outputs.zip(dy.iter().zip(values.iter().zip(gates)))
        {
            let (cumulative, density) = normal(gate);
            *d_value = dy * (gate * cumulative);
            *d_gate = dy * value * (cumulative + gate * density);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::super::to_vec;
    use super::*;

    const ALL: [Activation; 3] = [Activation::Gelu, Activation::QuickGelu, Activation::Silu];

    /// Out of candle's operations.
    fn composed(x: &Tensor, activation: Activation) -> Result<Tensor> {
        match activation {
            Activation::Gelu => x.gelu_erf(),
            // x sigmoid(s x) is silu(s x) / s.
            Activation::QuickGelu => (x * f64::from(QUICK))?.silu()? / f64::from(QUICK),
            Activation::Silu => x.silu(),
        }
    }

    #[test]
    fn gradients_of_activations_are_their_slopes() {
        let x = (numbers(1, &[3, 7]) * 3.0).unwrap();
        for activation in ALL {
            check("activate", std::slice::from_ref(&x), |tape, t| {
                activate(tape, &t[0], activation)
            });
        }
        check("geglu", &[numbers(2, &[3, 10])], |tape, t| {
            geglu(tape, &t[0])
        });
    }

    #[test]
    fn the_fused_activations_are_candles() {
        let x = (numbers(1, &[90, 78]) * 9.0).unwrap();
        let close = |fused: Tensor, plain: Tensor| {
            for (a, b) in to_vec(&fused).unwrap().iter().zip(to_vec(&plain).unwrap()) {
                assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{a} {b}");
            }
        };
        let off = Tape::off();
        for activation in ALL {
            let fused = activate(&off, &x, activation).unwrap();
            close(fused, composed(&x, activation).unwrap());
        }
        let parts = x.chunk(2, 1).unwrap();
        let plain = (&parts[0] * parts[1].gelu_erf().unwrap()).unwrap();
        close(geglu(&off, &x).unwrap(), plain);
        assert!(geglu(&off, &numbers(1, &[2, 3])).is_err());
    }
}
