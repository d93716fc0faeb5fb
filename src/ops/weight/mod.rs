//! Frozen weights in the encoding of their file: mapped on the CPU and decoded a panel at a time,
//! so that a base costs its file's size and no copy; on a GPU dense, or in their blocks.

mod host;
mod products;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Tensor, bail};

use host::Plain;
pub use host::{Bytes, HostWeight};
pub(super) use products::{LowRank, Products};

use super::cuda;
use super::cuda::weight::{BlockWeight, stays_in_blocks};

/// A frozen `[out_features, in_features]` weight on some device. Clones share the numbers.
#[derive(Clone)]
pub struct FrozenWeight {
    storage: Storage,
    rows: usize,
    columns: usize,
    /// Computed when first asked for.
    squared_row_norms: Arc<OnceLock<Tensor>>,
}

#[derive(Clone)]
enum Storage {
    Host(HostWeight),
    Dense(Tensor),
    Blocks(BlockWeight),
}

impl FrozenWeight {
    /// Puts a weight on `device`: mapped as it is on the CPU; elsewhere dense ones in `dtype`,
    /// quantised ones as they are, decoded to `dtype` when used.
    ///
    /// # Errors
    /// The device fails (memory).
    pub fn new(weight: HostWeight, device: &Device, dtype: DType) -> Result<Self> {
        let (rows, columns) = (weight.rows, weight.columns);
        let storage = if matches!(device, Device::Cpu) && !cuda::emulating() {
            Storage::Host(weight)
        } else if !stays_in_blocks(weight.encoding) {
            Storage::Dense(dense_on(&weight, device)?.to_dtype(dtype)?)
        } else {
            Storage::Blocks(BlockWeight::new(
                weight.bytes(),
                weight.encoding,
                (rows, columns),
                weight.interleaved_heads.unwrap_or(0),
                device,
                dtype,
            )?)
        };
        Ok(FrozenWeight {
            storage,
            rows,
            columns,
            squared_row_norms: Arc::default(),
        })
    }

    /// The number of output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of input features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The weight in host memory, when it lies there.
    pub(super) fn host(&self) -> Option<&HostWeight> {
        match &self.storage {
            Storage::Host(weight) => Some(weight),
            _ => None,
        }
    }

    /// The float type in which products with it are computed.
    pub(super) fn compute_dtype(&self) -> DType {
        match &self.storage {
            Storage::Host(_) => DType::F32,
            Storage::Dense(tensor) => tensor.dtype(),
            Storage::Blocks(blocks) => blocks.dtype,
        }
    }

    /// `[rows]`, f32: the square of the norm of each row.
    pub(super) fn squared_row_norms(&self) -> Result<Tensor> {
        if let Some(known) = self.squared_row_norms.get() {
            return Ok(known.clone());
        }
        let squares = match &self.storage {
            Storage::Host(weight) => {
                Tensor::from_vec(weight.squared_row_norms(), self.rows, &Device::Cpu)?
            }
            _ => self.dense()?.to_dtype(DType::F32)?.sqr()?.sum(1)?,
        };
        Ok(self.squared_row_norms.get_or_init(|| squares).clone())
    }

    /// The weight in host memory, where the activations are.
    ///
    /// # Errors
    /// It lies elsewhere.
    pub(super) fn on_host(&self) -> Result<&HostWeight> {
        match self.host() {
            Some(weight) => Ok(weight),
            None => bail!("the activations are on the CPU, the weight is not"),
        }
    }

    /// The whole weight as a tensor of its device.
    pub(super) fn dense(&self) -> Result<Tensor> {
        match &self.storage {
            Storage::Host(weight) => {
                let all: Vec<u32> = (0..self.rows as u32).collect();
                Tensor::from_vec(weight.gather(&all), (self.rows, self.columns), &Device::Cpu)
            }
            Storage::Dense(tensor) => Ok(tensor.clone()),
            Storage::Blocks(blocks) => blocks.dense(),
        }
    }

    /// The rows `indices`, where the weight lies on a device.
    pub(super) fn gather(&self, indices: &Tensor) -> Result<Tensor> {
        match &self.storage {
            Storage::Host(_) => bail!("the weight is not on the indices' device"),
            Storage::Dense(tensor) => cuda::rows::gather(tensor, indices),
            Storage::Blocks(blocks) => blocks.gather(indices),
        }
    }
}

/// A plain weight on a device, in its file's type where its rows are in order: it goes there straight
/// from the file.
fn dense_on(weight: &HostWeight, device: &Device) -> Result<Tensor> {
    let shape = (weight.rows, weight.columns);
    if let Some(plain) = weight.plain() {
        return match plain {
            Plain::F32(numbers) => Tensor::from_slice(numbers, shape, device),
            Plain::F16(numbers) => Tensor::from_slice(numbers, shape, device),
            Plain::Bf16(numbers) => Tensor::from_slice(numbers, shape, device),
        };
    }
    let all: Vec<u32> = (0..weight.rows as u32).collect();
    Tensor::from_vec(weight.gather(&all), shape, device)
}
