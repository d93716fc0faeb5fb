//! Losses that are added up before anybody looks at them.

use candle_core::{Result, Tensor};

/// A sum of losses: a number, or one that a GPU has yet to compute. Nobody waits for it until it is
/// read.
#[derive(Clone, Debug)]
pub enum LossSum {
    Known(f64),
    /// `[1]`, f64.
    OnDevice(Tensor),
}

impl Default for LossSum {
    fn default() -> Self {
        LossSum::Known(0.0)
    }
}

impl LossSum {
    /// Adds the losses of another pass on the same device.
    ///
    /// # Errors
    /// The device fails.
    pub fn add(&mut self, other: LossSum) -> Result<()> {
        *self = match (std::mem::take(self), other) {
            (LossSum::Known(a), LossSum::Known(b)) => LossSum::Known(a + b),
            (LossSum::OnDevice(a), LossSum::OnDevice(b)) => LossSum::OnDevice((a + b)?),
            (LossSum::Known(known), LossSum::OnDevice(sum))
            | (LossSum::OnDevice(sum), LossSum::Known(known)) => {
                LossSum::OnDevice(sum.affine(1.0, known)?)
            }
        };
        Ok(())
    }

    /// The number; waits for the device.
    ///
    /// # Errors
    /// The device fails.
    pub fn value(&self) -> Result<f64> {
        match self {
            LossSum::Known(value) => Ok(*value),
            LossSum::OnDevice(sum) => Ok(sum.to_vec1::<f64>()?[0]),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn sums_on_and_off_the_device_add_up() {
        let on_device = |x: f64| LossSum::OnDevice(Tensor::new(&[x], &Device::Cpu).unwrap());
        let mut sum = LossSum::default();
        for (next, expected) in [
            (LossSum::Known(1.5), 1.5),
            (on_device(2.0), 3.5),
            (LossSum::Known(0.5), 4.0),
            (on_device(-1.0), 3.0),
        ] {
            sum.add(next).unwrap();
            assert_eq!(sum.value().unwrap(), expected);
        }
    }
}
