//! What an adapter is, whatever file it came from.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::numbers::{Dtype, Numbers};

/// The bases that an adapter can belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A language model.
    Text,
    Sd1,
    Sd2,
    Sdxl,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Text => "language model",
            Family::Sd1 => "Stable Diffusion 1",
            Family::Sd2 => "Stable Diffusion 2",
            Family::Sdxl => "Stable Diffusion XL",
        }
    }
}

/// The file formats of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    Peft,
    Gguf,
    Kohya,
    Diffusers,
}

impl Format {
    pub const ALL: [Format; 4] = [Format::Peft, Format::Diffusers, Format::Kohya, Format::Gguf];

    /// The word in the config, on the command line and in folder names.
    pub fn name(self) -> &'static str {
        match self {
            Format::Peft => "peft",
            Format::Gguf => "gguf",
            Format::Kohya => "kohya",
            Format::Diffusers => "diffusers",
        }
    }
}

/// The order of the rows of q and k projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// RoPE pairs the rows `j` and `j + head_dim / 2` of a head.
    HuggingFace,
    /// As GGUF adapters of the `llama` architecture have them: pairs lie side by side.
    LlamaCpp,
}

/// The names under which a part lay in the file it was read from: written back to the same format,
/// it keeps them, where a format knows more than one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    pub format: Format,
    pub a: String,
    pub b: String,
    /// Kohya's own tensor for alpha; `None`: it had none.
    pub alpha: Option<(String, Numbers)>,
}

/// The low-rank update of one module: `scale * B A` is added to its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// `[r, in]`, of a convolution `[r, in, height, width]`.
    pub a: Numbers,
    /// `[out, r]`, of a convolution `[out, r, 1, 1]`.
    pub b: Numbers,
    /// DoRA's `[out]` (arXiv:2402.09353).
    pub magnitude: Option<Numbers>,
    pub alpha: f64,
    pub keys: Option<Keys>,
}

/// An adapter: parts by module, in the names of transformers (`model.layers.0.self_attn.q_proj`)
/// or, with the component before them, of diffusers (`unet.mid_block.attentions.0.proj_in`).
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub family: Family,
    /// Whether the scale is alpha / sqrt(r) (arXiv:2312.03732), not alpha / r.
    pub use_rslora: bool,
    pub parts: BTreeMap<String, Part>,
    pub rows: Rows,
    /// llama.cpp's name of the base's architecture, where known.
    pub architecture: Option<String>,
    /// The base's name without a path, where known.
    pub base_name: Option<String>,
    pub dropout: f64,
    /// As PEFT's config has them; empty where the source says nothing.
    pub target_modules: Vec<String>,
    /// The layers that `target_modules` are of; empty: all.
    pub layers_to_transform: Vec<usize>,
    /// `__metadata__` of the safetensors file it came from.
    pub metadata: BTreeMap<String, String>,
}

impl Part {
    pub fn rank(&self) -> usize {
        self.a.shape.first().copied().unwrap_or(0)
    }

    pub fn outputs(&self) -> usize {
        self.b.shape.first().copied().unwrap_or(0)
    }

    /// Numbers of a row of A: input features, times the kernel's size for a convolution.
    pub fn inputs(&self) -> usize {
        self.a.shape.iter().skip(1).product()
    }

    /// Refuses A and B that do not belong together; `file` and `module` name them.
    pub(super) fn check(&self, file: &str, module: &str) -> Result<()> {
        let rank = self.rank();
        let fits = self.a.shape.len() >= 2
            && self.b.shape.len() >= 2
            && self.b.shape[1] == rank
            && self.b.shape[2..].iter().all(|&n| n == 1)
            && rank > 0
            && self.a.count() > 0
            && self.b.count() > 0
            && self
                .magnitude
                .as_ref()
                .is_none_or(|m| m.count() == self.outputs());
        if !fits {
            return Err(crate::error::input_error(format!(
                "{file}: A {:?} and B {:?} of {module} do not belong together",
                self.a.shape, self.b.shape
            )));
        }
        Ok(())
    }
}

impl Adapter {
    /// An adapter without parts.
    pub fn new(family: Family) -> Self {
        Adapter {
            family,
            use_rslora: false,
            parts: BTreeMap::new(),
            rows: Rows::HuggingFace,
            architecture: None,
            base_name: None,
            dropout: 0.0,
            target_modules: Vec::new(),
            layers_to_transform: Vec::new(),
            metadata: BTreeMap::new(),
        }
    }

    /// What multiplies `B A` of a part.
    pub fn scale(&self, part: &Part) -> f64 {
        let rank = part.rank() as f64;
        part.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Whether any part has DoRA's magnitudes.
    pub fn is_dora(&self) -> bool {
        self.parts.values().any(|part| part.magnitude.is_some())
    }

    pub fn parameters(&self) -> u64 {
        let count = |p: &Part| {
            let magnitude = p.magnitude.as_ref().map_or(0, Numbers::count);
            (p.a.count() + p.b.count() + magnitude) as u64
        };
        self.parts.values().map(count).sum()
    }

    /// The rank that most parts have, the larger of two as frequent.
    pub fn rank(&self) -> usize {
        most_frequent(self.parts.values().map(Part::rank)).unwrap_or(0)
    }

    /// Types of the numbers, the most frequent first.
    pub fn dtypes(&self) -> Vec<Dtype> {
        let mut counts: BTreeMap<Dtype, usize> = BTreeMap::new();
        for part in self.parts.values() {
            *counts.entry(part.a.dtype).or_default() += part.a.count();
            *counts.entry(part.b.dtype).or_default() += part.b.count();
        }
        let mut found: Vec<_> = counts.into_iter().collect();
        found.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        found.into_iter().map(|(dtype, _)| dtype).collect()
    }

    /// All numbers as another type. Tensors for alpha stay.
    ///
    /// # Errors
    /// A number too large for the type.
    pub fn cast(&mut self, dtype: Dtype) -> Result<()> {
        for (module, part) in &mut self.parts {
            let cast = |numbers: &Numbers| {
                let cast = numbers.cast(dtype);
                cast.map_err(|e| crate::error::input_error(format!("{module}: {e}")))
            };
            part.a = cast(&part.a)?;
            part.b = cast(&part.b)?;
            part.magnitude = part.magnitude.as_ref().map(cast).transpose()?;
        }
        Ok(())
    }

    /// Refuses numbers that are not finite: no tool can use such an adapter.
    ///
    /// # Errors
    /// The first part with one.
    pub fn check_finite(&self) -> Result<()> {
        for (module, part) in &self.parts {
            for (end, numbers) in [
                ("A", Some(&part.a)),
                ("B", Some(&part.b)),
                ("the magnitude", part.magnitude.as_ref()),
            ] {
                if let Some(number) = numbers.and_then(Numbers::not_finite) {
                    bail!("the adapter is broken: {end} of {module} holds {number}");
                }
            }
        }
        Ok(())
    }
}

/// The value that comes most often; of two as frequent, the larger.
pub(super) fn most_frequent<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|&(value, count)| (count, value))
        .map(|(value, _)| value)
}
