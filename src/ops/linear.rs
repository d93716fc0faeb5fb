//! A linear layer whose weight is frozen.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::profile;
use super::tape::Tape;
use super::tensors::floats;
use super::weight::{FrozenWeight, Products};

/// `x W^T` for `x` of `[tokens, in]`; the gradient reaches `x` only.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn frozen_linear(tape: &Tape, x: &Tensor, weight: &FrozenWeight) -> Result<Tensor> {
    let y = linear_forward(x, weight)?;
    let (input, weight) = (x.id(), weight.clone());
    tape.record(&y, &[x], move |dy, gradients| {
        gradients.add(input, linear_backward(&dy, &weight)?)
    });
    Ok(y)
}

/// `x W^T`, with nothing noted.
pub(super) fn linear_forward(x: &Tensor, weight: &FrozenWeight) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&FrozenLinear {
        weight,
        direction: Direction::Forward,
    })
}

/// `dy W` for `dy` of `[tokens, out]`.
pub(super) fn linear_backward(dy: &Tensor, weight: &FrozenWeight) -> Result<Tensor> {
    dy.contiguous()?.apply_op1_no_bwd(&FrozenLinear {
        weight,
        direction: Direction::Backward,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Forward,
    Backward,
}

struct FrozenLinear<'a> {
    weight: &'a FrozenWeight,
    direction: Direction,
}

impl FrozenLinear<'_> {
    /// `(tokens, from, to)`.
    fn dims(&self, layout: &Layout) -> Result<(usize, usize, usize)> {
        let (tokens, features) = layout.shape().dims2()?;
        let (from, to) = match self.direction {
            Direction::Forward => (self.weight.columns(), self.weight.rows()),
            Direction::Backward => (self.weight.rows(), self.weight.columns()),
        };
        if features != from {
            bail!("a linear layer of {from} features got {features}");
        }
        Ok((tokens, from, to))
    }
}

impl CustomOp1 for FrozenLinear<'_> {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, _, to) = self.dims(layout)?;
        let x = floats(storage, layout)?;
        let weight = self.weight.on_host()?;
        let mut out = vec![0.0; tokens * to];
        match self.direction {
            Direction::Forward => weight.times_transposed(x, tokens, &mut out, &Products::alone()),
            Direction::Backward => weight.times(x, tokens, &mut out, &Products::alone()),
        }
        Ok((CpuStorage::F32(out), (tokens, to).into()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (tokens, from, to) = self.dims(layout)?;
        let weight = self.weight.dense()?;
        let weight = match self.direction {
            Direction::Forward => weight.t()?,
            Direction::Backward => weight,
        };
        let (weight, weight_layout) = weight.storage_and_layout();
        let Storage::Cuda(weight) = &*weight else {
            bail!("the activations are on the GPU, the weight is not");
        };
        profile::count(tokens, to, from);
        let out = storage.matmul(weight, (1, tokens, to, from), layout, weight_layout)?;
        Ok((out, (tokens, to).into()))
    }
}
