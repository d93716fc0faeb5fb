//! A frozen linear with a DoRA adapter; `super::super::dora` has the formulas.

use candle_core::{DType, Result, Tensor};

use super::super::dora::DoraTerm;
use super::super::lora::LoraTerm;
use super::super::matrix::Write;
use super::super::tape::Tape;
use super::super::weight::FrozenWeight;
use super::linear::{Pair, backward, dropped, gradient_places, product};
use super::{
    Argument, Blocks, Factor, common_type, contiguous, int, launch, like, new_tensor, pointwise,
};

const MODULE: &str = "pointwise";

/// `z` with each column multiplied by `magnitude / norm`.
fn scaled(z: &Tensor, dora: &DoraTerm) -> Result<Tensor> {
    let y = like(z)?;
    let (rows, columns) = z.dims2()?;
    launch(
        z.device(),
        MODULE,
        &format!("scale_columns_{}", common_type(&[z])?),
        Blocks::over(z.elem_count()),
        &[
            Argument::Tensor(z),
            Argument::Tensor(&dora.magnitude),
            Argument::Tensor(&dora.norms),
            Argument::Tensor(&y),
            Argument::Long(rows as i64),
            Argument::Int(int(columns)?),
        ],
    )?;
    Ok(y)
}

/// The gradient of the magnitudes: the columns' sums of `z dy`, over the norms; f32.
fn d_magnitude(z: &Tensor, dy: &Tensor, dora: &DoraTerm) -> Result<Tensor> {
    let (rows, columns) = z.dims2()?;
    let sums = new_tensor(columns, DType::F32, z.device())?;
    launch(
        z.device(),
        MODULE,
        &format!("magnitude_gradient_{}", common_type(&[z, dy])?),
        Blocks {
            blocks: ((columns as u32).div_ceil(32), 1, 1),
            threads: (32, 8, 1),
            shared_bytes: 0,
        },
        &[
            Argument::Tensor(z),
            Argument::Tensor(dy),
            Argument::Tensor(&dora.norms),
            Argument::Tensor(&sums),
            Argument::Long(rows as i64),
            Argument::Int(int(columns)?),
        ],
    )?;
    Ok(sums)
}

/// As `dora_linear` of the CPU.
pub fn linear(
    tape: &Tape,
    x: &Tensor,
    weight: &FrozenWeight,
    term: &LoraTerm,
    dora: &DoraTerm,
) -> Result<Tensor> {
    let (input, wanted) = (x.id(), tape.wants(x));
    let inputs = [x, &term.a, &term.b, &dora.magnitude];
    let parameters = [term.a.id(), term.b.id(), dora.magnitude.id()];
    let dora = DoraTerm {
        magnitude: contiguous(&dora.magnitude)?,
        norms: contiguous(&dora.norms)?,
    };
    let numbers = contiguous(x)?;
    let kept = dropped(&numbers, term.dropout)?;
    let z = new_tensor((x.dim(0)?, weight.rows()), x.dtype(), x.device())?;
    product(&z, &kept, weight, Write::Replace)?;
    Pair::new(term, &term.a, x.dtype())?.add_to(&z, &kept)?;
    let y = scaled(&z, &dora)?;
    if term.dropout.is_some() {
        product(&y, &(&numbers - &kept)?, weight, Write::Add)?;
    }
    drop(kept);
    let (weight, term) = (weight.clone(), term.clone());
    tape.record(&y, &inputs, move |dy, gradients| {
        let dy = contiguous(&dy)?;
        let kept = dropped(&numbers, term.dropout)?;
        let dz = scaled(&dy, &dora)?;
        let pair = Pair::new(&term, &term.a, dy.dtype())?;
        let (d_a, d_b) = gradient_places(&term)?;
        let d_low = pair.backward(&kept, &dz, (&d_a, &d_b), Write::Replace)?;
        let [a, b, magnitude] = parameters;
        gradients.add(a, d_a)?;
        gradients.add(b, d_b)?;
        gradients.add(magnitude, d_magnitude(&z, &dy, &dora)?)?;
        if !wanted {
            return Ok(());
        }
        let tokens = dy.dim(0)?;
        let dx = match term.dropout {
            None => {
                let dx = backward(Factor::new(&dz)?, tokens, &weight)?;
                pair.raise(&d_low, &dx, Write::Add)?;
                dx
            }
            Some(dropout) => {
                let dx = backward(Factor::new(&dy)?, tokens, &weight)?;
                let change = (&dz - &dy)?;
                let d_kept = backward(Factor::new(&change)?, tokens, &weight)?;
                pair.raise(&d_low, &d_kept, Write::Add)?;
                pointwise::add_assign(&dx, &pointwise::dropped(&d_kept, dropout)?)?;
                dx
            }
        };
        gradients.add(input, dx)
    });
    Ok(y)
}
