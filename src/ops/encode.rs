//! Weights from f32 to a quantised encoding: the reverse of [`super::decode`].

use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0,
};
use candle_core::quantized::{GgmlDType, GgmlType};
use candle_core::{Result, bail};

/// Encodes whole blocks; `out` has room for exactly their bytes.
///
/// # Errors
/// An encoding that weights are not quantised to.
pub(super) fn encode(encoding: GgmlDType, numbers: &[f32], out: &mut [u8]) -> Result<()> {
    macro_rules! blocks {
        ($block:ty) => {{
            let size = size_of::<$block>();
            let mut blocks = vec![<$block>::zeros(); out.len() / size];
            <$block>::from_float(numbers, &mut blocks);
            // SAFETY: blocks are plain integers and floats without padding.
            let bytes = unsafe {
                std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), blocks.len() * size)
            };
            out.copy_from_slice(bytes);
        }};
    }
    match encoding {
        GgmlDType::Q4_0 => blocks!(BlockQ4_0),
        GgmlDType::Q4_1 => blocks!(BlockQ4_1),
        GgmlDType::Q5_0 => blocks!(BlockQ5_0),
        GgmlDType::Q5_1 => blocks!(BlockQ5_1),
        GgmlDType::Q8_0 => blocks!(BlockQ8_0),
        GgmlDType::Q2K => blocks!(BlockQ2K),
        GgmlDType::Q3K => blocks!(BlockQ3K),
        GgmlDType::Q4K => blocks!(BlockQ4K),
        GgmlDType::Q5K => blocks!(BlockQ5K),
        GgmlDType::Q6K => blocks!(BlockQ6K),
        other => bail!("weights are not quantised to {other:?}"),
    }
    Ok(())
}
