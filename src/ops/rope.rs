//! Rotary position embedding, as Hugging Face pairs the features: `j` with `j + rotated / 2`, where
//! the first `rotated` features of a head are rotated and the rest, if any, stay.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::profile::{Part, timed};
use super::tape::Tape;
use super::tensors::with_floats;
use super::wide::wide;

/// Cosines and sines of every token's angles, `[tokens, rotated / 2]` each.
#[derive(Clone)]
pub struct RopeTable {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
    pub(super) head_dim: usize,
}

impl RopeTable {
    /// The table of tokens at `positions` for heads of `head_dim` features; `frequencies` are the
    /// angles' steps per position, `factor` multiplies cosines and sines (1: a pure rotation).
    ///
    /// # Errors
    /// More frequencies than pairs of features; the device fails.
    pub fn new(
        positions: &[usize],
        frequencies: &[f32],
        factor: f32,
        head_dim: usize,
        device: &Device,
    ) -> Result<Self> {
        if 2 * frequencies.len() > head_dim {
            bail!("{} frequencies for heads of {head_dim}", frequencies.len());
        }
        let shape = (positions.len(), frequencies.len());
        // The product is rounded to f32 first, as the reference implementation does.
        let angles = || {
            positions
                .iter()
                .flat_map(|&p| frequencies.iter().map(move |f| p as f32 * f))
        };
        let table = |of: fn(f32) -> f32| {
            let numbers: Vec<f32> = angles().map(|angle| of(angle) * factor).collect();
            Tensor::from_vec(numbers, shape, device)
        };
        Ok(RopeTable {
            cos: table(f32::cos)?,
            sin: table(f32::sin)?,
            head_dim,
        })
    }
}

/// Rotates `x` of `[tokens, heads * head_dim]`.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn rope(tape: &Tape, x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let (tokens, features) = x.dims2()?;
    let (rows, head_dim) = (table.cos.dim(0)?, table.head_dim);
    if rows != tokens || !features.is_multiple_of(head_dim) {
        bail!(
            "a rotation of {rows} tokens with heads of {head_dim} features got [{tokens}, \
             {features}]"
        );
    }
    if cuda::serves(x) {
        return cuda::pointwise::rope(tape, x, table);
    }
    let y = rotate(x, table, 1.0)?;
    let (input, table) = (x.id(), table.clone());
    tape.record(&y, &[x], move |dy, gradients| {
        // The backward of a rotation turns the other way.
        gradients.add(input, rotate(&dy, &table, -1.0)?)
    });
    Ok(y)
}

fn rotate(x: &Tensor, table: &RopeTable, direction: f32) -> Result<Tensor> {
    let _time = timed(Part::Rope);
    let (_, features) = x.dims2()?;
    let (_, half) = table.cos.dims2()?;
    let y = with_floats(x, |x| {
        with_floats(&table.cos, |cos| {
            with_floats(&table.sin, |sin| {
                let mut y = vec![0.0; x.len()];
                y.par_chunks_mut(features)
                    .zip(x.par_chunks(features))
                    .zip(cos.par_chunks(half).zip(sin.par_chunks(half)))
                    .for_each(|((y, x), (cos, sin))| {
                        rotate_row(y, x, cos, sin, table.head_dim, direction);
                    });
                y
            })
        })
    })???;
    Tensor::from_vec(y, x.shape(), &Device::Cpu)
}

wide! {
    fn rotate_row(
        y: &mut [f32],
        x: &[f32],
        cos: &[f32],
        sin: &[f32],
        head_dim: usize,
        direction: f32,
    ) {
        let half = cos.len();
        for (y, x) in y.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
            let (y, y_rest) = y.split_at_mut(2 * half);
            let (x, x_rest) = x.split_at(2 * half);
            y_rest.copy_from_slice(x_rest);
            let (y1, y2) = y.split_at_mut(half);
            let (x1, x2) = x.split_at(half);
            for j in 0..half {
                let sin = direction * sin[j];
                y1[j] = x1[j] * cos[j] - x2[j] * sin;
                y2[j] = x2[j] * cos[j] + x1[j] * sin;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::D;

    use super::super::finite_differences::{check, numbers};
    use super::super::to_vec;
    use super::*;

    /// Out of candle's operations.
    fn composed(x: &Tensor, table: &RopeTable) -> Result<Tensor> {
        let (tokens, features) = x.dims2()?;
        let (_, half) = table.cos.dims2()?;
        let head_dim = table.head_dim;
        let split = x.reshape((tokens, features / head_dim, head_dim))?;
        let cos = table.cos.to_dtype(x.dtype())?.unsqueeze(1)?;
        let sin = table.sin.to_dtype(x.dtype())?.unsqueeze(1)?;
        let first = split.narrow(D::Minus1, 0, half)?;
        let second = split.narrow(D::Minus1, half, half)?;
        let mut parts = vec![
            (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
            (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
        ];
        if 2 * half < head_dim {
            parts.push(split.narrow(D::Minus1, 2 * half, head_dim - 2 * half)?);
        }
        Tensor::cat(&parts, D::Minus1)?.reshape((tokens, features))
    }

    #[test]
    fn gradient_of_rope_is_its_slope() {
        let positions = [0, 3, 7];
        for (factor, head_dim) in [(1.0, 6), (1.5, 6), (1.0, 12)] {
            let frequencies = [1.0, 0.3, 0.01];
            let table =
                RopeTable::new(&positions, &frequencies, factor, head_dim, &Device::Cpu).unwrap();
            check("rope", &[numbers(1, &[3, 12])], |tape, t| {
                rope(tape, &t[0], &table)
            });
        }
    }

    #[test]
    fn fused_rotation_is_the_composed_one() {
        let frequencies = [1.0, 0.3, 0.01];
        for head_dim in [6, 12] {
            let table = RopeTable::new(&[0, 3], &frequencies, 1.5, head_dim, &Device::Cpu).unwrap();
            let x = numbers(1, &[2, 24]);
            let fused = to_vec(&rope(&Tape::off(), &x, &table).unwrap()).unwrap();
            let plain = to_vec(&composed(&x, &table).unwrap()).unwrap();
            for (a, b) in fused.iter().zip(&plain) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
    }

    #[test]
    fn rotation_pairs_features_half_a_head_apart() {
        // By hand: head_dim 4, pairs (0, 2) and (1, 3), angles 90 and 180 degrees.
        let quarter = std::f32::consts::FRAC_PI_2;
        let table = |head_dim| {
            let frequencies = [quarter, 2.0 * quarter];
            RopeTable::new(&[1], &frequencies, 1.0, head_dim, &Device::Cpu).unwrap()
        };
        let x = Tensor::new(&[[1.0f32, 2.0, 3.0, 4.0]], &Device::Cpu).unwrap();
        let y = to_vec(&rope(&Tape::off(), &x, &table(4)).unwrap()).unwrap();
        for (got, expected) in y.iter().zip([-3.0, -2.0, 1.0, -4.0]) {
            assert!((got - expected).abs() < 1e-5, "{y:?}");
        }
        // Heads of six, of which two features stay.
        let x = Tensor::new(&[[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]], &Device::Cpu).unwrap();
        let y = to_vec(&rope(&Tape::off(), &x, &table(6)).unwrap()).unwrap();
        for (got, expected) in y.iter().zip([-3.0, -2.0, 1.0, -4.0, 5.0, 6.0]) {
            assert!((got - expected).abs() < 1e-5, "{y:?}");
        }
    }
}
