//! Operations on each number by itself, or on few.

use candle_core::{DType, Result, Tensor};

use super::super::activation::Activation;
use super::super::dropout::Dropout;
use super::super::rope::RopeTable;
use super::super::tape::Tape;
use super::{Argument, Blocks, common_type, contiguous, count, int, launch, like, new_tensor};

const MODULE: &str = "pointwise";

/// As [`super::super::swiglu`], of shapes that were checked.
pub fn swiglu(tape: &Tape, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (g, u) = (contiguous(gate)?, contiguous(up)?);
    let name = common_type(&[&g, &u])?;
    let y = like(&g)?;
    let grid = Blocks::over(g.elem_count());
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
        Blocks::over(tokens * heads * (table.head_dim - half)),
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

/// `x + bias`, without a graph.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let x = contiguous(x)?;
    let y = like(&x)?;
    write_biased(Argument::Tensor(&x), bias, &y)?;
    Ok(y)
}

/// `[rows, features]`, the bias in every row.
pub fn repeat_bias(bias: &Tensor, rows: usize, dtype: DType) -> Result<Tensor> {
    let y = new_tensor((rows, bias.elem_count()), dtype, bias.device())?;
    write_biased(Argument::Null, bias, &y)?;
    Ok(y)
}

fn write_biased(x: Argument<'_>, bias: &Tensor, y: &Tensor) -> Result<()> {
    let bias = contiguous(&bias.to_dtype(DType::F32)?)?;
    let columns = bias.elem_count();
    launch(
        y.device(),
        MODULE,
        &format!("add_bias_{}", common_type(&[y])?),
        Blocks::over(y.elem_count()),
        &[
            x,
            Argument::Tensor(&bias),
            Argument::Tensor(y),
            Argument::Long((y.elem_count() / columns) as i64),
            Argument::Int(int(columns)?),
        ],
    )
}

/// `sum += addend`, in place; both contiguous.
pub fn add_assign(sum: &Tensor, addend: &Tensor) -> Result<()> {
    let name = common_type(&[sum, addend])?;
    launch(
        sum.device(),
        MODULE,
        &format!("add_assign_{name}"),
        Blocks::over(sum.elem_count()),
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
        Blocks::over(x.elem_count()),
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

/// As [`super::super::activate`].
pub fn activate(tape: &Tape, x: &Tensor, activation: Activation) -> Result<Tensor> {
    let kind = Argument::Int(match activation {
        Activation::Gelu => 0,
        Activation::QuickGelu => 1,
        Activation::Silu => 2,
    });
    let numbers = contiguous(x)?;
    let y = like(&numbers)?;
    let (length, blocks) = (count(x.shape()), Blocks::over(x.elem_count()));
    let arguments = [
        Argument::Tensor(&numbers),
        Argument::Tensor(&y),
        Argument::Long(length),
        kind,
    ];
    let kernel = format!("activation_forward_{}", common_type(&[&numbers])?);
    launch(x.device(), MODULE, &kernel, blocks, &arguments)?;
    let input = x.id();
    tape.record(&y, &[x], move |dy, gradients| {
        let (dy, dx) = (contiguous(&dy)?, like(&numbers)?);
        let arguments = [
            Argument::Tensor(&numbers),
            Argument::Tensor(&dy),
            Argument::Tensor(&dx),
            Argument::Long(length),
            kind,
        ];
        let kernel = format!("activation_backward_{}", common_type(&[&numbers, &dy])?);
        launch(dx.device(), MODULE, &kernel, blocks, &arguments)?;
        gradients.add(input, dx)
    });
    Ok(y)
}

/// As [`super::super::geglu`], of an even number of features.
pub fn geglu(tape: &Tape, x: &Tensor) -> Result<Tensor> {
    let numbers = contiguous(x)?;
    let (rows, features) = x.dims2()?;
    let width = features / 2;
    let y = new_tensor((rows, width), x.dtype(), x.device())?;
    let blocks = Blocks::over(rows * width);
    let sizes = [Argument::Long(rows as i64), Argument::Int(int(width)?)];
    let [of_rows, of_width] = sizes;
    let arguments = [
        Argument::Tensor(&numbers),
        Argument::Tensor(&y),
        of_rows,
        of_width,
    ];
    let kernel = format!("geglu_forward_{}", common_type(&[&numbers])?);
    launch(x.device(), MODULE, &kernel, blocks, &arguments)?;
    let input = x.id();
    tape.record(&y, &[x], move |dy, gradients| {
        let (dy, dx) = (contiguous(&dy)?, like(&numbers)?);
        let arguments = [
            Argument::Tensor(&numbers),
            Argument::Tensor(&dy),
            Argument::Tensor(&dx),
            of_rows,
            of_width,
        ];
        let kernel = format!("geglu_backward_{}", common_type(&[&numbers, &dy])?);
        launch(dx.device(), MODULE, &kernel, blocks, &arguments)?;
        gradients.add(input, dx)
    });
    Ok(y)
}
