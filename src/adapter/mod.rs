//! File formats of adapters.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;

use crate::model::{DecoderConfig, LoraSet};

/// Writes a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`); returns its bytes.
/// The folder is written beside its final name, fsynced and renamed. `base_model_name` goes into
/// `base_model_name_or_path`. Bytes depend on the arguments only.
pub fn write_peft(set: &LoraSet, base_model_name: &str, folder: &Path) -> Result<u64> {
    let _ = (set, base_model_name, folder);
    todo!("engine room")
}

/// Reads a PEFT folder for a base of the given shape; explains what does not fit.
pub fn read_peft(folder: &Path, base: &DecoderConfig, device: &Device) -> Result<LoraSet> {
    let _ = (folder, base, device);
    todo!("engine room")
}
