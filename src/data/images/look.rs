//! What an image looks like, in a few numbers: a perceptual hash for near duplicates, and colours
//! and edges for strays.

use super::resize::{Rgb, resize_rgb};

/// Numbers of [`Look::features`]: colours (4 x 4 x 4), edges (8 directions), brightness and
/// saturation (mean and spread of each).
pub const FEATURES: usize = 64 + 8 + 4;

/// Side of the square that features are taken from.
const SIDE: u32 = 64;

/// What an image looks like.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Look {
    /// Difference hash of the brightness, 8 rows of 8 neighbours, and of the same picture on its
    /// side: 128 bits. (N. Krawetz, "Kind of like that", 2013.)
    pub hash: (u64, u64),
    /// [`FEATURES`] numbers from 0 to 255.
    pub features: Vec<u8>,
}

impl Look {
    pub fn of(image: &Rgb) -> Self {
        let small = resize_rgb(image, SIDE, SIDE);
        Look {
            hash: hash(&small),
            features: features(&small),
        }
    }

    /// Bits in which two hashes differ.
    pub fn distance(&self, other: &Look) -> u32 {
        (self.hash.0 ^ other.hash.0).count_ones() + (self.hash.1 ^ other.hash.1).count_ones()
    }
}

fn brightness(pixel: &[u8]) -> f32 {
    0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2])
}

fn hash(image: &Rgb) -> (u64, u64) {
    let bits = |width: u32, height: u32| {
        let small = resize_rgb(image, width, height);
        let grey: Vec<f32> = small.data.chunks_exact(3).map(brightness).collect();
        grey
    };
    let (wide, tall) = (bits(9, 8), bits(8, 9));
    let mut across = 0u64;
    for row in wide.chunks_exact(9) {
        for pair in row.windows(2) {
            across = across << 1 | u64::from(pair[0] < pair[1]);
        }
    }
    let mut down = 0u64;
    for (above, below) in tall.iter().zip(&tall[8..]) {
        down = down << 1 | u64::from(above < below);
    }
    (across, down)
}

fn features(small: &Rgb) -> Vec<u8> {
    let side = SIDE as usize;
    let pixels: Vec<&[u8]> = small.data.chunks_exact(3).collect();
    let mut colours = [0f32; 64];
    let mut saturations = Vec::with_capacity(pixels.len());
    for pixel in &pixels {
        let part = |c: u8| usize::from(c >> 6);
        colours[part(pixel[0]) * 16 + part(pixel[1]) * 4 + part(pixel[2])] += 1.0;
        let (low, high) = (
            pixel[0].min(pixel[1]).min(pixel[2]),
            pixel[0].max(pixel[1]).max(pixel[2]),
        );
        saturations.push(f32::from(high - low));
    }
    let grey: Vec<f32> = pixels.iter().map(|p| brightness(p)).collect();
    let mut edges = [0f32; 8];
    for y in 1..side - 1 {
        for x in 1..side - 1 {
            let at = y * side + x;
            let (dx, dy) = (
                grey[at + 1] - grey[at - 1],
                grey[at + side] - grey[at - side],
            );
            let direction = dy.atan2(dx) / std::f32::consts::TAU * 8.0;
            edges[direction.rem_euclid(8.0) as usize % 8] += dx.hypot(dy);
        }
    }
    let count = pixels.len() as f32;
    let mut out = Vec::with_capacity(FEATURES);
    // The root keeps a background from drowning everything else.
    out.extend(colours.map(|n| (n / count).sqrt() * 255.0));
    out.extend(edges.map(|sum| (sum / count / 255.0).sqrt() * 255.0));
    for values in [&grey, &saturations] {
        let mean = values.iter().sum::<f32>() / count;
        let spread = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / count;
        out.extend([mean, spread.sqrt()]);
    }
    out.into_iter()
        .map(|v| v.clamp(0.0, 255.0).round() as u8)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disc on a ground that grows lighter to the right.
    pub fn disc(width: u32, height: u32, shift: i32, ground: u8) -> Rgb {
        let mut data = Vec::new();
        for y in 0..height as i32 {
            for x in 0..width as i32 {
                let (w, h) = (width as i32, height as i32);
                let (dx, dy) = (x - w / 2 - shift, y - h / 2);
                let inside = dx * dx + dy * dy < (w.min(h) / 3).pow(2);
                let grey = ground.saturating_add((x * 60 / w) as u8);
                data.extend(if inside { [200, 30, 30] } else { [grey; 3] });
            }
        }
        Rgb {
            width,
            height,
            data,
        }
    }

    #[test]
    fn a_copy_of_another_size_looks_alike_and_another_image_does_not() {
        let image = Look::of(&disc(300, 200, 0, 90));
        let smaller = Look::of(&resize_rgb(&disc(300, 200, 0, 90), 150, 100));
        let other = Look::of(&disc(300, 200, 90, 10));
        assert!(
            image.distance(&smaller) <= 4,
            "{}",
            image.distance(&smaller)
        );
        assert!(image.distance(&other) > 16, "{}", image.distance(&other));
        assert_eq!(image.features.len(), FEATURES);
    }
}
