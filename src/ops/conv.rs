//! Convolutions whose weights are frozen, with low-rank adapters beside them.
//!
//! Images are rows of features (channels last), so that a convolution is a linear of gathered
//! patches. Patches exist for a bounded number of pixels at a time, forward and backward.

use candle_core::{Device, Result, Tensor, TensorId, bail};
use rayon::prelude::*;

use super::bias::{add_slice, add_to_rows};
use super::cuda;
use super::lora::{LoraTerm, Pair};
use super::matrix::Write;
use super::profile::{Part, timed};
use super::tape::{Gradients, Tape};
use super::tensors::{fused, with_floats};
use super::weight::{FrozenWeight, LowRank, Products};

/// Numbers of gathered patches that exist at once (16 MiB).
const PATCHES: usize = 4 << 20;

/// The pixels of a batch of images whose features are rows: image after image, line after line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub images: usize,
    pub height: usize,
    pub width: usize,
}

impl Grid {
    /// Pixels of all images.
    pub fn rows(&self) -> usize {
        self.images * self.pixels()
    }

    /// Pixels of one image.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// How a square kernel walks over a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub size: usize,
    pub stride: usize,
    /// Zeros above the first line and left of the first column.
    pub before: usize,
    /// Zeros below the last line and right of the last column.
    pub after: usize,
}

impl Kernel {
    /// An odd kernel that keeps the grid.
    pub const fn same(size: usize) -> Self {
        Kernel {
            size,
            stride: 1,
            before: size / 2,
            after: size / 2,
        }
    }

    fn taps(&self) -> usize {
        self.size * self.size
    }

    /// The grid of the results.
    ///
    /// # Errors
    /// Images smaller than the kernel.
    pub fn output(&self, grid: Grid) -> Result<Grid> {
        let along = |length: usize| {
            let padded = length + self.before + self.after;
            Some(padded.checked_sub(self.size)? / self.stride + 1)
        };
        match (along(grid.height), along(grid.width)) {
            (Some(height), Some(width)) => Ok(Grid {
                images: grid.images,
                height,
                width,
            }),
            _ => bail!("a kernel of {} does not fit into {grid:?}", self.size),
        }
    }
}

/// A frozen convolution.
pub struct FrozenConv {
    /// `[out, size * size * in]`: of [`super::HostWeight::channels_last`].
    pub weight: FrozenWeight,
    /// `[out]`, f32.
    pub bias: Option<Tensor>,
    pub kernel: Kernel,
}

/// The convolution of `x` `[grid.rows(), in]`, with what adapters add: `[out_grid.rows(), out]` and
/// the grid it lies on. The A of an adapter is `[r, in * size * size]` in PyTorch's order (input,
/// line, column), its B `[out, r]`: a convolution of the same kernel and stride to r channels, then
/// one of 1x1. Gradients reach `x`, the residual, and A and B of every adapter.
///
/// # Errors
/// Shapes that do not fit, an adapter with magnitudes; the device fails.
pub fn conv2d(
    tape: &Tape,
    x: &Tensor,
    grid: Grid,
    conv: &FrozenConv,
    terms: &[LoraTerm],
    residual: Option<&Tensor>,
) -> Result<(Tensor, Grid)> {
    let out = conv.kernel.output(grid)?;
    check_shapes(x, grid, conv, terms, residual, out)?;
    let shape = Shape {
        kernel: conv.kernel,
        grid,
        out,
        channels: x.dim(1)?,
    };
    let y = match fused(x) {
        true => forward_on_host(x, conv, terms, residual, shape)?,
        false => cuda::conv::forward(x, conv, terms, residual, shape)?,
    };
    let mut inputs = vec![x];
    inputs.extend(residual);
    for term in terms {
        inputs.extend([&term.a, &term.b]);
    }
    let backward = ConvBackward {
        input: x.id(),
        input_wanted: tape.wants(x),
        // Only the gradients of A and B need the input's numbers.
        x: (!terms.is_empty()).then(|| x.clone()),
        weight: conv.weight.clone(),
        terms: terms.to_vec(),
        residual: residual.map(Tensor::id),
        shape,
    };
    tape.record(&y, &inputs, move |dy, gradients| {
        backward.run(&dy, gradients)
    });
    Ok((y, out))
}

fn check_shapes(
    x: &Tensor,
    grid: Grid,
    conv: &FrozenConv,
    terms: &[LoraTerm],
    residual: Option<&Tensor>,
    out: Grid,
) -> Result<()> {
    let (rows, channels) = x.dims2()?;
    let (outputs, inputs) = (conv.weight.rows(), conv.weight.columns());
    let bias = conv.bias.as_ref().map(Tensor::dims);
    let residual = residual.map(Tensor::dims);
    if rows != grid.rows()
        || inputs != channels * conv.kernel.taps()
        || bias.is_some_and(|dims| dims != [outputs])
        || residual.is_some_and(|dims| dims != [out.rows(), outputs])
    {
        bail!(
            "a convolution {:?} of weight [{outputs}, {inputs}] got x {:?} on {grid:?}, bias \
             {bias:?}, residual {residual:?}",
            conv.kernel,
            x.dims()
        );
    }
    for term in terms {
        let ((rank, a_inputs), (b_outputs, b_rank)) = (term.a.dims2()?, term.b.dims2()?);
        if a_inputs != inputs || b_outputs != outputs || b_rank != rank {
            bail!(
                "a convolution of weight [{outputs}, {inputs}] got A {:?}, B {:?}",
                term.a.dims(),
                term.b.dims()
            );
        }
        if term.dora.is_some() {
            bail!("DoRA of a convolution is not supported");
        }
    }
    Ok(())
}

/// What a convolution reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub kernel: Kernel,
    pub grid: Grid,
    pub out: Grid,
    pub channels: usize,
}

impl Shape {
    pub fn patch(&self) -> usize {
        self.kernel.taps() * self.channels
    }

    /// Rows of the result whose patches are gathered at once.
    fn chunk(&self) -> usize {
        (PATCHES / self.patch()).max(16).min(self.out.rows().max(1))
    }

    fn chunks(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (rows, chunk) = (self.out.rows(), self.chunk());
        (0..rows)
            .step_by(chunk)
            .map(move |first| first..(first + chunk).min(rows))
    }

    /// `(image, line, column)` of a row of the result.
    fn place(&self, row: usize) -> (usize, usize, usize) {
        let (image, within) = (row / self.out.pixels(), row % self.out.pixels());
        (image, within / self.out.width, within % self.out.width)
    }

    /// Where a kernel at the result's `column` meets the image: the first tap, the first column,
    /// and how many.
    fn columns(&self, column: usize) -> (usize, usize, usize) {
        let start = column * self.kernel.stride;
        let tap = self.kernel.before.saturating_sub(start);
        let first = start + tap - self.kernel.before;
        let last = (start + self.kernel.size).saturating_sub(self.kernel.before);
        (tap, first, last.min(self.grid.width).saturating_sub(first))
    }

    /// The patches of some rows of the result, each `[size, size, channels]`.
    fn gather(&self, x: &[f32], rows: std::ops::Range<usize>, patches: &mut Vec<f32>) {
        let channels = self.channels;
        patches.resize(rows.len() * self.patch(), 0.0);
        patches
            .par_chunks_mut(self.patch())
            .with_min_len(8)
            .zip(rows)
            .for_each(|(patch, row)| {
                let (image, line, column) = self.place(row);
                let (tap, first, count) = self.columns(column);
                let from_line = self.kernel.size * channels;
                for (ky, taps) in patch.chunks_exact_mut(from_line).enumerate() {
                    let y = line * self.kernel.stride + ky;
                    let y = y.checked_sub(self.kernel.before);
                    let Some(y) = y.filter(|&y| y < self.grid.height) else {
                        taps.fill(0.0);
                        continue;
                    };
                    let start =
                        ((image * self.grid.height + y) * self.grid.width + first) * channels;
                    let (from, to) = (tap * channels, (tap + count) * channels);
                    taps[..from].fill(0.0);
                    taps[from..to].copy_from_slice(&x[start..start + count * channels]);
                    taps[to..].fill(0.0);
                }
            });
    }

    /// Adds the gradients of the patches of some rows to those of the pixels they were gathered
    /// from. Each line of the image is one task's, so sums are taken in the patches' order.
    fn scatter(&self, patches: &[f32], rows: &std::ops::Range<usize>, dx: &mut [f32]) {
        let Kernel {
            size,
            stride,
            before,
            ..
        } = self.kernel;
        let (channels, out) = (self.channels, self.out);
        let lines = self.grid.height;
        // The lines of the images that the rows' kernels can reach.
        let (image, line, _) = self.place(rows.start);
        let first = image * lines + (line * stride).saturating_sub(before).min(lines);
        let (image, line, _) = self.place(rows.end - 1);
        let last = image * lines + (line * stride + size).saturating_sub(before).min(lines);
        let width = self.grid.width * channels;
        dx[first * width..last * width]
            .par_chunks_mut(width)
            .zip(first..last)
            .for_each(|(dx, line)| {
                let (image, y) = (line / lines, line % lines);
                for ky in 0..size {
                    let Some(from) = (y + before).checked_sub(ky) else {
                        continue;
                    };
                    let out_y = from / stride;
                    if from % stride != 0 || out_y >= out.height {
                        continue;
                    }
                    let start = (image * out.height + out_y) * out.width;
                    let columns = rows.start.saturating_sub(start).min(out.width)
                        ..rows.end.saturating_sub(start).min(out.width);
                    for column in columns {
                        let (tap, first, count) = self.columns(column);
                        let patch = (start + column - rows.start) * self.patch()
                            + (ky * size + tap) * channels;
                        add_slice(
                            &mut dx[first * channels..(first + count) * channels],
                            &patches[patch..patch + count * channels],
                        );
                    }
                }
            });
    }

    /// An adapter's A with its numbers in the order of patches.
    pub fn into_patches(self, a: &Tensor) -> Result<Tensor> {
        let (rank, inputs) = a.dims2()?;
        a.reshape((rank, self.channels, self.kernel.taps()))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((rank, inputs))
    }

    /// The reverse of [`Shape::into_patches`].
    pub fn out_of_patches(self, a: &Tensor) -> Result<Tensor> {
        let (rank, inputs) = a.dims2()?;
        a.reshape((rank, self.kernel.taps(), self.channels))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((rank, inputs))
    }

    /// The adapters with A in the order of patches.
    fn pairs(self, terms: &[LoraTerm]) -> Result<Vec<Pair>> {
        let pair = |term: &LoraTerm| {
            let mut term = term.clone();
            term.a = self.into_patches(&term.a.detach())?;
            Pair::of(&term)
        };
        terms.iter().map(pair).collect()
    }
}

/// What an adapter with dropout reads: all of `x`, some of it dropped.
fn inputs_after_dropout(x: &[f32], pairs: &[Pair]) -> Vec<Option<Vec<f32>>> {
    let apply = |pair: &Pair| pair.dropout.map(|dropout| dropout.apply(x));
    pairs.iter().map(apply).collect()
}

fn forward_on_host(
    x: &Tensor,
    conv: &FrozenConv,
    terms: &[LoraTerm],
    residual: Option<&Tensor>,
    shape: Shape,
) -> Result<Tensor> {
    let _time = timed(Part::Convolution);
    let host = conv.weight.on_host()?;
    let outputs = conv.weight.rows();
    let pairs = shape.pairs(terms)?;
    let mut y = match residual {
        Some(residual) => with_floats(residual, <[f32]>::to_vec)?,
        None => vec![0.0; shape.out.rows() * outputs],
    };
    if let Some(bias) = &conv.bias {
        with_floats(bias, |bias| add_to_rows(&mut y, bias))?;
    }
    let write = match residual.is_some() || conv.bias.is_some() {
        true => Write::Add,
        false => Write::Replace,
    };
    with_floats(x, |x| {
        let dropped = inputs_after_dropout(x, &pairs);
        let (mut patches, mut scratch) = (Vec::new(), Vec::new());
        for rows in shape.chunks() {
            shape.gather(x, rows.clone(), &mut patches);
            let mut lows = Vec::new();
            for (pair, dropped) in pairs.iter().zip(&dropped) {
                lows.push(match dropped {
                    Some(x) => {
                        shape.gather(x, rows.clone(), &mut scratch);
                        pair.lower_plain(&scratch)
                    }
                    None => pair.lower_plain(&patches),
                });
            }
            let beside: Vec<LowRank<'_>> = pairs
                .iter()
                .zip(&lows)
                .map(|(pair, low)| pair.upper(low))
                .collect();
            let products = Products {
                write,
                beside: &beside,
            };
            let y = &mut y[rows.start * outputs..rows.end * outputs];
            host.times_transposed(&patches, rows.len(), y, &products);
        }
    })?;
    Tensor::from_vec(y, (shape.out.rows(), outputs), &Device::Cpu)
}

/// What the backward of a convolution needs.
struct ConvBackward {
    input: TensorId,
    input_wanted: bool,
    x: Option<Tensor>,
    weight: FrozenWeight,
    terms: Vec<LoraTerm>,
    residual: Option<TensorId>,
    shape: Shape,
}

impl ConvBackward {
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

    fn on_device(&self, dy: &Tensor, gradients: &mut Gradients) -> Result<Option<Tensor>> {
        cuda::conv::backward_of(
            self.x.as_ref(),
            dy,
            &self.weight,
            &self.terms,
            self.shape,
            self.input_wanted,
            gradients,
        )
    }

    fn on_host(&self, dy: &Tensor, gradients: &mut Gradients) -> Result<Option<Tensor>> {
        let _time = timed(Part::Convolution);
        let shape = self.shape;
        let pairs = shape.pairs(&self.terms)?;
        let numbers = shape.grid.rows() * shape.channels;
        let mut sums: Vec<(Vec<f32>, Vec<f32>)> = pairs
            .iter()
            .map(|pair| (vec![0.0; pair.a.len()], vec![0.0; pair.b.len()]))
            .collect();
        // Of x, and of what dropout leaves of x for an adapter.
        let mut dx = vec![0.0; if self.input_wanted { numbers } else { 0 }];
        let mut d_dropped: Vec<Vec<f32>> = pairs
            .iter()
            .map(|pair| match pair.dropout {
                Some(_) => vec![0.0; dx.len()],
                None => Vec::new(),
            })
            .collect();
        let host = self.weight.on_host()?;
        let outputs = self.weight.rows();
        let mut by_chunks = |x: &[f32], dy: &[f32]| {
            let dropped = inputs_after_dropout(x, &pairs);
            let mut patches = Vec::new();
            for rows in shape.chunks() {
                let dy = &dy[rows.start * outputs..rows.end * outputs];
                let mut d_lows = Vec::new();
                let mut gathered = false;
                for ((pair, dropped), (d_a, d_b)) in pairs.iter().zip(&dropped).zip(&mut sums) {
                    if dropped.is_some() || !gathered {
                        let x = dropped.as_deref().unwrap_or(x);
                        shape.gather(x, rows.clone(), &mut patches);
                        gathered = dropped.is_none();
                    }
                    let found = pair.backward_plain(&patches, dy);
                    add_slice(d_a, &found.a);
                    add_slice(d_b, &found.b);
                    d_lows.push(found.low);
                }
                if !self.input_wanted {
                    continue;
                }
                // The gradients of patches, in the memory of the patches.
                patches.resize(rows.len() * shape.patch(), 0.0);
                for ((pair, d_low), dx) in pairs.iter().zip(&d_lows).zip(&mut d_dropped) {
                    if pair.dropout.is_some() {
                        pair.lower_backward(d_low, &mut patches);
                        shape.scatter(&patches, &rows, dx);
                    }
                }
                let beside: Vec<LowRank<'_>> = pairs
                    .iter()
                    .zip(&d_lows)
                    .filter(|(pair, _)| pair.dropout.is_none())
                    .map(|(pair, d_low)| pair.upper_backward(d_low))
                    .collect();
                let products = Products {
                    write: Write::Replace,
                    beside: &beside,
                };
                host.times(dy, rows.len(), &mut patches, &products);
                shape.scatter(&patches, &rows, &mut dx);
            }
        };
        with_floats(dy, |dy| match &self.x {
            Some(x) => with_floats(x, |x| by_chunks(x, dy)),
            None => {
                by_chunks(&[], dy);
                Ok(())
            }
        })??;
        for (term, (a, b)) in self.terms.iter().zip(sums) {
            let d_a = Tensor::from_vec(a, term.a.shape(), &Device::Cpu)?;
            let d_b = Tensor::from_vec(b, term.b.shape(), &Device::Cpu)?;
            gradients.add(term.a.id(), shape.out_of_patches(&d_a)?)?;
            gradients.add(term.b.id(), d_b)?;
        }
        if !self.input_wanted {
            return Ok(None);
        }
        for (pair, d_dropped) in pairs.iter().zip(d_dropped) {
            if let Some(dropout) = pair.dropout {
                add_slice(&mut dx, &dropout.apply(&d_dropped));
            }
        }
        Tensor::from_vec(dx, (shape.grid.rows(), shape.channels), &Device::Cpu).map(Some)
    }
}

#[cfg(test)]
mod tests;
