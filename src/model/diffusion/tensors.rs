//! The tensors of opened files, by diffusers' names, not yet touched.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use candle_core::{Device, Tensor};

use crate::error::input_error;
use crate::model::source::{Mapped, Stored};
use crate::ops::HostWeight;

pub(super) struct Tensors {
    /// Of the base, for errors.
    pub name: String,
    /// By diffusers' names with the component before them.
    pub stored: BTreeMap<String, Stored>,
    pub mapped: Vec<Arc<Mapped>>,
}

impl Tensors {
    pub fn has(&self, name: &str) -> bool {
        self.stored.contains_key(name)
    }

    /// The tensor `name`: its first size is the rows.
    ///
    /// # Errors
    /// It is not there; the file ends before it.
    pub fn matrix(&self, name: &str) -> Result<HostWeight> {
        let stored = self.get(name)?;
        let rows = stored.shape.first().copied().unwrap_or(0);
        let columns = stored.shape.iter().skip(1).product();
        self.weight(name, stored, rows, columns)
    }

    /// The vector `name` in f32 on a device.
    ///
    /// # Errors
    /// As [`Tensors::matrix`].
    pub fn vector(&self, name: &str, device: &Device) -> Result<Tensor> {
        let stored = self.get(name)?;
        let count = stored.shape.iter().product();
        let numbers = self.weight(name, stored, count, 1)?.column()?;
        Ok(Tensor::from_vec(numbers, count, device)?)
    }

    /// Lets go of mapped pages that are not read again.
    pub fn forget(&self, addresses: Range<usize>) {
        for mapped in &self.mapped {
            mapped.forget(addresses.clone());
        }
    }

    /// Lets go of all mapped pages: what is read again comes from the system's cache.
    pub fn release(mapped: &[Arc<Mapped>]) {
        for mapped in mapped {
            let bytes: &[u8] = (**mapped).as_ref();
            let start = bytes.as_ptr() as usize;
            mapped.forget(start..start + bytes.len());
        }
    }

    /// # Errors
    /// A tensor is missing or of another shape. A linear may be stored as a convolution of 1x1, and
    /// the other way round.
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        for (name, shape) in expected {
            let stored = self.get(name)?;
            if trimmed(&stored.shape) != trimmed(shape) {
                return Err(input_error(format!(
                    "{}: the tensor {name} is of shape {:?}, but the hyperparameters ask for \
                     {shape:?}",
                    self.name, stored.shape
                )));
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Result<&Stored> {
        self.stored.get(name).ok_or_else(|| {
            input_error(format!(
                "{} lacks the tensor {name} that its hyperparameters ask for; the download may be \
                 incomplete",
                self.name
            ))
        })
    }

    fn weight(
        &self,
        name: &str,
        stored: &Stored,
        rows: usize,
        columns: usize,
    ) -> Result<HostWeight> {
        let bytes = stored.bytes.clone();
        HostWeight::new(bytes, stored.start, stored.encoding, rows, columns)
            .map_err(|e| input_error(format!("{}: tensor {name}: {e}", self.name)))
    }
}

fn trimmed(mut shape: &[usize]) -> &[usize] {
    while let [rest @ .., 1] = shape {
        shape = rest;
    }
    shape
}
