//! Convolutions as products of patches, and what lies between the layers of an image model.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::super::conv::{Grid, Kernel};
use super::super::tape::Tape;
use super::{Argument, Blocks, common_type, contiguous, int, launch, like, new_tensor};

const MODULE: &str = "images";

/// What a kernel reads and where it writes.
#[derive(Clone, Copy)]
pub struct Walk {
    pub kernel: Kernel,
    pub grid: Grid,
    pub out: Grid,
    pub channels: usize,
}

impl Walk {
    fn arguments(&self) -> Result<[Argument<'static>; 8]> {
        Ok([
            Argument::Int(int(self.grid.height)?),
            Argument::Int(int(self.grid.width)?),
            Argument::Int(int(self.out.height)?),
            Argument::Int(int(self.out.width)?),
            Argument::Int(int(self.channels)?),
            Argument::Int(int(self.kernel.size)?),
            Argument::Int(int(self.kernel.stride)?),
            Argument::Int(int(self.kernel.before)?),
        ])
    }

    fn patch(&self) -> usize {
        self.kernel.size * self.kernel.size * self.channels
    }

    /// The patches of some rows of the result, `[rows, patch]`.
    pub fn gather(&self, x: &Tensor, rows: Range<usize>) -> Result<Tensor> {
        let x = contiguous(x)?;
        let patches = new_tensor((rows.len(), self.patch()), x.dtype(), x.device())?;
        let mut arguments = vec![
            Argument::Tensor(&x),
            Argument::Tensor(&patches),
            Argument::Long(rows.start as i64),
            Argument::Long(rows.len() as i64),
        ];
        arguments.extend(self.arguments()?);
        let kernel = format!("gather_patches_{}", common_type(&[&x])?);
        let blocks = Blocks::over(patches.elem_count());
        launch(x.device(), MODULE, &kernel, blocks, &arguments)?;
        Ok(patches)
    }

    /// Writes the gradient of whole images' pixels `dx`, given that of all their patches.
    pub fn scatter(&self, patches: &Tensor, dx: &Tensor) -> Result<()> {
        let images = dx.elem_count() / (self.grid.pixels() * self.channels);
        let mut arguments = vec![
            Argument::Tensor(patches),
            Argument::Tensor(dx),
            Argument::Long(images as i64),
        ];
        arguments.extend(self.arguments()?);
        let kernel = format!("scatter_patches_{}", common_type(&[patches, dx])?);
        let blocks = Blocks::over(dx.elem_count());
        launch(dx.device(), MODULE, &kernel, blocks, &arguments)
    }
}

/// As [`super::super::upsample`], of a grid that was checked.
pub fn upsample(tape: &Tape, x: &Tensor, grid: Grid) -> Result<Tensor> {
    let (rows, channels) = x.dims2()?;
    let run = move |kernel: &str, from: &Tensor, to: &Tensor| {
        let kernel = format!("{kernel}_{}", common_type(&[from])?);
        let arguments = [
            Argument::Tensor(from),
            Argument::Tensor(to),
            Argument::Long(rows as i64),
            Argument::Int(int(grid.width)?),
            Argument::Int(int(channels)?),
        ];
        let blocks = Blocks::over(to.elem_count());
        launch(from.device(), MODULE, &kernel, blocks, &arguments)
    };
    let y = new_tensor((4 * rows, channels), x.dtype(), x.device())?;
    run("upsample_forward", &contiguous(x)?, &y)?;
    let input = x.id();
    tape.record(&y, &[x], move |dy, gradients| {
        let dx = new_tensor((rows, channels), dy.dtype(), dy.device())?;
        run("upsample_backward", &contiguous(&dy)?, &dx)?;
        gradients.add(input, dx)
    });
    Ok(y)
}

/// As [`super::super::add_to_images`], of shapes that were checked.
pub fn add_to_images(tape: &Tape, x: &Tensor, per_image: &Tensor, grid: Grid) -> Result<Tensor> {
    let (rows, channels) = x.dims2()?;
    let (numbers, added) = (contiguous(x)?, contiguous(per_image)?);
    let y = like(&numbers)?;
    launch(
        x.device(),
        MODULE,
        &format!("add_to_images_{}", common_type(&[&numbers, &added])?),
        Blocks::over(y.elem_count()),
        &[
            Argument::Tensor(&numbers),
            Argument::Tensor(&added),
            Argument::Tensor(&y),
            Argument::Long(rows as i64),
            Argument::Int(int(grid.pixels())?),
            Argument::Int(int(channels)?),
        ],
    )?;
    let (id, per_image_id, wanted) = (x.id(), per_image.id(), tape.wants(per_image));
    tape.record(&y, &[x, per_image], move |dy, gradients| {
        if wanted {
            let dy = contiguous(&dy)?;
            let sums = new_tensor((grid.images, channels), dy.dtype(), dy.device())?;
            launch(
                dy.device(),
                MODULE,
                &format!("sum_of_images_{}", common_type(&[&dy])?),
                Blocks {
                    blocks: ((channels as u32).div_ceil(32), grid.images as u32, 1),
                    threads: (32, 8, 1),
                    shared_bytes: 0,
                },
                &[
                    Argument::Tensor(&dy),
                    Argument::Tensor(&sums),
                    Argument::Int(int(grid.pixels())?),
                    Argument::Int(int(channels)?),
                ],
            )?;
            gradients.add(per_image_id, sums)?;
        }
        gradients.add_shared(id, dy)
    });
    Ok(y)
}
