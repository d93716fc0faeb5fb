//! A frozen linear with DoRA (Liu et al., arXiv:2402.09353), as PEFT computes it:
//! `x W^T + (m / n - 1) * d(x) W^T + (m / n) * scale * d(x) A^T B^T`, where `m` is the magnitude
//! vector, `n` the norms of the rows of `W + scale B A`, and `d` dropout. Without dropout this is
//! `(m / n) * (x W^T + scale * x A^T B^T)`.
//!
//! `n` follows A and B from pass to pass and gets no gradient (section 4.3 of the paper).

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::linear::frozen_linear;
use super::lora::{LoraLinear, LoraTerm, dropped};
use super::tensors::{floats, to_vec, with_floats};
use super::weight::FrozenWeight;

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
    let projected = frozen_linear(&a.to_dtype(weight.compute_dtype())?, weight)?;
    let cross = (&b * projected.to_dtype(DType::F32)?.t()?)?.sum(1)?;
    let square = (b.matmul(&a.matmul(&a.t()?)?)? * &b)?.sum(1)?;
    let squares =
        ((weight.squared_row_norms()? + (cross * (2.0 * scale))?)? + (square * (scale * scale))?)?;
    // A pruned row is 0 and stays so: its magnitude is 0, and 0 / 0 would spoil the rest.
    squares.maximum(f64::from(f32::MIN_POSITIVE))?.sqrt()
}

/// The output of a linear with one DoRA adapter at full strength, on the CPU in f32; gradients
/// reach `x`, A, B and the magnitude.
pub(super) fn dora_linear(
    x: &Tensor,
    weight: &FrozenWeight,
    term: &LoraTerm,
    dora: &DoraTerm,
) -> Result<Tensor> {
    // Candle's operations have three inputs at most, so B and the magnitude travel as `[B | m]`.
    let outputs = dora.magnitude.elem_count();
    let columns = Tensor::cat(&[&term.b, &dora.magnitude.reshape((outputs, 1))?], 1)?;
    x.contiguous()?.apply_op3(
        &term.a,
        &columns,
        DoraLinear {
            lora: LoraLinear {
                weight: weight.clone(),
                scale: term.scale as f32,
                dropout: term.dropout,
            },
            norms: to_vec(&dora.norms)?,
        },
    )
}

/// What the adapter adds to `x W^T`, out of candle's operations.
pub(super) fn composed(
    x: &Tensor,
    weight: &FrozenWeight,
    term: &LoraTerm,
    dora: &DoraTerm,
) -> Result<Tensor> {
    let x = dropped(x, term)?;
    let (a, b) = (term.a.to_dtype(x.dtype())?, term.b.to_dtype(x.dtype())?);
    let gain = (&dora.magnitude / dora.norms.detach())?.unsqueeze(0)?;
    let base = frozen_linear(&x, weight)?.broadcast_mul(&(&gain - 1.0)?.to_dtype(x.dtype())?)?;
    let low = (x.matmul(&a.t()?)?.matmul(&b.t()?)? * term.scale)?;
    (base + low.broadcast_mul(&gain.to_dtype(x.dtype())?)?)? * term.strength
}

struct DoraLinear {
    lora: LoraLinear,
    norms: Vec<f32>,
}

/// `[B | m]` taken apart.
struct Columns {
    b: Vec<f32>,
    magnitude: Vec<f32>,
}

impl Columns {
    fn of(numbers: &[f32], rank: usize) -> Self {
        let rows = numbers.chunks_exact(rank + 1);
        Columns {
            b: rows.clone().flat_map(|row| &row[..rank]).copied().collect(),
            magnitude: rows.map(|row| row[rank]).collect(),
        }
    }
}

impl DoraLinear {
    /// `m / n`.
    fn gains(&self, magnitude: &[f32]) -> Vec<f32> {
        let pairs = magnitude.iter().zip(&self.norms);
        pairs.map(|(m, n)| m / n).collect()
    }

    /// `x W^T + scale * x A^T B^T`, before the gain.
    fn direction(&self, x: &[f32], a: &[f32], b: &[f32], tokens: usize) -> Result<Vec<f32>> {
        let mut z = vec![0.0; tokens * self.norms.len()];
        self.lora.forward(x, x, a, b, &mut z)?;
        Ok(z)
    }
}

/// Multiplies each row by `gains`.
fn scale_rows(rows: &mut [f32], gains: &[f32]) {
    rows.par_chunks_mut(gains.len()).for_each(|row| {
        for (x, gain) in row.iter_mut().zip(gains) {
            *x *= gain;
        }
    });
}

impl CustomOp3 for DoraLinear {
    fn name(&self) -> &'static str {
        "dora-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        columns: &CpuStorage,
        columns_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, _) = x_layout.shape().dims2()?;
        let (rank, _) = a_layout.shape().dims2()?;
        let outputs = self.norms.len();
        if columns_layout.shape().dims2()? != (outputs, rank + 1) {
            bail!(
                "DoRA on {outputs} features got B and magnitude {:?}",
                columns_layout.shape()
            );
        }
        let (x, a) = (floats(x, x_layout)?, floats(a, a_layout)?);
        let Columns { b, magnitude } = Columns::of(floats(columns, columns_layout)?, rank);
        let gains = self.gains(&magnitude);
        let y = match self.lora.dropout {
            None => {
                let mut y = self.direction(x, a, &b, tokens)?;
                scale_rows(&mut y, &gains);
                y
            }
            Some(dropout) => {
                let kept = dropout.apply(x);
                let mut y = self.direction(&kept, a, &b, tokens)?;
                scale_rows(&mut y, &gains);
                let rest: Vec<f32> = x.iter().zip(&kept).map(|(x, kept)| x - kept).collect();
                let mut base = vec![0.0; y.len()];
                self.lora.host()?.times_transposed(&rest, tokens, &mut base);
                y.iter_mut().zip(base).for_each(|(y, base)| *y += base);
                y
            }
        };
        Ok((CpuStorage::F32(y), (tokens, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        columns: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (d_x, d_a, d_columns) = with_floats(x, |x_data| {
            with_floats(a, |a_data| {
                with_floats(columns, |columns_data| {
                    with_floats(y, |y| {
                        with_floats(dy, |dy| {
                            let a = (a_data, a.dims()[0]);
                            self.backward(x_data, a, columns_data, y, dy, x.track_op())
                        })
                    })
                })
            })
        })??????;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
        Ok((
            d_x.map(|d_x| tensor(d_x, x)).transpose()?,
            Some(tensor(d_a, a)?),
            Some(tensor(d_columns, columns)?),
        ))
    }
}

/// Gradients of x (where wanted), A and `[B | m]`.
type Gradients = (Option<Vec<f32>>, Vec<f32>, Vec<f32>);

impl DoraLinear {
    fn backward(
        &self,
        x: &[f32],
        (a, rank): (&[f32], usize),
        columns: &[f32],
        y: &[f32],
        dy: &[f32],
        wanted: bool,
    ) -> Result<Gradients> {
        let outputs = self.norms.len();
        let tokens = dy.len() / outputs;
        let Columns { b, magnitude } = Columns::of(columns, rank);
        let gains = self.gains(&magnitude);
        let kept = self.lora.dropout.map(|dropout| dropout.apply(x));
        let dropped = kept.as_deref().unwrap_or(x);

        // dm_j = sum over tokens of dy z / n. Without dropout y = gain * z, and needs no product
        // to be taken apart again unless a gain is 0 (or lost its precision next to it).
        let divides = kept.is_none() && gains.iter().all(|gain| gain.abs() > 1e-20);
        let d_magnitude: Vec<f32> = if divides {
            let sums = column_sums(y, dy, outputs);
            let each = sums.iter().zip(&magnitude);
            each.map(|(sum, m)| (sum / f64::from(*m)) as f32).collect()
        } else {
            let z = self.direction(dropped, a, &b, tokens)?;
            let sums = column_sums(&z, dy, outputs);
            let each = sums.iter().zip(&self.norms);
            each.map(|(sum, n)| (sum / f64::from(*n)) as f32).collect()
        };

        let mut dz = dy.to_vec();
        scale_rows(&mut dz, &gains);
        let mut dx = if wanted {
            let mut dx = vec![0.0; x.len()];
            match self.lora.dropout {
                None => self.lora.host()?.times(&dz, tokens, &mut dx),
                Some(dropout) => {
                    self.lora.host()?.times(dy, tokens, &mut dx);
                    let change: Vec<f32> = dz.iter().zip(dy).map(|(dz, dy)| dz - dy).collect();
                    let mut d_kept = vec![0.0; x.len()];
                    self.lora.host()?.times(&change, tokens, &mut d_kept);
                    let d_kept = dropout.apply(&d_kept);
                    dx.iter_mut().zip(d_kept).for_each(|(dx, d)| *dx += d);
                }
            }
            dx
        } else {
            Vec::new()
        };
        let (d_a, d_b) = self.lora.backward(x, a, &b, &dz, &mut dx);
        let rows = d_b.chunks_exact(rank).zip(d_magnitude);
        let d_columns = rows
            .flat_map(|(d_b, d_m)| d_b.iter().copied().chain([d_m]))
            .collect();
        Ok((wanted.then_some(dx), d_a, d_columns))
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
    use candle_core::{Device, Var};

    use super::super::dropout::Dropout;
    use super::super::finite_differences::{check, numbers};
    use super::super::lora::lora_linear;
    use super::super::pull::pull_gradients;
    use super::super::weight::HostWeight;
    use super::*;

    const SCALE: f64 = 1.5;
    const DROPOUT: Dropout = Dropout {
        seed: 1,
        step: 2,
        item: 3,
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
        let y = lora_linear(&numbers(1, &[3, 6]), &weight, &[term]).unwrap();
        assert_eq!(to_vec(&y).unwrap(), [0.0; 6]);
    }

    #[test]
    fn gradients_of_dora_are_its_slopes_with_the_norm_held_fast() {
        let weight = weight(9, 6);
        let inputs = inputs();
        let norms = adapted_row_norms(&weight, &inputs[1], &inputs[2], SCALE).unwrap();
        for (name, dropout) in [("dora", None), ("dora with dropout", Some(DROPOUT))] {
            check(name, &inputs, |t| {
                lora_linear(&t[0], &weight, &[term(t, &norms, dropout)])
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
        check("dora with zeros", &inputs, |t| {
            lora_linear(&t[0], &weight, &[term(t, &norms, None)])
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
            let fused = lora_linear(&inputs[0], &weight, std::slice::from_ref(&term)).unwrap();
            let plain = (frozen_linear(&inputs[0], &weight).unwrap()
                + composed(&inputs[0], &weight, &term, &dora).unwrap())
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
        let got = lora_linear(&inputs[0], &weight, &[off]).unwrap();
        let bare = frozen_linear(&inputs[0], &weight).unwrap();
        assert_eq!(to_vec(&got).unwrap(), to_vec(&bare).unwrap());
    }

    #[test]
    fn an_input_without_a_graph_costs_no_gradient() {
        let weight = weight(9, 6);
        let inputs = inputs();
        let norms = adapted_row_norms(&weight, &inputs[1], &inputs[2], SCALE).unwrap();
        let vars: Vec<Var> = inputs
            .iter()
            .map(|t| Var::from_tensor(t).unwrap())
            .collect();
        let mut tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        tensors[0] = inputs[0].clone();
        let y = lora_linear(&tensors[0], &weight, &[term(&tensors, &norms, None)]).unwrap();
        let gradients = pull_gradients(&y, &y.detach()).unwrap();
        assert!(gradients.get(&tensors[0]).is_none());
        assert!(vars[1..].iter().all(|v| gradients.get(v).is_some()));
    }
}
