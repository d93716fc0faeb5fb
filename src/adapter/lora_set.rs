//! Between files and the adapter that a decoder trains and uses.

use std::path::Path;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::convert::to_hugging_face_rows;
use super::folder;
use super::model::{Adapter, Family, Part};
use super::numbers::Numbers;
use super::{open, peft};
use crate::error::input_error;
use crate::model::{DecoderConfig, LoraPair, LoraSet, LoraSpec, Variable};

/// Writes a PEFT folder; returns its bytes, which depend on the arguments only. The folder is
/// written beside its final name, fsynced and renamed. `base_name` goes into
/// `base_model_name_or_path`.
///
/// # Errors
/// A number that is not finite; another folder in the way; the disk fails.
pub fn write_peft(set: &LoraSet, base_name: &str, folder: &Path) -> Result<u64> {
    let files = peft_files(set, base_name)?;
    folder::write(folder, &files)?;
    Ok(files.iter().map(|(_, bytes)| bytes.len() as u64).sum())
}

/// The files of a PEFT folder, name and bytes, for callers that write a folder of their own.
///
/// # Errors
/// A number that is not finite.
pub fn peft_files(set: &LoraSet, base_name: &str) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let adapter = from_lora_set(set, base_name)?;
    adapter.check_finite()?;
    peft::files(&adapter)
}

/// A trained adapter as files hold it, in f32.
///
/// # Errors
/// The device fails.
pub fn from_lora_set(set: &LoraSet, base_name: &str) -> Result<Adapter> {
    let mut adapter = Adapter::new(Family::Text);
    adapter.use_rslora = set.spec.use_rslora;
    adapter.dropout = set.spec.dropout;
    adapter.target_modules = set.spec.target_modules.clone();
    adapter.layers_to_transform = set.spec.layers_to_transform.clone();
    adapter.base_name = Some(base_name.to_owned());
    for pair in &set.pairs {
        let a = numbers(&pair.a)?;
        let rank = a.shape[0];
        let part = Part {
            a,
            b: numbers(&pair.b)?,
            magnitude: pair.magnitude.as_ref().map(numbers).transpose()?,
            alpha: alpha_of(&set.spec, pair.scale, rank),
            keys: None,
        };
        adapter.parts.insert(pair.module.clone(), part);
    }
    Ok(adapter)
}

/// The alpha of a pair: known for pairs like the rest; a scale of its own tells another.
pub(super) fn alpha_of(spec: &LoraSpec, scale: f64, rank: usize) -> f64 {
    if rank == spec.rank && scale == spec.scale() {
        return spec.alpha;
    }
    let rank = rank as f64;
    scale * if spec.use_rslora { rank.sqrt() } else { rank }
}

pub(super) fn numbers(var: &Variable) -> Result<Numbers> {
    let tensor = var.to_dtype(DType::F32)?;
    Ok(Numbers::new(var.dims(), &tensor.flatten_all()?.to_vec1()?))
}

/// Reads an adapter of any format for a base of the given shape; explains what does not fit.
///
/// # Errors
/// As [`open`]; an adapter of image models; modules that the base does not have or has in another
/// shape.
pub fn read_lora_set(path: &Path, base: &DecoderConfig, device: &Device) -> Result<LoraSet> {
    to_lora_set(open(path)?, base, device, &path.display().to_string())
}

/// Puts an adapter on a device, for a base of the given shape. `file` names it in errors.
///
/// # Errors
/// As [`read_lora_set`], but for reading.
pub fn to_lora_set(
    mut adapter: Adapter,
    base: &DecoderConfig,
    device: &Device,
    file: &str,
) -> Result<LoraSet> {
    if adapter.family != Family::Text {
        return Err(input_error(format!(
            "{file} is an adapter of {}, the base is a language model",
            adapter.family.name()
        )));
    }
    adapter
        .check_finite()
        .map_err(|e| input_error(format!("{file}: {e}")))?;
    fits(&adapter, base).map_err(|why| input_error(format!("{file} is of another base: {why}")))?;
    to_hugging_face_rows(&mut adapter, Some(base))?;
    let var = |numbers: &Numbers| -> Result<Variable> {
        let tensor = Tensor::from_vec(numbers.to_f32(), &numbers.shape[..], device)?;
        Ok(Variable::from_tensor(&tensor)?)
    };
    let mut pairs = Vec::new();
    for (module, ..) in base.linears() {
        let Some(part) = adapter.parts.get(&module) else {
            continue;
        };
        let magnitude = part.magnitude.as_ref();
        pairs.push(LoraPair {
            a: var(&part.a)?,
            b: var(&part.b)?,
            magnitude: magnitude.map(var).transpose()?,
            scale: adapter.scale(part),
            module,
        });
    }
    let rank = adapter.rank();
    let usual = adapter.parts.values().find(|part| part.rank() == rank);
    let spec = LoraSpec {
        rank,
        alpha: usual.map_or(0.0, |part| part.alpha),
        use_rslora: adapter.use_rslora,
        use_dora: adapter.is_dora(),
        share_layers: false,
        dropout: adapter.dropout,
        target_modules: match adapter.target_modules.is_empty() {
            true => adapter.parts.keys().cloned().collect(),
            false => adapter.target_modules,
        },
        layers_to_transform: adapter.layers_to_transform,
    };
    Ok(LoraSet::from_pairs(pairs, spec))
}

/// Whether every part is of a linear of the base, in its shape.
pub(super) fn fits(adapter: &Adapter, base: &DecoderConfig) -> Result<(), String> {
    let linears = base.linears();
    for (module, part) in &adapter.parts {
        let Some((_, inputs, outputs)) = linears.iter().find(|(name, ..)| name == module) else {
            return Err(format!("it adapts {module}, which this base does not have"));
        };
        if (part.inputs(), part.outputs()) != (*inputs, *outputs) {
            return Err(format!(
                "its {module} has {} inputs and {} outputs, this base's {inputs} and {outputs}",
                part.inputs(),
                part.outputs()
            ));
        }
    }
    Ok(())
}
