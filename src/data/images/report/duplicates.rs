//! Images that are there twice.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{are_images, found};
use crate::data::images::ImageItem;
use crate::protocol::{Finding, FindingItem, Severity};

/// Bits of 128 in which the hashes of near duplicates differ at most.
const HASH_BITS: u32 = 12;
/// Mean difference of features (0 to 255) of near duplicates at most: plain drawings have hashes
/// with few bits, which alone would make any two of them alike.
const FEATURES: f64 = 4.0;

/// Factor by which the shapes of near duplicates differ at most: hashes are taken from squares.
const SHAPE: f64 = 1.3;

/// Images whose bytes another, earlier one has: with that one.
pub(super) fn exact<'a>(trained: &[&'a ImageItem]) -> Vec<(&'a ImageItem, &'a ImageItem)> {
    let mut first: HashMap<&str, &ImageItem> = HashMap::new();
    let mut pairs = Vec::new();
    for item in trained {
        match first.get(item.content.as_str()) {
            Some(earlier) => pairs.push((*item, *earlier)),
            None => drop(first.insert(&item.content, item)),
        }
    }
    pairs
}

/// Images that look like an earlier one without being the same file: with the nearest.
fn near<'a>(trained: &[&'a ImageItem]) -> Vec<(&'a ImageItem, &'a ImageItem)> {
    (0..trained.len())
        .into_par_iter()
        .filter_map(|at| {
            let item = trained[at];
            let like = trained[..at]
                .iter()
                .filter(|earlier| earlier.content != item.content && same_shape(item, earlier))
                .map(|earlier| (item.facts.look.distance(&earlier.facts.look), *earlier))
                .filter(|(bits, earlier)| *bits <= HASH_BITS && apart(item, earlier) <= FEATURES)
                .min_by_key(|(bits, _)| *bits)?;
            Some((item, like.1))
        })
        .collect()
}

fn same_shape(a: &ImageItem, b: &ImageItem) -> bool {
    let aspect = |i: &ImageItem| f64::from(i.facts.size.0) / f64::from(i.facts.size.1.max(1));
    let factor = aspect(a) / aspect(b);
    factor.max(1.0 / factor) <= SHAPE
}

fn apart(a: &ImageItem, b: &ImageItem) -> f64 {
    let (a, b) = (&a.facts.look.features, &b.facts.look.features);
    let sum: u64 = a
        .iter()
        .zip(b)
        .map(|(x, y)| u64::from(x.abs_diff(*y)))
        .sum();
    sum as f64 / a.len().max(1) as f64
}

pub(super) fn findings(trained: &[&ImageItem]) -> Vec<Finding> {
    let told = |pairs: Vec<(&ImageItem, &ImageItem)>, word: &str| -> Vec<FindingItem> {
        let item = |(item, earlier): (&ImageItem, &ImageItem)| {
            let differ = match item.caption == earlier.caption {
                true => "",
                false => ", with another caption",
            };
            FindingItem::new(&item.name, format!("{word} {}{differ}", earlier.name))
        };
        pairs.into_iter().map(item).collect()
    };
    let same = found(
        "exact_duplicates",
        Severity::Warning,
        told(exact(trained), "as"),
        |n| format!("{} there twice, byte for byte", are_images(n)),
        "remove them; to see an image more often, use a folder named `2_name`",
    );
    let alike = found(
        "near_duplicates",
        Severity::Note,
        told(near(trained), "like"),
        |n| format!("{} nearly the same as another", are_images(n)),
        "keep the best of each, or the adapter learns that picture rather than its subject",
    );
    same.into_iter().chain(alike).collect()
}
