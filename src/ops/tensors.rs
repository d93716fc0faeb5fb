//! Reading candle's CPU storage as slices.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};

use super::heap;

/// Whether the fused f32 operations apply.
pub(super) fn fused(tensor: &Tensor) -> bool {
    matches!(tensor.device(), Device::Cpu)
        && tensor.dtype() == DType::F32
        && !super::cuda::serves(tensor)
}

/// The numbers of a contiguous f32 argument. Every operation begins here, so it is here that one that
/// would not fit into memory ends.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    heap::check().map_err(candle_core::Error::wrap)?;
    let CpuStorage::F32(data) = storage else {
        bail!("a fused operation got numbers that are not f32");
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("a fused operation got a tensor that is not contiguous"),
    }
}

/// Calls `f` with the numbers of a CPU f32 tensor, without copying when it is contiguous.
pub(super) fn with_floats<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(floats(storage, layout)?)),
        _ => bail!("a fused operation got a tensor that is not on the CPU"),
    }
}

/// All numbers of a tensor of any device and float type, row by row.
///
/// # Errors
/// The device fails.
pub fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor
        .detach()
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1()
}
