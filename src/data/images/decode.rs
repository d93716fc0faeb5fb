//! From a file's bytes to upright pixels: checked by the header before anything is decoded.

use std::io::Cursor;
use std::path::Path;

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use super::resize::Rgb;

/// Largest file that is read.
const MAX_BYTES: u64 = 256 << 20;
/// Most pixels of an image: a small file can claim billions.
const MAX_PIXELS: u64 = 100_000_000;
/// Most bytes that decoding may take.
const MAX_ALLOCATION: u64 = 1 << 30;

/// Names that are read as images.
pub(super) const EXTENSIONS: &[&str] = &["png", "jpg", "jpeg", "webp", "bmp", "gif"];

/// Images that are not read: they are listed, with the advice to convert them.
pub(super) const OTHER_EXTENSIONS: &[&str] = &[
    "tif", "tiff", "heic", "heif", "avif", "jxl", "jp2", "psd", "svg", "tga", "exr", "ico", "raw",
    "dng", "cr2", "nef", "arw", "mp4", "mov", "webm", "mkv",
];

/// A file's bytes, if it is one and not too large.
///
/// # Errors
/// Why it cannot be used, as the end of a sentence that begins with its name.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |e: std::io::Error| format!("it cannot be read ({e})");
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("it is no regular file".into());
    }
    if metadata.len() > MAX_BYTES {
        return Err(format!(
            "it has {} MiB, and at most {} are read; save it smaller",
            metadata.len() >> 20,
            MAX_BYTES >> 20
        ));
    }
    std::fs::read(path).map_err(unreadable)
}

/// An image's pixels, upright, transparency over white.
#[derive(Debug)]
pub(super) struct Decoded {
    pub pixels: Rgb,
    /// Whether any of it was transparent.
    pub transparent: bool,
    /// Whether its EXIF data turned or mirrored it.
    pub turned: bool,
}

/// Decodes a file's bytes.
///
/// # Errors
/// Why it cannot be used: not an image, damaged, too large, an animation, CMYK.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let format = image::guess_format(bytes)
        .ok()
        .filter(|f| supported(*f))
        .ok_or("it is no PNG, JPEG, WebP, BMP or GIF; convert it to PNG")?;
    refuse_by_header(bytes, format)?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let mut decoder = reader.into_decoder().map_err(reason)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err("it has no pixels".into());
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!(
            "it is {width}x{height}, and at most {} million pixels are decoded; save it smaller",
            MAX_PIXELS / 1_000_000
        ));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(reason)?;
    image.apply_orientation(orientation);
    let (pixels, transparent) = over_white(image);
    Ok(Decoded {
        pixels,
        transparent,
        turned: orientation != Orientation::NoTransforms,
    })
}

/// What decoding may take.
fn limits() -> image::Limits {
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_ALLOCATION);
    limits
}

fn supported(format: ImageFormat) -> bool {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    matches!(format, Png | Jpeg | WebP | Bmp | Gif)
}

/// What a still RGB picture is not.
fn refuse_by_header(bytes: &[u8], format: ImageFormat) -> Result<(), String> {
    let animated = || "it is an animation; save the frame to train on as a PNG".to_owned();
    let cursor = Cursor::new(bytes);
    match format {
        ImageFormat::Jpeg => match jpeg_components(bytes) {
            Some(4) => Err("it is a CMYK JPEG, made for print; save it as RGB \
                            (e.g. `magick IN -colorspace sRGB OUT`)"
                .into()),
            _ if !jpeg_is_whole(bytes) => {
                Err("it is cut off: its end is missing; copy or download it \
                                               again, or remove it"
                    .into())
            }
            _ => Ok(()),
        },
        ImageFormat::Png => {
            let decoder = PngDecoder::new(cursor).map_err(reason)?;
            match decoder.is_apng().map_err(reason)? {
                true => Err(animated()),
                false => Ok(()),
            }
        }
        ImageFormat::WebP => match WebPDecoder::new(cursor).map_err(reason)?.has_animation() {
            true => Err(animated()),
            false => Ok(()),
        },
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(cursor).map_err(reason)?;
            // A frame may claim more than the picture does.
            decoder.set_limits(limits()).map_err(reason)?;
            let (width, height) = decoder.dimensions();
            if u64::from(width) * u64::from(height) > MAX_PIXELS {
                return Ok(()); // refused for its size, without decoding frames
            }
            match decoder.into_frames().nth(1) {
                Some(Ok(_)) => Err(animated()),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Where the next marker of a JPEG's header stands, from `at` on (ITU T.81, B.1.1.2), and which it is.
fn jpeg_marker(bytes: &[u8], mut at: usize) -> Option<(usize, u8)> {
    while *bytes.get(at)? != 0xFF {
        at += 1;
    }
    while *bytes.get(at)? == 0xFF {
        at += 1;
    }
    Some((at, bytes[at]))
}

/// The first marker of a JPEG's header that `wanted` takes: where it stands, and which it is.
fn jpeg_segment(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> Option<(usize, u8)> {
    let mut from = 2;
    loop {
        let (at, marker) = jpeg_marker(bytes, from)?;
        from = match marker {
            marker if wanted(marker) => return Some((at, marker)),
            0x01 | 0xD0..=0xD8 => at + 1,
            0xD9 | 0xDA => return None,
            _ => {
                let length = u16::from_be_bytes([*bytes.get(at + 1)?, *bytes.get(at + 2)?]);
                at + 1 + usize::from(length)
            }
        };
    }
}

/// Components of a JPEG, by its frame header (ITU T.81, B.2.2).
fn jpeg_components(bytes: &[u8]) -> Option<u8> {
    // Start of frame, of any coding.
    let frame = |marker| (0xC0..=0xCF).contains(&marker) && ![0xC4, 0xC8, 0xCC].contains(&marker);
    let (at, _) = jpeg_segment(bytes, frame)?;
    bytes.get(at + 8).copied()
}

/// Whether the end of a JPEG's image is there. The decoder would fill what is missing with grey.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let Some((scan, _)) = jpeg_segment(bytes, |marker| marker == 0xDA) else {
        return false;
    };
    // In what is coded 0xFF is followed by 0; so this is the end and nothing else.
    bytes[scan..].windows(2).any(|pair| pair == [0xFF, 0xD9])
}

/// Drops transparency onto white, as most viewers show it.
fn over_white(image: DynamicImage) -> (Rgb, bool) {
    let (width, height) = (image.width(), image.height());
    if !image.color().has_alpha() {
        let data = image.into_rgb8().into_raw();
        let rgb = Rgb {
            width,
            height,
            data,
        };
        return (rgb, false);
    }
    let mut transparent = false;
    let mut data = Vec::with_capacity(width as usize * height as usize * 3);
    for pixel in image.into_rgba8().into_raw().chunks_exact(4) {
        let alpha = u32::from(pixel[3]);
        transparent |= alpha < 255;
        data.extend(pixel[..3].iter().map(|&c| {
            let mixed = u32::from(c) * alpha + 255 * (255 - alpha);
            ((mixed + 127) / 255) as u8
        }));
    }
    let rgb = Rgb {
        width,
        height,
        data,
    };
    (rgb, transparent)
}

fn reason(error: ImageError) -> String {
    match error {
        ImageError::Limits(_) => "it needs too much memory to decode; save it smaller".into(),
        ImageError::Unsupported(_) => {
            "it is of a kind that is not read; save it as an ordinary RGB PNG or JPEG".into()
        }
        error => {
            let text = error.to_string();
            let text = text
                .lines()
                .next()
                .unwrap_or_default()
                .trim_end_matches('.');
            format!("it is damaged ({text}); replace or remove it")
        }
    }
}
