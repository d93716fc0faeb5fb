//! The device to compute on.

use anyhow::Result;
use candle_core::{Device, Tensor};

use crate::error::input_error;
use crate::ops;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceRequest {
    /// The first GPU when there is one and this program was built for it, else the CPU.
    Auto,
    Cpu,
    Cuda(usize),
}

/// The device, proven by a small computation on it.
///
/// # Errors
/// A GPU was asked for by number, and this program was built without CUDA or the GPU does not work.
pub fn device(request: DeviceRequest) -> Result<Device> {
    match request {
        DeviceRequest::Cpu => Ok(Device::Cpu),
        DeviceRequest::Auto => Ok(cuda(0).unwrap_or(Device::Cpu)),
        DeviceRequest::Cuda(index) if cfg!(feature = "cuda") => cuda(index).map_err(|e| {
            input_error(format!(
                "device cuda:{index} does not work: {e}; `loradeck doctor` shows what there is, \
                 `device: cpu` computes without a GPU"
            ))
        }),
        DeviceRequest::Cuda(index) => Err(input_error(format!(
            "device cuda:{index} was asked for, but this program was built without CUDA; build it \
             with `cargo build --release --features cuda`, or set `device: cpu`"
        ))),
    }
}

fn cuda(index: usize) -> candle_core::Result<Device> {
    let device = Device::new_cuda(index)?;
    let one = Tensor::new(&[[2f32]], &device)?;
    let four: Vec<f32> = one.matmul(&one)?.flatten_all()?.to_vec1()?;
    if four != [4.0] {
        candle_core::bail!("it computes 2 x 2 = {four:?}");
    }
    ops::prepare(&device)?;
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there_and_a_missing_gpu_is_an_input_error() {
        assert!(matches!(device(DeviceRequest::Cpu), Ok(Device::Cpu)));
        assert!(device(DeviceRequest::Auto).is_ok());
        if !cfg!(feature = "cuda") {
            let error = device(DeviceRequest::Cuda(0)).unwrap_err();
            assert!(error.to_string().contains("built without CUDA"), "{error}");
            assert_eq!(crate::error::exit_code(&error), 2);
        }
    }
}
