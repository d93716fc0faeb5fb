//! The modules of a part of a base: which tensors it has, and which of them adapters can have.

use std::collections::BTreeMap;

/// A module and the shape of its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// diffusers' name, without the component.
    pub name: String,
    pub kind: ModuleKind,
    pub bias: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModuleKind {
    Linear {
        inputs: usize,
        outputs: usize,
    },
    Convolution {
        inputs: usize,
        outputs: usize,
        size: usize,
    },
    Norm {
        channels: usize,
    },
    Embedding {
        rows: usize,
        features: usize,
    },
}

impl Module {
    /// Row-major, as in a diffusers file.
    pub fn shape(&self) -> Vec<usize> {
        match self.kind {
            ModuleKind::Linear { inputs, outputs } => vec![outputs, inputs],
            ModuleKind::Convolution {
                inputs,
                outputs,
                size,
            } => vec![outputs, inputs, size, size],
            ModuleKind::Norm { channels } => vec![channels],
            ModuleKind::Embedding { rows, features } => vec![rows, features],
        }
    }

    /// The names and shapes of its tensors.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let shape = self.shape();
        let mut all = vec![(format!("{}.weight", self.name), shape.clone())];
        if self.bias {
            all.push((format!("{}.bias", self.name), vec![shape[0]]));
        }
        all
    }

    /// Numbers in its tensors.
    pub fn parameters(&self) -> u64 {
        let count =
            |(_, shape): (String, Vec<usize>)| shape.iter().map(|&n| n as u64).product::<u64>();
        self.tensors().into_iter().map(count).sum()
    }

    /// What an adapter of it has: inputs (a convolution's times its kernel's numbers), outputs, and
    /// the size of the kernel of a convolution.
    pub fn adapted(&self) -> Option<(usize, usize, Option<usize>)> {
        match self.kind {
            ModuleKind::Linear { inputs, outputs } => Some((inputs, outputs, None)),
            ModuleKind::Convolution {
                inputs,
                outputs,
                size,
            } => Some((inputs * size * size, outputs, Some(size))),
            ModuleKind::Norm { .. } | ModuleKind::Embedding { .. } => None,
        }
    }
}

pub(super) fn linear(name: &str, inputs: usize, outputs: usize, bias: bool) -> Module {
    Module {
        name: name.to_owned(),
        kind: ModuleKind::Linear { inputs, outputs },
        bias,
    }
}

pub(super) fn conv(name: &str, inputs: usize, outputs: usize, size: usize) -> Module {
    Module {
        name: name.to_owned(),
        kind: ModuleKind::Convolution {
            inputs,
            outputs,
            size,
        },
        bias: true,
    }
}

pub(super) fn norm(name: &str, channels: usize) -> Module {
    Module {
        name: name.to_owned(),
        kind: ModuleKind::Norm { channels },
        bias: true,
    }
}

pub(super) fn embedding(name: &str, rows: usize, features: usize) -> Module {
    Module {
        name: name.to_owned(),
        kind: ModuleKind::Embedding { rows, features },
        bias: false,
    }
}

/// The modules of a part that adapters can have, numbered in their order.
pub(super) struct Adaptable {
    /// `unet.`, `text_encoder.` or `text_encoder_2.`.
    pub component: &'static str,
    pub modules: Vec<Module>,
    /// By name without the component.
    pub index: BTreeMap<String, usize>,
}

impl Adaptable {
    pub fn new(component: &'static str, modules: Vec<Module>) -> Self {
        let modules: Vec<Module> = modules
            .into_iter()
            .filter(|module| module.adapted().is_some())
            .collect();
        let name = |(index, module): (usize, &Module)| (module.name.clone(), index);
        Adaptable {
            component,
            index: modules.iter().enumerate().map(name).collect(),
            modules,
        }
    }
}
