//! A frozen linear with low-rank adapters beside it: `x W^T + scale * dropout(x) A^T B^T`.

use candle_core::{Device, Result, Tensor, TensorId, bail};

use super::bias::{add_bias, add_to_rows};
use super::cuda;
use super::dora::{self, DoraTerm, dora_linear};
use super::dropout::Dropout;
use super::linear::frozen_linear;
use super::matrix::{Matrix, Write, parallel_product};
use super::profile::{Part, timed};
use super::tape::{Gradients, Tape};
use super::tensors::{fused, with_floats};
use super::weight::{FrozenWeight, LowRank, Products};

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

impl LoraTerm {
    fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    pub(super) fn factor(&self) -> f64 {
        self.scale * self.strength
    }
}

/// What a linear's output is added to.
#[derive(Clone, Copy)]
pub enum Residual<'a> {
    None,
    Add(&'a Tensor),
    /// As `Add`, in a pass that is only repeated for its backward, whose result is known: the
    /// numbers are not computed again.
    Replay(&'a Tensor),
}

impl<'a> Residual<'a> {
    fn tensor(self) -> Option<&'a Tensor> {
        match self {
            Residual::None => None,
            Residual::Add(residual) | Residual::Replay(residual) => Some(residual),
        }
    }
}

/// The output of a linear with any number of adapters, `[tokens, out]`; gradients reach `x`, the
/// residual, and A, B and magnitude of every adapter.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn lora_linear(
    tape: &Tape,
    x: &Tensor,
    weight: &FrozenWeight,
    terms: &[LoraTerm],
    residual: Residual<'_>,
) -> Result<Tensor> {
    lora_linear_with_bias(tape, x, weight, None, terms, residual)
}

/// As [`lora_linear`], of a linear with a frozen bias `[out]`, f32.
///
/// # Errors
/// As [`lora_linear`].
pub fn lora_linear_with_bias(
    tape: &Tape,
    x: &Tensor,
    weight: &FrozenWeight,
    bias: Option<&Tensor>,
    terms: &[LoraTerm],
    residual: Residual<'_>,
) -> Result<Tensor> {
    check_shapes(x, weight, terms, residual)?;
    if bias.is_some_and(|bias| bias.dims() != [weight.rows()]) {
        bail!("a bias of {bias:?} for {} features", weight.rows());
    }
    if terms.iter().any(|term| term.dora.is_some()) {
        let y = with_dora(tape, x, weight, terms, residual)?;
        return match bias {
            Some(bias) => add_bias(tape, &y, bias),
            None => Ok(y),
        };
    }
    let y = match residual {
        // A tensor to hang the backward on.
        Residual::Replay(residual) => Tensor::zeros((), residual.dtype(), &Device::Cpu)?,
        _ if fused(x) => forward_on_host(x, weight, bias, terms, residual.tensor())?,
        _ => cuda::linear::adapted_forward(x, weight, bias, terms, residual.tensor())?,
    };
    let mut inputs = vec![x];
    inputs.extend(residual.tensor());
    for term in terms {
        inputs.extend([&term.a, &term.b]);
    }
    let backward = LinearBackward {
        input: x.id(),
        input_wanted: tape.wants(x),
        // Only the gradients of A and B need the input's numbers.
        x: (!terms.is_empty()).then(|| x.clone()),
        weight: weight.clone(),
        terms: terms.to_vec(),
        residual: residual.tensor().map(Tensor::id),
    };
    tape.record(&y, &inputs, move |dy, gradients| {
        backward.run(&dy, gradients)
    });
    Ok(y)
}

/// With DoRA among the adapters: one operation for each.
fn with_dora(
    tape: &Tape,
    x: &Tensor,
    weight: &FrozenWeight,
    terms: &[LoraTerm],
    residual: Residual<'_>,
) -> Result<Tensor> {
    let y = match terms {
        [term] if term.strength == 1.0 => match &term.dora {
            Some(dora) => dora_linear(tape, x, weight, term, dora)?,
            None => bail!("an adapter without magnitudes is no DoRA"),
        },
        _ => {
            let mut y = frozen_linear(tape, x, weight)?;
            for term in terms {
                let added = match &term.dora {
                    Some(dora) => dora::composed(tape, x, weight, term, dora)?,
                    None => composed(tape, x, term)?,
                };
                y = tape.sum(&y, &added)?;
            }
            y
        }
    };
    match residual.tensor() {
        Some(residual) => tape.sum(residual, &y),
        None => Ok(y),
    }
}

/// What an adapter adds to `x W^T`, out of candle's operations.
fn composed(tape: &Tape, x: &Tensor, term: &LoraTerm) -> Result<Tensor> {
    tape.composed([x, &term.a, &term.b], |[x, a, b]| {
        let x = dropped(&x, term.dropout)?;
        let (a, b) = (a.to_dtype(x.dtype())?, b.to_dtype(x.dtype())?);
        x.matmul(&a.t()?)?.matmul(&b.t()?)? * term.factor()
    })
}

fn check_shapes(
    x: &Tensor,
    weight: &FrozenWeight,
    terms: &[LoraTerm],
    residual: Residual<'_>,
) -> Result<()> {
    let (tokens, inputs) = x.dims2()?;
    let (rows, columns) = (weight.rows(), weight.columns());
    let residual = residual.tensor().map(Tensor::dims);
    if inputs != columns || residual.is_some_and(|dims| dims != [tokens, rows]) {
        bail!(
            "a linear of {columns} to {rows} features got x {:?}, residual {residual:?}",
            x.dims()
        );
    }
    for term in terms {
        let ((rank, a_inputs), (outputs, b_rank)) = (term.a.dims2()?, term.b.dims2()?);
        let magnitude = term.dora.as_ref().map(|dora| dora.magnitude.dims());
        if a_inputs != inputs
            || outputs != rows
            || b_rank != rank
            || magnitude.is_some_and(|dims| dims != [rows])
        {
            bail!(
                "a linear of {columns} to {rows} features got A {:?}, B {:?}, magnitude \
                 {magnitude:?}",
                term.a.dims(),
                term.b.dims()
            );
        }
    }
    Ok(())
}

/// What dropout leaves of `x`.
pub(super) fn dropped(x: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    let Some(dropout) = dropout else {
        return Ok(x.clone());
    };
    let mask = dropout.apply(&vec![1.0; x.elem_count()]);
    x * Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?
}

fn forward_on_host(
    x: &Tensor,
    weight: &FrozenWeight,
    bias: Option<&Tensor>,
    terms: &[LoraTerm],
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let host = weight.on_host()?;
    let (tokens, _) = x.dims2()?;
    let time = timed(Part::Adapter);
    let pairs = terms.iter().map(Pair::of).collect::<Result<Vec<_>>>()?;
    let lows: Vec<Vec<f32>> = with_floats(x, |x| pairs.iter().map(|pair| pair.lower(x)).collect())?;
    drop(time);
    let _time = timed(Part::Linear);
    let beside: Vec<LowRank<'_>> = pairs
        .iter()
        .zip(&lows)
        .map(|(pair, low)| pair.upper(low))
        .collect();
    let mut y = match residual {
        Some(residual) => with_floats(residual, <[f32]>::to_vec)?,
        None => vec![0.0; tokens * weight.rows()],
    };
    if let Some(bias) = bias {
        with_floats(bias, |bias| add_to_rows(&mut y, bias))?;
    }
    let write = match residual.is_some() || bias.is_some() {
        true => Write::Add,
        false => Write::Replace,
    };
    let products = Products {
        write,
        beside: &beside,
    };
    with_floats(x, |x| host.times_transposed(x, tokens, &mut y, &products))?;
    Tensor::from_vec(y, (tokens, weight.rows()), &Device::Cpu)
}

/// An adapter's numbers on the host.
pub(super) struct Pair {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    rank: usize,
    inputs: usize,
    outputs: usize,
    factor: f32,
    pub dropout: Option<Dropout>,
}

/// Gradients of an adapter's A and B, and of `dropout(x) A^T`.
pub(super) struct PairGradients {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub low: Vec<f32>,
}

impl Pair {
    pub fn of(term: &LoraTerm) -> Result<Self> {
        Ok(Pair {
            a: with_floats(&term.a, <[f32]>::to_vec)?,
            b: with_floats(&term.b, <[f32]>::to_vec)?,
            rank: term.rank(),
            inputs: term.a.dims()[1],
            outputs: term.b.dims()[0],
            factor: term.factor() as f32,
            dropout: term.dropout,
        })
    }

    /// `dropout(x) A^T`: `[tokens, rank]`.
    pub fn lower(&self, x: &[f32]) -> Vec<f32> {
        match self.dropout {
            Some(dropout) => self.lower_plain(&dropout.apply(x)),
            None => self.lower_plain(x),
        }
    }

    /// `x A^T`.
    pub fn lower_plain(&self, x: &[f32]) -> Vec<f32> {
        let tokens = x.len() / self.inputs;
        let mut low = vec![0.0; tokens * self.rank];
        parallel_product(
            &mut low,
            Matrix::new(x, self.inputs),
            Matrix::new(&self.a, self.inputs).transposed(),
            (tokens, self.rank, self.inputs),
            1.0,
            Write::Replace,
        );
        low
    }

    /// `factor * low B^T`, to be put beside `x W^T`.
    pub fn upper<'a>(&'a self, low: &'a [f32]) -> LowRank<'a> {
        LowRank {
            left: low,
            right: Matrix::new(&self.b, self.rank).transposed(),
            rank: self.rank,
            factor: self.factor,
        }
    }

    /// `d_low A` alone.
    pub fn lower_backward(&self, d_low: &[f32], out: &mut [f32]) {
        let tokens = d_low.len() / self.rank;
        parallel_product(
            out,
            Matrix::new(d_low, self.rank),
            Matrix::new(&self.a, self.inputs),
            (tokens, self.inputs, self.rank),
            1.0,
            Write::Replace,
        );
    }

    /// `d_low A`, to be put beside `dy W`.
    pub fn upper_backward<'a>(&'a self, d_low: &'a [f32]) -> LowRank<'a> {
        LowRank {
            left: d_low,
            right: Matrix::new(&self.a, self.inputs),
            rank: self.rank,
            factor: 1.0,
        }
    }

    /// Gradients given that of the output. With `h = dropout(x) A^T`: `dB = s dy^T h`,
    /// `dh = s dy B`, `dA = dh^T dropout(x)`.
    pub fn backward(&self, x: &[f32], dy: &[f32]) -> PairGradients {
        match self.dropout {
            Some(dropout) => self.backward_plain(&dropout.apply(x), dy),
            None => self.backward_plain(x, dy),
        }
    }

    /// As [`Pair::backward`], given what dropout left of x.
    pub fn backward_plain(&self, x: &[f32], dy: &[f32]) -> PairGradients {
        let &Pair {
            rank,
            inputs,
            outputs,
            factor,
            ..
        } = self;
        let tokens = x.len() / inputs;
        let low = self.lower_plain(x);
        let mut d_b = vec![0.0; outputs * rank];
        parallel_product(
            &mut d_b,
            Matrix::new(dy, outputs).transposed(),
            Matrix::new(&low, rank),
            (outputs, rank, tokens),
            factor,
            Write::Replace,
        );
        let mut d_low = low;
        parallel_product(
            &mut d_low,
            Matrix::new(dy, outputs),
            Matrix::new(&self.b, rank),
            (tokens, rank, outputs),
            factor,
            Write::Replace,
        );
        let mut d_a = vec![0.0; rank * inputs];
        parallel_product(
            &mut d_a,
            Matrix::new(&d_low, rank).transposed(),
            Matrix::new(x, inputs),
            (rank, inputs, tokens),
            1.0,
            Write::Replace,
        );
        PairGradients {
            a: d_a,
            b: d_b,
            low: d_low,
        }
    }
}

/// What the backward of a linear needs.
struct LinearBackward {
    input: TensorId,
    input_wanted: bool,
    x: Option<Tensor>,
    weight: FrozenWeight,
    terms: Vec<LoraTerm>,
    residual: Option<TensorId>,
}

impl LinearBackward {
    fn run(self, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        if let Some(residual) = self.residual {
            gradients.add_shared(residual, dy.clone())?;
        }
        let dx = match fused(dy) {
            true => self.on_host(dy, gradients)?,
            false => self.on_device(dy, gradients)?,
        };
        match dx {
            Some(dx) => gradients.add(self.input, dx),
            None => Ok(()),
        }
    }

    fn x(&self) -> Result<&Tensor> {
        match &self.x {
            Some(x) => Ok(x),
            None => bail!("the input of an adapted linear is missing"),
        }
    }

    fn on_device(&self, dy: &Tensor, gradients: &mut Gradients) -> Result<Option<Tensor>> {
        cuda::linear::adapted_backward(
            self.x.as_ref(),
            dy,
            &self.weight,
            &self.terms,
            self.input_wanted,
            gradients,
        )
    }

    fn on_host(&self, dy: &Tensor, gradients: &mut Gradients) -> Result<Option<Tensor>> {
        let (tokens, _) = dy.dims2()?;
        let inputs = self.weight.columns();
        let time = timed(Part::Adapter);
        let pairs = self
            .terms
            .iter()
            .map(Pair::of)
            .collect::<Result<Vec<_>>>()?;
        let mut found = Vec::new();
        for pair in &pairs {
            let gradients = |x: &[f32]| with_floats(dy, |dy| pair.backward(x, dy));
            found.push(with_floats(self.x()?, gradients)??);
        }
        drop(time);
        let mut d_lows = Vec::new();
        for (term, PairGradients { a, b, low }) in self.terms.iter().zip(found) {
            let d_a = Tensor::from_vec(a, term.a.shape(), &Device::Cpu)?;
            let d_b = Tensor::from_vec(b, term.b.shape(), &Device::Cpu)?;
            gradients.add(term.a.id(), d_a)?;
            gradients.add(term.b.id(), d_b)?;
            d_lows.push(low);
        }
        if !self.input_wanted {
            return Ok(None);
        }
        let _time = timed(Part::Linear);
        // Dropout stands between a term's product and the sum.
        let products = pairs.iter().zip(&d_lows);
        let beside: Vec<LowRank<'_>> = products
            .clone()
            .filter(|(pair, _)| pair.dropout.is_none())
            .map(|(pair, d_low)| pair.upper_backward(d_low))
            .collect();
        let products_of_x = Products {
            write: Write::Replace,
            beside: &beside,
        };
        let host = self.weight.on_host()?;
        let mut dx = vec![0.0; tokens * inputs];
        with_floats(dy, |dy| host.times(dy, tokens, &mut dx, &products_of_x))?;
        for (pair, d_low) in products {
            if let Some(dropout) = pair.dropout {
                let mut d_dropped = vec![0.0; dx.len()];
                pair.lower_backward(d_low, &mut d_dropped);
                for (dx, d) in dx.iter_mut().zip(dropout.apply(&d_dropped)) {
                    *dx += d;
                }
            }
        }
        Tensor::from_vec(dx, (tokens, inputs), &Device::Cpu).map(Some)
    }
}

#[cfg(test)]
mod tests;
