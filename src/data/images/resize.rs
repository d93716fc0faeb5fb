//! Resampling as kohya does it: the mean of the covered area where an image becomes smaller, Lanczos
//! (three lobes) where it grows. Both as separable weights, like Pillow's.

/// Three bytes a pixel, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Rgb {
    pub width: u32,
    pub height: u32,
    pub data: Vec<u8>,
}

/// For each output pixel the first input pixel and the weights from there on.
struct Weights {
    taps: Vec<(usize, Vec<f32>)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Filter {
    /// Mean of the area: Pillow's BOX, OpenCV's INTER_AREA.
    Area,
    Lanczos,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Area => 0.5,
            Filter::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        match self {
            Filter::Area if x > -0.5 && x <= 0.5 => 1.0,
            Filter::Area => 0.0,
            Filter::Lanczos if x == 0.0 => 1.0,
            Filter::Lanczos if x.abs() < 3.0 => {
                let angle = std::f64::consts::PI * x;
                3.0 * angle.sin() * (angle / 3.0).sin() / (angle * angle)
            }
            Filter::Lanczos => 0.0,
        }
    }
}

impl Weights {
    /// From `from` to `to` pixels.
    fn new(filter: Filter, from: u32, to: u32) -> Self {
        let scale = f64::from(from) / f64::from(to);
        // When shrinking, the filter is as wide as the pixels it makes one of.
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let taps = (0..to)
            .map(|i| {
                let center = (f64::from(i) + 0.5) * scale;
                let first = ((center - support + 0.5) as i64).max(0) as usize;
                let end = ((center + support + 0.5) as usize).min(from as usize);
                let end = end.max(first + 1).min(from as usize);
                let first = first.min(end - 1);
                let mut weights: Vec<f64> = (first..end)
                    .map(|x| filter.at((x as f64 - center + 0.5) / stretch))
                    .collect();
                let sum: f64 = weights.iter().sum();
                if sum == 0.0 {
                    let even = 1.0 / weights.len() as f64;
                    weights.fill(even);
                } else {
                    weights.iter_mut().for_each(|w| *w /= sum);
                }
                (first, weights.into_iter().map(|w| w as f32).collect())
            })
            .collect();
        Weights { taps }
    }
}

/// The image at another size: `[height, width, 3]`, values 0 to 255 (not rounded).
pub fn resize(image: &Rgb, width: u32, height: u32) -> Vec<f32> {
    if (image.width, image.height) == (width, height) {
        return image.data.iter().map(|&b| f32::from(b)).collect();
    }
    let filter = if image.width >= width && image.height >= height {
        Filter::Area
    } else {
        Filter::Lanczos
    };
    let (in_width, out_width) = (image.width as usize, width as usize);
    let across = Weights::new(filter, image.width, width);
    let mut rows = vec![0f32; image.height as usize * out_width * 3];
    for (row, out) in image
        .data
        .chunks_exact(in_width * 3)
        .zip(rows.chunks_exact_mut(out_width * 3))
    {
        for ((first, weights), pixel) in across.taps.iter().zip(out.chunks_exact_mut(3)) {
            let mut sums = [0f32; 3];
            for (source, weight) in row[first * 3..].chunks_exact(3).zip(weights) {
                for channel in 0..3 {
                    sums[channel] += f32::from(source[channel]) * weight;
                }
            }
            // As Pillow does; without it overshoots at edges would reach their neighbours.
            pixel.copy_from_slice(&match filter {
                Filter::Area => sums,
                Filter::Lanczos => sums.map(|v| v.round().clamp(0.0, 255.0)),
            });
        }
    }
    let down = Weights::new(filter, image.height, height);
    let mut data = vec![0f32; height as usize * out_width * 3];
    for ((first, weights), out) in down.taps.iter().zip(data.chunks_exact_mut(out_width * 3)) {
        let sources = rows[first * out_width * 3..].chunks_exact(out_width * 3);
        for (source, weight) in sources.zip(weights) {
            for (value, source) in out.iter_mut().zip(source) {
                *value += source * weight;
            }
        }
        // Lanczos overshoots at edges.
        out.iter_mut().for_each(|v| *v = v.clamp(0.0, 255.0));
    }
    data
}

/// [`resize`] rounded to bytes.
pub fn resize_rgb(image: &Rgb, width: u32, height: u32) -> Rgb {
    let data = resize(image, width, height);
    Rgb {
        width,
        height,
        data: data.into_iter().map(|v| (v + 0.5) as u8).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        from: [u32; 2],
        to: [u32; 2],
        input: Vec<u8>,
        output: Vec<u8>,
    }

    #[test]
    fn images_are_resampled_as_pillow_does_it() {
        let fixture = include_str!("../../../tests/fixtures/pillow_resize.json");
        let cases: Vec<Case> = serde_json::from_str(fixture).unwrap();
        assert!(cases.len() >= 6);
        for case in cases {
            let image = Rgb {
                width: case.from[0],
                height: case.from[1],
                data: case.input,
            };
            let out = resize(&image, case.to[0], case.to[1]);
            assert_eq!(out.len(), case.output.len());
            for (ours, theirs) in out.iter().zip(&case.output) {
                // Pillow rounds to bytes, of an area after each direction.
                assert!(
                    (ours - f32::from(*theirs)).abs() <= 1.6,
                    "{:?} to {:?}: {ours} and {theirs}",
                    case.from,
                    case.to
                );
            }
        }
    }
}
