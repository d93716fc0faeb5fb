//! A linear layer whose weight is frozen.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::tensors::floats;
use super::weight::FrozenWeight;

/// `x W^T` for `x` of `[tokens, in]`; the gradient reaches `x` only.
///
/// # Errors
/// Shapes that do not fit; the device fails.
pub fn frozen_linear(x: &Tensor, weight: &FrozenWeight) -> Result<Tensor> {
    x.contiguous()?.apply_op1(FrozenLinear {
        weight: weight.clone(),
        direction: Direction::Forward,
    })
}

/// `dy W` for `dy` of `[tokens, out]`, without a graph.
pub(super) fn frozen_linear_backward(dy: &Tensor, weight: &FrozenWeight) -> Result<Tensor> {
    dy.contiguous()?.apply_op1_no_bwd(&FrozenLinear {
        weight: weight.clone(),
        direction: Direction::Backward,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Forward,
    Backward,
}

struct FrozenLinear {
    weight: FrozenWeight,
    direction: Direction,
}

impl FrozenLinear {
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

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, _, to) = self.dims(layout)?;
        let x = floats(storage, layout)?;
        let Some(weight) = self.weight.host() else {
            bail!("the activations are on the CPU, the weight is not");
        };
        let mut out = vec![0.0; tokens * to];
        match self.direction {
            Direction::Forward => weight.times_transposed(x, tokens, &mut out),
            Direction::Backward => weight.times(x, tokens, &mut out),
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
        let out = storage.matmul(weight, (1, tokens, to, from), layout, weight_layout)?;
        Ok((out, (tokens, to).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        frozen_linear_backward(dy, &self.weight).map(Some)
    }
}
