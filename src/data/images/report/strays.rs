//! Images that look unlike the rest: to CLIP where there is one, else by colours, edges, brightness.

use super::{are_images, found};
use crate::data::images::ImageItem;
use crate::data::images::clip::Seen;
use crate::data::images::questions::dot;
use crate::protocol::{Finding, FindingItem, Severity};

/// Images below which no rest is known to differ from.
const ENOUGH: usize = 8;
/// Deviations (of the median of absolute deviations) beyond which an image is a stray.
const FAR: f64 = 6.0;
/// Least of those deviations, in cosine distance: of images that are all alike every difference would
/// be large.
const LEAST: f64 = 0.02;
/// Share of the images that are told at most: more are no strays but a set of several kinds.
const AT_MOST: f64 = 0.1;

/// Parts of the features, and what an image that differs there is told as.
const PARTS: [(&str, std::ops::Range<usize>); 4] = [
    ("its colours", 0..64),
    ("its edges", 64..72),
    ("its brightness", 72..74),
    ("its saturation", 74..76),
];

pub(super) fn findings(trained: &[&ImageItem], seen: Option<&Seen>) -> Option<Finding> {
    if trained.len() < ENOUGH {
        return None;
    }
    let told = match seen {
        Some(seen) => by_clip(trained, seen),
        None => by_features(trained)?,
    };
    if told.len() as f64 > (AT_MOST * trained.len() as f64).max(1.0) {
        return None;
    }
    found(
        "strays",
        Severity::Warning,
        told,
        |n| format!("{} unlike the rest", are_images(n)),
        "look at them: remove what does not belong to the set",
    )
}

/// By the cosine distance from the middle of all, the farthest first, with what CLIP takes them for.
fn by_clip(trained: &[&ImageItem], seen: &Seen) -> Vec<FindingItem> {
    let width = seen.images.first().map_or(0, Vec::len);
    let at = |i: usize| seen.images.iter().map(|v| f64::from(v[i])).collect();
    let middle: Vec<f32> = (0..width).map(|i| median(at(i)) as f32).collect();
    let length = f64::from(dot(&middle, &middle)).sqrt().max(1e-12);
    let distance = |image: &Vec<f32>| 1.0 - f64::from(dot(image, &middle)) / length;
    let distances: Vec<f64> = seen.images.iter().map(distance).collect();
    let usual = median(distances.clone());
    let mut far: Vec<usize> = (0..trained.len()).collect();
    let beyond = beyond(&distances, LEAST);
    far.retain(|&i| beyond[i] > FAR);
    far.sort_by(|&a, &b| distances[b].total_cmp(&distances[a]));
    let kinds: Vec<&str> = seen
        .images
        .iter()
        .map(|image| seen.questions.answer("kind", image))
        .collect();
    let most = |kind: &str| 2 * kinds.iter().filter(|k| **k == kind).count() > kinds.len();
    let common = kinds.iter().copied().find(|kind| most(kind));
    let item = |i: usize| {
        let mut detail = format!(
            "CLIP distance {:.2} from the middle of the set, usually {usual:.2}",
            distances[i]
        );
        match common {
            Some(common) if common != kinds[i] => {
                detail += &format!("; it looks like {}, most like {common}", kinds[i]);
            }
            _ => {}
        }
        FindingItem::new(&trained[i].name, detail)
    };
    far.into_iter().map(item).collect()
}

/// By the parts of the features; the worst first, with the parts in which they differ.
fn by_features(trained: &[&ImageItem]) -> Option<Vec<FindingItem>> {
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
    Some(told.into_iter().map(|(_, item)| item).collect())
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
    // Of images that are all alike every difference would be large: a floor in units of a feature.
    beyond(&distances, 2.0 * (range.len() as f64).sqrt())
}

/// By how many times the usual deviation (`least` at least) each distance exceeds the usual one.
fn beyond(distances: &[f64], least: f64) -> Vec<f64> {
    let usual = median(distances.to_vec());
    let spread = median(distances.iter().map(|d| (d - usual).abs()).collect());
    let unit = spread.max(least);
    distances.iter().map(|d| (d - usual) / unit).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::images::questions::tests::axes;
    use crate::data::images::tests::item;

    #[test]
    fn the_farthest_from_the_middle_is_named_first_with_what_it_looks_like() {
        let (questions, axis) = axes(10.0);
        let width = axis("cluttered") + 1;
        let image = |parts: &[(&str, f32)]| {
            let mut image = vec![0.0; width];
            for (name, much) in parts {
                image[axis(name)] = *much;
            }
            crate::model::unit(image)
        };
        // Twenty of a person, a little apart from one another; two that are something else.
        let mut images: Vec<Vec<f32>> = (0..20)
            .map(|i| {
                let little = i as f32 * 0.01;
                image(&[("a person or character", 1.0), ("plain", little)])
            })
            .collect();
        images.push(image(&[
            ("a person or character", 1.0),
            ("a landscape", 1.2),
        ]));
        images.push(image(&[("food", 1.0)]));
        let items: Vec<ImageItem> = (0..22).map(|i| item(&format!("{i}.png"))).collect();
        let trained: Vec<&ImageItem> = items.iter().collect();
        let seen = Seen {
            questions,
            images,
            windows: None,
        };
        let found = findings(&trained, Some(&seen)).unwrap();
        assert_eq!(found.severity, Severity::Warning);
        let names: Vec<&str> = found.items.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["21.png", "20.png"]);
        assert_eq!(
            found.items[0].detail,
            "CLIP distance 1.00 from the middle of the set, usually 0.00; it looks like food, most like \
             a person or character"
        );
        // A few images are no set that one could stray from.
        assert!(findings(&trained[15..], Some(&seen)).is_none());
    }
}
