//! What a pass through a UNet takes for a moment.

use crate::model::diffusion::UNetConfig;

/// Bytes that one operation on `images` latents of `height` by `width` may take: the widest rows
/// are those of a transformer's feed-forward, eight times its features and as many again for their
/// product.
pub(super) fn momentary_bytes(
    unet: &UNetConfig,
    images: usize,
    height: usize,
    width: usize,
) -> u64 {
    let rows = (images * height * width) as u64;
    let of_level = |(level, channels): (usize, usize)| {
        let rows = rows.div_ceil(1 << (2 * level)).max(images as u64);
        4 * rows * channels as u64 * 12
    };
    let channels = unet.blocks.iter().map(|block| block.channels);
    channels.enumerate().map(of_level).max().unwrap_or(0)
}
