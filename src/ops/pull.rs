//! Starting a backward pass from a gradient that is already known.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::tensors::fused;

/// Backward through the graph of `y`, given the gradient of the loss with respect to `y`.
///
/// # Errors
/// A step of the graph has no backward; the device fails.
pub fn pull_gradients(y: &Tensor, dy: &Tensor) -> Result<GradStore> {
    if fused(y) {
        y.apply_op1(Seed { dy: dy.detach() })?.backward()
    } else {
        (y * dy.detach())?.sum_all()?.backward()
    }
}

/// A scalar whose gradient with respect to its argument is `dy`.
struct Seed {
    dy: Tensor,
}

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    fn bwd(&self, _y: &Tensor, _scalar: &Tensor, _one: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.dy.clone()))
    }
}
