//! The VAE: images to latents and back, in f32. It is never trained.

use std::sync::Arc;

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};

use super::config::VaeConfig;
use super::layers::{Convolution, Linear, Pass, Reader, ResidualBlock};
use super::modules::{Module, conv, linear, norm};
use super::plan::residual_modules;
use super::source::Source;
use super::tensors::Tensors;
use crate::model::source::Mapped;
use crate::ops::{
    Grid, GroupNorm, Heads, Kernel, Sight, Span, Tape, attention, group_norm, select_columns,
    upsample,
};

const VAE: &str = "vae.";
/// Of all norms, in diffusers' `Encoder` and `Decoder`.
const EPS: f64 = 1e-6;
/// Zeros only below and to the right, then every other pixel.
const DOWN: Kernel = Kernel {
    size: 3,
    stride: 2,
    before: 0,
    after: 1,
};
/// Channels of an image.
const COLOURS: usize = 3;
/// Bounds of the logarithm of the variance, in diffusers' `DiagonalGaussianDistribution`.
const LOG_VARIANCE: (f32, f32) = (-30.0, 20.0);

/// Makes latents of images.
pub struct VaeEncoder {
    config: VaeConfig,
    device: Device,
    layers: Vec<Layer>,
    quantise: Linear,
}

/// Makes images of latents.
pub struct VaeDecoder {
    config: VaeConfig,
    device: Device,
    unquantise: Linear,
    layers: Vec<Layer>,
    /// The base's files.
    mapped: Vec<Arc<Mapped>>,
}

enum Layer {
    Convolution(Convolution),
    Up(Convolution),
    Residual(Box<ResidualBlock>),
    Attention(Box<Attention>),
    Out(GroupNorm, Convolution),
}

/// Every pixel looks at every other, with one head.
struct Attention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    channels: usize,
}

/// A residual block, or a change of size, of one half of the VAE.
enum Part {
    Residual(String, usize, usize),
    Down(String, usize),
    Up(String, usize),
}

/// What lies between the first convolution and the middle, or the middle and the last.
fn parts(config: &VaeConfig, half: &str) -> Vec<Part> {
    let blocks = &config.blocks;
    let mut parts = Vec::new();
    let down = half == "encoder";
    let (mut inputs, way, layers) = match down {
        true => (blocks[0], "down", config.layers_per_block),
        false => (blocks[blocks.len() - 1], "up", config.layers_per_block + 1),
    };
    for index in 0..blocks.len() {
        let outputs = blocks[if down {
            index
        } else {
            blocks.len() - 1 - index
        }];
        let block = format!("{half}.{way}_blocks.{index}");
        for layer in 0..layers {
            let name = format!("{block}.resnets.{layer}");
            parts.push(Part::Residual(name, inputs, outputs));
            inputs = outputs;
        }
        if index + 1 < blocks.len() {
            let name = format!("{block}.{way}samplers.0.conv");
            parts.push(match down {
                true => Part::Down(name, outputs),
                false => Part::Up(name, outputs),
            });
        }
    }
    parts
}

/// The tensors of the VAE.
pub(super) fn modules(config: &VaeConfig) -> Vec<Module> {
    let (first, last) = (config.blocks[0], config.blocks[config.blocks.len() - 1]);
    let latents = config.latent_channels;
    let mut all = Vec::new();
    for (half, into, inner, outer, out) in [
        ("encoder", COLOURS, first, last, 2 * latents),
        ("decoder", latents, last, first, COLOURS),
    ] {
        all.push(conv(&format!("{half}.conv_in"), into, inner, 3));
        let middle = format!("{half}.mid_block");
        for index in 0..2 {
            let name = format!("{middle}.resnets.{index}");
            all.extend(residual_modules(&name, last, last));
        }
        let attention = format!("{middle}.attentions.0");
        all.push(norm(&format!("{attention}.group_norm"), last));
        for leaf in ["to_q", "to_k", "to_v", "to_out.0"] {
            all.push(linear(&format!("{attention}.{leaf}"), last, last, true));
        }
        for part in parts(config, half) {
            match part {
                Part::Residual(name, inputs, outputs) => {
                    all.extend(residual_modules(&name, inputs, outputs));
                }
                Part::Down(name, channels) | Part::Up(name, channels) => {
                    all.push(conv(&name, channels, channels, 3));
                }
            }
        }
        all.push(norm(&format!("{half}.conv_norm_out"), outer));
        all.push(conv(&format!("{half}.conv_out"), outer, out, 3));
    }
    all.push(conv("quant_conv", 2 * latents, 2 * latents, 1));
    all.push(conv("post_quant_conv", latents, latents, 1));
    all
}

/// The layers of one half, in order.
fn layers(reader: &Reader<'_>, config: &VaeConfig, half: &str) -> Result<Vec<Layer>> {
    let name = |part: &str| format!("{half}.{part}");
    let three = Kernel::same(3);
    let last = config.blocks[config.blocks.len() - 1];
    let residual = |name: &str, changes: bool| {
        let block = ResidualBlock::read(reader, name, changes, config.groups, EPS, false)?;
        Ok::<_, anyhow::Error>(Layer::Residual(Box::new(block)))
    };
    let mut sized = Vec::new();
    for part in parts(config, half) {
        sized.push(match part {
            Part::Residual(name, inputs, outputs) => residual(&name, inputs != outputs)?,
            Part::Down(name, _) => Layer::Convolution(reader.convolution(&name, DOWN)?),
            Part::Up(name, _) => Layer::Up(reader.convolution(&name, three)?),
        });
    }
    let attention = |part: &str| name(&format!("mid_block.attentions.0.{part}"));
    let middle = [
        residual(&name("mid_block.resnets.0"), false)?,
        Layer::Attention(Box::new(Attention {
            norm: reader.group_norm(&attention("group_norm"), config.groups, EPS, false)?,
            q: reader.linear(&attention("to_q"))?,
            k: reader.linear(&attention("to_k"))?,
            v: reader.linear(&attention("to_v"))?,
            out: reader.linear(&attention("to_out.0"))?,
            channels: last,
        })),
        residual(&name("mid_block.resnets.1"), false)?,
    ];
    let mut all = vec![Layer::Convolution(
        reader.convolution(&name("conv_in"), three)?,
    )];
    match half {
        "encoder" => {
            all.extend(sized);
            all.extend(middle);
        }
        _ => {
            all.extend(middle);
            all.extend(sized);
        }
    }
    let norm = reader.group_norm(&name("conv_norm_out"), config.groups, EPS, true)?;
    let out = reader.convolution(&name("conv_out"), three)?;
    all.push(Layer::Out(norm, out));
    Ok(all)
}

fn reader<'a>(source: &'a Source, device: &'a Device) -> Reader<'a> {
    Reader {
        tensors: source.tensors(),
        component: VAE,
        device,
        dtype: DType::F32,
        adaptable: None,
    }
}

/// `x` through all layers; each takes the memory of the one before.
fn run(layers: &[Layer], pass: Pass<'_>, mut x: Tensor, mut grid: Grid) -> Result<(Tensor, Grid)> {
    for layer in layers {
        (x, grid) = layer.forward(pass, x, grid)?;
    }
    Ok((x, grid))
}

impl Layer {
    fn forward(&self, pass: Pass<'_>, x: Tensor, grid: Grid) -> Result<(Tensor, Grid)> {
        match self {
            Layer::Convolution(convolution) => convolution.forward(pass, &x, grid, None),
            Layer::Up(convolution) => {
                let (grown, grid) = upsample(pass.tape, &x, grid)?;
                drop(x);
                convolution.forward(pass, &grown, grid, None)
            }
            Layer::Residual(block) => Ok((block.forward(pass, &x, grid, None)?, grid)),
            Layer::Attention(attention) => Ok((attention.forward(pass, &x, grid)?, grid)),
            Layer::Out(norm, convolution) => {
                let normed = group_norm(pass.tape, &x, grid, norm)?;
                drop(x);
                convolution.forward(pass, &normed, grid, None)
            }
        }
    }
}

impl Attention {
    fn forward(&self, pass: Pass<'_>, x: &Tensor, grid: Grid) -> Result<Tensor> {
        let normed = group_norm(pass.tape, x, grid, &self.norm)?;
        let q = self.q.forward(pass, &normed, None)?;
        let k = self.k.forward(pass, &normed, None)?;
        let v = self.v.forward(pass, &normed, None)?;
        let pixels = grid.pixels();
        let span = |image: usize| Span {
            queries: image * pixels..(image + 1) * pixels,
            keys: image * pixels..(image + 1) * pixels,
        };
        let spans = Arc::new((0..grid.images).map(span).collect());
        let heads = Heads {
            queries: 1,
            keys: 1,
            size: self.channels,
        };
        let y = attention(pass.tape, &q, &k, &v, &spans, heads, Sight::All)?;
        self.out.forward(pass, &y, Some(x))
    }
}

impl VaeEncoder {
    pub(super) fn read(source: &Source, device: &Device) -> Result<Self> {
        let config = source.description().vae.clone();
        let reader = reader(source, device);
        Ok(VaeEncoder {
            layers: layers(&reader, &config, "encoder")?,
            quantise: reader.linear("quant_conv")?,
            device: device.clone(),
            config,
        })
    }

    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Mean and logarithm of the variance of the latents of images `[grid.rows(), 3]` from -1 to 1:
    /// `[grid.rows() / reduction^2, channels]` each, f32, not yet scaled for the UNet.
    ///
    /// # Errors
    /// Sizes that are no multiples of [`VaeConfig::reduction`]; the device fails.
    pub fn encode(&self, images: &Tensor, grid: Grid) -> Result<(Tensor, Tensor)> {
        let reduction = self.config.reduction();
        if images.dims() != [grid.rows(), COLOURS]
            || !grid.height.is_multiple_of(reduction)
            || !grid.width.is_multiple_of(reduction)
        {
            bail!(
                "the VAE takes images of multiples of {reduction} pixels, not {:?} on {grid:?}",
                images.dims()
            );
        }
        let tape = Tape::off();
        let pass = Pass {
            tape: &tape,
            terms: None,
            images: grid.images,
        };
        let images = images.to_device(&self.device)?.to_dtype(DType::F32)?;
        let (moments, _) = run(&self.layers, pass, images, grid)?;
        let moments = self.quantise.forward(pass, &moments, None)?;
        let channels = self.config.latent_channels;
        let mean = select_columns(&tape, &moments, 0..channels)?;
        let variance = select_columns(&tape, &moments, channels..2 * channels)?;
        Ok((mean, variance.clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)?))
    }
}

impl VaeDecoder {
    pub(super) fn read(source: &Source, device: &Device) -> Result<Self> {
        let config = source.description().vae.clone();
        let reader = reader(source, device);
        Ok(VaeDecoder {
            layers: layers(&reader, &config, "decoder")?,
            unquantise: reader.linear("post_quant_conv")?,
            mapped: source.tensors().mapped.clone(),
            device: device.clone(),
            config,
        })
    }

    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The images of latents `[grid.rows(), channels]` that are no longer scaled for the UNet:
    /// `[grid.rows() * reduction^2, 3]`, f32, from about -1 to 1. One image at a time is in memory, and meanwhile not the pages of the base's
    /// other parts, so that a training run's peak stays what it is.
    ///
    /// # Errors
    /// Sizes that do not fit; the device fails.
    pub fn decode(&self, latents: &Tensor, grid: Grid) -> Result<Tensor> {
        if latents.dims() != [grid.rows(), self.config.latent_channels] {
            bail!(
                "the VAE takes latents of {} channels, not {:?} on {grid:?}",
                self.config.latent_channels,
                latents.dims()
            );
        }
        let tape = Tape::off();
        let pass = Pass {
            tape: &tape,
            terms: None,
            images: 1,
        };
        Tensors::release(&self.mapped);
        let latents = latents.to_device(&self.device)?.to_dtype(DType::F32)?;
        let one = Grid { images: 1, ..grid };
        let mut images = Vec::new();
        for image in 0..grid.images {
            let latents = latents.narrow(0, image * grid.pixels(), grid.pixels())?;
            let latents = self
                .unquantise
                .forward(pass, &latents.contiguous()?, None)?;
            images.push(run(&self.layers, pass, latents, one)?.0);
        }
        Ok(Tensor::cat(&images, 0)?)
    }
}
