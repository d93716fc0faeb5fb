//! The UNet: its layers, and passes without a backward.

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};

use super::adapters::{self, Terms};
use super::config::{TIME_IDS, UNetConfig};
use super::layers::{Convolution, Linear, Pass, Reader, ResidualBlock};
use super::modules::Adaptable;
use super::plan::{self, Step, StepKind};
use super::source::Source;
use super::text::TextCondition;
use super::transformer::{Rows, TransformerBlock};
use crate::error::input_error;
use crate::model::Active;
use crate::ops::{
    Activation, Grid, GroupNorm, Kernel, Tape, activate, add, group_norm, join_channels, upsample,
};

/// Of the norm before a transformer, in diffusers' `Transformer2DModel`.
const TRANSFORMER_EPS: f64 = 1e-6;

/// A frozen UNet; all state of a pass is local to the call.
pub struct UNet {
    pub(super) config: UNetConfig,
    pub(super) device: Device,
    pub(super) dtype: DType,
    pub(super) adaptable: Adaptable,
    pub(super) steps: Vec<(Step, Layers)>,
    time: (Linear, Linear),
    addition: Option<(Linear, Linear)>,
}

/// What the UNet denoises.
#[derive(Clone, Copy)]
pub struct UNetInput<'a> {
    /// `[grid.rows(), channels]`.
    pub latents: &'a Tensor,
    pub grid: Grid,
    /// Of each image, from 0.
    pub timesteps: &'a [f32],
    /// SDXL: original height and width, the crop's top and left, target height and width of each
    /// image, in pixels.
    pub time_ids: Option<&'a [[f32; TIME_IDS]]>,
}

/// The layers of a step.
pub(super) enum Layers {
    Convolution(Convolution),
    /// A convolution behind doubling the size.
    Up(Convolution),
    Residual(Box<ResidualBlock>),
    Project(GroupNorm, Linear),
    Transform(Box<TransformerBlock>),
    Unproject(Linear),
    Out(GroupNorm, Convolution),
}

/// What all steps of a pass read besides the feature map.
pub(super) struct Shared<'a> {
    /// `[images, features]`: the embedded timestep behind its activation.
    pub time: &'a Tensor,
    pub context: &'a Tensor,
    /// Tokens of each image's text.
    pub lengths: &'a [usize],
}

impl UNet {
    pub(super) fn read(source: &Source, device: &Device, dtype: DType) -> Result<Self> {
        if matches!(device, Device::Cpu) && dtype != DType::F32 {
            return Err(input_error(
                "on the CPU loradeck computes in f32; set `precision: f32` or leave it out",
            ));
        }
        let config = source.description().unet.clone();
        let adaptable = Adaptable::new(adapters::UNET, plan::modules(&config));
        let reader = Reader {
            tensors: source.tensors(),
            component: adapters::UNET,
            device,
            dtype,
            adaptable: Some(&adaptable),
        };
        let steps = plan::steps(&config).into_iter().map(|step| {
            let layers = read_step(&reader, &config, &step)?;
            Ok((step, layers))
        });
        let steps = steps.collect::<Result<Vec<_>>>()?;
        let pair = |name: &str| -> Result<(Linear, Linear)> {
            let linear = |part: usize| reader.linear(&format!("{name}.linear_{part}"));
            Ok((linear(1)?, linear(2)?))
        };
        let time = pair("time_embedding")?;
        let addition = config.addition.map(|_| pair("add_embedding")).transpose()?;
        Ok(UNet {
            device: device.clone(),
            dtype,
            steps,
            time,
            addition,
            adaptable,
            config,
        })
    }

    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the UNet predicts for noisy latents: `[grid.rows(), channels]`, f32.
    ///
    /// # Errors
    /// Sizes that do not fit together, an adapter of another base; the device fails.
    pub fn forward(
        &self,
        input: &UNetInput<'_>,
        text: &TextCondition,
        adapters: &[Active<'_>],
    ) -> Result<Tensor> {
        self.check(input, text)?;
        let terms = Terms::of(&self.adaptable, adapters, None)?;
        let tape = Tape::off();
        let pass = Pass {
            tape: &tape,
            terms: Some(&terms),
            images: input.grid.images,
        };
        let time = self.embed_time(pass, input, text.pooled.as_ref())?;
        let context = text.context.to_device(&self.device)?.to_dtype(self.dtype)?;
        let shared = Shared {
            time: &time,
            context: &context,
            lengths: &text.lengths,
        };
        let mut x = self.input(input)?;
        let mut grid = input.grid;
        let mut stack = Vec::new();
        for (step, layers) in &self.steps {
            if step.keeps_input {
                stack.push(x.clone());
            }
            let taken = if step.takes { stack.pop() } else { None };
            (x, grid) = layers.forward(pass, &x, taken.as_ref(), grid, &shared)?;
            if step.keeps_output {
                stack.push(x.clone());
            }
        }
        Ok(x.to_dtype(DType::F32)?)
    }

    /// The latents as the first step reads them.
    pub(super) fn input(&self, input: &UNetInput<'_>) -> Result<Tensor> {
        Ok(input
            .latents
            .to_device(&self.device)?
            .to_dtype(self.dtype)?)
    }

    pub(super) fn check(&self, input: &UNetInput<'_>, text: &TextCondition) -> Result<()> {
        let (grid, reduction) = (input.grid, self.config.reduction());
        let images = grid.images;
        if !grid.height.is_multiple_of(reduction) || !grid.width.is_multiple_of(reduction) {
            bail!(
                "latents of {}x{} do not halve {} times",
                grid.width,
                grid.height,
                self.config.blocks.len() - 1
            );
        }
        let rows: usize = text.lengths.iter().sum();
        if input.latents.dims() != [grid.rows(), self.config.in_channels]
            || input.timesteps.len() != images
            || text.lengths.len() != images
            || text.lengths.contains(&0)
            || text.context.dims() != [rows, self.config.context]
        {
            bail!(
                "a UNet of {} channels and {} features of text got latents {:?} on {grid:?}, {} \
                 timesteps, text {:?} of lengths {:?}",
                self.config.in_channels,
                self.config.context,
                input.latents.dims(),
                input.timesteps.len(),
                text.context.dims(),
                text.lengths
            );
        }
        let Some(addition) = self.config.addition else {
            return Ok(());
        };
        let pooled = text.pooled.as_ref().map(Tensor::dims);
        let ids = input.time_ids.map(<[_]>::len);
        if pooled != Some(&[images, addition.pooled()]) || ids != Some(images) {
            bail!(
                "SDXL needs the pooled text and time ids of {images} images, not {pooled:?}, {ids:?}"
            );
        }
        Ok(())
    }

    /// The timestep of each image, and what SDXL is told besides, embedded and activated:
    /// `[images, features]`.
    pub(super) fn embed_time(
        &self,
        pass: Pass<'_>,
        input: &UNetInput<'_>,
        pooled: Option<&Tensor>,
    ) -> Result<Tensor> {
        let embedded = self.sinusoids(input.timesteps, self.config.blocks[0].channels)?;
        let mut time = self.through(pass, &self.time, &embedded)?;
        if let (Some(layers), Some(addition)) = (&self.addition, self.config.addition) {
            let (Some(pooled), Some(ids)) = (pooled, input.time_ids) else {
                bail!("SDXL needs the pooled text and the images' sizes");
            };
            let ids = ids.as_flattened();
            let ids = self
                .sinusoids(ids, addition.time_features)?
                .reshape((ids.len() / TIME_IDS, TIME_IDS * addition.time_features))?;
            let pooled = match pooled.dtype() == self.dtype {
                true => pooled.clone(),
                false => pooled.to_dtype(self.dtype)?,
            };
            let both = join_channels(pass.tape, &pooled, &ids)?;
            let added = self.through(pass, layers, &both)?;
            time = add(pass.tape, &time, &added)?;
        }
        Ok(activate(pass.tape, &time, Activation::Silu)?)
    }

    fn through(&self, pass: Pass<'_>, layers: &(Linear, Linear), x: &Tensor) -> Result<Tensor> {
        let hidden = layers.0.forward(pass, x, None)?;
        let hidden = activate(pass.tape, &hidden, Activation::Silu)?;
        layers.1.forward(pass, &hidden, None)
    }

    /// Cosines, then sines, of every number at falling frequencies: `[numbers, features]`. In f32
    /// and in the order of diffusers' `get_timestep_embedding`, whatever the UNet computes in.
    fn sinusoids(&self, numbers: &[f32], features: usize) -> Result<Tensor> {
        let half = features / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| (-(10_000f32.ln()) * i as f32 / half as f32).exp())
            .collect();
        let mut rows = Vec::with_capacity(numbers.len() * features);
        for number in numbers {
            let angles = frequencies.iter().map(|frequency| number * frequency);
            rows.extend(angles.clone().map(f32::cos));
            rows.extend(angles.map(f32::sin));
            // An odd one is 0.
            rows.extend(std::iter::repeat_n(0.0, features - 2 * half));
        }
        let rows = Tensor::from_vec(rows, (numbers.len(), features), &self.device)?;
        Ok(rows.to_dtype(self.dtype)?)
    }
}

fn read_step(reader: &Reader<'_>, config: &UNetConfig, step: &Step) -> Result<Layers> {
    let name = &step.name;
    let convolution = |name: &str, kernel: Kernel| reader.convolution(name, kernel);
    let three = Kernel::same(3);
    Ok(match step.kind {
        StepKind::In => Layers::Convolution(convolution("conv_in", three)?),
        StepKind::Down { .. } => {
            Layers::Convolution(convolution(name, Kernel { stride: 2, ..three })?)
        }
        StepKind::Up { .. } => Layers::Up(convolution(name, three)?),
        StepKind::Residual { inputs, outputs } => {
            let changes = inputs != outputs;
            let (groups, eps) = (config.groups, config.eps);
            let block = ResidualBlock::read(reader, name, changes, groups, eps, true)?;
            Layers::Residual(Box::new(block))
        }
        StepKind::Project { .. } => {
            let norm = format!("{name}.norm");
            Layers::Project(
                reader.group_norm(&norm, config.groups, TRANSFORMER_EPS, false)?,
                reader.linear(&format!("{name}.proj_in"))?,
            )
        }
        StepKind::Transform { channels, heads } => {
            let block = TransformerBlock::read(reader, name, channels, heads)?;
            Layers::Transform(Box::new(block))
        }
        StepKind::Unproject { .. } => {
            Layers::Unproject(reader.linear(&format!("{name}.proj_out"))?)
        }
        StepKind::Out => Layers::Out(
            reader.group_norm("conv_norm_out", config.groups, config.eps, true)?,
            convolution("conv_out", three)?,
        ),
    })
}

impl Layers {
    /// One step: the next feature map and its grid. `taken` is what the step took from the stack.
    pub fn forward(
        &self,
        pass: Pass<'_>,
        x: &Tensor,
        taken: Option<&Tensor>,
        grid: Grid,
        shared: &Shared<'_>,
    ) -> Result<(Tensor, Grid)> {
        let tape = pass.tape;
        match self {
            Layers::Convolution(convolution) => convolution.forward(pass, x, grid, None),
            Layers::Up(convolution) => {
                let (x, grid) = upsample(tape, x, grid)?;
                convolution.forward(pass, &x, grid, None)
            }
            Layers::Residual(block) => {
                let joined = taken.map(|skip| join_channels(tape, x, skip)).transpose()?;
                let x = joined.as_ref().unwrap_or(x);
                Ok((block.forward(pass, x, grid, Some(shared.time))?, grid))
            }
            Layers::Project(norm, linear) => {
                let normed = group_norm(tape, x, grid, norm)?;
                Ok((linear.forward(pass, &normed, None)?, grid))
            }
            Layers::Transform(block) => {
                let rows = Rows::new(grid.pixels(), shared.lengths);
                Ok((block.forward(pass, x, shared.context, &rows)?, grid))
            }
            Layers::Unproject(linear) => Ok((linear.forward(pass, x, taken)?, grid)),
            Layers::Out(norm, convolution) => {
                let normed = group_norm(tape, x, grid, norm)?;
                convolution.forward(pass, &normed, grid, None)
            }
        }
    }

    /// Whether a pass through it reads the timestep, and the text.
    pub fn reads(&self) -> (bool, bool) {
        (
            matches!(self, Layers::Residual(_)),
            matches!(self, Layers::Transform(_)),
        )
    }
}
