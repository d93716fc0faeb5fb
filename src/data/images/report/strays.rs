//! Images that look unlike the rest: by colours, edges, brightness.

use super::{are_images, found};
use crate::data::images::ImageItem;
use crate::protocol::{Finding, FindingItem, Severity};

/// Images below which no rest is known to differ from.
const ENOUGH: usize = 8;
/// Deviations (of the median of absolute deviations) beyond which an image is a stray.
const FAR: f64 = 6.0;
/// Share of the images that are told at most: more are no strays but a set of several kinds.
const AT_MOST: f64 = 0.1;

/// Parts of the features, and what an image that differs there is told as.
const PARTS: [(&str, std::ops::Range<usize>); 4] = [
    ("its colours", 0..64),
    ("its edges", 64..72),
    ("its brightness", 72..74),
    ("its saturation", 74..76),
];

pub(super) fn findings(trained: &[&ImageItem]) -> Option<Finding> {
    if trained.len() < ENOUGH {
        return None;
    }
    let features: Vec<&[u8]> = trained
        .iter()
        .map(|i| i.facts.look.features.as_slice())
        .collect();
    if features
        .iter()
        .any(|f| f.len() != crate::data::images::look::FEATURES)
    {
        return None;
    }
    let mut strays: Vec<(f64, usize, &str)> = Vec::new();
    for (part, range) in PARTS {
        for (index, far) in deviations(&features, range).into_iter().enumerate() {
            if far > FAR {
                strays.push((far, index, part));
            }
        }
    }
    strays.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut told: Vec<(usize, FindingItem)> = Vec::new();
    for (_, index, part) in strays {
        match told.iter_mut().find(|(i, _)| *i == index) {
            Some((_, item)) => item.detail += &format!(", {part}"),
            None => told.push((index, FindingItem::new(&trained[index].name, part))),
        }
    }
    if told.len() as f64 > (AT_MOST * trained.len() as f64).max(1.0) {
        return None;
    }
    found(
        "strays",
        Severity::Warning,
        told.into_iter().map(|(_, item)| item).collect(),
        |n| format!("{} unlike the rest", are_images(n)),
        "look at them: remove what does not belong to the set",
    )
}

/// How far each image lies from the middle of all, in units of the usual distance from there.
fn deviations(features: &[&[u8]], range: std::ops::Range<usize>) -> Vec<f64> {
    let middle: Vec<f64> = range
        .clone()
        .map(|at| median(features.iter().map(|f| f64::from(f[at])).collect()))
        .collect();
    let distance = |f: &[u8]| {
        let squares = f[range.clone()].iter().zip(&middle);
        squares
            .map(|(x, m)| (f64::from(*x) - m).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let distances: Vec<f64> = features.iter().map(|f| distance(f)).collect();
    let usual = median(distances.clone());
    let spread = median(distances.iter().map(|d| (d - usual).abs()).collect());
    // Of images that are all alike every difference would be large: a floor in units of a feature.
    let unit = spread.max(2.0 * (range.len() as f64).sqrt());
    distances.into_iter().map(|d| (d - usual) / unit).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
