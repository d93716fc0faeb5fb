//! A frozen linear with low-rank adapters beside it: `x W^T + scale * dropout(x) A^T B^T`.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::dora::{self, DoraTerm, dora_linear};
use super::dropout::Dropout;
use super::linear::{frozen_linear, frozen_linear_backward};
use super::matrix::{Matrix, Write, parallel_product};
use super::tensors::{floats, fused, to_vec, with_floats};
use super::weight::{FrozenWeight, HostWeight};

/// One adapter's share in a linear.
#[derive(Clone)]
pub struct LoraTerm {
    /// `[r, in]`, f32.
    pub a: Tensor,
    /// `[out, r]`, f32.
    pub b: Tensor,
    pub scale: f64,
    /// How much of it acts: 1.0 is the adapter as trained, 0.0 the bare base.
    pub strength: f64,
    pub dropout: Option<Dropout>,
    pub dora: Option<DoraTerm>,
}

/// The output of a linear with any number of adapters; gradients reach `x`, A and B.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn lora_linear(x: &Tensor, weight: &FrozenWeight, terms: &[LoraTerm]) -> Result<Tensor> {
    let Some((first, others)) = terms.split_first() else {
        return frozen_linear(x, weight);
    };
    let mut y = match &first.dora {
        None if fused(x) => x.contiguous()?.apply_op3(
            &first.a,
            &first.b,
            LoraLinear {
                weight: weight.clone(),
                scale: (first.scale * first.strength) as f32,
                dropout: first.dropout,
            },
        )?,
        Some(dora) if fused(x) && first.strength == 1.0 => dora_linear(x, weight, first, dora)?,
        _ => (frozen_linear(x, weight)? + composed(x, weight, first)?)?,
    };
    for term in others {
        y = (y + composed(x, weight, term)?)?;
    }
    Ok(y)
}

/// What an adapter adds to `x W^T`, out of candle's operations.
fn composed(x: &Tensor, weight: &FrozenWeight, term: &LoraTerm) -> Result<Tensor> {
    if let Some(dora) = &term.dora {
        return dora::composed(x, weight, term, dora);
    }
    let x = dropped(x, term)?;
    let a = term.a.to_dtype(x.dtype())?;
    let b = term.b.to_dtype(x.dtype())?;
    x.matmul(&a.t()?)?.matmul(&b.t()?)? * (term.scale * term.strength)
}

/// `x` after the term's dropout.
pub(super) fn dropped(x: &Tensor, term: &LoraTerm) -> Result<Tensor> {
    let Some(dropout) = &term.dropout else {
        return Ok(x.clone());
    };
    let mask = dropout.apply(&vec![1.0; x.elem_count()]);
    x * Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?
}

/// The fused operation on the CPU.
pub(super) struct LoraLinear {
    pub weight: FrozenWeight,
    pub scale: f32,
    pub dropout: Option<Dropout>,
}

/// Sizes of one linear.
struct Dims {
    tokens: usize,
    inputs: usize,
    outputs: usize,
    rank: usize,
}

impl LoraLinear {
    fn dims(&self, x: &Shape, a: &Shape, b: &Shape) -> Result<Dims> {
        let ((tokens, inputs), (rank, a_inputs), (outputs, b_rank)) =
            (x.dims2()?, a.dims2()?, b.dims2()?);
        let fits = inputs == self.weight.columns()
            && outputs == self.weight.rows()
            && a_inputs == inputs
            && b_rank == rank;
        if !fits {
            bail!(
                "a linear of {} to {} features got x {x:?}, A {a:?}, B {b:?}",
                self.weight.columns(),
                self.weight.rows()
            );
        }
        Ok(Dims {
            tokens,
            inputs,
            outputs,
            rank,
        })
    }

    /// The weight in host memory.
    pub fn host(&self) -> Result<&HostWeight> {
        match self.weight.host() {
            Some(weight) => Ok(weight),
            None => bail!("the activations are on the CPU, the weight is not"),
        }
    }

    fn sizes(&self, tokens: usize, rank: usize) -> Dims {
        Dims {
            tokens,
            inputs: self.weight.columns(),
            outputs: self.weight.rows(),
            rank,
        }
    }

    /// `x A^T`: `[tokens, rank]`.
    fn lower(&self, x: &[f32], a: &[f32], dims: &Dims) -> Vec<f32> {
        let mut h = vec![0.0; dims.tokens * dims.rank];
        parallel_product(
            &mut h,
            Matrix::new(x, dims.inputs),
            Matrix::new(a, dims.inputs).transposed(),
            (dims.tokens, dims.rank, dims.inputs),
            1.0,
            Write::Replace,
        );
        h
    }

    /// `y = x W^T + scale * dropped A^T B^T`; `x` and `dropped` of `[tokens, in]`.
    pub fn forward(
        &self,
        x: &[f32],
        dropped: &[f32],
        a: &[f32],
        b: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        let dims = self.sizes(
            x.len() / self.weight.columns(),
            b.len() / self.weight.rows(),
        );
        self.host()?.times_transposed(x, dims.tokens, y);
        let h = self.lower(dropped, a, &dims);
        parallel_product(
            y,
            Matrix::new(&h, dims.rank),
            Matrix::new(b, dims.rank).transposed(),
            (dims.tokens, dims.outputs, dims.rank),
            self.scale,
            Write::Add,
        );
        Ok(())
    }

    /// Gradients of A and B, and what the adapter adds to the gradient of x (where that is not
    /// empty).
    pub fn backward(
        &self,
        x: &[f32],
        a: &[f32],
        b: &[f32],
        dy: &[f32],
        dx: &mut [f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let dims = self.sizes(
            x.len() / self.weight.columns(),
            b.len() / self.weight.rows(),
        );
        let Dims {
            tokens,
            inputs,
            outputs,
            rank,
        } = dims;
        let dropped = self.dropout.map(|dropout| dropout.apply(x));
        let x = dropped.as_deref().unwrap_or(x);
        let h = self.lower(x, a, &dims);
        let mut d_b = vec![0.0; outputs * rank];
        parallel_product(
            &mut d_b,
            Matrix::new(dy, outputs).transposed(),
            Matrix::new(&h, rank),
            (outputs, rank, tokens),
            self.scale,
            Write::Replace,
        );
        let mut d_h = vec![0.0; tokens * rank];
        parallel_product(
            &mut d_h,
            Matrix::new(dy, outputs),
            Matrix::new(b, rank),
            (tokens, rank, outputs),
            self.scale,
            Write::Replace,
        );
        let mut d_a = vec![0.0; rank * inputs];
        parallel_product(
            &mut d_a,
            Matrix::new(&d_h, rank).transposed(),
            Matrix::new(x, inputs),
            (rank, inputs, tokens),
            1.0,
            Write::Replace,
        );
        if !dx.is_empty() {
            let dims = (tokens, inputs, rank);
            let (left, right) = (Matrix::new(&d_h, rank), Matrix::new(a, inputs));
            match self.dropout {
                None => parallel_product(dx, left, right, dims, 1.0, Write::Add),
                Some(dropout) => {
                    let mut d_dropped = vec![0.0; dx.len()];
                    parallel_product(&mut d_dropped, left, right, dims, 1.0, Write::Replace);
                    for (dx, d) in dx.iter_mut().zip(dropout.apply(&d_dropped)) {
                        *dx += d;
                    }
                }
            }
        }
        (d_a, d_b)
    }
}

impl CustomOp3 for LoraLinear {
    fn name(&self) -> &'static str {
        "lora-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dims = self.dims(x_layout.shape(), a_layout.shape(), b_layout.shape())?;
        let (x, a, b) = (
            floats(x, x_layout)?,
            floats(a, a_layout)?,
            floats(b, b_layout)?,
        );
        let mut y = vec![0.0; dims.tokens * dims.outputs];
        let dropped = self.dropout.map(|dropout| dropout.apply(x));
        self.forward(x, dropped.as_deref().unwrap_or(x), a, b, &mut y)?;
        Ok((CpuStorage::F32(y), (dims.tokens, dims.outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut dx = match x.track_op() {
            true => to_vec(&frozen_linear_backward(dy, &self.weight)?)?,
            false => Vec::new(),
        };
        let (d_a, d_b) = with_floats(x, |x| {
            with_floats(a, |a| {
                with_floats(b, |b| {
                    with_floats(dy, |dy| self.backward(x, a, b, dy, &mut dx))
                })
            })
        })????;
        let dx = match x.track_op() {
            true => Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            false => None,
        };
        Ok((
            dx,
            Some(Tensor::from_vec(d_a, a.shape(), a.device())?),
            Some(Tensor::from_vec(d_b, b.shape(), b.device())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::super::finite_differences::{check, numbers};
    use super::super::weight::HostWeight;
    use super::*;

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

    fn term(a: &Tensor, b: &Tensor, dropout: Option<Dropout>) -> LoraTerm {
        LoraTerm {
            a: a.clone(),
            b: b.clone(),
            scale: 1.5,
            strength: 1.0,
            dropout,
            dora: None,
        }
    }

    #[test]
    fn gradients_of_a_linear_with_lora_are_its_slopes() {
        let weight = weight(9, 6);
        let inputs = [
            numbers(1, &[4, 6]),
            numbers(2, &[2, 6]),
            numbers(3, &[9, 2]),
        ];
        check("lora_linear", &inputs, |t| {
            lora_linear(&t[0], &weight, &[term(&t[1], &t[2], None)])
        });
        check("lora_linear with dropout", &inputs, |t| {
            lora_linear(&t[0], &weight, &[term(&t[1], &t[2], Some(DROPOUT))])
        });
    }

    #[test]
    fn gradient_of_a_frozen_linear_is_its_slope() {
        let weight = weight(300, 40);
        check("frozen_linear", &[numbers(1, &[2, 40])], |t| {
            frozen_linear(&t[0], &weight)
        });
    }

    #[test]
    fn fused_lora_is_the_composed_one() {
        let weight = weight(9, 6);
        let (x, a, b) = (
            numbers(1, &[4, 6]),
            numbers(2, &[2, 6]),
            numbers(3, &[9, 2]),
        );
        for dropout in [None, Some(DROPOUT)] {
            let term = term(&a, &b, dropout);
            let fused = lora_linear(&x, &weight, std::slice::from_ref(&term)).unwrap();
            let plain = (frozen_linear(&x, &weight).unwrap()
                + composed(&x, &weight, &term).unwrap())
            .unwrap();
            for (a, b) in to_vec(&fused).unwrap().iter().zip(to_vec(&plain).unwrap()) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }

    #[test]
    fn an_input_without_a_graph_costs_no_gradient() {
        let weight = weight(9, 6);
        let (x, a) = (
            numbers(1, &[4, 6]),
            Var::from_tensor(&numbers(2, &[2, 6])).unwrap(),
        );
        let b = Var::from_tensor(&numbers(3, &[9, 2])).unwrap();
        let y = lora_linear(&x, &weight, &[term(&a, &b, None)]).unwrap();
        let gradients = super::super::pull_gradients(&y, &y.detach()).unwrap();
        assert!(gradients.get(&x).is_none());
        assert!(gradients.get(&a).is_some() && gradients.get(&b).is_some());
    }
}
