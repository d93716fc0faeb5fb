//! Which linears of a base get adapters.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::config::{RunConfig, TargetModules};
use crate::error::input_error;
use crate::model::DecoderConfig;

/// The linears that get adapters.
#[derive(Clone, Debug, PartialEq)]
pub struct Targets {
    /// `(name, in_features, out_features)`, in the base's order.
    pub modules: Vec<(String, usize, usize)>,
    /// `target_modules` as PEFT's `adapter_config.json` has it; matches these modules and no other.
    pub names: Vec<String>,
}

/// Selects by `target_modules` (PEFT's rule: the whole name, or its end after a dot) and `layers`.
///
/// # Errors
/// A name or the range of layers fits nothing in this base.
pub fn select(config: &RunConfig, base: &DecoderConfig) -> Result<Targets> {
    let linears = base.linears();
    if let Some((first, last)) = config.layers
        && (first > last || last >= base.layers)
    {
        return Err(input_error(format!(
            "layers: {first}-{last} is not a range of this base's layers: it has layers 0-{}",
            base.layers.saturating_sub(1)
        )));
    }
    let in_layers = |name: &str| match (config.layers, layer_of(name)) {
        (Some((first, last)), Some(layer)) => (first..=last).contains(&layer),
        _ => true,
    };
    let names: Vec<String> = match &config.target_modules {
        TargetModules::AllLinear => leaves(&linears),
        TargetModules::Names(names) => names.clone(),
    };
    for name in &names {
        if !linears.iter().any(|(module, ..)| matches(module, name)) {
            return Err(input_error(format!(
                "target_modules: '{name}' names no linear layer of this base; it has {}",
                leaves(&linears).join(", ")
            )));
        }
    }
    let modules: Vec<_> = linears
        .into_iter()
        .filter(|(module, ..)| names.iter().any(|n| matches(module, n)) && in_layers(module))
        .collect();
    if modules.is_empty() {
        return Err(input_error(
            "target_modules and layers together leave no linear layer to adapt: widen one of them",
        ));
    }
    // With a range of layers a leaf name would match the others too, and a loader would miss them.
    let names = if config.layers.is_some() {
        modules.iter().map(|(name, ..)| name.clone()).collect()
    } else {
        names
    };
    Ok(Targets { modules, names })
}

fn matches(module: &str, name: &str) -> bool {
    module == name
        || module
            .strip_suffix(name)
            .is_some_and(|rest| rest.ends_with('.'))
}

/// `model.layers.12.mlp.up_proj` -> 12.
fn layer_of(module: &str) -> Option<usize> {
    module.split('.').find_map(|part| part.parse().ok())
}

/// Last parts of the names, each once, in the base's order.
fn leaves(linears: &[(String, usize, usize)]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    linears
        .iter()
        .filter_map(|(name, ..)| name.rsplit('.').next())
        .filter(|leaf| seen.insert(*leaf))
        .map(str::to_owned)
        .collect()
}
