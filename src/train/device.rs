//! Which device computes, and in which type of number.

use anyhow::Result;
use candle_core::{DType, Device};

use crate::config::{DeviceChoice, Precision};
use crate::error::input_error;

/// Opens the device of the config's `device`.
///
/// # Errors
/// A GPU was asked for by number and does not answer.
pub fn open_device(choice: DeviceChoice) -> Result<Device> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) => open_cuda(index).map_err(|why| {
            input_error(format!(
                "device: cuda:{index} cannot be used ({why}); `device: cpu` trains without a GPU"
            ))
        }),
        DeviceChoice::Auto => Ok(open_cuda(0).unwrap_or(Device::Cpu)),
    }
}

/// A GPU that has computed something: a driver too old for this program fails no earlier.
fn open_cuda(index: usize) -> Result<Device, String> {
    if !cfg!(feature = "cuda") {
        return Err("this loradeck was built without CUDA".into());
    }
    let first_line = |e: candle_core::Error| {
        let text = e.to_string();
        text.lines().next().unwrap_or("no answer").to_owned()
    };
    let device = Device::new_cuda(index).map_err(first_line)?;
    candle_core::Tensor::zeros(1, DType::F32, &device)
        .and_then(|t| (t + 1.0)?.to_vec1::<f32>())
        .map_err(first_line)?;
    Ok(device)
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
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}
