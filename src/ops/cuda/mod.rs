//! The operations on GPUs: kernels of our own (the `.cu` files beside this one) and cuBLAS.
//!
//! All work of a run is launched from one thread onto one stream, so kernels see what those before
//! them wrote, and memory that is given back is used again without waiting. Nothing here waits for
//! the device, except where numbers are read on the host. Every sum has one owner and one order:
//! equal inputs give equal bits.
//!
//! The same launches run without a GPU in tests: `emulated` compiles the kernels' sources for the
//! host.

pub(super) mod attention;
pub(super) mod columns;
pub(super) mod conv;
pub(super) mod dora;
pub(super) mod head;
pub(super) mod images;
pub(super) mod linear;
pub(super) mod norm;
pub(super) mod pointwise;
pub(super) mod rows;
pub(super) mod weight;

// Without a device nobody reads what kernels are told.
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))]
mod launch;
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))]
mod product;

#[cfg(feature = "cuda")]
mod driver;
#[cfg(test)]
pub(super) mod emulated;
mod mailbox;
pub mod optimizer;
#[cfg(test)]
mod tests;

use candle_core::{DType, Result, Shape, Tensor, bail};

pub(super) use launch::{Argument, Blocks, launch, new_tensor};
pub use mailbox::Mailbox;
pub(super) use product::{Factor, multiply};

#[cfg(feature = "cuda")]
pub use driver::{device_product_rate, device_uuid, memory_in_use, prepare, trim_memory};
#[cfg(not(feature = "cuda"))]
pub use without::{device_product_rate, device_uuid, memory_in_use, prepare, trim_memory};

/// A program without CUDA has no device to look after.
#[cfg(not(feature = "cuda"))]
mod without {
    use candle_core::{Device, Result, bail};

    /// # Errors
    /// Never.
    pub fn prepare(_device: &Device) -> Result<()> {
        Ok(())
    }

    pub fn memory_in_use() -> Option<(u64, u64)> {
        None
    }

    pub fn device_uuid() -> Option<String> {
        None
    }

    pub fn trim_memory() {}

    /// # Errors
    /// Always.
    pub fn device_product_rate(device: &Device) -> Result<f64> {
        bail!("this program was built without CUDA and has no products on {device:?}")
    }
}

/// Whether operations on `x` are done by these kernels.
pub fn serves(x: &Tensor) -> bool {
    emulating() || x.device().is_cuda()
}

/// Whether the CPU stands for a GPU on this thread.
pub fn emulating() -> bool {
    #[cfg(test)]
    return emulated::is_on();
    #[cfg(not(test))]
    false
}

/// How kernels call a float type.
fn type_name(dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        other => bail!("no kernel computes with {other:?}"),
    })
}

/// The type of all of `tensors`, which must be one.
fn common_type(tensors: &[&Tensor]) -> Result<&'static str> {
    let dtype = tensors[0].dtype();
    if let Some(other) = tensors.iter().find(|t| t.dtype() != dtype) {
        bail!("a kernel got {dtype:?} beside {:?}", other.dtype());
    }
    type_name(dtype)
}

/// As [`new_tensor`], like another one.
fn like(x: &Tensor) -> Result<Tensor> {
    new_tensor(x.shape(), x.dtype(), x.device())
}

/// `x` without gaps between its numbers.
fn contiguous(x: &Tensor) -> Result<Tensor> {
    x.detach().contiguous()
}

/// A size as kernels take it.
fn int(size: usize) -> Result<i32> {
    match i32::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => bail!("{size} is too large for a kernel"),
    }
}

/// The number of tensors' numbers, for kernels that go through all of them.
fn count(shape: &Shape) -> i64 {
    shape.elem_count() as i64
}
