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
use super::{Factor, contiguous, like, multiply, new_tensor, pointwise};

/// `x W^T`.
pub fn forward(x: &Tensor, weight: &FrozenWeight, dtype: DType) -> Result<Tensor> {
    let x = contiguous(x)?;
    let y = new_tensor((x.dim(0)?, weight.rows()), dtype, x.device())?;
    product(&y, &x, weight, Write::Replace)?;
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

/// What dropout leaves of `x`.
pub fn dropped(x: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    match dropout {
        Some(dropout) => pointwise::dropped(x, dropout),
        None => Ok(x.clone()),
    }
}

/// What a linear's products are written to: `residual + bias`, either of which may be missing.
pub fn begin(
    (rows, columns): (usize, usize),
    residual: Option<&Tensor>,
    bias: Option<&Tensor>,
    x: &Tensor,
) -> Result<(Tensor, Write)> {
    Ok(match (residual, bias) {
        (Some(residual), Some(bias)) => (pointwise::add_bias(residual, bias)?, Write::Add),
        (Some(residual), None) => (contiguous(residual)?.copy()?, Write::Add),
        (None, Some(bias)) => (pointwise::repeat_bias(bias, rows, x.dtype())?, Write::Add),
        (None, None) => {
            let y = new_tensor((rows, columns), x.dtype(), x.device())?;
            (y, Write::Replace)
        }
    })
}

/// An adapter's A and B in the type of the activations.
pub struct Pair {
    a: Tensor,
    b: Tensor,
    factor: f32,
}

impl Pair {
    /// `a`: that of the term, perhaps in another order.
    pub fn new(term: &LoraTerm, a: &Tensor, dtype: DType) -> Result<Self> {
        let narrow = |x: &Tensor| contiguous(&x.detach().to_dtype(dtype)?);
        Ok(Pair {
            a: narrow(a)?,
            b: narrow(&term.b)?,
            factor: term.factor() as f32,
        })
    }

    fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// `x A^T`.
    fn lower(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, inputs) = x.dims2()?;
        let low = new_tensor((tokens, self.rank()), x.dtype(), x.device())?;
        let sizes = (tokens, self.rank(), inputs);
        let right = Factor::new(&self.a)?.transposed();
        multiply(&low, Factor::new(x)?, right, sizes, 1.0, Write::Replace)?;
        Ok(low)
    }

    /// Adds `factor * x A^T B^T` to `y`.
    pub fn add_to(&self, y: &Tensor, x: &Tensor) -> Result<()> {
        let low = self.lower(x)?;
        let (tokens, outputs) = y.dims2()?;
        let sizes = (tokens, outputs, self.rank());
        let right = Factor::new(&self.b)?.transposed();
        multiply(y, Factor::new(&low)?, right, sizes, self.factor, Write::Add)
    }

    /// The gradients of A and B, f32, written or added to `d_a` and `d_b`, and that of `x A^T`. With
    /// `h = x A^T`: `dB = s dy^T h`, `dh = s dy B`, `dA = dh^T x`.
    pub fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        (d_a, d_b): (&Tensor, &Tensor),
        write: Write,
    ) -> Result<Tensor> {
        let ((tokens, inputs), (_, outputs)) = (x.dims2()?, dy.dims2()?);
        let (rank, factor) = (self.rank(), self.factor);
        let low = self.lower(x)?;
        let left = Factor::new(dy)?;
        let sizes = (outputs, rank, tokens);
        multiply(
            d_b,
            left.transposed(),
            Factor::new(&low)?,
            sizes,
            factor,
            write,
        )?;
        let sizes = (tokens, rank, outputs);
        let right = Factor::new(&self.b)?;
        multiply(&low, left, right, sizes, factor, Write::Replace)?;
        let left = Factor::new(&low)?.transposed();
        multiply(
            d_a,
            left,
            Factor::new(x)?,
            (rank, inputs, tokens),
            1.0,
            write,
        )?;
        Ok(low)
    }

    /// Writes or adds `d_low A` to `dx`.
    pub fn raise(&self, d_low: &Tensor, dx: &Tensor, write: Write) -> Result<()> {
        let (tokens, inputs) = dx.dims2()?;
        let sizes = (tokens, inputs, self.rank());
        let (left, right) = (Factor::new(d_low)?, Factor::new(&self.a)?);
        multiply(dx, left, right, sizes, 1.0, write)
    }
}

/// Places for the gradients of a term's A and B.
pub fn gradient_places(term: &LoraTerm) -> Result<(Tensor, Tensor)> {
    let place = |x: &Tensor| new_tensor(x.shape(), DType::F32, x.device());
    Ok((place(&term.a)?, place(&term.b)?))
}

/// `x W^T`, written or added to `y`.
pub fn product(y: &Tensor, x: &Tensor, weight: &FrozenWeight, write: Write) -> Result<()> {
    let (tokens, inputs) = x.dims2()?;
    let w = weight.dense()?;
    let right = Factor::new(&w)?.transposed();
    let sizes = (tokens, weight.rows(), inputs);
    multiply(y, Factor::new(x)?, right, sizes, 1.0, write)
}

/// The linear's output, added to `residual` and `bias` where they are.
pub fn adapted_forward(
    x: &Tensor,
    weight: &FrozenWeight,
    bias: Option<&Tensor>,
    terms: &[LoraTerm],
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let x = contiguous(x)?;
    let (y, write) = begin((x.dim(0)?, weight.rows()), residual, bias, &x)?;
    product(&y, &x, weight, write)?;
    for term in terms {
        let pair = Pair::new(term, &term.a, x.dtype())?;
        pair.add_to(&y, &dropped(&x, term.dropout)?)?;
    }
    Ok(y)
}

/// Gradients of every adapter's A and B, given that of the output, and of `x` where wanted.
pub fn adapted_backward(
    x: Option<&Tensor>,
    dy: &Tensor,
    weight: &FrozenWeight,
    terms: &[LoraTerm],
    x_wanted: bool,
    gradients: &mut Gradients,
) -> Result<Option<Tensor>> {
    let dy = contiguous(dy)?;
    let dx = match x_wanted {
        true => Some(backward(Factor::new(&dy)?, dy.dim(0)?, weight)?),
        false => None,
    };
    let x = x.map(contiguous).transpose()?;
    for (term, x) in terms.iter().zip(x.iter().cycle()) {
        let pair = Pair::new(term, &term.a, dy.dtype())?;
        let (d_a, d_b) = gradient_places(term)?;
        let x = dropped(x, term.dropout)?;
        let d_low = pair.backward(&x, &dy, (&d_a, &d_b), Write::Replace)?;
        gradients.add(term.a.id(), d_a)?;
        gradients.add(term.b.id(), d_b)?;
        match (&dx, term.dropout) {
            (None, _) => {}
            (Some(dx), None) => pair.raise(&d_low, dx, Write::Add)?,
            (Some(dx), Some(dropout)) => {
                let d_dropped = like(dx)?;
                pair.raise(&d_low, &d_dropped, Write::Replace)?;
                pointwise::add_assign(dx, &pointwise::dropped(&d_dropped, dropout)?)?;
            }
        }
    }
    Ok(dx)
}
