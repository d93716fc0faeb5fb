//! A look at the images with CLIP, for the report. What it saw is kept by the images' content and the
//! model's, so that a second look opens no model.

use std::path::Path;

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::cache::{Array, Cache, Key};
use super::questions::{CHARACTER, Questions};
use super::resize::Rgb;
use super::{ImageDataset, ImageItem, open};
use crate::data::pixel_values;
use crate::model::{ClipVision, Device, vision_fingerprint};

/// Images that are looked at together.
const BATCH: usize = 16;
/// Images below which no set is taken for a character's.
const ENOUGH: usize = 5;
/// Share of the images that show a character in a character's set.
const MOST: f64 = 0.6;
/// Side of a window, of the image's shorter side.
const WINDOW: f64 = 0.6;

/// Where in an image its subject is looked for. The windows are squares. There is none at the top:
/// of somebody who stands, that one shows the most.
pub(super) const WINDOWS: [&str; 4] = ["the middle", "the left", "the right", "the bottom"];

/// What CLIP sees of a set.
pub(super) struct Seen {
    pub questions: Questions,
    /// A unit vector for each image that is trained on, those of `reg_data_dir` left out.
    pub images: Vec<Vec<f32>>,
    /// Of a character's set only: for each image a unit vector for each of [`WINDOWS`].
    pub windows: Option<Vec<Vec<Vec<f32>>>>,
}

/// The model, opened at the first image that the cache does not know.
struct Eye<'a> {
    folder: &'a Path,
    device: &'a Device,
    fingerprint: blake3::Hash,
    cache: Cache,
    vision: Option<ClipVision>,
}

impl ImageDataset {
    /// Looks at the images with the CLIP of `folder`, for [`ImageDataset::statistics`]. `progress` is
    /// told of images done and all there are; for a character's set twice.
    ///
    /// # Errors
    /// The folder holds no whole CLIP; an image cannot be read any more; the device fails.
    pub fn look_with_clip(
        &mut self,
        folder: &Path,
        device: &Device,
        progress: &dyn Fn(u64, u64),
    ) -> Result<()> {
        let with_name = || format!("clip_model: {} cannot be used", folder.display());
        let fingerprint = vision_fingerprint(folder).with_context(with_name)?;
        let mut eye = Eye {
            folder,
            device,
            fingerprint,
            cache: Cache::open(),
            vision: None,
        };
        let questions = eye.questions().with_context(with_name)?;
        let trained: Vec<&ImageItem> = self.items.iter().filter(|i| !i.regularization).collect();
        let whole = eye.look(&trained, "whole", whole, progress)?;
        let images: Vec<Vec<f32>> = whole.into_iter().flatten().collect();
        let windows = match is_of_a_character(&questions, &images) {
            true => Some(eye.look(&trained, "windows", windows, progress)?),
            false => None,
        };
        self.clip = Some(Seen {
            questions,
            images,
            windows,
        });
        Ok(())
    }
}

/// Whether most of the images show a person or a character.
pub(super) fn is_of_a_character(questions: &Questions, images: &[Vec<f32>]) -> bool {
    let shows = |image: &&Vec<f32>| questions.answer("kind", image) == CHARACTER;
    let count = images.iter().filter(shows).count();
    images.len() >= ENOUGH && count as f64 >= MOST * images.len() as f64
}

fn whole(image: &Rgb) -> Vec<Rgb> {
    vec![image.clone()]
}

/// The parts of an image that [`WINDOWS`] name.
fn windows(image: &Rgb) -> Vec<Rgb> {
    let (width, height) = (image.width, image.height);
    let side = ((f64::from(width.min(height)) * WINDOW).round() as u32).max(1);
    let (right, bottom) = (width - side, height - side);
    let places = [
        (right / 2, bottom / 2),
        (0, bottom / 2),
        (right, bottom / 2),
        (right / 2, bottom),
    ];
    let cut = |(left, top): (u32, u32)| {
        let row = |y: u32| {
            let start = (y as usize * width as usize + left as usize) * 3;
            &image.data[start..start + side as usize * 3]
        };
        Rgb {
            width: side,
            height: side,
            data: (top..top + side).flat_map(row).copied().collect(),
        }
    };
    places.map(cut).to_vec()
}

impl Eye<'_> {
    fn vision(&mut self) -> Result<&ClipVision> {
        let vision = match self.vision.take() {
            Some(vision) => vision,
            None => ClipVision::open(self.folder, self.device)?,
        };
        Ok(self.vision.insert(vision))
    }

    fn key(&self, kind: &str) -> Key {
        Key::new(kind).of("model", self.fingerprint.as_bytes())
    }

    fn questions(&mut self) -> Result<Questions> {
        let key = self
            .key("clip-questions")
            .of("text", Questions::fingerprint().as_bytes());
        if let Some(mut kept) = self.cache.get(&key)
            && let Some(scale) = kept.pop()
            && let Some(scale) = scale.data.first()
        {
            let vectors = kept.into_iter().map(|array| array.data).collect();
            if let Ok(questions) = Questions::of(vectors, *scale) {
                return Ok(questions);
            }
        }
        let scale = self.vision()?.scale();
        let questions = Questions::open(self.folder, self.device, scale)?;
        let (vectors, scale) = questions.vectors();
        let mut arrays: Vec<Array> = vectors.into_iter().map(array).collect();
        arrays.push(array(&[scale]));
        self.cache.get_or(&key, || Ok(arrays))?;
        Ok(questions)
    }

    /// The vectors of each image's parts.
    fn look(
        &mut self,
        items: &[&ImageItem],
        name: &str,
        parts: fn(&Rgb) -> Vec<Rgb>,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let total = items.len() as u64;
        let mut all: Vec<Vec<Vec<f32>>> = Vec::with_capacity(items.len());
        for batch in items.chunks(BATCH) {
            progress(all.len() as u64, total);
            let key = |item: &ImageItem| {
                let key = self.key("clip-image").of("parts", name.as_bytes());
                key.of("content", item.content.as_bytes())
            };
            let keys: Vec<Key> = batch.iter().map(|item| key(item)).collect();
            let mut found: Vec<Option<Vec<Array>>> =
                keys.iter().map(|key| self.cache.get(key)).collect();
            let missing: Vec<usize> = (0..batch.len()).filter(|i| found[*i].is_none()).collect();
            let new = match missing.is_empty() {
                true => Vec::new(),
                false => {
                    let pictures: Vec<&ImageItem> = missing.iter().map(|i| batch[*i]).collect();
                    self.embed(&pictures, parts)?
                }
            };
            for (at, vectors) in missing.into_iter().zip(new) {
                let arrays: Vec<Array> = vectors.iter().map(|v| array(v)).collect();
                found[at] = Some(self.cache.get_or(&keys[at], || Ok(arrays))?);
            }
            all.extend(found.into_iter().flatten().map(|arrays| {
                let vectors = arrays.into_iter().map(|array| array.data);
                vectors.collect::<Vec<_>>()
            }));
        }
        progress(total, total);
        Ok(all)
    }

    fn embed(
        &mut self,
        items: &[&ImageItem],
        parts: fn(&Rgb) -> Vec<Rgb>,
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let vision = self.vision()?;
        let steps = vision.preprocessing();
        let prepared = items.par_iter().map(|item| {
            let parts = parts(&open(&item.path)?);
            let values = parts
                .iter()
                .map(|part| pixel_values(part.width, part.height, &part.data, steps));
            Ok(values.collect::<Vec<Vec<f32>>>())
        });
        let prepared: Vec<Vec<Vec<f32>>> = prepared.collect::<Result<_>>()?;
        let counts: Vec<usize> = prepared.iter().map(Vec::len).collect();
        let mut vectors = vision.embed(&prepared.concat())?.into_iter();
        let of_image = |count: usize| vectors.by_ref().take(count).collect();
        Ok(counts.into_iter().map(of_image).collect())
    }
}

fn array(data: &[f32]) -> Array {
    Array {
        shape: vec![data.len()],
        data: data.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::questions::tests::axes;
    use super::*;

    #[test]
    fn a_characters_set_shows_one_in_most_of_enough_images() {
        let (questions, axis) = axes(10.0);
        let of = |name: &str| {
            let mut image = vec![0.0; axis("cluttered") + 1];
            image[axis(name)] = 1.0;
            image
        };
        let set = |people: usize, others: usize| -> Vec<Vec<f32>> {
            let people = std::iter::repeat_n(of(CHARACTER), people);
            people
                .chain(std::iter::repeat_n(of("a landscape"), others))
                .collect()
        };
        assert!(is_of_a_character(&questions, &set(6, 4)));
        assert!(!is_of_a_character(&questions, &set(5, 5)));
        assert!(!is_of_a_character(&questions, &set(4, 0)));
    }

    #[test]
    fn windows_lie_where_their_names_say() {
        // A pixel's red is its column, its green its row.
        let data = (0..60u8).flat_map(|y| (0..100u8).flat_map(move |x| [x, y, 0]));
        let image = Rgb {
            width: 100,
            height: 60,
            data: data.collect(),
        };
        let corners = windows(&image).into_iter().map(|window| {
            assert_eq!((window.width, window.height), (36, 36));
            assert_eq!(window.data.len(), 36 * 36 * 3);
            (window.data[0], window.data[1])
        });
        let corners: Vec<(u8, u8)> = corners.collect();
        assert_eq!(corners, [(32, 12), (0, 12), (64, 12), (32, 24)]);
    }
}
