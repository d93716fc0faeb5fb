//! What happens between the layers of an image model: growing, joining channels, adding to images.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::bias::add_slice;
use super::conv::Grid;
use super::cuda;
use super::tape::Tape;
use super::tensors::with_floats;

/// Every pixel of `x` `[grid.rows(), channels]` as a square of four, and the grid they lie on.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn upsample(tape: &Tape, x: &Tensor, grid: Grid) -> Result<(Tensor, Grid)> {
    let (rows, channels) = x.dims2()?;
    if rows != grid.rows() {
        bail!("{rows} rows are no {grid:?}");
    }
    let out = Grid {
        images: grid.images,
        height: 2 * grid.height,
        width: 2 * grid.width,
    };
    // Lines are counted over all images.
    let source = |row: usize| row / out.width / 2 * grid.width + row % out.width / 2;
    if cuda::serves(x) {
        return Ok((cuda::images::upsample(tape, x, grid)?, out));
    }
    let y = with_floats(x, |x| {
        let mut y = vec![0.0; out.rows() * channels];
        y.par_chunks_mut(channels)
            .enumerate()
            .for_each(|(row, y)| y.copy_from_slice(&x[source(row) * channels..][..channels]));
        y
    })?;
    let y = Tensor::from_vec(y, (out.rows(), channels), &Device::Cpu)?;
    let input = x.id();
    tape.record(&y, &[x], move |dy, gradients| {
        let dx = with_floats(&dy, |dy| {
            let mut dx = vec![0.0; grid.rows() * channels];
            dx.par_chunks_mut(channels)
                .enumerate()
                .for_each(|(row, dx)| {
                    let first = row / grid.width * 2 * out.width + row % grid.width * 2;
                    for copy in [first, first + 1, first + out.width, first + out.width + 1] {
                        add_slice(dx, &dy[copy * channels..][..channels]);
                    }
                });
            dx
        })?;
        let dx = Tensor::from_vec(dx, (grid.rows(), channels), &Device::Cpu)?;
        gradients.add(input, dx)
    });
    Ok((y, out))
}

/// The channels of `a` `[rows, m]` and then those of `b` `[rows, n]`.
///
/// # Errors
/// Other numbers of rows; the device fails.
pub fn join_channels(tape: &Tape, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((rows, m), (b_rows, n)) = (a.dims2()?, b.dims2()?);
    if rows != b_rows {
        bail!("{rows} and {b_rows} rows are to be joined");
    }
    if cuda::serves(a) {
        return cuda::columns::join(tape, a, b);
    }
    let y = with_floats(a, |a| {
        with_floats(b, |b| {
            let mut y = vec![0.0; rows * (m + n)];
            y.par_chunks_mut(m + n)
                .zip(a.par_chunks(m).zip(b.par_chunks(n)))
                .for_each(|(y, (a, b))| {
                    y[..m].copy_from_slice(a);
                    y[m..].copy_from_slice(b);
                });
            y
        })
    })??;
    let y = Tensor::from_vec(y, (rows, m + n), &Device::Cpu)?;
    let ids = (a.id(), b.id());
    tape.record(&y, &[a, b], move |dy, gradients| {
        let (da, db) = with_floats(&dy, |dy| {
            let (mut da, mut db) = (vec![0.0; rows * m], vec![0.0; rows * n]);
            da.par_chunks_mut(m)
                .zip(db.par_chunks_mut(n))
                .zip(dy.par_chunks(m + n))
                .for_each(|((da, db), dy)| {
                    da.copy_from_slice(&dy[..m]);
                    db.copy_from_slice(&dy[m..]);
                });
            (da, db)
        })?;
        gradients.add(ids.0, Tensor::from_vec(da, (rows, m), &Device::Cpu)?)?;
        gradients.add(ids.1, Tensor::from_vec(db, (rows, n), &Device::Cpu)?)
    });
    Ok(y)
}

/// Adds to every pixel of an image its row of `per_image` `[images, channels]`.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn add_to_images(tape: &Tape, x: &Tensor, per_image: &Tensor, grid: Grid) -> Result<Tensor> {
    let (rows, channels) = x.dims2()?;
    if rows != grid.rows() || per_image.dims() != [grid.images, channels] {
        bail!(
            "{:?} is to be added to {:?} on {grid:?}",
            per_image.dims(),
            x.dims()
        );
    }
    let pixels = grid.pixels();
    if cuda::serves(x) {
        return cuda::images::add_to_images(tape, x, per_image, grid);
    }
    let y = with_floats(x, |x| {
        with_floats(per_image, |added| {
            let mut y = x.to_vec();
            y.par_chunks_mut(channels)
                .enumerate()
                .for_each(|(row, y)| add_slice(y, &added[row / pixels * channels..][..channels]));
            y
        })
    })??;
    let y = Tensor::from_vec(y, (rows, channels), &Device::Cpu)?;
    let (id, per_image_id, wanted) = (x.id(), per_image.id(), tape.wants(per_image));
    tape.record(&y, &[x, per_image], move |dy, gradients| {
        if wanted {
            let sums = with_floats(&dy, |dy| {
                let mut sums = vec![0.0; grid.images * channels];
                sums.par_chunks_mut(channels)
                    .zip(dy.par_chunks(pixels * channels))
                    .for_each(|(sum, dy)| {
                        dy.chunks_exact(channels).for_each(|dy| add_slice(sum, dy));
                    });
                sums
            })?;
            let sums = Tensor::from_vec(sums, (grid.images, channels), &Device::Cpu)?;
            gradients.add(per_image_id, sums)?;
        }
        gradients.add_shared(id, dy)
    });
    Ok(y)
}

/// `a + b`.
///
/// # Errors
/// Shapes that differ; the device fails.
pub fn add(tape: &Tape, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    tape.sum(a, b)
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::super::{swiglu, to_vec};
    use super::*;

    const GRID: Grid = Grid {
        images: 2,
        height: 3,
        width: 5,
    };

    #[test]
    fn gradients_of_a_grown_image_sum_over_the_four_pixels() {
        let factors = numbers(2, &[4 * GRID.rows(), 3]);
        check("upsample", &[numbers(1, &[GRID.rows(), 3])], |tape, t| {
            let (y, _) = upsample(tape, &t[0], GRID)?;
            swiglu(tape, &y, &factors)
        });
    }

    #[test]
    fn a_grown_image_is_candles() {
        let x = numbers(1, &[GRID.rows(), 2]);
        let (y, out) = upsample(&Tape::off(), &x, GRID).unwrap();
        let first = |x: &Tensor, grid: Grid| {
            let x = x
                .reshape((grid.images, grid.height, grid.width, 2))
                .unwrap();
            x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
        };
        let expected = first(&x, GRID).upsample_nearest2d(6, 10).unwrap();
        assert_eq!(to_vec(&first(&y, out)).unwrap(), to_vec(&expected).unwrap());
    }

    #[test]
    fn gradients_of_joined_channels_and_of_what_is_added_to_images_are_their_slopes() {
        let inputs = [numbers(1, &[6, 2]), numbers(2, &[6, 5])];
        check("join_channels", &inputs, |tape, t| {
            join_channels(tape, &t[0], &t[1])
        });
        let inputs = [numbers(1, &[GRID.rows(), 3]), numbers(2, &[2, 3])];
        check("add_to_images", &inputs, |tape, t| {
            add_to_images(tape, &t[0], &t[1], GRID)
        });
    }
}
