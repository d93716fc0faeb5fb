//! Between files and the adapter that an image base trains and uses.

use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::lora_set::{alpha_of, numbers};
use super::model::{Adapter, Family, Part};
use super::open;
use crate::error::input_error;
use crate::model::diffusion::{ImageTarget, Kind};
use crate::model::{LoraPair, LoraSet, LoraSpec, Variable};

/// The family of adapters that a kind of base has.
pub fn image_family(kind: Kind) -> Family {
    match kind {
        Kind::Sd1 => Family::Sd1,
        Kind::Sd2 => Family::Sd2,
        Kind::Sdxl => Family::Sdxl,
    }
}

/// A trained adapter as files hold it, in f32; A and B of a convolution in its shape. `modules` are
/// those that the base has.
///
/// # Errors
/// A module that the base does not have; the device fails.
pub fn from_image_set(
    set: &LoraSet,
    family: Family,
    modules: &[ImageTarget],
    base_name: &str,
) -> Result<Adapter> {
    let mut adapter = Adapter::new(family);
    adapter.use_rslora = set.spec.use_rslora;
    adapter.dropout = set.spec.dropout;
    adapter.target_modules = set.spec.target_modules.clone();
    adapter.base_name = Some(base_name.to_owned());
    for pair in &set.pairs {
        let target = modules
            .iter()
            .find(|target| target.module == pair.module)
            .ok_or_else(|| input_error(format!("the base has no module {}", pair.module)))?;
        let (mut a, mut b) = (numbers(&pair.a)?, numbers(&pair.b)?);
        let rank = a.shape[0];
        if let Some(side) = target.kernel {
            a.shape = vec![rank, target.inputs / (side * side), side, side];
            b.shape = vec![target.outputs, rank, 1, 1];
        }
        let part = Part {
            a,
            b,
            magnitude: None,
            alpha: alpha_of(&set.spec, pair.scale, rank),
            keys: None,
        };
        adapter.parts.insert(pair.module.clone(), part);
    }
    Ok(adapter)
}

/// Reads an adapter of any format for an image base; explains what does not fit.
///
/// # Errors
/// As [`open`]; an adapter of a language model or of another kind of image base; modules that the
/// base does not have or has in another shape.
pub fn read_image_set(
    path: &Path,
    family: Family,
    modules: &[ImageTarget],
    device: &Device,
) -> Result<LoraSet> {
    let file = path.display().to_string();
    to_image_set(open(path)?, family, modules, device, &file)
}

/// Puts an adapter on a device, for an image base with the given modules. `file` names it in errors.
///
/// # Errors
/// As [`read_image_set`], but for reading.
pub fn to_image_set(
    adapter: Adapter,
    family: Family,
    modules: &[ImageTarget],
    device: &Device,
    file: &str,
) -> Result<LoraSet> {
    if adapter.family == Family::Text {
        return Err(input_error(format!(
            "{file} is an adapter of a language model, the base is {}",
            family.name()
        )));
    }
    adapter
        .check_finite()
        .map_err(|e| input_error(format!("{file}: {e}")))?;
    if let Err(why) = fits(&adapter, modules) {
        let kinds = match adapter.family == family {
            true => "another base".to_owned(),
            false => format!("{}, the base is {}", adapter.family.name(), family.name()),
        };
        return Err(input_error(format!("{file} is of {kinds}: {why}")));
    }
    let mut pairs = Vec::new();
    for target in modules {
        let Some(part) = adapter.parts.get(&target.module) else {
            continue;
        };
        let var = |values: Vec<f32>, rows: usize, columns: usize| -> Result<Variable> {
            let tensor = Tensor::from_vec(values, (rows, columns), device)?;
            Ok(Variable::from_tensor(&tensor)?)
        };
        pairs.push(LoraPair {
            module: target.module.clone(),
            a: var(part.a.to_f32(), part.rank(), target.inputs)?,
            b: var(part.b.to_f32(), target.outputs, part.rank())?,
            magnitude: None,
            scale: adapter.scale(part),
        });
    }
    let rank = adapter.rank();
    let usual = adapter.parts.values().find(|part| part.rank() == rank);
    let spec = LoraSpec {
        alpha: usual.map_or(0.0, |part| part.alpha),
        use_rslora: adapter.use_rslora,
        dropout: adapter.dropout,
        target_modules: adapter.parts.keys().cloned().collect(),
        ..LoraSpec::lora(rank)
    };
    Ok(LoraSet::from_pairs(pairs, spec))
}

/// Whether every part is of a module of the base, in its shape.
fn fits(adapter: &Adapter, modules: &[ImageTarget]) -> Result<(), String> {
    for (module, part) in &adapter.parts {
        let Some(target) = modules.iter().find(|target| target.module == *module) else {
            return Err(format!("it adapts {module}, which this base does not have"));
        };
        if (part.inputs(), part.outputs()) != (target.inputs, target.outputs) {
            return Err(format!(
                "its {module} has {} inputs and {} outputs, this base's {} and {}",
                part.inputs(),
                part.outputs(),
                target.inputs,
                target.outputs
            ));
        }
    }
    if adapter.is_dora() {
        return Err("it is DoRA, which image bases are not trained with here".to_owned());
    }
    Ok(())
}
