//! Matrices taken apart and put together column by column.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::super::tape::Tape;
use super::{Argument, Blocks, common_type, contiguous, int, launch, new_tensor};

/// `to[:, to_first..][..width] = from[:, from_first..][..width]`; both contiguous.
fn copy(
    from: &Tensor,
    from_first: usize,
    to: &Tensor,
    to_first: usize,
    width: usize,
) -> Result<()> {
    let (rows, from_columns) = from.dims2()?;
    let (_, to_columns) = to.dims2()?;
    launch(
        to.device(),
        "pointwise",
        &format!("copy_columns_{}", common_type(&[from, to])?),
        Blocks::over(rows * width),
        &[
            Argument::Tensor(from),
            Argument::Tensor(to),
            Argument::Long(rows as i64),
            Argument::Int(int(width)?),
            Argument::Int(int(from_columns)?),
            Argument::Int(int(from_first)?),
            Argument::Int(int(to_columns)?),
            Argument::Int(int(to_first)?),
        ],
    )
}

/// As [`super::super::select_columns`], of columns that were checked.
pub fn select(tape: &Tape, x: &Tensor, columns: Range<usize>) -> Result<Tensor> {
    let (rows, features) = x.dims2()?;
    let y = new_tensor((rows, columns.len()), x.dtype(), x.device())?;
    copy(&contiguous(x)?, columns.start, &y, 0, columns.len())?;
    let input = x.id();
    tape.record(&y, &[x], move |dy, gradients| {
        let dx = Tensor::zeros((rows, features), dy.dtype(), dy.device())?;
        copy(&contiguous(&dy)?, 0, &dx, columns.start, columns.len())?;
        gradients.add(input, dx)
    });
    Ok(y)
}

/// As [`super::super::join_channels`], of shapes that were checked.
pub fn join(tape: &Tape, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((rows, m), (_, n)) = (a.dims2()?, b.dims2()?);
    let y = new_tensor((rows, m + n), a.dtype(), a.device())?;
    copy(&contiguous(a)?, 0, &y, 0, m)?;
    copy(&contiguous(b)?, 0, &y, m, n)?;
    let ids = (a.id(), b.id());
    let wanted = (tape.wants(a), tape.wants(b));
    tape.record(&y, &[a, b], move |dy, gradients| {
        let dy = contiguous(&dy)?;
        for (wanted, id, first, width) in [(wanted.0, ids.0, 0, m), (wanted.1, ids.1, m, n)] {
            if wanted {
                let part = new_tensor((rows, width), dy.dtype(), dy.device())?;
                copy(&dy, first, &part, 0, width)?;
                gradients.add(id, part)?;
            }
        }
        Ok(())
    });
    Ok(y)
}
