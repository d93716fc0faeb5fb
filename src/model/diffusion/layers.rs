//! Frozen layers with the adapters beside them.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};

use super::adapters::Terms;
use super::modules::Adaptable;
use super::tensors::Tensors;
use crate::ops::{
    FrozenConv, FrozenWeight, Grid, GroupNorm, Kernel, Residual, Tape, conv2d, group_norm,
    layer_norm, lora_linear_with_bias,
};

/// Where layers are read from, and put.
pub(super) struct Reader<'a> {
    pub tensors: &'a Tensors,
    /// `unet.`, ...: before the names of tensors.
    pub component: &'static str,
    pub device: &'a Device,
    pub dtype: DType,
    /// Numbers the modules that adapters can have; `None`: none can.
    pub adaptable: Option<&'a Adaptable>,
}

/// What a pass through layers carries: where it is noted, and the adapters.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub tape: &'a Tape,
    /// `None`: the part has none.
    pub terms: Option<&'a Terms>,
    pub images: usize,
}

impl Pass<'_> {
    /// The adapters of a layer, given its input.
    fn terms(&self, module: Option<usize>, x: &Tensor) -> Vec<crate::ops::LoraTerm> {
        match (self.terms, module) {
            (Some(terms), Some(module)) => {
                terms.module(module, x.elem_count() / self.images.max(1))
            }
            _ => Vec::new(),
        }
    }
}

/// A linear, or a convolution of 1x1, which is one.
pub(super) struct Linear {
    module: Option<usize>,
    weight: FrozenWeight,
    bias: Option<Tensor>,
}

/// A convolution of more than 1x1.
pub(super) struct Convolution {
    module: Option<usize>,
    conv: FrozenConv,
}

pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Reader<'_> {
    fn name(&self, part: &str, tensor: &str) -> String {
        format!("{}{part}.{tensor}", self.component)
    }

    fn module(&self, name: &str) -> Option<usize> {
        self.adaptable?.index.get(name).copied()
    }

    fn bias(&self, name: &str) -> Result<Option<Tensor>> {
        let bias = self.name(name, "bias");
        match self.tensors.has(&bias) {
            true => Ok(Some(self.tensors.vector(&bias, self.device)?)),
            false => Ok(None),
        }
    }

    pub fn weight(&self, name: &str) -> Result<FrozenWeight> {
        let name = self.name(name, "weight");
        FrozenWeight::new(self.tensors.matrix(&name)?, self.device, self.dtype)
            .with_context(|| format!("the weight {name} does not fit on the device"))
    }

    pub fn linear(&self, name: &str) -> Result<Linear> {
        Ok(Linear {
            module: self.module(name),
            weight: self.weight(name)?,
            bias: self.bias(name)?,
        })
    }

    pub fn convolution(&self, name: &str, kernel: Kernel) -> Result<Convolution> {
        let weight = self.name(name, "weight");
        let host = self.tensors.matrix(&weight)?;
        let mapped = host.range_in_memory();
        let host = host.channels_last(kernel.size * kernel.size)?;
        self.tensors.forget(mapped);
        let weight = FrozenWeight::new(host, self.device, self.dtype)
            .with_context(|| format!("the weight {weight} does not fit on the device"))?;
        Ok(Convolution {
            module: self.module(name),
            conv: FrozenConv {
                weight,
                bias: self.bias(name)?,
                kernel,
            },
        })
    }

    fn vectors(&self, name: &str) -> Result<(Tensor, Tensor)> {
        let vector = |part| self.tensors.vector(&self.name(name, part), self.device);
        Ok((vector("weight")?, vector("bias")?))
    }

    pub fn layer_norm(&self, name: &str, eps: f64) -> Result<LayerNorm> {
        let (weight, bias) = self.vectors(name)?;
        Ok(LayerNorm { weight, bias, eps })
    }

    pub fn group_norm(&self, name: &str, groups: usize, eps: f64, silu: bool) -> Result<GroupNorm> {
        let (weight, bias) = self.vectors(name)?;
        Ok(GroupNorm {
            weight,
            bias,
            groups,
            eps,
            silu,
        })
    }
}

impl Linear {
    /// `x W^T + bias` and what adapters add, with a residual where there is one.
    pub fn forward(&self, pass: Pass<'_>, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let terms = pass.terms(self.module, x);
        let residual = residual.map_or(Residual::None, Residual::Add);
        let bias = self.bias.as_ref();
        let weight = &self.weight;
        Ok(lora_linear_with_bias(
            pass.tape, x, weight, bias, &terms, residual,
        )?)
    }
}

impl Convolution {
    pub fn forward(
        &self,
        pass: Pass<'_>,
        x: &Tensor,
        grid: Grid,
        residual: Option<&Tensor>,
    ) -> Result<(Tensor, Grid)> {
        let terms = pass.terms(self.module, x);
        Ok(conv2d(pass.tape, x, grid, &self.conv, &terms, residual)?)
    }
}

impl LayerNorm {
    pub fn forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        Ok(layer_norm(tape, x, &self.weight, &self.bias, self.eps)?)
    }
}

/// What a residual block reads besides its input: the timestep, projected.
pub(super) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Convolution,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Convolution,
    shortcut: Option<Linear>,
}

impl ResidualBlock {
    pub fn read(
        reader: &Reader<'_>,
        name: &str,
        changes_channels: bool,
        groups: usize,
        eps: f64,
        timed: bool,
    ) -> Result<Self> {
        let part = |part: &str| format!("{name}.{part}");
        let norm = |name: &str| reader.group_norm(&part(name), groups, eps, true);
        let convolution = |name: &str| reader.convolution(&part(name), Kernel::same(3));
        let linear = |name: &str| reader.linear(&part(name));
        Ok(ResidualBlock {
            norm1: norm("norm1")?,
            conv1: convolution("conv1")?,
            time: timed.then(|| linear("time_emb_proj")).transpose()?,
            norm2: norm("norm2")?,
            conv2: convolution("conv2")?,
            shortcut: changes_channels
                .then(|| linear("conv_shortcut"))
                .transpose()?,
        })
    }

    /// `time` `[images, features]`: the embedded timestep behind its activation.
    pub fn forward(
        &self,
        pass: Pass<'_>,
        x: &Tensor,
        grid: Grid,
        time: Option<&Tensor>,
    ) -> Result<Tensor> {
        let tape = pass.tape;
        let normed = group_norm(tape, x, grid, &self.norm1)?;
        let (mut h, _) = self.conv1.forward(pass, &normed, grid, None)?;
        drop(normed);
        if let (Some(linear), Some(time)) = (&self.time, time) {
            let time = linear.forward(pass, time, None)?;
            h = crate::ops::add_to_images(tape, &h, &time, grid)?;
        }
        let normed = group_norm(tape, &h, grid, &self.norm2)?;
        drop(h);
        let (y, _) = match &self.shortcut {
            Some(shortcut) => {
                let shortcut = shortcut.forward(pass, x, None)?;
                self.conv2.forward(pass, &normed, grid, Some(&shortcut))?
            }
            None => self.conv2.forward(pass, &normed, grid, Some(x))?,
        };
        Ok(y)
    }
}
