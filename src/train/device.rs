//! Which device computes, and in which type of number.

use anyhow::Result;
use candle_core::{DType, Device, DeviceLocation};

use crate::config::{DeviceChoice, Precision};
use crate::error::input_error;
use crate::model::{self, DeviceRequest};

/// Opens the device of the config's `device`.
///
/// # Errors
/// A GPU was asked for by number and does not work.
pub fn open_device(choice: DeviceChoice) -> Result<Device> {
    model::device(match choice {
        DeviceChoice::Auto => DeviceRequest::Auto,
        DeviceChoice::Cpu => DeviceRequest::Cpu,
        DeviceChoice::Cuda(index) => DeviceRequest::Cuda(index),
    })
}

/// The type the base computes in: f32 on the CPU, bf16 on a GPU unless `precision` says otherwise.
///
/// # Errors
/// A half precision on the CPU, where nothing is gained and much time lost.
pub fn dtype(precision: Option<Precision>, device: &Device) -> Result<DType> {
    match precision {
        None if device.is_cuda() => Ok(DType::BF16),
        None | Some(Precision::F32) => Ok(DType::F32),
        Some(_) if !device.is_cuda() => Err(input_error(
            "precision: on the CPU only f32 is computed; leave precision out, or train on a GPU",
        )),
        Some(Precision::Bf16) => Ok(DType::BF16),
        Some(Precision::Fp16) => Ok(DType::F16),
    }
}

/// "cpu", "cuda:0".
pub(super) fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}
