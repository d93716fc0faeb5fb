//! From a picture to a model's input, as transformers' image processors do it: Pillow's bicubic
//! resize on bytes, a cut out of the middle, and the norm.

use crate::model::{Preprocessing, Size};

/// Three bytes a pixel, row after row.
struct Bytes {
    width: u32,
    height: u32,
    data: Vec<u8>,
}

/// A picture of three bytes a pixel as `[3, height, width]` numbers.
pub fn pixel_values(width: u32, height: u32, rgb: &[u8], steps: &Preprocessing) -> Vec<f32> {
    let picture = Bytes {
        width,
        height,
        data: rgb.to_vec(),
    };
    let (width, height) = match steps.size {
        Size::Exact(width, height) => (width, height),
        Size::ShortestEdge(edge) => {
            let (short, long) = (
                picture.width.min(picture.height).max(1),
                picture.width.max(picture.height),
            );
            let longer = (u64::from(edge) * u64::from(long) / u64::from(short)) as u32;
            match picture.width <= picture.height {
                true => (edge, longer),
                false => (longer, edge),
            }
        }
    };
    let resized = bicubic(picture, width, height);
    let (out_width, out_height) = steps.crop.unwrap_or((width, height));
    // A picture that is smaller than the cut gets black edges.
    let offset = |whole: u32, part: u32| (i64::from(whole) - i64::from(part)).div_euclid(2);
    let (left, top) = (offset(width, out_width), offset(height, out_height));
    let mut values = Vec::with_capacity(3 * (out_width * out_height) as usize);
    for channel in 0..3 {
        for y in 0..i64::from(out_height) {
            for x in 0..i64::from(out_width) {
                let (x, y) = (x + left, y + top);
                let inside =
                    (0..i64::from(width)).contains(&x) && (0..i64::from(height)).contains(&y);
                let byte = match inside {
                    true => resized.data[(y as usize * width as usize + x as usize) * 3 + channel],
                    false => 0,
                };
                let value = f32::from(byte) / 255.0;
                values.push((value - steps.mean[channel]) / steps.std[channel]);
            }
        }
    }
    values
}

/// Bits of Pillow's fixed-point weights (`Resample.c`: 32 - 8 - 2).
const PRECISION: u32 = 22;

/// For each output pixel the first input pixel and the fixed-point weights from there on.
fn weights(from: u32, to: u32) -> Vec<(usize, Vec<i64>)> {
    let scale = f64::from(from) / f64::from(to);
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let pixel = |at: u32| {
        let center = (f64::from(at) + 0.5) * scale;
        let first = ((center - support + 0.5) as i64).max(0);
        let end = ((center + support + 0.5) as i64).min(i64::from(from));
        let raw: Vec<f64> = (first..end)
            .map(|x| cubic((x as f64 - center + 0.5) / stretch))
            .collect();
        let sum: f64 = raw.iter().sum();
        let fixed = raw.into_iter().map(|weight| {
            let scaled = weight / sum * f64::from(1u32 << PRECISION);
            // As C truncates.
            (scaled + 0.5f64.copysign(scaled)) as i64
        });
        (first as usize, fixed.collect())
    };
    (0..to).map(pixel).collect()
}

/// Keys' filter with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn clipped(sum: i64) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Pillow's `resize(..., BICUBIC)`: rows first, rounded to bytes in between. (From version 13 on Pillow
/// takes the columns first where that is cheaper, and some bytes differ by one.)
fn bicubic(picture: Bytes, width: u32, height: u32) -> Bytes {
    const HALF: i64 = 1 << (PRECISION - 1);
    let (in_width, out_width) = (picture.width as usize, width as usize);
    let across = (picture.width != width).then(|| weights(picture.width, width));
    let rows = match across {
        None => picture.data,
        Some(across) => {
            let mut rows = Vec::with_capacity(picture.height as usize * out_width * 3);
            for row in picture.data.chunks_exact(in_width * 3) {
                for (first, weights) in &across {
                    let mut sums = [HALF; 3];
                    for (source, weight) in row[first * 3..].chunks_exact(3).zip(weights) {
                        for channel in 0..3 {
                            sums[channel] += i64::from(source[channel]) * weight;
                        }
                    }
                    rows.extend(sums.map(clipped));
                }
            }
            rows
        }
    };
    let down = (picture.height != height).then(|| weights(picture.height, height));
    let data = match down {
        None => rows,
        Some(down) => {
            let mut data = Vec::with_capacity(height as usize * out_width * 3);
            for (first, weights) in &down {
                let mut sums = vec![HALF; out_width * 3];
                let sources = rows[first * out_width * 3..].chunks_exact(out_width * 3);
                for (source, weight) in sources.zip(weights) {
                    for (sum, byte) in sums.iter_mut().zip(source) {
                        *sum += i64::from(*byte) * weight;
                    }
                }
                data.extend(sums.into_iter().map(clipped));
            }
            data
        }
    };
    Bytes {
        width,
        height,
        data,
    }
}
