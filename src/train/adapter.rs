//! The adapter a run trains: fresh, from another adapter, or from a checkpoint.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Tensor, TensorId};

use super::init_from::start_from;
use super::objective::Objective;
use crate::config::{RunConfig, ShareAdapters, TargetModules};
use crate::error::input_error;
use crate::model::{self, DecoderConfig, LoraSet, LoraSpec};

/// What a config asks for on a base of a given shape.
pub struct AdapterPlan {
    /// `(name, in_features, out_features)`, in the base's order.
    pub modules: Vec<(String, usize, usize)>,
    pub spec: LoraSpec,
}

/// The modules and the kind of adapter that a config asks for.
///
/// # Errors
/// Targets that the base does not have.
pub fn adapter_plan(config: &RunConfig, shape: &DecoderConfig) -> Result<AdapterPlan> {
    let (all_linear, names) = match &config.target_modules {
        TargetModules::AllLinear => (true, &[][..]),
        TargetModules::Names(names) => (false, &names[..]),
    };
    let modules = model::match_targets(shape, all_linear, names, config.layers)?;
    let (target_modules, layers_to_transform) = model::peft_targets(shape, &modules);
    let spec = LoraSpec {
        rank: config.lora_rank,
        alpha: config.lora_alpha,
        use_rslora: config.use_rslora,
        use_dora: config.use_dora,
        share_layers: config.share_adapters == ShareAdapters::Layers,
        dropout: config.lora_dropout,
        target_modules,
        layers_to_transform,
    };
    Ok(AdapterPlan { modules, spec })
}

/// The adapter of a run's first step: B zero, or the numbers of `init_from`; and what was done to
/// those, a sentence each.
pub(super) fn fresh(
    config: &RunConfig,
    objective: &dyn Objective,
) -> Result<(LoraSet, Vec<String>)> {
    let mut fresh = objective.untrained(config)?;
    let Some(path) = &config.init_from else {
        return Ok((fresh, Vec::new()));
    };
    let given = objective
        .read_adapter(path)
        .with_context(|| format!("init_from: {}", path.display()))?;
    let notes = start_from(&fresh, &given).map_err(|difference| {
        input_error(format!(
            "init_from: the adapter in {} does not fit this config: {difference}",
            path.display()
        ))
    })?;
    if fresh.spec.use_dora && !given.spec.use_dora {
        // Of the weight as it is adapted now, so that it acts as before.
        objective.add_magnitudes(&mut fresh)?;
    }
    Ok((fresh, notes))
}

/// The adapter of a checkpoint.
pub(super) fn resumed(
    config: &RunConfig,
    checkpoint: &Path,
    objective: &dyn Objective,
) -> Result<LoraSet> {
    let fresh = objective.untrained(config)?;
    let saved = objective.read_adapter(checkpoint)?;
    take_over(&fresh, &saved).map_err(|difference| {
        input_error(format!(
            "the config no longer fits the checkpoint {}: {difference}; undo the change, or start anew with `--resume never`",
            checkpoint.display()
        ))
    })?;
    Ok(fresh)
}

/// Copies the numbers of an adapter of the same shape; says what differs otherwise.
fn take_over(fresh: &LoraSet, given: &LoraSet) -> Result<(), String> {
    let (theirs, ours) = (&given.spec, &fresh.spec);
    if theirs.rank != ours.rank {
        return Err(format!("its rank is {}, not {}", theirs.rank, ours.rank));
    }
    if !alike(theirs.scale(), ours.scale()) {
        let said = |spec: &LoraSpec| {
            let kind = if spec.use_rslora { " (rsLoRA)" } else { "" };
            format!("{}{kind}", spec.alpha)
        };
        return Err(format!("its alpha is {}, not {}", said(theirs), said(ours)));
    }
    if theirs.use_dora != ours.use_dora {
        return Err(match theirs.use_dora {
            true => "it is DoRA, this config is not".to_owned(),
            false => "it is not DoRA, this config is".to_owned(),
        });
    }
    for pair in &given.pairs {
        if !fresh.index.contains_key(&pair.module) {
            return Err(format!("it adapts {}, this config does not", pair.module));
        }
    }
    // Where layers share numbers, a file holds them once for each.
    let mut taken: HashMap<TensorId, (&str, &Tensor)> = HashMap::new();
    for pair in &fresh.pairs {
        let Some(&at) = given.index.get(&pair.module) else {
            return Err(format!("it does not adapt {}", pair.module));
        };
        if !alike(given.pairs[at].scale, pair.scale) {
            return Err(format!("its alpha for {} is another", pair.module));
        }
        for ((_, var), (_, given)) in pair.parts().zip(given.pairs[at].parts()) {
            let failed = |e| format!("{} cannot be taken over ({e})", pair.module);
            match taken.get(&var.id()) {
                None => var.set(given).map_err(failed)?,
                Some((module, first)) => {
                    if !same(first, given).map_err(failed)? {
                        return Err(format!(
                            "{module} and {} have other numbers, and `share_adapters` makes them one",
                            pair.module
                        ));
                    }
                }
            }
            taken.insert(var.id(), (&pair.module, given));
        }
    }
    Ok(())
}

/// Equal but for the rounding to f32 that files of image adapters keep alpha in.
fn alike(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs()
}

pub(super) fn same(a: &Tensor, b: &Tensor) -> candle_core::Result<bool> {
    let differs = a.ne(b)?.flatten_all()?.max(0)?;
    Ok(differs.to_scalar::<u8>()? == 0)
}
