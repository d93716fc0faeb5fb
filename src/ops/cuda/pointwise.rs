//! Operations on each number by itself, or on few.

use candle_core::{Result, Tensor, bail};

use super::super::dropout::Dropout;
use super::super::rope::RopeTable;
use super::super::tape::Tape;
use super::{Argument, Grid, common_type, contiguous, count, int, launch, like};

const MODULE: &str = "pointwise";

/// As [`super::super::swiglu`].
pub fn swiglu(tape: &Tape, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("a gate of {:?} meets {:?}", gate.dims(), up.dims());
    }
    let (g, u) = (contiguous(gate)?, contiguous(up)?);
    let name = common_type(&[&g, &u])?;
    let y = like(&g)?;
    let grid = Grid::over(g.elem_count());
    launch(
        g.device(),
        MODULE,
        &format!("swiglu_forward_{name}"),
        grid,
        &[
            Argument::Tensor(&g),
            Argument::Tensor(&u),
            Argument::Tensor(&y),
            Argument::Long(count(g.shape())),
        ],
    )?;
    let ids = (gate.id(), up.id());
    tape.record(&y, &[gate, up], move |dy, gradients| {
        let dy = contiguous(&dy)?;
        let (d_gate, d_up) = (like(&g)?, like(&g)?);
        let name = common_type(&[&g, &dy])?;
        launch(
            g.device(),
            MODULE,
            &format!("swiglu_backward_{name}"),
            grid,
            &[
                Argument::Tensor(&g),
                Argument::Tensor(&u),
                Argument::Tensor(&dy),
                Argument::Tensor(&d_gate),
                Argument::Tensor(&d_up),
                Argument::Long(count(g.shape())),
            ],
        )?;
        gradients.add(ids.0, d_gate)?;
        gradients.add(ids.1, d_up)
    });
    Ok(y)
}

/// As [`super::super::rope()`].
pub fn rope(tape: &Tape, x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let y = rotate(x, table, 1.0)?;
    let (input, table) = (x.id(), table.clone());
    tape.record(&y, &[x], move |dy, gradients| {
        gradients.add(input, rotate(&dy, &table, -1.0)?)
    });
    Ok(y)
}

fn rotate(x: &Tensor, table: &RopeTable, direction: f32) -> Result<Tensor> {
    let x = contiguous(x)?;
    let (tokens, features) = x.dims2()?;
    let (_, half) = table.cos.dims2()?;
    let (heads, y) = (features / table.head_dim, like(&x)?);
    let name = common_type(&[&x])?;
    launch(
        x.device(),
        MODULE,
        &format!("rope_{name}"),
        Grid::over(tokens * heads * (table.head_dim - half)),
        &[
            Argument::Tensor(&x),
            Argument::Tensor(&table.cos),
            Argument::Tensor(&table.sin),
            Argument::Tensor(&y),
            Argument::Long(tokens as i64),
            Argument::Int(int(heads)?),
            Argument::Int(int(table.head_dim)?),
            Argument::Int(int(half)?),
            Argument::Float(direction),
        ],
    )?;
    Ok(y)
}

/// `x + bias` for f32 `bias`, without a graph.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (x, bias) = (contiguous(x)?, contiguous(bias)?);
    let (columns, y) = (bias.elem_count(), like(&x)?);
    let name = common_type(&[&x])?;
    launch(
        x.device(),
        MODULE,
        &format!("add_bias_{name}"),
        Grid::over(x.elem_count()),
        &[
            Argument::Tensor(&x),
            Argument::Tensor(&bias.to_dtype(candle_core::DType::F32)?),
            Argument::Tensor(&y),
            Argument::Long((x.elem_count() / columns) as i64),
            Argument::Int(int(columns)?),
        ],
    )?;
    Ok(y)
}

/// `sum += addend`, in place; both contiguous.
pub fn add_assign(sum: &Tensor, addend: &Tensor) -> Result<()> {
    let name = common_type(&[sum, addend])?;
    launch(
        sum.device(),
        MODULE,
        &format!("add_assign_{name}"),
        Grid::over(sum.elem_count()),
        &[
            Argument::Tensor(sum),
            Argument::Tensor(addend),
            Argument::Long(count(sum.shape())),
        ],
    )
}

/// What dropout leaves of `x`: the mask is drawn on the device and never stored.
pub fn dropped(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    let x = contiguous(x)?;
    let y = like(&x)?;
    let name = common_type(&[&x])?;
    let (counter, key) = dropout.stream().origin();
    launch(
        x.device(),
        MODULE,
        &format!("dropout_{name}"),
        Grid::over(x.elem_count()),
        &[
            Argument::Tensor(&x),
            Argument::Tensor(&y),
            Argument::Long(count(x.shape())),
            Argument::Long(dropout.before as i64),
            Argument::Word(counter[1]),
            Argument::Word(counter[2]),
            Argument::Word(counter[3]),
            Argument::Word(key[0]),
            Argument::Word(key[1]),
            Argument::Word(dropout.threshold()),
            Argument::Float(dropout.kept()),
        ],
    )?;
    Ok(y)
}
