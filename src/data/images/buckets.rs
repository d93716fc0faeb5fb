//! Aspect-ratio buckets, as kohya's sd-scripts make them (`BucketManager.select_bucket` and
//! `make_bucket_resolutions`): images of like shape are trained together, each bucket with about the
//! area of `resolution` squared and sides that are multiples of a step.

use crate::config::RunConfig;

/// Where an image lies in training: scaled to `resized`, of which `bucket` is cut out at `crop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// Width and height in pixels.
    pub bucket: (u32, u32),
    pub resized: (u32, u32),
    /// Left and top of the bucket within the resized image.
    pub crop: (u32, u32),
}

/// The buckets of a run.
#[derive(Clone, Debug)]
pub struct Buckets {
    /// Sorted; one alone without bucketing.
    sizes: Vec<(u32, u32)>,
    step: u32,
    area: u64,
    no_upscale: bool,
}

impl Buckets {
    /// The buckets that a config asks for.
    pub fn of(config: &RunConfig) -> Self {
        let resolution = config.resolution as u32;
        if !config.buckets {
            return Buckets {
                sizes: vec![(resolution, resolution)],
                step: 1,
                area: u64::from(resolution) * u64::from(resolution),
                no_upscale: false,
            };
        }
        let step = config.bucket_reso_steps;
        // Sides are multiples of the step, so the shortest one is as well.
        let half = (resolution / 2 / step).max(1) * step;
        let min = config.min_bucket_reso.unwrap_or(half);
        let max = config.max_bucket_reso.unwrap_or(2 * resolution);
        Self::new(resolution, min, max, step, config.bucket_no_upscale)
    }

    /// Buckets of `resolution` squared pixels at most, with sides from `min` to `max`.
    pub fn new(resolution: u32, min: u32, max: u32, step: u32, no_upscale: bool) -> Self {
        let step = step.max(1);
        let area = u64::from(resolution) * u64::from(resolution);
        let square = (resolution / step).max(1) * step;
        let mut sizes = vec![(square, square)];
        let mut width = min.max(1);
        while width <= max {
            let fits = area / u64::from(width) / u64::from(step) * u64::from(step);
            let height = max.min(fits as u32);
            if height >= min {
                sizes.extend([(width, height), (height, width)]);
            }
            width += step;
        }
        sizes.sort_unstable();
        sizes.dedup();
        Buckets {
            sizes,
            step,
            area,
            no_upscale,
        }
    }

    /// Where an image of this width and height lies.
    pub fn place(&self, size: (u32, u32)) -> Placement {
        let size = (size.0.max(1), size.1.max(1));
        let (bucket, resized) = if self.no_upscale {
            self.shrunk(size)
        } else {
            self.nearest(size)
        };
        let crop = |resized: u32, bucket: u32| resized.saturating_sub(bucket) / 2;
        Placement {
            bucket,
            resized,
            crop: (crop(resized.0, bucket.0), crop(resized.1, bucket.1)),
        }
    }

    /// The bucket of the nearest aspect ratio, and the size that just covers it.
    fn nearest(&self, size: (u32, u32)) -> ((u32, u32), (u32, u32)) {
        let (width, height) = (f64::from(size.0), f64::from(size.1));
        let aspect = width / height;
        let ratio = |(w, h): (u32, u32)| f64::from(w) / f64::from(h);
        let bucket = if self.sizes.contains(&size) {
            size
        } else {
            // The first of equally near ones, as numpy's `argmin` has it.
            let distance = |s: &(u32, u32)| (ratio(*s) - aspect).abs();
            let mut best = self.sizes[0];
            for candidate in &self.sizes[1..] {
                if distance(candidate) < distance(&best) {
                    best = *candidate;
                }
            }
            best
        };
        let scale = if aspect > ratio(bucket) {
            f64::from(bucket.1) / height
        } else {
            f64::from(bucket.0) / width
        };
        (bucket, (rounded(width * scale), rounded(height * scale)))
    }

    /// A bucket of the image's own shape, made smaller only where it has too many pixels.
    fn shrunk(&self, size: (u32, u32)) -> ((u32, u32), (u32, u32)) {
        let aspect = f64::from(size.0) / f64::from(size.1);
        let resized = if u64::from(size.0) * u64::from(size.1) > self.area {
            let width = (self.area as f64 * aspect).sqrt();
            let height = self.area as f64 / width;
            // Either side becomes a multiple of the step: whichever keeps the aspect ratio better.
            let by_width = self.to_step(width);
            let its_height = self.to_step(f64::from(by_width) / aspect);
            let by_height = self.to_step(height);
            let its_width = self.to_step(f64::from(by_height) * aspect);
            let error = |w: u32, h: u32| (f64::from(w) / f64::from(h) - aspect).abs();
            if error(by_width, its_height) < error(its_width, by_height) {
                (by_width, rounded(f64::from(by_width) / aspect))
            } else {
                (rounded(f64::from(by_height) * aspect), by_height)
            }
        } else {
            size
        };
        // A side that is shorter than a step is enlarged to one: a bucket cannot be empty.
        let resized = (resized.0.max(self.step), resized.1.max(self.step));
        let bucket = (
            resized.0 - resized.0 % self.step,
            resized.1 - resized.1 % self.step,
        );
        (bucket, resized)
    }

    fn to_step(&self, x: f64) -> u32 {
        let x = rounded(x);
        x - x % self.step
    }
}

fn rounded(x: f64) -> u32 {
    (x + 0.5) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        resolution: u32,
        min: u32,
        max: u32,
        step: u32,
        no_upscale: bool,
        /// Width, height; the bucket's; the resized image's.
        images: Vec<[u32; 6]>,
    }

    #[test]
    fn images_fall_into_the_buckets_that_kohya_puts_them_into() {
        let fixture = include_str!("../../../tests/fixtures/kohya_buckets.json");
        let cases: Vec<Case> = serde_json::from_str(fixture).unwrap();
        let mut compared = 0;
        for case in cases {
            let buckets = Buckets::new(
                case.resolution,
                case.min,
                case.max,
                case.step,
                case.no_upscale,
            );
            for [w, h, bucket_w, bucket_h, resized_w, resized_h] in case.images {
                let placed = buckets.place((w, h));
                assert_eq!(
                    (placed.bucket, placed.resized),
                    ((bucket_w, bucket_h), (resized_w, resized_h)),
                    "{w}x{h} at {} by {}, no_upscale {}",
                    case.resolution,
                    case.step,
                    case.no_upscale
                );
                compared += 1;
            }
        }
        assert!(compared > 500, "{compared}");
    }

    #[test]
    fn every_bucket_lies_within_the_resized_image() {
        for no_upscale in [false, true] {
            let buckets = Buckets::new(512, 256, 1024, 64, no_upscale);
            for size in [(1, 1), (3000, 10), (10, 3000), (512, 512), (511, 700)] {
                let Placement {
                    bucket,
                    resized,
                    crop,
                } = buckets.place(size);
                assert!(bucket.0 > 0 && bucket.1 > 0);
                assert!(bucket.0 + crop.0 <= resized.0, "{size:?}: {resized:?}");
                assert!(bucket.1 + crop.1 <= resized.1, "{size:?}: {resized:?}");
            }
        }
    }
}
