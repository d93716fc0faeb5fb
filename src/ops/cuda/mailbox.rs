//! Numbers of the device that the host reads later.

use candle_core::{Device, Result, Tensor, bail};

#[cfg(feature = "cuda")]
use super::driver::Pinned;

/// A place on the host that a few f64 are copied to as soon as the device has them. Posting does not
/// wait; reading waits for what was posted and for nothing that was launched after it.
#[derive(Default)]
pub struct Mailbox {
    #[cfg(feature = "cuda")]
    pinned: Option<Pinned>,
    /// Where the CPU stands for a GPU.
    posted: Option<Vec<f64>>,
}

impl Mailbox {
    /// # Errors
    /// The device fails.
    pub fn post(&mut self, numbers: &Tensor) -> Result<()> {
        if matches!(numbers.device(), Device::Cpu) {
            self.posted = Some(numbers.to_vec1()?);
            return Ok(());
        }
        #[cfg(feature = "cuda")]
        {
            let pinned = match self.pinned.take() {
                Some(pinned) if pinned.len() == numbers.elem_count() => pinned,
                _ => Pinned::new(numbers.device(), numbers.elem_count())?,
            };
            self.pinned.insert(pinned).copy_from(numbers)
        }
        #[cfg(not(feature = "cuda"))]
        bail!("numbers of {:?} are posted without CUDA", numbers.device())
    }

    /// What was posted last.
    ///
    /// # Errors
    /// Nothing was posted; the device failed since.
    pub fn read(&self) -> Result<Vec<f64>> {
        #[cfg(feature = "cuda")]
        if let Some(pinned) = &self.pinned {
            return pinned.read();
        }
        match &self.posted {
            Some(numbers) => Ok(numbers.clone()),
            None => bail!("nothing was posted"),
        }
    }
}
