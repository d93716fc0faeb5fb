//! RMSNorm, LayerNorm and GroupNorm.

use candle_core::{DType, Result, Tensor};

use super::super::conv::Grid;
use super::super::group_norm::GroupNorm;
use super::super::tape::Tape;
use super::{Argument, Blocks, common_type, contiguous, int, launch, like, new_tensor};

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
    let grid = Blocks::rows(rows, columns);
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

/// As [`super::super::layer_norm()`], of shapes that were checked.
pub fn layer_norm(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let (x_numbers, weight, bias) = (contiguous(x)?, f32_vector(weight)?, f32_vector(bias)?);
    let columns = weight.elem_count();
    let rows = x.elem_count() / columns;
    let y = like(&x_numbers)?;
    let blocks = Blocks::rows(rows, columns);
    let sizes = [
        Argument::Long(rows as i64),
        Argument::Int(int(columns)?),
        Argument::Float(eps as f32),
    ];
    let mut arguments = vec![
        Argument::Tensor(&x_numbers),
        Argument::Tensor(&weight),
        Argument::Tensor(&bias),
        Argument::Tensor(&y),
    ];
    arguments.extend(sizes);
    let kernel = format!("layer_norm_forward_{}", common_type(&[&x_numbers])?);
    launch(x.device(), "norm", &kernel, blocks, &arguments)?;
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
        let kernel = format!("layer_norm_backward_{}", common_type(&[&x_numbers, &dy])?);
        launch(dx.device(), "norm", &kernel, blocks, &arguments)?;
        gradients.add(input, dx)
    });
    Ok(y)
}

/// Slices that an image's pixels are cut into at most.
const SLICES: usize = 64;
/// Pixels of a slice at least.
const LEAST_SLICE: usize = 16;

/// As [`super::super::group_norm()`], of shapes that were checked.
pub fn group_norm(tape: &Tape, x: &Tensor, grid: Grid, norm: &GroupNorm) -> Result<Tensor> {
    let x_numbers = contiguous(x)?;
    let (device, channels, pixels) = (x.device(), x.dim(1)?, grid.pixels());
    let (weight, bias) = (f32_vector(&norm.weight)?, f32_vector(&norm.bias)?);
    let name = common_type(&[&x_numbers])?;
    let slices = pixels.div_ceil(LEAST_SLICE).clamp(1, SLICES);
    let partial_shape = (grid.images, slices, norm.groups, 2);
    let sliced = Blocks {
        blocks: (slices as u32, grid.images as u32, 1),
        threads: ((channels as u32).next_multiple_of(32).min(256), 1, 1),
        shared_bytes: (2 * 4 * channels) as u32,
    };
    let per_group = Blocks::over(grid.images * norm.groups);
    let per_number = Blocks::over(x.elem_count());
    let sizes = [
        Argument::Int(int(pixels)?),
        Argument::Int(int(channels)?),
        Argument::Int(int(norm.groups)?),
    ];
    let [of_pixels, of_channels, of_groups] = sizes;
    let (of_slices, of_images) = (
        Argument::Int(int(slices)?),
        Argument::Int(int(grid.images)?),
    );
    let activated = Argument::Int(i32::from(norm.silu));
    let partial = new_tensor(partial_shape, DType::F32, device)?;
    let moments = new_tensor((grid.images, norm.groups, 2), DType::F32, device)?;
    let mut arguments = vec![Argument::Tensor(&x_numbers), Argument::Tensor(&partial)];
    arguments.extend(sizes);
    let kernel = format!("group_norm_moments_{name}");
    launch(device, "norm", &kernel, sliced, &arguments)?;
    let eps = Argument::Float(norm.eps as f32);
    let arguments = [
        Argument::Tensor(&partial),
        Argument::Tensor(&moments),
        of_pixels,
        of_channels,
        of_groups,
        of_slices,
        of_images,
        eps,
    ];
    launch(device, "norm", "group_norm_gather", per_group, &arguments)?;
    let y = like(&x_numbers)?;
    let arguments = [
        Argument::Tensor(&x_numbers),
        Argument::Tensor(&moments),
        Argument::Tensor(&weight),
        Argument::Tensor(&bias),
        Argument::Tensor(&y),
        of_pixels,
        of_channels,
        of_groups,
        of_images,
        activated,
    ];
    let kernel = format!("group_norm_forward_{name}");
    launch(device, "norm", &kernel, per_number, &arguments)?;
    let input = x.id();
    let (images, groups) = (grid.images, norm.groups);
    tape.record(&y, &[x], move |dy, gradients| {
        let dy = contiguous(&dy)?;
        let (device, name) = (dy.device(), common_type(&[&x_numbers, &dy])?);
        let partial = new_tensor(partial_shape, DType::F32, device)?;
        let means = new_tensor((images, groups, 2), DType::F32, device)?;
        let arguments = [
            Argument::Tensor(&x_numbers),
            Argument::Tensor(&dy),
            Argument::Tensor(&moments),
            Argument::Tensor(&weight),
            Argument::Tensor(&bias),
            Argument::Tensor(&partial),
            of_pixels,
            of_channels,
            of_groups,
            activated,
        ];
        let kernel = format!("group_norm_sums_{name}");
        launch(device, "norm", &kernel, sliced, &arguments)?;
        let arguments = [
            Argument::Tensor(&partial),
            Argument::Tensor(&means),
            of_pixels,
            of_channels,
            of_groups,
            of_slices,
            of_images,
        ];
        launch(device, "norm", "group_norm_means", per_group, &arguments)?;
        let dx = like(&x_numbers)?;
        let arguments = [
            Argument::Tensor(&x_numbers),
            Argument::Tensor(&dy),
            Argument::Tensor(&moments),
            Argument::Tensor(&means),
            Argument::Tensor(&weight),
            Argument::Tensor(&bias),
            Argument::Tensor(&dx),
            of_pixels,
            of_channels,
            of_groups,
            of_images,
            activated,
        ];
        let kernel = format!("group_norm_backward_{name}");
        launch(device, "norm", &kernel, per_number, &arguments)?;
        gradients.add(input, dx)
    });
    Ok(y)
}
