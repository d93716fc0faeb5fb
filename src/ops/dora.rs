//! A frozen linear with DoRA (Liu et al., arXiv:2402.09353), as PEFT computes it:
//! `x W^T + (m / n - 1) * d(x) W^T + (m / n) * scale * d(x) A^T B^T`, where `m` is the magnitude
//! vector, `n` the norms of the rows of `W + scale B A`, and `d` dropout. Without dropout this is
//! `(m / n) * (x W^T + scale * x A^T B^T)`.
//!
//! `n` follows A and B from pass to pass and gets no gradient (section 4.3 of the paper).

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::cuda;
use super::linear::{frozen_linear, linear_forward};
use super::lora::{LoraTerm, Pair, PairGradients, dropped};
use super::matrix::Write;
use super::profile::{Part, timed};
use super::tape::Tape;
use super::tensors::with_floats;
use super::weight::{FrozenWeight, HostWeight, Products};

/// What DoRA adds to an adapter on one linear.
#[derive(Clone)]
pub struct DoraTerm {
    /// `[out]`, f32.
    pub magnitude: Tensor,
    /// `[out]`, f32, from [`adapted_row_norms`].
    pub norms: Tensor,
}

/// Norms `[out]` (f32, without a graph) of the rows of `W + scale B A`, never zero, for A of
/// `[r, in]` and B of `[out, r]`.
///
/// The sum is not formed: `|w + s b A|^2 = |w|^2 + 2 s b (A w) + s^2 b (A A^T) b` costs as much as
/// `r` more tokens in the linear, and `|w|^2` is kept with the weight.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn adapted_row_norms(
    weight: &FrozenWeight,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    let (a, b) = (a.detach(), b.detach());
    let projected = linear_forward(&a.to_dtype(weight.compute_dtype())?, weight)?;
    let cross = (&b * projected.to_dtype(DType::F32)?.t()?)?.sum(1)?;
    let square = (b.matmul(&a.matmul(&a.t()?)?)? * &b)?.sum(1)?;
    let squares =
        ((weight.squared_row_norms()? + (cross * (2.0 * scale))?)? + (square * (scale * scale))?)?;
    // A pruned row is 0 and stays so: its magnitude is 0, and 0 / 0 would spoil the rest.
    squares.maximum(f64::from(f32::MIN_POSITIVE))?.sqrt()
}

/// The output of a linear with one DoRA adapter at full strength; gradients reach `x`, A, B and the magnitude.
pub(super) fn dora_linear(
    tape: &Tape,
    x: &Tensor,
    weight: &FrozenWeight,
    term: &LoraTerm,
    dora: &DoraTerm,
) -> Result<Tensor> {
    if cuda::serves(x) {
        return cuda::dora::linear(tape, x, weight, term, dora);
    }
    let time = timed(Part::Linear);
    let linear = DoraLinear::new(weight, term, dora)?;
    let y = with_floats(x, |x| linear.forward(x))??;
    let y = Tensor::from_vec(y, (x.dims()[0], weight.rows()), &Device::Cpu)?;
    drop(time);
    let (input, wanted) = (x.clone(), tape.wants(x));
    let output = y.clone();
    let parameters = [&term.a, &term.b, &dora.magnitude].map(Tensor::clone);
    let [a, b, magnitude] = &parameters.clone();
    tape.record(&y, &[x, a, b, magnitude], move |dy, gradients| {
        let time = timed(Part::Linear);
        let found = with_floats(&input, |x| {
            with_floats(&output, |y| {
                with_floats(&dy, |dy| linear.backward(x, y, dy, wanted))
            })
        })????;
        drop(time);
        for (parameter, gradient) in parameters.iter().zip(found.parameters) {
            let gradient = Tensor::from_vec(gradient, parameter.shape(), &Device::Cpu)?;
            gradients.add(parameter.id(), gradient)?;
        }
        match found.x {
            Some(dx) => gradients.add(
                input.id(),
                Tensor::from_vec(dx, input.shape(), &Device::Cpu)?,
            ),
            None => Ok(()),
        }
    });
    Ok(y)
}

/// What the adapter adds to `x W^T`, out of candle's operations.
pub(super) fn composed(
    tape: &Tape,
    x: &Tensor,
    weight: &FrozenWeight,
    term: &LoraTerm,
    dora: &DoraTerm,
) -> Result<Tensor> {
    let x = &tape.composed([x], |[x]| dropped(&x, term.dropout))?;
    let base = frozen_linear(tape, x, weight)?;
    let inputs = [x, &base, &term.a, &term.b, &dora.magnitude];
    tape.composed(inputs, |[x, base, a, b, magnitude]| {
        let (a, b) = (a.to_dtype(x.dtype())?, b.to_dtype(x.dtype())?);
        let gain = (magnitude / dora.norms.detach())?.unsqueeze(0)?;
        let base = base.broadcast_mul(&(&gain - 1.0)?.to_dtype(x.dtype())?)?;
        let low = (x.matmul(&a.t()?)?.matmul(&b.t()?)? * term.scale)?;
        (base + low.broadcast_mul(&gain.to_dtype(x.dtype())?)?)? * term.strength
    })
}

struct DoraLinear {
    weight: FrozenWeight,
    pair: Pair,
    magnitude: Vec<f32>,
    norms: Vec<f32>,
}

/// Gradients of x (where wanted), and of A, B and the magnitude.
struct Found {
    x: Option<Vec<f32>>,
    parameters: [Vec<f32>; 3],
}

/// Multiplies each row by `gains`.
fn scale_rows(rows: &mut [f32], gains: &[f32]) {
    rows.par_chunks_mut(gains.len()).for_each(|row| {
        for (x, gain) in row.iter_mut().zip(gains) {
            *x *= gain;
        }
    });
}

impl DoraLinear {
    fn new(weight: &FrozenWeight, term: &LoraTerm, dora: &DoraTerm) -> Result<Self> {
        Ok(DoraLinear {
            weight: weight.clone(),
            pair: Pair::of(term)?,
            magnitude: with_floats(&dora.magnitude, <[f32]>::to_vec)?,
            norms: with_floats(&dora.norms, <[f32]>::to_vec)?,
        })
    }

    fn host(&self) -> Result<&HostWeight> {
        self.weight.on_host()
    }

    fn tokens(&self, x: &[f32]) -> usize {
        x.len() / self.weight.columns()
    }

    /// `m / n`.
    fn gains(&self) -> Vec<f32> {
        let pairs = self.magnitude.iter().zip(&self.norms);
        pairs.map(|(m, n)| m / n).collect()
    }

    /// `d W^T + scale * d A^T B^T` for `d = dropout(x)`, before the gain.
    fn direction(&self, x: &[f32], dropped: &[f32]) -> Result<Vec<f32>> {
        let mut z = vec![0.0; self.tokens(x) * self.norms.len()];
        let low = self.pair.lower(x);
        let products = Products {
            write: Write::Replace,
            beside: &[self.pair.upper(&low)],
        };
        self.host()?
            .times_transposed(dropped, self.tokens(x), &mut z, &products);
        Ok(z)
    }

    fn forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        let kept = self.pair.dropout.map(|dropout| dropout.apply(x));
        let mut y = self.direction(x, kept.as_deref().unwrap_or(x))?;
        scale_rows(&mut y, &self.gains());
        if let Some(kept) = kept {
            let rest: Vec<f32> = x.iter().zip(&kept).map(|(x, kept)| x - kept).collect();
            let products = Products {
                write: Write::Add,
                beside: &[],
            };
            self.host()?
                .times_transposed(&rest, self.tokens(x), &mut y, &products);
        }
        Ok(y)
    }

    fn backward(&self, x: &[f32], y: &[f32], dy: &[f32], wanted: bool) -> Result<Found> {
        let (outputs, tokens) = (self.norms.len(), self.tokens(x));
        let gains = self.gains();
        let kept = self.pair.dropout.map(|dropout| dropout.apply(x));

        // dm_j = sum over tokens of dy z / n. Without dropout y = gain * z, and needs no product
        // to be taken apart again unless a gain is 0 (or lost its precision next to it).
        let divides = kept.is_none() && gains.iter().all(|gain| gain.abs() > 1e-20);
        let (sums, by) = if divides {
            (column_sums(y, dy, outputs), &self.magnitude)
        } else {
            let z = self.direction(x, kept.as_deref().unwrap_or(x))?;
            (column_sums(&z, dy, outputs), &self.norms)
        };
        let each = sums.iter().zip(by);
        let d_magnitude = each
            .map(|(sum, by)| (sum / f64::from(*by)) as f32)
            .collect();

        let mut dz = dy.to_vec();
        scale_rows(&mut dz, &gains);
        let PairGradients { a, b, low } = self.pair.backward(x, &dz);
        let products = Products {
            write: Write::Replace,
            beside: &[self.pair.upper_backward(&low)],
        };
        let dx = if wanted {
            let mut dx = vec![0.0; x.len()];
            match self.pair.dropout {
                None => self.host()?.times(&dz, tokens, &mut dx, &products),
                Some(dropout) => {
                    self.host()?.times(dy, tokens, &mut dx, &Products::alone());
                    let change: Vec<f32> = dz.iter().zip(dy).map(|(dz, dy)| dz - dy).collect();
                    let mut d_kept = vec![0.0; x.len()];
                    self.host()?.times(&change, tokens, &mut d_kept, &products);
                    let d_kept = dropout.apply(&d_kept);
                    dx.iter_mut().zip(d_kept).for_each(|(dx, d)| *dx += d);
                }
            }
            Some(dx)
        } else {
            None
        };
        Ok(Found {
            x: dx,
            parameters: [a, b, d_magnitude],
        })
    }
}

/// Sums over tokens of `z * dy`, by feature.
fn column_sums(z: &[f32], dy: &[f32], outputs: usize) -> Vec<f64> {
    let mut sums = vec![0.0; outputs];
    for (z, dy) in z.chunks_exact(outputs).zip(dy.chunks_exact(outputs)) {
        for ((sum, &z), &dy) in sums.iter_mut().zip(z).zip(dy) {
            *sum += f64::from(z) * f64::from(dy);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;

    use super::super::dropout::Dropout;
    use super::super::finite_differences::{check, numbers};
    use super::super::lora::{Residual, lora_linear};
    use super::super::to_vec;
    use super::super::weight::HostWeight;
    use super::*;

    const SCALE: f64 = 1.5;
    const DROPOUT: Dropout = Dropout {
        seed: 1,
        step: 2,
        item: 3,
        before: 0,
        probability: 0.4,
    };

    fn weight(rows: usize, columns: usize) -> FrozenWeight {
        let numbers = to_vec(&numbers(7, &[rows, columns])).unwrap();
        let host = HostWeight::from_floats(&numbers, rows, columns).unwrap();
        FrozenWeight::new(host, &Device::Cpu, DType::F32).unwrap()
    }

    fn term(t: &[Tensor], norms: &Tensor, dropout: Option<Dropout>) -> LoraTerm {
        LoraTerm {
            a: t[1].clone(),
            b: t[2].clone(),
            scale: SCALE,
            strength: 1.0,
            dropout,
            dora: Some(DoraTerm {
                magnitude: t[3].clone(),
                norms: norms.clone(),
            }),
        }
    }

    /// x, A, B, magnitude.
    fn inputs() -> [Tensor; 4] {
        let magnitude = (numbers(4, &[9]) + 2.0).unwrap();
        [
            numbers(1, &[4, 6]),
            numbers(2, &[2, 6]),
            numbers(3, &[9, 2]),
            magnitude,
        ]
    }

    #[test]
    fn norms_are_those_of_the_rows_of_the_adapted_weight_in_any_encoding() {
        for encoding in [GgmlDType::F32, GgmlDType::Q4_1, GgmlDType::Q8_0] {
            let quantised =
                candle_core::quantized::QTensor::quantize(&numbers(7, &[9, 64]), encoding).unwrap();
            let bytes = quantised.data().unwrap().into_owned();
            let host = HostWeight::new(std::sync::Arc::new(bytes), 0, encoding, 9, 64).unwrap();
            let weight = FrozenWeight::new(host, &Device::Cpu, DType::F32).unwrap();
            let (a, b) = (numbers(2, &[4, 64]), numbers(3, &[9, 4]));
            let got = to_vec(&adapted_row_norms(&weight, &a, &b, SCALE).unwrap()).unwrap();
            let plain = quantised.dequantize(&Device::Cpu).unwrap();
            let adapted = (plain + (b.matmul(&a).unwrap() * SCALE).unwrap()).unwrap();
            let expected = adapted.sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
            for (got, expected) in got.iter().zip(to_vec(&expected).unwrap()) {
                assert!((got / expected - 1.0).abs() < 1e-5, "{got} {expected}");
            }
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero_and_finite() {
        let host = HostWeight::from_floats(&[0.0; 12], 2, 6).unwrap();
        let weight = FrozenWeight::new(host, &Device::Cpu, DType::F32).unwrap();
        let (a, b) = (
            numbers(2, &[1, 6]),
            Tensor::zeros((2, 1), DType::F32, &Device::Cpu),
        );
        let b = b.unwrap();
        let norms = adapted_row_norms(&weight, &a, &b, SCALE).unwrap();
        let magnitude = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
        let term = term(&[a.clone(), a, b, magnitude], &norms, None);
        let y = lora_linear(
            &Tape::off(),
            &numbers(1, &[3, 6]),
            &weight,
            &[term],
            Residual::None,
        )
        .unwrap();
        assert_eq!(to_vec(&y).unwrap(), [0.0; 6]);
    }

    #[test]
    fn gradients_of_dora_are_its_slopes_with_the_norm_held_fast() {
        let weight = weight(9, 6);
        let inputs = inputs();
        let norms = adapted_row_norms(&weight, &inputs[1], &inputs[2], SCALE).unwrap();
        for (name, dropout) in [("dora", None), ("dora with dropout", Some(DROPOUT))] {
            check(name, &inputs, |tape, t| {
                lora_linear(
                    tape,
                    &t[0],
                    &weight,
                    &[term(t, &norms, dropout)],
                    Residual::None,
                )
            });
        }
    }

    #[test]
    fn a_magnitude_of_zero_has_a_gradient_too() {
        let weight = weight(9, 6);
        let mut inputs = inputs();
        let norms = adapted_row_norms(&weight, &inputs[1], &inputs[2], SCALE).unwrap();
        inputs[3] = numbers(4, &[9]).relu().unwrap();
        assert!(to_vec(&inputs[3]).unwrap().contains(&0.0));
        check("dora with zeros", &inputs, |tape, t| {
            lora_linear(
                tape,
                &t[0],
                &weight,
                &[term(t, &norms, None)],
                Residual::None,
            )
        });
    }

    #[test]
    fn fused_dora_is_the_composed_one() {
        let weight = weight(9, 6);
        let inputs = inputs();
        let norms = adapted_row_norms(&weight, &inputs[1], &inputs[2], SCALE).unwrap();
        for dropout in [None, Some(DROPOUT)] {
            let term = term(&inputs, &norms, dropout);
            let dora = term.dora.clone().unwrap();
            let fused = lora_linear(
                &Tape::off(),
                &inputs[0],
                &weight,
                std::slice::from_ref(&term),
                Residual::None,
            )
            .unwrap();
            let plain = (frozen_linear(&Tape::off(), &inputs[0], &weight).unwrap()
                + composed(&Tape::off(), &inputs[0], &weight, &term, &dora).unwrap())
            .unwrap();
            for (a, b) in to_vec(&fused).unwrap().iter().zip(to_vec(&plain).unwrap()) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }

    #[test]
    fn at_a_strength_of_zero_the_bare_base_answers() {
        let weight = weight(9, 6);
        let inputs = inputs();
        let norms = adapted_row_norms(&weight, &inputs[1], &inputs[2], SCALE).unwrap();
        let off = LoraTerm {
            strength: 0.0,
            ..term(&inputs, &norms, None)
        };
        let got = lora_linear(&Tape::off(), &inputs[0], &weight, &[off], Residual::None).unwrap();
        let bare = frozen_linear(&Tape::off(), &inputs[0], &weight).unwrap();
        assert_eq!(to_vec(&got).unwrap(), to_vec(&bare).unwrap());
    }

    #[test]
    fn an_input_that_nobody_asks_about_costs_no_gradient() {
        let weight = weight(9, 6);
        let inputs = inputs();
        let norms = adapted_row_norms(&weight, &inputs[1], &inputs[2], SCALE).unwrap();
        let tape = Tape::recording();
        for parameter in &inputs[1..] {
            tape.want(parameter);
        }
        let terms = [term(&inputs, &norms, None)];
        let y = lora_linear(&tape, &inputs[0], &weight, &terms, Residual::None).unwrap();
        let mut gradients = tape.pull(&y, y.clone()).unwrap();
        assert!(gradients.take(&inputs[0]).is_none());
        for parameter in &inputs[1..] {
            assert!(gradients.take(parameter).is_some());
        }
    }

    #[test]
    fn several_adapters_on_one_linear_pass_gradients_too() {
        let weight = weight(9, 6);
        let inputs = inputs();
        let norms = adapted_row_norms(&weight, &inputs[1], &inputs[2], SCALE).unwrap();
        let residual = numbers(6, &[4, 9]);
        check("dora beside lora", &inputs, |tape, t| {
            let plain = LoraTerm {
                dora: None,
                ..term(t, &norms, None)
            };
            let terms = [term(t, &norms, Some(DROPOUT)), plain];
            lora_linear(tape, &t[0], &weight, &terms, Residual::Add(&residual))
        });
    }
}
