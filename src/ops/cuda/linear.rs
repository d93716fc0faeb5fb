//! Frozen linears with low-rank adapters beside them.
//!
//! An adapter's products are added by cuBLAS while it writes the sum, in f32: no scaling, addition or
//! change of type is a pass of its own over the activations.

use candle_core::{DType, Result, Tensor};

use super::super::dropout::Dropout;
use super::super::lora::LoraTerm;
use super::super::matrix::Write;
use super::super::tape::Gradients;
use super::super::weight::FrozenWeight;
use super::{Factor, contiguous, multiply, new_tensor, pointwise};

/// `x W^T`.
pub fn forward(x: &Tensor, weight: &FrozenWeight, dtype: DType) -> Result<Tensor> {
    let x = contiguous(x)?;
    let (tokens, inputs) = x.dims2()?;
    let y = new_tensor((tokens, weight.rows()), dtype, x.device())?;
    let w = weight.dense()?;
    let sizes = (tokens, weight.rows(), inputs);
    let right = Factor::new(&w)?.transposed();
    multiply(&y, Factor::new(&x)?, right, sizes, 1.0, Write::Replace)?;
    Ok(y)
}

/// `dy W`, for `dy` of `[tokens, out]` with rows `row` numbers apart.
pub fn backward(dy: Factor<'_>, tokens: usize, weight: &FrozenWeight) -> Result<Tensor> {
    let (rows, columns) = (weight.rows(), weight.columns());
    let w = weight.dense()?;
    let dx = new_tensor((tokens, columns), dy.dtype, dy.tensor.device())?;
    let sizes = (tokens, columns, rows);
    multiply(&dx, dy, Factor::new(&w)?, sizes, 1.0, Write::Replace)?;
    Ok(dx)
}

fn dropped(x: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    match dropout {
        Some(dropout) => pointwise::dropped(x, dropout),
        None => Ok(x.clone()),
    }
}

/// A and B in the type of the activations.
fn pair(term: &LoraTerm, dtype: DType) -> Result<(Tensor, Tensor)> {
    let narrow = |x: &Tensor| contiguous(&x.to_dtype(dtype)?);
    Ok((narrow(&term.a)?, narrow(&term.b)?))
}

/// `dropout(x) A^T`.
fn lower(x: &Tensor, a: &Tensor) -> Result<Tensor> {
    let ((tokens, inputs), (rank, _)) = (x.dims2()?, a.dims2()?);
    let low = new_tensor((tokens, rank), x.dtype(), x.device())?;
    let sizes = (tokens, rank, inputs);
    let right = Factor::new(a)?.transposed();
    multiply(&low, Factor::new(x)?, right, sizes, 1.0, Write::Replace)?;
    Ok(low)
}

/// The linear's output, added to `residual` where there is one.
pub fn adapted_forward(
    x: &Tensor,
    weight: &FrozenWeight,
    terms: &[LoraTerm],
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let x = contiguous(x)?;
    let ((tokens, inputs), outputs) = (x.dims2()?, weight.rows());
    let y = match residual {
        Some(residual) => contiguous(residual)?.copy()?,
        None => new_tensor((tokens, outputs), x.dtype(), x.device())?,
    };
    let write = match residual {
        Some(_) => Write::Add,
        None => Write::Replace,
    };
    {
        let w = weight.dense()?;
        let sizes = (tokens, outputs, inputs);
        let right = Factor::new(&w)?.transposed();
        multiply(&y, Factor::new(&x)?, right, sizes, 1.0, write)?;
    }
    for term in terms {
        let (a, b) = pair(term, x.dtype())?;
        let low = lower(&dropped(&x, term.dropout)?, &a)?;
        let sizes = (tokens, outputs, a.dims2()?.0);
        let right = Factor::new(&b)?.transposed();
        let factor = term.factor() as f32;
        multiply(&y, Factor::new(&low)?, right, sizes, factor, Write::Add)?;
    }
    Ok(y)
}

/// Gradients of every adapter's A and B, given that of the output, and of `x` where wanted. With
/// `h = dropout(x) A^T`: `dB = s dy^T h`, `dh = s dy B`, `dA = dh^T dropout(x)`.
pub fn adapted_backward(
    x: Option<&Tensor>,
    dy: &Tensor,
    weight: &FrozenWeight,
    terms: &[LoraTerm],
    x_wanted: bool,
    gradients: &mut Gradients,
) -> Result<Option<Tensor>> {
    let dy = contiguous(dy)?;
    let (tokens, outputs) = dy.dims2()?;
    let inputs = weight.columns();
    let device = dy.device();
    let dx = match x_wanted {
        true => Some(backward(Factor::new(&dy)?, tokens, weight)?),
        false => None,
    };
    let x = x.map(contiguous).transpose()?;
    for (term, x) in terms.iter().zip(x.iter().cycle()) {
        let (a, b) = pair(term, dy.dtype())?;
        let (rank, factor) = (a.dims2()?.0, term.factor() as f32);
        let x = dropped(x, term.dropout)?;
        let low = lower(&x, &a)?;
        let d_b = new_tensor((outputs, rank), DType::F32, device)?;
        let left = Factor::new(&dy)?.transposed();
        let sizes = (outputs, rank, tokens);
        multiply(&d_b, left, Factor::new(&low)?, sizes, factor, Write::Replace)?;
        let d_low = low;
        let sizes = (tokens, rank, outputs);
        let left = Factor::new(&dy)?;
        multiply(&d_low, left, Factor::new(&b)?, sizes, factor, Write::Replace)?;
        let d_a = new_tensor((rank, inputs), DType::F32, device)?;
        let left = Factor::new(&d_low)?.transposed();
        let sizes = (rank, inputs, tokens);
        multiply(&d_a, left, Factor::new(&x)?, sizes, 1.0, Write::Replace)?;
        gradients.add(term.a.id(), d_a)?;
        gradients.add(term.b.id(), d_b)?;
        let Some(dx) = &dx else { continue };
        let sizes = (tokens, inputs, rank);
        let (left, right) = (Factor::new(&d_low)?, Factor::new(&a)?);
        match term.dropout {
            None => multiply(dx, left, right, sizes, 1.0, Write::Add)?,
            Some(dropout) => {
                let d_dropped = new_tensor((tokens, inputs), dy.dtype(), device)?;
                multiply(&d_dropped, left, right, sizes, 1.0, Write::Replace)?;
                pointwise::add_assign(dx, &pointwise::dropped(&d_dropped, dropout)?)?;
            }
        }
    }
    Ok(dx)
}
