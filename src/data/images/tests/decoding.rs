//! From files to upright pixels, and files that are refused.

use image::{ImageFormat, Rgb as Pixel, RgbImage, Rgba, RgbaImage};

use super::super::decode;
use super::{drawing, encoded, pattern};

/// A PNG's header that claims so many pixels, without any.
fn claims(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = drawing(1, 1, 0, ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = png_crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn png_crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0xEDB8_8320 & 0u32.wrapping_sub(c & 1))
        })
    })
}

#[test]
fn what_cannot_be_trained_on_is_refused_by_name() {
    let reason = |bytes: &[u8]| decode::decode(bytes).unwrap_err();
    assert!(reason(&claims(60_000, 60_000)).contains("60000x60000"));
    assert!(reason(b"%PDF-1.7").contains("no PNG"));
    let png = drawing(64, 64, 3, ImageFormat::Png);
    assert!(reason(&png[..png.len() / 2]).contains("damaged"));
    let jpeg = drawing(64, 64, 3, ImageFormat::Jpeg);
    assert!(reason(&jpeg[..100]).contains("cut off"));
    // Decoders fill up what a cut file lacks.
    for format in [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::WebP,
        ImageFormat::Bmp,
        ImageFormat::Gif,
    ] {
        let whole = drawing(64, 64, 3, format);
        assert!(decode::decode(&whole).is_ok(), "{format:?}");
        for part in [1, 2, 3] {
            let cut = &whole[..whole.len() * part / 4];
            assert!(decode::decode(cut).is_err(), "{format:?}, {part} of 4");
        }
    }

    // The number of components in a JPEG's frame header makes it CMYK.
    let mut cmyk = jpeg.clone();
    let frame = cmyk.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    cmyk[frame + 9] = 4;
    assert!(reason(&cmyk).contains("CMYK"));

    let frame = || image::Frame::new(RgbaImage::from_pixel(8, 8, Rgba([9, 9, 9, 255])));
    let gif = |frames: usize| {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
        encoder.encode_frames((0..frames).map(|_| frame())).unwrap();
        drop(encoder);
        bytes
    };
    assert!(reason(&gif(2)).contains("animation"));
    assert_eq!(decode::decode(&gif(1)).unwrap().pixels.width, 8);
}

#[test]
fn every_format_gives_the_same_picture() {
    let expected = pattern(40, 30, 5);
    for format in [
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::WebP,
        ImageFormat::Jpeg,
    ] {
        let decoded = decode::decode(&drawing(40, 30, 5, format)).unwrap().pixels;
        assert_eq!((decoded.width, decoded.height), (40, 30));
        let apart: u64 = decoded
            .data
            .iter()
            .zip(expected.as_raw())
            .map(|(a, b)| u64::from(a.abs_diff(*b)))
            .sum();
        let mean = apart as f64 / decoded.data.len() as f64;
        assert!(
            mean <= if format == ImageFormat::Jpeg {
                12.0
            } else {
                0.0
            },
            "{format:?}: {mean}"
        );
    }
}

#[test]
fn transparency_lies_over_white_and_sixteen_bits_become_eight() {
    let half = RgbaImage::from_fn(2, 1, |x, _| Rgba([200, 0, 0, if x == 0 { 0 } else { 128 }]));
    let decoded = decode::decode(&encoded(&half.into(), ImageFormat::Png)).unwrap();
    assert!(decoded.transparent);
    assert_eq!(decoded.pixels.data[..3], [255, 255, 255]);
    assert_eq!(decoded.pixels.data[3..], [227, 127, 127]);
    let deep =
        image::ImageBuffer::<Pixel<u16>, Vec<u16>>::from_pixel(1, 1, Pixel([65535, 32768, 0]));
    let decoded = decode::decode(&encoded(&deep.into(), ImageFormat::Png)).unwrap();
    assert_eq!(decoded.pixels.data, [255, 128, 0]);
    let grey = image::GrayImage::from_pixel(1, 1, image::Luma([77]));
    let decoded = decode::decode(&encoded(&grey.into(), ImageFormat::Png)).unwrap();
    assert_eq!(decoded.pixels.data, [77, 77, 77]);
}

#[test]
fn exif_turns_an_image_upright() {
    // Left half red, right half blue; "6": turned a quarter clockwise for viewing.
    let sideways = RgbImage::from_fn(32, 16, |x, _| {
        Pixel(if x < 16 { [255, 0, 0] } else { [0, 0, 255] })
    });
    let jpeg = encoded(&sideways.into(), ImageFormat::Jpeg);
    let mut exif =
        b"Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
    let length = (exif.len() + 2) as u16;
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xFF, 0xE1]);
    bytes.extend(length.to_be_bytes());
    bytes.append(&mut exif);
    bytes.extend(&jpeg[2..]);
    let decoded = decode::decode(&bytes).unwrap();
    assert!(decoded.turned);
    assert_eq!((decoded.pixels.width, decoded.pixels.height), (16, 32));
    let (first, last) = (
        &decoded.pixels.data[..3],
        &decoded.pixels.data[16 * 31 * 3..][..3],
    );
    assert!(first[0] > 200 && first[2] < 60, "red on top: {first:?}");
    assert!(last[2] > 200 && last[0] < 60, "blue below: {last:?}");
}
