//! Weights from their file's encoding to f32.

use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_1, BlockQ8K,
};
use candle_core::quantized::{GgmlDType, GgmlType};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// What the numbers' addresses must be a multiple of.
pub(super) fn alignment(encoding: GgmlDType) -> usize {
    match encoding {
        GgmlDType::F32 => align_of::<f32>(),
        GgmlDType::Q8K => align_of::<BlockQ8K>(),
        _ => align_of::<f16>(),
    }
}

/// # Safety
/// `bytes` must be aligned for `T`, and any bits must be a valid `T`.
pub(super) unsafe fn cast<T>(bytes: &[u8]) -> &[T] {
    // SAFETY: as the caller promises; the length is rounded down to whole elements.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
}

/// Decodes whole blocks; `out` has room for exactly their numbers.
///
/// # Safety
/// `bytes` must be aligned to [`alignment`].
pub(super) unsafe fn decode(encoding: GgmlDType, bytes: &[u8], out: &mut [f32]) {
    // SAFETY of every `cast`: aligned by the caller's promise; blocks are plain integers and
    // floats, of a size that is a multiple of their alignment.
    macro_rules! blocks {
        ($block:ty) => {
            <$block>::to_float(unsafe { cast(bytes) }, out)
        };
    }
    match encoding {
        GgmlDType::F32 => out.copy_from_slice(unsafe { cast(bytes) }),
        GgmlDType::F16 => unsafe { cast::<f16>(bytes) }.convert_to_f32_slice(out),
        GgmlDType::BF16 => unsafe { cast::<bf16>(bytes) }.convert_to_f32_slice(out),
        GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q8_0 => wide(encoding, bytes, out),
        GgmlDType::Q5_0 => blocks!(BlockQ5_0),
        GgmlDType::Q5_1 => blocks!(BlockQ5_1),
        GgmlDType::Q8_1 => blocks!(BlockQ8_1),
        GgmlDType::Q2K => blocks!(BlockQ2K),
        GgmlDType::Q3K => blocks!(BlockQ3K),
        GgmlDType::Q4K => blocks!(BlockQ4K),
        GgmlDType::Q5K => blocks!(BlockQ5K),
        GgmlDType::Q6K => blocks!(BlockQ6K),
        GgmlDType::Q8K => blocks!(BlockQ8K),
    }
}

/// The commonest encodings, with the widest registers the processor has: decoding must not cost
/// much beside multiplying.
fn wide(encoding: GgmlDType, bytes: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        #[target_feature(enable = "avx2,fma")]
        fn wide_avx2(encoding: GgmlDType, bytes: &[u8], out: &mut [f32]) {
            simple(encoding, bytes, out);
        }
        // SAFETY: the processor has both features, as just asked.
        unsafe { wide_avx2(encoding, bytes, out) };
        return;
    }
    simple(encoding, bytes, out);
}

/// Layouts as in ggml-common.h: `block_q4_0`, `block_q4_1`, `block_q8_0`.
#[inline(always)]
fn simple(encoding: GgmlDType, bytes: &[u8], out: &mut [f32]) {
    let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    match encoding {
        GgmlDType::Q4_0 => {
            for (block, out) in bytes.chunks_exact(18).zip(out.chunks_exact_mut(32)) {
                let scale = half(block);
                nibbles(&block[2..], out, |q| (f32::from(q) - 8.0) * scale);
            }
        }
        GgmlDType::Q4_1 => {
            for (block, out) in bytes.chunks_exact(20).zip(out.chunks_exact_mut(32)) {
                let (scale, least) = (half(block), half(&block[2..]));
                nibbles(&block[4..], out, |q| f32::from(q) * scale + least);
            }
        }
        _ => {
            for (block, out) in bytes.chunks_exact(34).zip(out.chunks_exact_mut(32)) {
                let scale = half(block);
                for (out, &q) in out.iter_mut().zip(&block[2..]) {
                    *out = f32::from(q as i8) * scale;
                }
            }
        }
    }
}

/// The low halves of 16 bytes, then the high ones.
#[inline(always)]
fn nibbles(bytes: &[u8], out: &mut [f32], number: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = number(byte & 0x0f);
        *high = number(byte >> 4);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::k_quants::{BlockQ4_0, BlockQ4_1, BlockQ8_0};

    use super::super::finite_differences::numbers;
    use super::super::to_vec;
    use super::*;

    /// Bit for bit candle's decoding, block after block.
    fn check<B: GgmlType>(encoding: GgmlDType) {
        let x = to_vec(&numbers(3, &[64 * 32])).unwrap();
        let mut blocks = vec![B::zeros(); 64];
        B::from_float(&x, &mut blocks);
        let mut expected = vec![0.0; x.len()];
        B::to_float(&blocks, &mut expected);
        // SAFETY: blocks are plain integers and floats without padding.
        let bytes = unsafe {
            std::slice::from_raw_parts(
                blocks.as_ptr().cast::<u8>(),
                std::mem::size_of_val(&blocks[..]),
            )
        };
        let (mut got, mut plain) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        // SAFETY: the blocks are aligned as such.
        unsafe { decode(encoding, bytes, &mut got) };
        simple(encoding, bytes, &mut plain);
        assert_eq!(got, expected);
        assert_eq!(plain, expected);
    }

    #[test]
    fn decoding_in_wide_registers_gives_the_same_numbers() {
        check::<BlockQ4_0>(GgmlDType::Q4_0);
        check::<BlockQ4_1>(GgmlDType::Q4_1);
        check::<BlockQ8_0>(GgmlDType::Q8_0);
    }
}
