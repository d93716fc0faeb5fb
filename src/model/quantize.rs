//! Quantising a base while it is loaded.

use candle_core::quantized::GgmlDType;

/// What the dense linears of a base are quantised to while it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization(GgmlDType);

impl Quantization {
    /// By the name that llama.cpp gives the encoding: `q8_0`, `q4_k`, ...
    pub fn named(name: &str) -> Option<Self> {
        Some(Quantization(match name {
            "q8_0" => GgmlDType::Q8_0,
            "q6_k" => GgmlDType::Q6K,
            "q5_k" => GgmlDType::Q5K,
            "q5_1" => GgmlDType::Q5_1,
            "q5_0" => GgmlDType::Q5_0,
            "q4_k" => GgmlDType::Q4K,
            "q4_1" => GgmlDType::Q4_1,
            "q4_0" => GgmlDType::Q4_0,
            "q3_k" => GgmlDType::Q3K,
            "q2_k" => GgmlDType::Q2K,
            _ => return None,
        }))
    }

    /// The encoding of rows of so many numbers. Where they are no whole number of blocks of 256,
    /// the next encoding with blocks of 32, as llama.cpp's `llama_tensor_quantize` falls back;
    /// `None`: not of those either, the rows stay as they are.
    pub(super) fn encoding(self, columns: usize) -> Option<GgmlDType> {
        let fitting = match self.0 {
            fits if columns.is_multiple_of(fits.block_size()) => fits,
            GgmlDType::Q2K | GgmlDType::Q3K => GgmlDType::Q4_0,
            GgmlDType::Q4K => GgmlDType::Q5_0,
            GgmlDType::Q5K => GgmlDType::Q5_1,
            _ => GgmlDType::Q8_0,
        };
        columns
            .is_multiple_of(fitting.block_size())
            .then_some(fitting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_no_whole_number_of_large_blocks_get_small_ones_or_stay() {
        let encoding = |name, columns| Quantization::named(name).unwrap().encoding(columns);
        assert_eq!(encoding("q4_k", 512), Some(GgmlDType::Q4K));
        assert_eq!(encoding("q4_k", 576), Some(GgmlDType::Q5_0));
        assert_eq!(encoding("q6_k", 576), Some(GgmlDType::Q8_0));
        assert_eq!(encoding("q4_0", 576), Some(GgmlDType::Q4_0));
        assert_eq!(encoding("q4_0", 48), None);
        assert_eq!(Quantization::named("q9"), None);
    }
}
