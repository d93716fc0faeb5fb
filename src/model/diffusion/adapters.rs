//! The adapters of a pass, by module of the part that it goes through.

use crate::ops::Variable;
use anyhow::Result;

use super::modules::Adaptable;
use crate::error::input_error;
use crate::model::{Active, DropoutKey};
use crate::ops::{Dropout, LoraTerm};

/// The parts of a base that adapters can have, as the names of their modules begin.
pub(super) const UNET: &str = "unet.";
pub(super) const TEXT_ENCODERS: [&str; 2] = ["text_encoder.", "text_encoder_2."];

/// The adapters of every module of a part.
pub(super) struct Terms {
    by_module: Vec<Vec<LoraTerm>>,
    /// Images computed of the micro-batch before these.
    images_before: u64,
}

impl Terms {
    /// # Errors
    /// An adapter of another base.
    pub fn of(
        part: &Adaptable,
        active: &[Active<'_>],
        dropout: Option<DropoutKey>,
    ) -> Result<Self> {
        let mut by_module = vec![Vec::new(); part.modules.len()];
        for active in active {
            let probability = active.set.spec.dropout;
            for pair in &active.set.pairs {
                let Some(name) = within(&pair.module, part.component)? else {
                    continue;
                };
                let Some(&index) = part.index.get(name) else {
                    return Err(input_error(format!(
                        "the adapter is of another base: this one has no module {}",
                        pair.module
                    )));
                };
                let Some((inputs, outputs, _)) = part.modules[index].adapted() else {
                    continue;
                };
                if pair.a.dims().len() != 2
                    || pair.a.dims()[1] != inputs
                    || pair.b.dims().first() != Some(&outputs)
                {
                    return Err(input_error(format!(
                        "the adapter is of another base: its {} is {:?} and {:?}, this base's has \
                         {inputs} inputs and {outputs} outputs",
                        pair.module,
                        pair.a.dims(),
                        pair.b.dims()
                    )));
                }
                if pair.magnitude.is_some() {
                    return Err(input_error(
                        "DoRA of image models is not supported: the formats that their tools read \
                         have no place for it; remove use_dora",
                    ));
                }
                let tensor = |var: &Variable| var.as_tensor().clone();
                by_module[index].push(LoraTerm {
                    a: tensor(&pair.a),
                    b: tensor(&pair.b),
                    scale: pair.scale,
                    strength: active.strength,
                    dropout: dropout.filter(|_| probability > 0.0).map(|key| Dropout {
                        seed: key.seed,
                        step: key.step,
                        item: (key.micro_batch << 12) ^ crc32c::crc32c(pair.module.as_bytes()),
                        before: 0,
                        probability,
                    }),
                    dora: None,
                });
            }
        }
        Ok(Terms {
            by_module,
            images_before: dropout.map_or(0, |key| key.tokens_before),
        })
    }

    /// The adapters of a module whose input has so many numbers per image.
    pub fn module(&self, index: usize, per_image: usize) -> Vec<LoraTerm> {
        let mut terms = self.by_module[index].clone();
        for term in &mut terms {
            if let Some(dropout) = &mut term.dropout {
                dropout.before = self.images_before * per_image as u64;
            }
        }
        terms
    }
}

/// The module's name within a component; `None`: it is another component's.
///
/// # Errors
/// It is no image model's.
fn within<'a>(module: &'a str, component: &str) -> Result<Option<&'a str>> {
    if let Some(name) = module.strip_prefix(component) {
        return Ok(Some(name));
    }
    let known = |prefix: &&str| module.starts_with(*prefix);
    match [UNET].iter().chain(&TEXT_ENCODERS).any(known) {
        true => Ok(None),
        false => Err(input_error(format!(
            "the adapter is of another base: {module} is no module of an image model"
        ))),
    }
}
