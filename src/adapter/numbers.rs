//! A tensor as it lies in a file: type, shape and bytes. Converting is explicit, so that what is
//! only passed on stays as it was, bit for bit.

use anyhow::Result;
use half::{bf16, f16};

use crate::error::input_error;

/// A type that the numbers of adapters come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    pub const ALL: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// Reads `f32`, `f16` or `bf16`.
    ///
    /// # Errors
    /// Another word.
    pub fn parse(word: &str) -> Result<Self> {
        let found = Dtype::ALL.into_iter().find(|d| d.name() == word);
        found.ok_or_else(|| {
            input_error(format!(
                "'{word}' is not a type of numbers; there are bf16, f16 and f32"
            ))
        })
    }

    /// Decodes little-endian numbers.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.as_chunks::<2>().0.iter();
        match self {
            Dtype::F32 => {
                let fours = bytes.as_chunks::<4>().0.iter();
                fours.map(|&b| f32::from_le_bytes(b)).collect()
            }
            Dtype::F16 => pairs().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::Bf16 => pairs().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        }
    }

    /// Encodes numbers little-endian, rounded to the nearest, ties to even.
    pub fn encode(self, numbers: &[f32]) -> Vec<u8> {
        let each = numbers.iter();
        match self {
            Dtype::F32 => each.flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::F16 => each.flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::Bf16 => each
                .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                .collect(),
        }
    }
}

/// A tensor, row-major, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Numbers {
    pub fn new(shape: &[usize], numbers: &[f32]) -> Self {
        Numbers {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: Dtype::F32.encode(numbers),
        }
    }

    pub fn to_f32(&self) -> Vec<f32> {
        self.dtype.decode(&self.bytes)
    }

    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The first number that is not finite.
    pub fn not_finite(&self) -> Option<f32> {
        self.to_f32().into_iter().find(|x| !x.is_finite())
    }

    /// The same numbers as another type, rounded to the nearest.
    ///
    /// # Errors
    /// A number too large for the type; the sentence lacks the tensor's name.
    pub fn cast(&self, dtype: Dtype) -> Result<Self> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let numbers = self.to_f32();
        let bytes = dtype.encode(&numbers);
        let back = dtype.decode(&bytes);
        if let Some((from, _)) = numbers
            .iter()
            .zip(back)
            .find(|(from, to)| from.is_finite() && !to.is_finite())
        {
            return Err(input_error(format!(
                "{from} is beyond what {} can hold; choose another --dtype",
                dtype.name()
            )));
        }
        Ok(Numbers {
            dtype,
            shape: self.shape.clone(),
            bytes,
        })
    }

    /// Times a factor in the tensor's own type, and whether every product is exact.
    pub fn times(&self, factor: f64) -> (Self, bool) {
        let numbers = self.to_f32();
        let exact: Vec<f64> = numbers.iter().map(|&x| f64::from(x) * factor).collect();
        let rounded: Vec<f32> = exact.iter().map(|&x| x as f32).collect();
        let bytes = self.dtype.encode(&rounded);
        let back = self.dtype.decode(&bytes);
        let is_exact = back.iter().zip(&exact).all(|(&a, &b)| f64::from(a) == b);
        let product = Numbers {
            dtype: self.dtype,
            shape: self.shape.clone(),
            bytes,
        };
        (product, is_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cast_up_and_back_is_the_same_bits() {
        let numbers = [0.1, -3.0, 65504.0, 1e-7, 0.0, -0.0];
        for dtype in Dtype::ALL {
            let narrow = Numbers::new(&[6], &numbers).cast(dtype).unwrap();
            let wide = narrow.cast(Dtype::F32).unwrap();
            assert_eq!(wide.cast(dtype).unwrap(), narrow);
        }
    }

    #[test]
    fn a_number_beyond_a_type_is_refused_and_not_made_infinite() {
        let large = Numbers::new(&[1], &[1e6]);
        let error = large.cast(Dtype::F16).unwrap_err().to_string();
        assert!(
            error.contains("1000000") && error.contains("f16"),
            "{error}"
        );
        assert!(large.cast(Dtype::Bf16).is_ok());
    }

    #[test]
    fn only_products_without_rounding_are_called_exact() {
        let half = Numbers::new(&[2], &[0.1, 3.0]).cast(Dtype::F16).unwrap();
        assert!(half.times(2.0).1);
        assert!(!half.times(0.3).1);
        assert_eq!(half.times(1.0).0, half);
    }
}
