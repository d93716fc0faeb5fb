//! Rotary position embedding, as Hugging Face pairs the features: `j` with `j + head_dim / 2`.

use candle_core::{D, Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::profile::{Part, timed};
use super::tape::Tape;
use super::tensors::{fused, with_floats};
use super::wide::wide;

/// Cosines and sines of every token's angles, `[tokens, head_dim / 2]` each.
#[derive(Clone)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// The table of tokens at `positions`; `frequencies` are the angles' steps per position.
    ///
    /// # Errors
    /// The device fails.
    pub fn new(positions: &[usize], frequencies: &[f32], device: &Device) -> Result<Self> {
        let shape = (positions.len(), frequencies.len());
        // The product is rounded to f32 first, as the reference implementation does.
        let angles = || {
            positions
                .iter()
                .flat_map(|&p| frequencies.iter().map(move |f| p as f32 * f))
        };
        Ok(RopeTable {
            cos: Tensor::from_vec(angles().map(f32::cos).collect::<Vec<_>>(), shape, device)?,
            sin: Tensor::from_vec(angles().map(f32::sin).collect::<Vec<_>>(), shape, device)?,
        })
    }
}

/// Rotates `x` of `[tokens, heads * head_dim]`.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn rope(tape: &Tape, x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let (tokens, features) = x.dims2()?;
    let (rows, half) = table.cos.dims2()?;
    if rows != tokens || !features.is_multiple_of(2 * half) {
        bail!(
            "a rotation of {rows} tokens with heads of {} features got [{tokens}, {features}]",
            2 * half
        );
    }
    if !fused(x) {
        return tape.composed([x], |[x]| composed(&x, table));
    }
    let y = rotate(x, table, 1.0)?;
    let (input, table) = (x.id(), table.clone());
    tape.record(&y, &[x], move |dy, gradients| {
        // The backward of a rotation turns the other way.
        gradients.add(input, rotate(&dy, &table, -1.0)?)
    });
    Ok(y)
}

fn composed(x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let (tokens, features) = x.dims2()?;
    let (_, half) = table.cos.dims2()?;
    let split = x.reshape((tokens, features / (2 * half), 2 * half))?;
    let cos = table.cos.to_dtype(x.dtype())?.unsqueeze(1)?;
    let sin = table.sin.to_dtype(x.dtype())?.unsqueeze(1)?;
    let first = split.narrow(D::Minus1, 0, half)?;
    let second = split.narrow(D::Minus1, half, half)?;
    let rotated = [
        (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
        (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
    ];
    Tensor::cat(&rotated, D::Minus1)?.reshape((tokens, features))
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
                    .for_each(|((y, x), (cos, sin))| rotate_row(y, x, cos, sin, direction));
                y
            })
        })
    })???;
    Tensor::from_vec(y, x.shape(), &Device::Cpu)
}

wide! {
    fn rotate_row(y: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], direction: f32) {
        let half = cos.len();
        for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
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
    use super::super::finite_differences::{check, numbers};
    use super::super::to_vec;
    use super::*;

    #[test]
    fn gradient_of_rope_is_its_slope() {
        let table = RopeTable::new(&[0, 3, 7], &[1.0, 0.3, 0.01], &Device::Cpu).unwrap();
        check("rope", &[numbers(1, &[3, 12])], |tape, t| {
            rope(tape, &t[0], &table)
        });
    }

    #[test]
    fn rotation_pairs_features_half_a_head_apart() {
        // By hand: head_dim 4, pairs (0, 2) and (1, 3), angles 90 and 180 degrees.
        let quarter = std::f32::consts::FRAC_PI_2;
        let table = RopeTable::new(&[1], &[quarter, 2.0 * quarter], &Device::Cpu).unwrap();
        let x = Tensor::new(&[[1.0f32, 2.0, 3.0, 4.0]], &Device::Cpu).unwrap();
        let y = to_vec(&rope(&Tape::off(), &x, &table).unwrap()).unwrap();
        for (got, expected) in y.iter().zip([-3.0, -2.0, 1.0, -4.0]) {
            assert!((got - expected).abs() < 1e-5, "{y:?}");
        }
    }
}
