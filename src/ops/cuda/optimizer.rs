//! AdamW and what goes with it over flat f32 buffers on the device. Each step of the arithmetic is
//! rounded as on the host, so that equal gradients give equal numbers.

use candle_core::{DType, Result, Tensor};

use super::{Argument, Blocks, count, launch, new_tensor};

const MODULE: &str = "loss";
/// Blocks of a sum over a buffer: what they find is added up on the host.
const SUM_BLOCKS: u32 = 512;

/// What is the same for every number in one update, as torch's `AdamW` names them.
#[derive(Clone, Copy, Debug)]
pub struct AdamWScalars {
    /// Multiplies the gradient first.
    pub coefficient: f32,
    /// `1 - learning rate * weight decay`.
    pub decay: f32,
    /// `learning rate / (1 - beta1^t)`.
    pub step_size: f32,
    /// `sqrt(1 - beta2^t)`.
    pub bias_correction2_sqrt: f32,
    pub one_minus_beta1: f32,
    pub beta2: f32,
    pub one_minus_beta2: f32,
    pub epsilon: f32,
}

/// One update of `x`, in place, with its moments `m` and `v`; all contiguous, of one length.
///
/// # Errors
/// The device fails.
pub fn adamw(x: &Tensor, gradient: &Tensor, m: &Tensor, v: &Tensor, s: AdamWScalars) -> Result<()> {
    launch(
        x.device(),
        MODULE,
        "adamw",
        Blocks::over(x.elem_count()),
        &[
            Argument::Tensor(x),
            Argument::Tensor(gradient),
            Argument::Tensor(m),
            Argument::Tensor(v),
            Argument::Long(count(x.shape())),
            Argument::Float(s.coefficient),
            Argument::Float(s.decay),
            Argument::Float(s.step_size),
            Argument::Float(s.bias_correction2_sqrt),
            Argument::Float(s.one_minus_beta1),
            Argument::Float(s.beta2),
            Argument::Float(s.one_minus_beta2),
            Argument::Float(s.epsilon),
        ],
    )
}

/// `sum += addend`, in place.
///
/// # Errors
/// The device fails.
pub fn accumulate(sum: &Tensor, addend: &Tensor) -> Result<()> {
    let arguments = [
        Argument::Tensor(sum),
        Argument::Tensor(addend),
        Argument::Long(count(sum.shape())),
    ];
    let grid = Blocks::over(sum.elem_count());
    launch(sum.device(), MODULE, "accumulate", grid, &arguments)
}

/// `x *= factor`, in place.
///
/// # Errors
/// The device fails.
pub fn scale(x: &Tensor, factor: f32) -> Result<()> {
    let arguments = [
        Argument::Tensor(x),
        Argument::Long(count(x.shape())),
        Argument::Float(factor),
    ];
    launch(
        x.device(),
        MODULE,
        "scale",
        Blocks::over(x.elem_count()),
        &arguments,
    )
}

/// The sum of the squares of all numbers, in f64 and in a fixed order; waits for the device.
///
/// # Errors
/// The device fails.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    let grid = Blocks::over(x.elem_count());
    let blocks = grid.blocks.0.min(SUM_BLOCKS);
    let partial = new_tensor(blocks as usize, DType::F64, x.device())?;
    let grid = Blocks {
        blocks: (blocks, 1, 1),
        ..grid
    };
    let arguments = [
        Argument::Tensor(x),
        Argument::Tensor(&partial),
        Argument::Long(count(x.shape())),
    ];
    launch(x.device(), MODULE, "sum_of_squares", grid, &arguments)?;
    Ok(partial.to_vec1::<f64>()?.iter().sum())
}
