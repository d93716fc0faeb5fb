//! Rotary position embedding, as Hugging Face pairs the features: `j` with `j + rotated / 2`, where
//! the first `rotated` features of a head are rotated and the rest, if any, stay.

use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::tensors::{floats, fused, with_floats};

/// Cosines and sines of every token's angles, `[tokens, rotated / 2]` each.
#[derive(Clone)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
    head_dim: usize,
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
pub fn rope(x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let (tokens, features) = x.dims2()?;
    let (rows, half) = table.cos.dims2()?;
    let head_dim = table.head_dim;
    if rows != tokens || !features.is_multiple_of(head_dim) {
        bail!(
            "a rotation of {rows} tokens with heads of {head_dim} features got [{tokens}, \
             {features}]"
        );
    }
    if fused(x) {
        return x.contiguous()?.apply_op1(Rope {
            table: table.clone(),
            direction: 1.0,
        });
    }
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

struct Rope {
    table: RopeTable,
    /// -1 turns the other way: the backward of a rotation.
    direction: f32,
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(storage, layout)?;
        let (_, features) = layout.shape().dims2()?;
        let (_, half) = self.table.cos.dims2()?;
        let out = with_floats(&self.table.cos, |cos| {
            with_floats(&self.table.sin, |sin| {
                let mut out = vec![0.0; x.len()];
                out.par_chunks_mut(features)
                    .zip(x.par_chunks(features))
                    .zip(cos.par_chunks(half).zip(sin.par_chunks(half)))
                    .for_each(|((out, x), (cos, sin))| {
                        let head_dim = self.table.head_dim;
                        for (out, x) in out.chunks_mut(head_dim).zip(x.chunks(head_dim)) {
                            let (out, out_rest) = out.split_at_mut(2 * half);
                            let (x, x_rest) = x.split_at(2 * half);
                            out_rest.copy_from_slice(x_rest);
                            let (out1, out2) = out.split_at_mut(half);
                            let (x1, x2) = x.split_at(half);
                            for j in 0..half {
                                let sin = self.direction * sin[j];
                                out1[j] = x1[j] * cos[j] - x2[j] * sin;
                                out2[j] = x2[j] * cos[j] + x1[j] * sin;
                            }
                        }
                    });
                out
            })
        })??;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = dy.contiguous()?.apply_op1_no_bwd(&Rope {
            table: self.table.clone(),
            direction: -self.direction,
        })?;
        Ok(Some(dx))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::{check, numbers};
    use super::super::to_vec;
    use super::*;

    #[test]
    fn gradient_of_rope_is_its_slope() {
        let positions = [0, 3, 7];
        for (factor, head_dim) in [(1.0, 6), (1.5, 6), (1.0, 12)] {
            let frequencies = [1.0, 0.3, 0.01];
            let table =
                RopeTable::new(&positions, &frequencies, factor, head_dim, &Device::Cpu).unwrap();
            check("rope", &[numbers(1, &[3, 12])], |t| rope(&t[0], &table));
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
        let y = to_vec(&rope(&x, &table(4)).unwrap()).unwrap();
        for (got, expected) in y.iter().zip([-3.0, -2.0, 1.0, -4.0]) {
            assert!((got - expected).abs() < 1e-5, "{y:?}");
        }
        // Heads of six, of which two features stay.
        let x = Tensor::new(&[[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]], &Device::Cpu).unwrap();
        let y = to_vec(&rope(&x, &table(6)).unwrap()).unwrap();
        for (got, expected) in y.iter().zip([-3.0, -2.0, 1.0, -4.0, 5.0, 6.0]) {
            assert!((got - expected).abs() < 1e-5, "{y:?}");
        }
    }
}
