//! GroupNorm with frozen weight and bias, with or without a SiLU behind it (Wu and He,
//! arXiv:1803.08494).

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::conv::Grid;
use super::cuda;
use super::profile::{Part, timed};
use super::tape::Tape;
use super::tensors::with_floats;
use super::wide::{sigmoid, wide};

/// Rows whose sums one task takes: a constant, so that sums do not depend on the threads.
const ROWS: usize = 64;

/// A frozen GroupNorm.
#[derive(Clone)]
pub struct GroupNorm {
    /// `[channels]`, f32.
    pub weight: Tensor,
    /// `[channels]`, f32.
    pub bias: Tensor,
    pub groups: usize,
    pub eps: f64,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// The norm of `x` `[grid.rows(), channels]` over the pixels and channels of each image's groups.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn group_norm(tape: &Tape, x: &Tensor, grid: Grid, norm: &GroupNorm) -> Result<Tensor> {
    let (rows, channels) = x.dims2()?;
    if rows != grid.rows()
        || norm.weight.dims() != [channels]
        || norm.bias.dims() != [channels]
        || norm.groups == 0
        || !channels.is_multiple_of(norm.groups)
    {
        bail!(
            "a norm of {} groups and {:?} channels got {:?} on {grid:?}",
            norm.groups,
            norm.weight.dims(),
            x.dims()
        );
    }
    if cuda::serves(x) {
        return cuda::norm::group_norm(tape, x, grid, norm);
    }
    let time = timed(Part::Norm);
    let pixels = grid.pixels();
    let (y, statistics) = with_floats(x, |x| forward(x, pixels, norm))??;
    let y = Tensor::from_vec(y, x.shape(), &Device::Cpu)?;
    drop(time);
    let (input, norm) = (x.clone(), norm.clone());
    tape.record(&y, &[x], move |dy, gradients| {
        let time = timed(Part::Norm);
        let dx = with_floats(&input, |x| {
            with_floats(&dy, |dy| backward(x, dy, pixels, &norm, &statistics))
        })???;
        drop(time);
        let dx = Tensor::from_vec(dx, input.shape(), &Device::Cpu)?;
        gradients.add(input.id(), dx)
    });
    Ok(y)
}

/// Mean and inverse standard deviation of each image's groups.
struct Statistics(Vec<(f32, f32)>);

impl Statistics {
    fn of(x: &[f32], pixels: usize, channels: usize, groups: usize, eps: f64) -> Self {
        let sums = sums(x, pixels, channels, |sums, row, _| add_sums(sums, row));
        let count = (pixels * channels / groups) as f64;
        let each = sums.chunks_exact(2 * channels).flat_map(|sums| {
            let (first, second) = sums.split_at(channels);
            let width = channels / groups;
            let groups = first.chunks_exact(width).zip(second.chunks_exact(width));
            groups.map(|(first, second)| {
                let mean = first.iter().sum::<f64>() / count;
                let variance = second.iter().sum::<f64>() / count - mean * mean;
                (mean as f32, (1.0 / (variance.max(0.0) + eps).sqrt()) as f32)
            })
        });
        Statistics(each.collect())
    }

    /// Per channel of an image what the norm multiplies by and adds.
    fn affine(&self, image: usize, norm: &Plain<'_>) -> (Vec<f32>, Vec<f32>) {
        let width = norm.weight.len() / norm.groups;
        let of = |channel: usize| self.0[image * norm.groups + channel / width];
        let factor = |(channel, weight): (usize, &f32)| weight * of(channel).1;
        let factors: Vec<f32> = norm.weight.iter().enumerate().map(factor).collect();
        let offset = |(channel, bias): (usize, &f32)| bias - of(channel).0 * factors[channel];
        let offsets = norm.bias.iter().enumerate().map(offset).collect();
        (factors, offsets)
    }
}

/// The norm's numbers on the host.
#[derive(Clone, Copy)]
struct Plain<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    groups: usize,
}

/// Two sums per channel and image, `[images, 2, channels]`: rows are added up by tasks of [`ROWS`],
/// then the tasks' sums in order. `add` gets the sums, a row and its index.
fn sums(
    x: &[f32],
    pixels: usize,
    channels: usize,
    add: impl Fn(&mut [f64], &[f32], usize) + Sync,
) -> Vec<f64> {
    let images = x.len() / (pixels * channels);
    let pieces = pixels.div_ceil(ROWS);
    let parts: Vec<Vec<f64>> = (0..images * pieces)
        .into_par_iter()
        .map(|task| {
            let (image, piece) = (task / pieces, task % pieces);
            let mut sums = vec![0.0; 2 * channels];
            for pixel in piece * ROWS..((piece + 1) * ROWS).min(pixels) {
                let row = image * pixels + pixel;
                add(&mut sums, &x[row * channels..(row + 1) * channels], row);
            }
            sums
        })
        .collect();
    let mut all = vec![0.0; images * 2 * channels];
    for (sum, parts) in all.chunks_exact_mut(2 * channels).zip(parts.chunks(pieces)) {
        for part in parts {
            for (sum, part) in sum.iter_mut().zip(part) {
                *sum += part;
            }
        }
    }
    all
}

wide! {
    /// Adds a row to the sums of numbers and of their squares.
    fn add_sums(sums: &mut [f64], row: &[f32]) {
        let (first, second) = sums.split_at_mut(row.len());
        for ((first, second), &x) in first.iter_mut().zip(second).zip(row) {
            let x = f64::from(x);
            *first += x;
            *second += x * x;
        }
    }
}

fn with_plain<R>(norm: &GroupNorm, f: impl FnOnce(Plain<'_>) -> R) -> Result<R> {
    let groups = norm.groups;
    with_floats(&norm.weight, |weight| {
        with_floats(&norm.bias, |bias| {
            f(Plain {
                weight,
                bias,
                groups,
            })
        })
    })?
}

fn forward(x: &[f32], pixels: usize, norm: &GroupNorm) -> Result<(Vec<f32>, Statistics)> {
    let channels = norm.weight.elem_count();
    let statistics = Statistics::of(x, pixels, channels, norm.groups, norm.eps);
    let mut y = vec![0.0; x.len()];
    let image = pixels * channels;
    with_plain(norm, |plain| {
        for (index, (y, x)) in y.chunks_mut(image).zip(x.chunks(image)).enumerate() {
            let (factors, offsets) = statistics.affine(index, &plain);
            y.par_chunks_mut(channels)
                .with_min_len(ROWS)
                .zip(x.par_chunks(channels))
                .for_each(|(y, x)| match norm.silu {
                    true => scale_silu(y, x, &factors, &offsets),
                    false => scale(y, x, &factors, &offsets),
                });
        }
    })?;
    Ok((y, statistics))
}

wide! {
    fn scale(y: &mut [f32], x: &[f32], factors: &[f32], offsets: &[f32]) {
        for ((y, x), (factor, offset)) in y.iter_mut().zip(x).zip(factors.iter().zip(offsets)) {
            *y = x * factor + offset;
        }
    }
}

wide! {
    fn scale_silu(y: &mut [f32], x: &[f32], factors: &[f32], offsets: &[f32]) {
        for ((y, x), (factor, offset)) in y.iter_mut().zip(x).zip(factors.iter().zip(offsets)) {
            let z = x * factor + offset;
            *y = z * sigmoid(z);
        }
    }
}

/// With `z = weight * (x - mean) * inverse + bias` and `g = weight * dz`, per group of n numbers:
/// `dx = inverse * (g - mean(g) - xhat * mean(g * xhat))`.
fn backward(
    x: &[f32],
    dy: &[f32],
    pixels: usize,
    norm: &GroupNorm,
    statistics: &Statistics,
) -> Result<Vec<f32>> {
    let channels = norm.weight.elem_count();
    let image = pixels * channels;
    let mut dx = vec![0.0; x.len()];
    with_plain(norm, |plain| {
        // The gradient before the SiLU lies in dx until it is turned into that of x.
        let affine: Vec<_> = (0..x.len() / image)
            .map(|index| statistics.affine(index, &plain))
            .collect();
        dx.par_chunks_mut(channels)
            .with_min_len(ROWS)
            .zip(x.par_chunks(channels).zip(dy.par_chunks(channels)))
            .enumerate()
            .for_each(|(row, (dz, (x, dy)))| match norm.silu {
                true => {
                    let (factors, offsets) = &affine[row / pixels];
                    silu_backward(dz, x, dy, factors, offsets);
                }
                false => dz.copy_from_slice(dy),
            });
        let sums = sums(&dx, pixels, channels, |sums, dz, row| {
            add_products(sums, dz, &x[row * channels..(row + 1) * channels]);
        });
        let width = channels / plain.groups;
        let count = (pixels * width) as f64;
        for (index, sums) in sums.chunks_exact(2 * channels).enumerate() {
            let (first, second) = sums.split_at(channels);
            let (mut of_x, mut constant) = (vec![0.0; channels], vec![0.0; channels]);
            for group in 0..plain.groups {
                let (mean, inverse) = statistics.0[index * plain.groups + group];
                let (mean, inverse) = (f64::from(mean), f64::from(inverse));
                let (mut g, mut g_xhat) = (0.0, 0.0);
                for channel in group * width..(group + 1) * width {
                    let weight = f64::from(plain.weight[channel]);
                    g += weight * first[channel] / count;
                    g_xhat += weight * inverse * (second[channel] - mean * first[channel]) / count;
                }
                let slope = -inverse * inverse * g_xhat;
                let offset = -inverse * g - slope * mean;
                of_x[group * width..(group + 1) * width].fill(slope as f32);
                constant[group * width..(group + 1) * width].fill(offset as f32);
            }
            let factors = &affine[index].0;
            let whole = index * image..(index + 1) * image;
            dx[whole.clone()]
                .par_chunks_mut(channels)
                .with_min_len(ROWS)
                .zip(x[whole].par_chunks(channels))
                .for_each(|(dx, x)| combine(dx, x, factors, &of_x, &constant));
        }
    })?;
    Ok(dx)
}

wide! {
    fn silu_backward(dz: &mut [f32], x: &[f32], dy: &[f32], factors: &[f32], offsets: &[f32]) {
        let affine = factors.iter().zip(offsets);
        for ((dz, dy), (x, (factor, offset))) in dz.iter_mut().zip(dy).zip(x.iter().zip(affine)) {
            let z = x * factor + offset;
            let s = sigmoid(z);
            *dz = dy * s * (1.0 + z * (1.0 - s));
        }
    }
}

wide! {
    /// Adds a row to the sums of `dz` and of `dz * x`.
    fn add_products(sums: &mut [f64], dz: &[f32], x: &[f32]) {
        let (first, second) = sums.split_at_mut(dz.len());
        for ((first, second), (&dz, &x)) in first.iter_mut().zip(second).zip(dz.iter().zip(x)) {
            *first += f64::from(dz);
            *second += f64::from(dz) * f64::from(x);
        }
    }
}

wide! {
    /// `dz * factor + x * of_x + constant`, in the memory of dz.
    fn combine(dz: &mut [f32], x: &[f32], factors: &[f32], of_x: &[f32], constant: &[f32]) {
        let channels = factors.iter().zip(of_x.iter().zip(constant));
        for ((dz, x), (factor, (of_x, constant))) in dz.iter_mut().zip(x).zip(channels) {
            *dz = *dz * factor + x * of_x + constant;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, DType};

    use super::super::finite_differences::{check, numbers};
    use super::super::to_vec;
    use super::*;

    const GRID: Grid = Grid {
        images: 2,
        height: 3,
        width: 5,
    };

    fn norm(channels: usize, groups: usize, silu: bool) -> GroupNorm {
        GroupNorm {
            weight: (numbers(1, &[channels]) + 1.5).unwrap(),
            bias: numbers(2, &[channels]),
            groups,
            eps: 1e-5,
            silu,
        }
    }

    /// Out of candle's operations.
    fn composed(x: &Tensor, grid: Grid, norm: &GroupNorm) -> Result<Tensor> {
        let channels = x.dim(1)?;
        let shape = (
            grid.images,
            grid.pixels(),
            norm.groups,
            channels / norm.groups,
        );
        let wide = x.to_dtype(DType::F32)?.reshape(shape)?;
        let mean = wide.mean_keepdim(3)?.mean_keepdim(1)?;
        let centred = wide.broadcast_sub(&mean)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?.mean_keepdim(1)?;
        let y = centred
            .broadcast_div(&(variance + norm.eps)?.sqrt()?)?
            .reshape(x.shape())?
            .broadcast_mul(&norm.weight)?
            .broadcast_add(&norm.bias)?;
        let y = if norm.silu { y.silu()? } else { y };
        y.to_dtype(x.dtype())
    }

    #[test]
    fn gradients_of_group_norm_are_its_slopes() {
        for silu in [false, true] {
            for (channels, groups) in [(6, 2), (5, 1), (3, 3)] {
                let norm = norm(channels, groups, silu);
                let x = numbers(3, &[GRID.rows(), channels]);
                check("group_norm", &[x], |tape, t| {
                    group_norm(tape, &t[0], GRID, &norm)
                });
            }
        }
    }

    #[test]
    fn the_fused_norm_is_the_composed_one_also_far_from_zero() {
        let grid = Grid {
            height: ROWS + 1,
            ..GRID
        };
        for silu in [false, true] {
            let norm = norm(12, 4, silu);
            let x = (numbers(3, &[grid.rows(), 12]) + 30.0).unwrap();
            let fused = group_norm(&Tape::off(), &x, grid, &norm).unwrap();
            let plain = composed(&x, grid, &norm).unwrap();
            for (a, b) in to_vec(&fused).unwrap().iter().zip(to_vec(&plain).unwrap()) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }

    #[test]
    fn groups_that_do_not_divide_the_channels_are_refused() {
        let x = numbers(3, &[GRID.rows(), 6]);
        for groups in [0, 4] {
            assert!(group_norm(&Tape::off(), &x, GRID, &norm(6, groups, false)).is_err());
        }
    }
}
