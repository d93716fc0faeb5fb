//! Numbers that are trained.

use std::ops::Deref;

use candle_core::{Device, Result, Shape, Tensor, WithDType};

/// A contiguous tensor that is written in place. Unlike candle's `Var` it may be a part of a larger
/// buffer, which an optimizer goes through in one pass; clones are the same numbers.
#[derive(Clone, Debug)]
pub struct Variable(Tensor);

impl Variable {
    /// With numbers of its own, those of `tensor`.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        Ok(Variable(tensor.detach().force_contiguous()?))
    }

    /// # Errors
    /// Another number of numbers than the shape has; the device has no memory left.
    pub fn from_vec<D: WithDType>(
        numbers: Vec<D>,
        shape: impl Into<Shape>,
        device: &Device,
    ) -> Result<Self> {
        Ok(Variable(Tensor::from_vec(numbers, shape.into(), device)?))
    }

    /// The part of the flat `buffer` that begins at `start`.
    ///
    /// # Errors
    /// A part beyond the buffer.
    pub fn within(buffer: &Tensor, start: usize, shape: &Shape) -> Result<Self> {
        let part = buffer.narrow(0, start, shape.elem_count())?;
        Ok(Variable(part.reshape(shape)?))
    }

    pub fn as_tensor(&self) -> &Tensor {
        &self.0
    }

    /// Writes the numbers of `from`, of the same shape, in place.
    ///
    /// # Errors
    /// Another shape or type; the device fails.
    pub fn set(&self, from: &Tensor) -> Result<()> {
        let from = from.detach().to_device(self.0.device())?.contiguous()?;
        if from.shape() != self.0.shape() {
            candle_core::bail!(
                "numbers of shape {:?} are set to {:?}",
                self.0.dims(),
                from.dims()
            );
        }
        let flat = |x: &Tensor| x.reshape(((), 1));
        flat(&self.0)?.slice_set(&flat(&from)?, 0, 0)
    }
}

impl Deref for Variable {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::to_vec;
    use super::*;

    #[test]
    fn a_part_of_a_buffer_is_written_in_place_and_nothing_beside_it() {
        let buffer = Tensor::zeros(7, DType::F32, &Device::Cpu).unwrap();
        let part = Variable::within(&buffer, 2, &(2, 2).into()).unwrap();
        let numbers = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        part.clone().set(&numbers.t().unwrap()).unwrap();
        assert_eq!(to_vec(&part).unwrap(), [1.0, 3.0, 2.0, 4.0]);
        let all: Vec<f32> = buffer.to_vec1().unwrap();
        assert_eq!(all, [0.0, 0.0, 1.0, 3.0, 2.0, 4.0, 0.0]);
        assert!(part.set(&buffer).is_err());
        assert!(Variable::within(&buffer, 4, &(2, 2).into()).is_err());
    }

    #[test]
    fn a_variable_made_of_a_tensor_has_numbers_of_its_own() {
        let tensor = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        let variable = Variable::from_tensor(&tensor).unwrap();
        variable.set(&tensor.ones_like().unwrap()).unwrap();
        assert_eq!(tensor.to_vec1::<f32>().unwrap(), [0.0; 3]);
    }
}
