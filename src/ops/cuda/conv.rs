//! Convolutions on the device: products of gathered patches, forward and backward.

use candle_core::{Result, Tensor};

use super::super::conv::{FrozenConv, Shape};
use super::super::lora::LoraTerm;
use super::super::matrix::Write;
use super::super::tape::Gradients;
use super::super::weight::FrozenWeight;
use super::images::Walk;
use super::linear::{Pair, backward, begin, dropped, gradient_places, product};
use super::{Factor, contiguous, new_tensor, pointwise};

/// Numbers of gathered patches that exist at once: large enough to keep a GPU busy.
const PATCHES: usize = 64 << 20;

impl Shape {
    fn walk(&self) -> Walk {
        Walk {
            kernel: self.kernel,
            grid: self.grid,
            out: self.out,
            channels: self.channels,
        }
    }

    /// Whether every pixel is its own patch.
    fn is_linear(&self) -> bool {
        self.kernel.size == 1 && self.kernel.stride == 1 && self.grid == self.out
    }

    fn patches(&self, x: &Tensor, rows: std::ops::Range<usize>) -> Result<Tensor> {
        match self.is_linear() {
            true => x.narrow(0, rows.start, rows.len()),
            false => self.walk().gather(x, rows),
        }
    }
}

/// The adapters with A in the order of patches, and what each reads.
fn pairs(shape: Shape, terms: &[LoraTerm], x: &Tensor) -> Result<Vec<(Pair, Tensor)>> {
    let pair = |term: &LoraTerm| {
        let a = shape.into_patches(&term.a.detach())?;
        Ok((Pair::new(term, &a, x.dtype())?, dropped(x, term.dropout)?))
    };
    terms.iter().map(pair).collect()
}

/// As [`super::super::conv2d`], of shapes that were checked.
pub fn forward(
    x: &Tensor,
    conv: &FrozenConv,
    terms: &[LoraTerm],
    residual: Option<&Tensor>,
    shape: Shape,
) -> Result<Tensor> {
    let x = contiguous(x)?;
    let (all, outputs) = (shape.out.rows(), conv.weight.rows());
    let (y, write) = begin((all, outputs), residual, conv.bias.as_ref(), &x)?;
    let pairs = pairs(shape, terms, &x)?;
    let at_once = (PATCHES / shape.patch()).max(1);
    for first in (0..all).step_by(at_once) {
        let rows = first..(first + at_once).min(all);
        let part = y.narrow(0, first, rows.len())?;
        let patches = shape.patches(&x, rows.clone())?;
        product(&part, &patches, &conv.weight, write)?;
        for ((pair, dropped), term) in pairs.iter().zip(terms) {
            match term.dropout {
                Some(_) => pair.add_to(&part, &shape.patches(dropped, rows.clone())?)?,
                None => pair.add_to(&part, &patches)?,
            }
        }
    }
    Ok(y)
}

/// The gradients of every adapter, and that of the input where wanted, given that of the output.
/// Whole images at a time, so that a pixel's gradient is one sum.
pub fn backward_of(
    x: Option<&Tensor>,
    dy: &Tensor,
    weight: &FrozenWeight,
    terms: &[LoraTerm],
    shape: Shape,
    input_wanted: bool,
    gradients: &mut Gradients,
) -> Result<Option<Tensor>> {
    let dy = contiguous(dy)?;
    let input = |rows: usize| new_tensor((rows, shape.channels), dy.dtype(), dy.device());
    let (pixels, out_pixels) = (shape.grid.pixels(), shape.out.pixels());
    let dx = input(shape.grid.rows())?;
    let x = x.map(contiguous).transpose()?;
    let pairs = match &x {
        Some(x) => pairs(shape, terms, x)?,
        None => Vec::new(),
    };
    let places = terms
        .iter()
        .map(gradient_places)
        .collect::<Result<Vec<_>>>()?;
    let at_once = (PATCHES / (out_pixels * shape.patch()).max(1)).max(1);
    for first in (0..shape.grid.images).step_by(at_once) {
        let images = at_once.min(shape.grid.images - first);
        let rows = first * out_pixels..(first + images) * out_pixels;
        let write = if first == 0 {
            Write::Replace
        } else {
            Write::Add
        };
        let dy = dy.narrow(0, rows.start, rows.len())?;
        let dx = dx.narrow(0, first * pixels, images * pixels)?;
        let d_patches = match input_wanted {
            true => Some(backward(Factor::new(&dy)?, rows.len(), weight)?),
            false => None,
        };
        let mut of_dropped = Vec::new();
        for (((pair, x), term), (d_a, d_b)) in pairs.iter().zip(terms).zip(&places) {
            let patches = shape.patches(x, rows.clone())?;
            let d_low = pair.backward(&patches, &dy, (d_a, d_b), write)?;
            match (&d_patches, term.dropout) {
                (None, _) => {}
                (Some(d_patches), None) => pair.raise(&d_low, d_patches, Write::Add)?,
                (Some(_), Some(dropout)) => {
                    let d_dropped = new_tensor(patches.shape(), dy.dtype(), dy.device())?;
                    pair.raise(&d_low, &d_dropped, Write::Replace)?;
                    let d_pixels = input(images * pixels)?;
                    shape.walk().scatter(&d_dropped, &d_pixels)?;
                    let before = (first * pixels * shape.channels) as u64;
                    of_dropped.push((d_pixels, dropout.after(before)));
                }
            }
        }
        if let Some(d_patches) = d_patches {
            shape.walk().scatter(&d_patches, &dx)?;
            for (d_pixels, dropout) in of_dropped {
                pointwise::add_assign(&dx, &pointwise::dropped(&d_pixels, dropout)?)?;
            }
        }
    }
    for (term, (d_a, d_b)) in terms.iter().zip(places) {
        gradients.add(term.a.id(), shape.out_of_patches(&d_a)?)?;
        gradients.add(term.b.id(), d_b)?;
    }
    Ok(input_wanted.then_some(dx))
}
