//! Images that are too small for the run, lose much at their edges, or stand alone in a bucket.

use std::collections::BTreeMap;

use super::{are_images, found, images, verb};
use crate::data::images::{ImageDataset, ImageItem};
use crate::protocol::{Finding, FindingItem, Severity};

/// Share of an image that may be cut off without a word.
const CUT: f64 = 0.2;
/// Repeats above which a folder's number is hardly meant as such: `2024_photos`.
const MANY_REPEATS: u32 = 200;

/// How much larger an image becomes to fill its bucket; at most 1: it does not grow.
pub(super) fn enlarged(item: &ImageItem) -> f64 {
    let (width, height) = item.facts.size;
    let (to_width, to_height) = item.placement.resized;
    let by = |from: u32, to: u32| f64::from(to) / f64::from(from.max(1));
    // Rounding to whole pixels is no growth.
    if to_width <= width && to_height <= height {
        return 1.0;
    }
    by(width, to_width).max(by(height, to_height))
}

pub(super) fn findings(dataset: &ImageDataset, trained: &[&ImageItem]) -> Vec<Finding> {
    let resolution = dataset.settings.resolution;
    let mut small: Vec<(f64, &&ImageItem)> = trained.iter().map(|i| (enlarged(i), i)).collect();
    small.retain(|(by, _)| *by > 1.0);
    small.sort_by(|a, b| b.0.total_cmp(&a.0));
    let small = small.into_iter().map(|(by, item)| {
        let (w, h) = item.facts.size;
        FindingItem::new(&item.name, format!("{w}x{h}, enlarged {by:.2} times"))
    });
    let too_small = found(
        "too_small",
        Severity::Warning,
        small.collect(),
        |n| {
            format!(
                "{} smaller than `resolution: {resolution}` asks for and enlarged, which blurs",
                are_images(n)
            )
        },
        "replace them by larger ones, write a smaller `resolution`, or `bucket_no_upscale: true`",
    );

    let cut = |item: &ImageItem| {
        let area = |(w, h): (u32, u32)| f64::from(w) * f64::from(h);
        1.0 - area(item.placement.bucket) / area(item.placement.resized).max(1.0)
    };
    let mut cropped: Vec<(f64, &&ImageItem)> = trained.iter().map(|i| (cut(i), i)).collect();
    cropped.retain(|(share, _)| *share > CUT);
    cropped.sort_by(|a, b| b.0.total_cmp(&a.0));
    let cropped = cropped.into_iter().map(|(share, item)| {
        let (w, h) = item.facts.size;
        let (bw, bh) = item.placement.bucket;
        let percent = share * 100.0;
        FindingItem::new(
            &item.name,
            format!("{w}x{h} into {bw}x{bh} loses {percent:.0} %"),
        )
    });
    let cropped = found(
        "cropped",
        Severity::Warning,
        cropped.collect(),
        |n| {
            format!(
                "{} {} more than {:.0} % at the edges to fit a bucket",
                images(n),
                verb(n, "loses", "lose"),
                CUT * 100.0
            )
        },
        "crop them yourself so that what matters stays",
    );

    let repeats = trained.iter().filter(|i| i.repeats > MANY_REPEATS);
    let mut folders: BTreeMap<&str, u32> = BTreeMap::new();
    for item in repeats {
        let folder = item.name.rsplit_once('/').map_or("", |(f, _)| f);
        folders.insert(folder, item.repeats);
    }
    let many = found(
        "many_repeats",
        Severity::Warning,
        folders
            .into_iter()
            .map(|(folder, n)| FindingItem::new(folder, format!("{n} times an epoch")))
            .collect(),
        |n| {
            format!(
                "the number before `_` of {n} {} is taken as repeats",
                verb(n, "folder", "folders")
            )
        },
        "rename it, if the number is none of repeats",
    );

    let mut rows: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for item in &dataset.items {
        *rows.entry(item.placement.bucket).or_default() += u64::from(item.repeats);
    }
    let batch = dataset.settings.batch_size as u64;
    let alone: Vec<FindingItem> = match rows.len() {
        1 => Vec::new(),
        _ => rows
            .into_iter()
            .filter(|(_, n)| *n < batch)
            .map(|((w, h), n)| FindingItem::new(format!("{w}x{h}"), format!("{n} of {batch} rows")))
            .collect(),
    };
    let alone = found(
        "small_buckets",
        Severity::Note,
        alone,
        |n| {
            format!(
                "{n} {} fewer images than `batch_size: {batch}`, so that steps of unequal size \
                 come about",
                verb(n, "bucket holds", "buckets hold")
            )
        },
        "crop those images to a shape that others have, or write a smaller `batch_size`",
    );
    [too_small, cropped, many, alone]
        .into_iter()
        .flatten()
        .collect()
}
