//! Images to train on: reading, captions, buckets, seeded batches, caches, and what is odd about
//! them.

mod batches;
mod buckets;
mod cache;
mod captions;
mod clip;
mod decode;
mod edit;
mod folder;
mod look;
mod preview;
mod questions;
mod report;
mod resize;
mod scan;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::split::by_chance;
use super::{BadKind, BadRecord};
use crate::config::RunConfig;
use crate::error::input_error;
use crate::random::{Purpose, Stream};

pub use batches::{ImageBatches, Row};
pub use buckets::{Buckets, Placement};
pub use cache::{Array, Cache, Key, cache_folder};
pub use captions::{CaptionSource, StrayRow};
pub use edit::edit;
pub use folder::EXCLUDED_FILE;
pub use look::Look;
pub use questions::Questions;
pub use resize::{Rgb, resize_rgb};
pub use scan::Facts;

/// An image to train on.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageItem {
    pub path: PathBuf,
    /// Relative to its folder, with `/`.
    pub name: String,
    /// As it was found, on one line; empty where there is none.
    pub caption: String,
    pub source: CaptionSource,
    /// Turns in an epoch.
    pub repeats: u32,
    /// Of kohya's folder name, `10_class`.
    pub class: Option<String>,
    /// Whether it comes from `reg_data_dir`.
    pub regularization: bool,
    pub placement: Placement,
    /// Hash of the file's bytes (blake3, hex).
    pub content: String,
    pub facts: Facts,
}

impl ImageItem {
    /// Width and height, upright.
    pub fn size(&self) -> (u32, u32) {
        self.facts.size
    }
}

/// The images of a run.
pub struct ImageDataset {
    /// Sorted by name, those of `reg_data_dir` last.
    pub items: Vec<ImageItem>,
    /// Indices of items that are held out for the eval loss.
    pub held_out: Vec<usize>,
    /// Files and rows that cannot be used.
    pub bad: Vec<BadRecord>,
    /// Images left out by hand.
    pub excluded: Vec<ImageItem>,
    /// Rows and caption files without an image.
    pub stray_rows: Vec<StrayRow>,
    left_over: LeftOver,
    /// How many images `reg_data_dir` has that no turn is left for.
    unused_regularization: usize,
    /// What CLIP sees, once it was asked.
    clip: Option<clip::Seen>,
    settings: Settings,
}

/// What the reading passed over; for the report.
#[derive(Default)]
struct LeftOver {
    unread: Vec<String>,
    others: Vec<String>,
    captions_twice: Vec<(String, String)>,
    rows_repeated: Vec<(String, String)>,
    /// Whether any table or caption file was there.
    had_captions: bool,
}

/// What of the config acts on captions and flips.
struct Settings {
    seed: u64,
    resolution: u32,
    batch_size: usize,
    trigger_word: Option<String>,
    shuffle_caption: bool,
    keep_tokens: usize,
    caption_dropout: f64,
    flip_aug: bool,
    max_token_length: usize,
    skip_bad_records: bool,
}

/// An image as the VAE takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    /// The bucket's.
    pub width: u32,
    pub height: u32,
    /// `[height, width, 3]`, from -1 to 1.
    pub data: Vec<f32>,
    /// Width and height of the file's image, upright.
    pub original: (u32, u32),
    /// Left and top of what was cut out, in the image scaled to its bucket (mirrored like it):
    /// SDXL's crop coordinates.
    pub crop: (u32, u32),
}

/// Reads the images that `train_data_dir` and `reg_data_dir` name, in parallel. What was seen of
/// them is remembered by content, so that the next reading is quick. `progress` is told of images
/// done and all there are.
///
/// # Errors
/// Nothing usable at all: no folder, no image; a `metadata_path` that gives no caption; a split that
/// leaves nothing to train on.
pub fn load(config: &RunConfig, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<ImageDataset> {
    let buckets = Buckets::of(config);
    let metadata = config.metadata_path.as_deref();
    let mut read = Folder::read(&config.train_data_dir, "train_data_dir", metadata, progress)?;
    if read.items.is_empty() {
        return Err(nothing_usable(&config.train_data_dir, &read));
    }
    let out = by_chance(read.items.len(), config.eval_split, config.seed)?;
    let held_out = (0..out.len()).filter(|&i| out[i]).collect();
    let mut unused_regularization = 0;
    if let Some(path) = &config.reg_data_dir {
        let other = Folder::read(path, "reg_data_dir", None, progress)?;
        if other.items.is_empty() {
            return Err(nothing_usable(path, &other));
        }
        let turns: u64 = read.items.iter().map(|i| u64::from(i.repeats)).sum();
        let all = other.items.len();
        let chosen = regularization(other.items, turns);
        unused_regularization = all - chosen.len();
        read.items.extend(chosen);
        read.bad.extend(other.bad);
    }
    for item in read.items.iter_mut().chain(&mut read.excluded) {
        item.placement = buckets.place(item.facts.size);
    }
    Ok(ImageDataset {
        items: read.items,
        held_out,
        bad: read.bad,
        excluded: read.excluded,
        stray_rows: read.stray_rows,
        left_over: read.left_over,
        unused_regularization,
        clip: None,
        settings: Settings {
            seed: config.seed,
            resolution: config.resolution as u32,
            batch_size: config.batch_size,
            trigger_word: config.trigger_word.clone(),
            shuffle_caption: config.shuffle_caption,
            keep_tokens: config.keep_tokens,
            caption_dropout: config.caption_dropout,
            flip_aug: config.flip_aug,
            max_token_length: config.max_token_length,
            skip_bad_records: config.skip_bad_records,
        },
    })
}

/// A folder's images with their captions.
struct Folder {
    items: Vec<ImageItem>,
    excluded: Vec<ImageItem>,
    bad: Vec<BadRecord>,
    stray_rows: Vec<StrayRow>,
    left_over: LeftOver,
}

impl Folder {
    fn read(
        root: &Path,
        key: &str,
        metadata_path: Option<&Path>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self> {
        let contents = folder::look(root, key)?;
        let mut captions = captions::find(root, &contents, metadata_path)?;
        let out = folder::excluded(root);
        let seen = scan::scan(root, &contents.images, progress);
        let mut read = Folder {
            items: Vec::new(),
            excluded: Vec::new(),
            bad: captions.bad,
            stray_rows: captions.strays,
            left_over: LeftOver {
                unread: contents.unread,
                others: contents.others,
                captions_twice: captions.twice,
                rows_repeated: captions.repeated,
                had_captions: !captions.found.is_empty(),
            },
        };
        for (name, seen) in contents.images.iter().zip(seen) {
            let facts = match seen.facts {
                Ok(facts) => facts,
                Err(reason) => {
                    read.bad.push(bad_record(name, 0, reason));
                    continue;
                }
            };
            let (caption, source) = captions
                .found
                .remove(name)
                .unwrap_or((String::new(), CaptionSource::None));
            let kohya = folder::kohya(name);
            let item = ImageItem {
                path: root.join(name),
                name: name.clone(),
                caption,
                source,
                repeats: kohya.as_ref().map_or(1, |(repeats, _)| *repeats),
                class: kohya.map(|(_, class)| class),
                regularization: key == "reg_data_dir",
                placement: Placement::default(),
                content: seen.content,
                facts,
            };
            match out.contains(name) {
                true => read.excluded.push(item),
                false => read.items.push(item),
            }
        }
        Ok(read)
    }
}

fn bad_record(file: &str, line: usize, reason: impl Into<String>) -> BadRecord {
    BadRecord {
        file: file.to_owned(),
        line,
        kind: BadKind::Other,
        reason: reason.into(),
    }
}

fn nothing_usable(root: &Path, read: &Folder) -> anyhow::Error {
    let path = root.display();
    let of = |names: &[String]| super::files::listed(names);
    let mut text = format!("{path} holds no image that can be used (PNG, JPEG, WebP, BMP, GIF)");
    if !read.excluded.is_empty() {
        let count = read.excluded.len();
        text += &format!("; {count} are left out by hand in {EXCLUDED_FILE}");
    }
    if !read.left_over.unread.is_empty() {
        text += &format!("; it holds {}", of(&read.left_over.unread));
    }
    for record in read.bad.iter().take(10) {
        text += &format!("\n  {record}");
    }
    if read.bad.len() > 10 {
        text += &format!("\n  and {} more", read.bad.len() - 10);
    }
    input_error(text)
}

/// Regularisation images with as many turns as there are of the training's, as kohya deals them
/// out: first each its own repeats, then one more in turn.
fn regularization(mut items: Vec<ImageItem>, turns: u64) -> Vec<ImageItem> {
    let mut dealt = 0;
    let mut used = 0;
    for item in &items {
        if dealt >= turns {
            break;
        }
        dealt += u64::from(item.repeats);
        used += 1;
    }
    items.truncate(used.max(1));
    for index in (0..items.len()).cycle() {
        if dealt >= turns {
            break;
        }
        items[index].repeats += 1;
        dealt += 1;
    }
    items
}

impl ImageDataset {
    /// The caption of an item with its trigger word, before anything random.
    pub fn plain_caption(&self, item: usize) -> String {
        let item = &self.items[item];
        match &self.settings.trigger_word {
            Some(trigger) if !item.regularization => with_trigger(trigger, &item.caption),
            _ => item.caption.clone(),
        }
    }

    /// The caption of a turn: shuffled, or dropped (empty), as the config asks.
    pub fn caption(&self, row: Row) -> String {
        let settings = &self.settings;
        let caption = self.plain_caption(row.item);
        let mut stream = Stream::new(settings.seed, Purpose::Caption, row.draw, 0);
        // Drawn first and always, so that one setting does not change what another draws.
        if stream.uniform_f64() < settings.caption_dropout {
            return String::new();
        }
        if !settings.shuffle_caption {
            return caption;
        }
        let mut parts: Vec<&str> = caption.split(',').map(str::trim).collect();
        let keep = settings.keep_tokens.max(usize::from(
            settings.trigger_word.is_some() && !self.items[row.item].regularization,
        ));
        stream.shuffle(parts.get_mut(keep..).unwrap_or_default());
        parts.join(", ")
    }

    /// Whether an item's turn is mirrored.
    pub fn flipped(&self, row: Row) -> bool {
        let settings = &self.settings;
        settings.flip_aug && Stream::new(settings.seed, Purpose::Flip, row.draw, 0).uniform() < 0.5
    }

    /// Reads an item's image, scales it to its bucket and cuts that out of its middle.
    ///
    /// # Errors
    /// The file is gone, damaged, or another image than it was.
    pub fn decode(&self, item: usize, flip: bool) -> Result<Pixels> {
        let item = &self.items[item];
        let image = open(&item.path)?;
        if (image.width, image.height) != item.facts.size {
            bail!(input_error(format!(
                "{} has changed since the run began; start the run again",
                item.path.display()
            )));
        }
        Ok(place(&image, item.placement, flip))
    }

    /// What an item's latents are kept under: its content, its place, and the VAE that made them.
    pub fn latent_key(&self, item: usize, flip: bool, vae: &[u8]) -> Key {
        let item = &self.items[item];
        let Placement {
            bucket,
            resized,
            crop,
        } = item.placement;
        let numbers = [bucket, resized, crop].map(|(a, b)| [a, b]).concat();
        let place: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        Key::new("latents")
            .of("vae", vae)
            .of("content", item.content.as_bytes())
            .of("place", &place)
            .of("flip", &[u8::from(flip)])
    }
}

/// The trigger word before a caption that lacks it.
fn with_trigger(trigger: &str, caption: &str) -> String {
    if caption.is_empty() {
        return trigger.to_owned();
    }
    match report::mentions(caption, trigger) {
        true => caption.to_owned(),
        false => format!("{trigger}, {caption}"),
    }
}

/// Scales an image to its bucket and cuts that out.
fn place(image: &Rgb, placement: Placement, flip: bool) -> Pixels {
    let Placement {
        bucket: (width, height),
        resized,
        crop: (left, top),
    } = placement;
    let scaled = resize::resize(image, resized.0, resized.1);
    let mut data = Vec::with_capacity(width as usize * height as usize * 3);
    for y in top..top + height {
        let start = (y as usize * resized.0 as usize + left as usize) * 3;
        let row = &scaled[start..start + width as usize * 3];
        let pixels = row.chunks_exact(3);
        let value = |v: &f32| v / 127.5 - 1.0;
        if flip {
            data.extend(pixels.rev().flatten().map(value));
        } else {
            data.extend(pixels.flatten().map(value));
        }
    }
    Pixels {
        width,
        height,
        data,
        original: (image.width, image.height),
        crop: match flip {
            true => (resized.0 - width - left, top),
            false => (left, top),
        },
    }
}

/// Names (relative, with `/`) and paths of all images below a folder, sorted.
///
/// # Errors
/// It is no folder, or cannot be read.
pub fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let names = folder::look(folder, "the images")?.images;
    let with_path = |name: String| (folder.join(&name), name);
    let paths = names.into_iter().map(with_path);
    Ok(paths.map(|(path, name)| (name, path)).collect())
}

/// The image in a file: whole, upright, transparency over white.
///
/// # Errors
/// It cannot be read: why, with its path.
pub fn open(path: &Path) -> Result<Rgb> {
    let bytes = decode::read_bytes(path);
    let decoded = bytes.and_then(|bytes| decode::decode(&bytes));
    let failed = |reason: String| input_error(format!("{}: {reason}", path.display()));
    Ok(decoded.map_err(failed)?.pixels)
}

/// The image in a file, made to fit `width` by `height` pixels, for a look at it.
///
/// # Errors
/// As [`open`].
pub fn thumbnail(path: &Path, width: u32, height: u32) -> Result<Rgb> {
    let image = open(path)?;
    let scale = (f64::from(width.max(1)) / f64::from(image.width))
        .min(f64::from(height.max(1)) / f64::from(image.height))
        .min(1.0);
    let side = |pixels: u32| ((f64::from(pixels) * scale).round() as u32).max(1);
    Ok(resize_rgb(&image, side(image.width), side(image.height)))
}
