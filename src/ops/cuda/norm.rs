//! RMSNorm, LayerNorm and GroupNorm.

use candle_core::{DType, Result, Tensor};

use super::super::tape::Tape;
use super::{Argument, Grid, common_type, contiguous, int, launch, like};

/// A weight as the kernels want it.
fn f32_vector(weight: &Tensor) -> Result<Tensor> {
    contiguous(&weight.to_dtype(DType::F32)?)
}

/// As [`super::super::rms_norm`].
pub fn rms_norm(tape: &Tape, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (x_numbers, weight, eps) = (contiguous(x)?, f32_vector(weight)?, eps as f32);
    let columns = weight.elem_count();
    let rows = x.elem_count() / columns;
    let name = common_type(&[&x_numbers])?;
    let y = like(&x_numbers)?;
    let grid = Grid::rows(rows, columns);
    let sizes = [
        Argument::Long(rows as i64),
        Argument::Int(int(columns)?),
        Argument::Float(eps),
    ];
    let mut arguments = vec![
        Argument::Tensor(&x_numbers),
        Argument::Tensor(&weight),
        Argument::Tensor(&y),
    ];
    arguments.extend(sizes);
    let kernel = format!("rms_norm_forward_{name}");
    launch(x.device(), "norm", &kernel, grid, &arguments)?;
    let input = x.id();
    tape.record(&y, &[x], move |dy, gradients| {
        let (dy, dx) = (contiguous(&dy)?, like(&x_numbers)?);
        let mut arguments = vec![
            Argument::Tensor(&x_numbers),
            Argument::Tensor(&dy),
            Argument::Tensor(&weight),
            Argument::Tensor(&dx),
        ];
        arguments.extend(sizes);
        let name = common_type(&[&x_numbers, &dy])?;
        let kernel = format!("rms_norm_backward_{name}");
        launch(dx.device(), "norm", &kernel, grid, &arguments)?;
        gradients.add(input, dx)
    });
    Ok(y)
}
