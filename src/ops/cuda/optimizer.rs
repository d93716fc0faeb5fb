//! AdamW and what goes with it over flat f32 buffers on the device. Each step of the arithmetic is
//! rounded as on the host, so that equal gradients give equal numbers. Nothing here waits: whether
//! an update is made is decided on the device, and [`Mailbox`] tells the host later.

use candle_core::{DType, Result, Tensor};

use super::{Argument, Blocks, count, launch, new_tensor};

const MODULE: &str = "optimizer";
/// Blocks of a sum over a buffer: one block adds up what they find.
const SUM_BLOCKS: u32 = 512;

/// What is the same for every number in one update, as torch's `AdamW` names them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWScalars {
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

/// One update of `x`, in place, with its moments `m` and `v`; all contiguous, of one length. Where
/// [`conclude`] found in `outcome` that something was not finite, nothing is changed.
///
/// # Errors
/// The device fails.
pub fn adamw(
    x: &Tensor,
    gradient: &Tensor,
    (m, v): (&Tensor, &Tensor),
    outcome: &Tensor,
    s: AdamWScalars,
) -> Result<()> {
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
            Argument::Tensor(outcome),
            Argument::Long(count(x.shape())),
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

/// `x = 0`, in place.
///
/// # Errors
/// The device fails.
pub fn clear(x: &Tensor) -> Result<()> {
    let arguments = [Argument::Tensor(x), Argument::Long(count(x.shape()))];
    let grid = Blocks::over(x.elem_count());
    launch(x.device(), MODULE, "clear", grid, &arguments)
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

/// Makes means of a step's sums: `gradients *= 1 / weight`, in place, and `[3]` f64: the mean loss,
/// the norm of all gradients, and the factor that brings it down to `max_norm` (0: never), which is
/// NaN where loss or norm are not finite. `loss` is `[1]`, f64.
///
/// # Errors
/// The device fails.
pub fn conclude(gradients: &Tensor, loss: &Tensor, weight: u64, max_norm: f64) -> Result<Tensor> {
    let device = gradients.device();
    let grid = Blocks::over(gradients.elem_count());
    let blocks = grid.blocks.0.min(SUM_BLOCKS);
    let partial = new_tensor(blocks as usize, DType::F64, device)?;
    let outcome = new_tensor(3, DType::F64, device)?;
    let grid = Blocks {
        blocks: (blocks, 1, 1),
        ..grid
    };
    let weight = weight as f64;
    let arguments = [
        Argument::Tensor(gradients),
        Argument::Tensor(&partial),
        Argument::Long(count(gradients.shape())),
        Argument::Float((1.0 / weight) as f32),
    ];
    launch(device, MODULE, "scale_and_square", grid, &arguments)?;
    let arguments = [
        Argument::Tensor(&partial),
        Argument::Int(blocks as i32),
        Argument::Tensor(loss),
        Argument::Tensor(&outcome),
        Argument::Double(weight),
        Argument::Double(max_norm),
    ];
    launch(device, MODULE, "conclude", Blocks::one(), &arguments)?;
    Ok(outcome)
}
