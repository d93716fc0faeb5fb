//! Some of a matrix's rows.

use candle_core::{Result, Tensor};

use super::super::tape::Tape;
use super::{Argument, Blocks, common_type, contiguous, int, launch, new_tensor};

/// The rows `indices` of `x`, without a graph.
pub fn gather(x: &Tensor, indices: &Tensor) -> Result<Tensor> {
    let x = contiguous(x)?;
    let (_, columns) = x.dims2()?;
    let count = indices.elem_count();
    let y = new_tensor((count, columns), x.dtype(), x.device())?;
    move_rows("gather_rows", &x, indices, &y)?;
    Ok(y)
}

/// As [`super::super::select_rows`], of indices that were checked.
pub fn select_rows(tape: &Tape, x: &Tensor, indices: &[u32]) -> Result<Tensor> {
    let indices = Tensor::new(indices, x.device())?;
    let y = gather(x, &indices)?;
    let (input, shape, dtype) = (x.id(), x.shape().clone(), x.dtype());
    tape.record(&y, &[x], move |dy, gradients| {
        let dx = Tensor::zeros(shape, dtype, dy.device())?;
        move_rows("scatter_rows", &contiguous(&dy)?, &indices, &dx)?;
        gradients.add(input, dx)
    });
    Ok(y)
}

fn move_rows(kernel: &str, from: &Tensor, indices: &Tensor, to: &Tensor) -> Result<()> {
    let (_, columns) = from.dims2()?;
    let count = indices.elem_count();
    let name = common_type(&[from, to])?;
    launch(
        from.device(),
        "pointwise",
        &format!("{kernel}_{name}"),
        Blocks::over(count * columns),
        &[
            Argument::Tensor(from),
            Argument::Tensor(indices),
            Argument::Tensor(to),
            Argument::Long(count as i64),
            Argument::Int(int(columns)?),
        ],
    )
}
