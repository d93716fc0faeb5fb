//! What CLIP sees of a character's set: the views that it lacks, clutter, subjects at the edge.

use super::{are_images, found, verb};
use crate::data::images::ImageItem;
use crate::data::images::clip::{Seen, WINDOWS};
use crate::data::images::questions::{CHARACTER, CLUTTERED, VIEWS};
use crate::protocol::{Finding, FindingItem, Severity};

/// A view is lacking where fewer than one of so many images show it.
const ONE_OF: usize = 20;
/// Probability from which clutter, or a subject elsewhere than in the middle, is told.
const SURE: f32 = 0.9;

/// Nothing for other sets than a character's.
pub(super) fn findings(trained: &[&ImageItem], seen: &Seen) -> Vec<Finding> {
    let Some(windows) = &seen.windows else {
        return Vec::new();
    };
    let all = [
        lacking(trained, seen),
        cluttered(trained, seen),
        off_centre(trained, seen, windows),
    ];
    all.into_iter().flatten().collect()
}

fn lacking(trained: &[&ImageItem], seen: &Seen) -> Option<Finding> {
    let all = trained.len();
    let lack = |(question, view): (&str, &str)| {
        let shows = |image: &&Vec<f32>| seen.questions.answer(question, image) == view;
        let count = seen.images.iter().filter(shows).count();
        let share = |at: &usize| seen.questions.share((question, view), &seen.images[*at]);
        let nearest = (0..all).max_by(|a, b| share(a).total_cmp(&share(b)))?;
        let nearest = &trained[nearest].name;
        let detail = match count {
            0 => format!("in none of {all} images; {nearest} comes nearest"),
            n => format!("in {n} of {all} images, the clearest in {nearest}"),
        };
        (count * ONE_OF < all).then(|| FindingItem::new(view, detail))
    };
    found(
        "views_lacking",
        Severity::Note,
        VIEWS.into_iter().filter_map(lack).collect(),
        |n| {
            format!(
                "of the character that the images seem to show, {n} {} (hardly) to be seen",
                verb(n, "view is not", "views are not")
            )
        },
        "add some images of each, or the adapter will hardly draw them; a caption that names its view \
         keeps them apart",
    )
}

fn cluttered(trained: &[&ImageItem], seen: &Seen) -> Option<Finding> {
    let named = trained.iter().zip(&seen.images);
    let mut full: Vec<(f32, &str)> = named
        .map(|(item, image)| (seen.questions.share(CLUTTERED, image), item.name.as_str()))
        .filter(|(share, _)| *share >= SURE)
        .collect();
    full.sort_by(|a, b| b.0.total_cmp(&a.0));
    let item = |(share, name): (f32, &str)| {
        FindingItem::new(name, format!("{:.0} % likely", share * 100.0))
    };
    found(
        "cluttered",
        Severity::Note,
        full.into_iter().map(item).collect(),
        |n| format!("{} cluttered beside the character", are_images(n)),
        "cut them closer to the character, or name in the caption what else is in them",
    )
}

fn off_centre(trained: &[&ImageItem], seen: &Seen, windows: &[Vec<Vec<f32>>]) -> Option<Finding> {
    let mut away: Vec<(f32, &str, &str)> = Vec::new();
    for (item, parts) in trained.iter().zip(windows) {
        let shares = seen.questions.divided(("kind", CHARACTER), parts);
        let most = shares.into_iter().zip(WINDOWS).skip(1);
        let most = most.max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((share, place)) = most.filter(|(share, _)| *share >= SURE) {
            away.push((share, &item.name, place));
        }
    }
    away.sort_by(|a, b| b.0.total_cmp(&a.0));
    let item = |(_, name, place): (f32, &str, &str)| FindingItem::new(name, format!("at {place}"));
    found(
        "off_centre",
        Severity::Note,
        away.into_iter().map(item).collect(),
        |n| format!("{} of a character away from the middle", are_images(n)),
        "cut them so that the character is in the middle, or leave them if that is the style",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::images::questions::tests::axes;
    use crate::data::images::tests::item;

    /// Images that show what they name, all of a character.
    fn seen(images: &[&[&str]], scale: f32) -> (Vec<ImageItem>, Seen) {
        let (questions, axis) = axes(scale);
        let width = axis("cluttered") + 1;
        let vector = |names: &[&str]| {
            let mut image = vec![0.0; width];
            for name in names {
                image[axis(name)] = 1.0;
            }
            image
        };
        let items = (0..images.len())
            .map(|at| item(&format!("{at}.png")))
            .collect();
        let middle = vec![vector(&[CHARACTER]), vector(&[]), vector(&[]), vector(&[])];
        let seen = Seen {
            questions,
            images: images.iter().map(|names| vector(names)).collect(),
            windows: Some(vec![middle; images.len()]),
        };
        (items, seen)
    }

    fn told(items: &[ImageItem], seen: &Seen) -> Vec<(String, Vec<(String, String)>)> {
        let all = findings(&items.iter().collect::<Vec<_>>(), seen).into_iter();
        all.map(|finding| {
            let items = finding.items.into_iter().map(|i| (i.name, i.detail));
            (finding.kind, items.collect())
        })
        .collect()
    }

    #[test]
    fn views_that_no_image_or_hardly_one_shows_are_named_with_the_nearest() {
        let front: &[&str] = &["front view", "half body", "plain"];
        let side: &[&str] = &["side view", "face", "plain"];
        let mut images = vec![front; 20];
        images.push(side);
        let (items, mut seen) = seen(&images, 10.0);
        // A little of a full body in one of them.
        let full = seen.questions.ask("framing", &seen.images[0]).len();
        assert_eq!(full, 3);
        let (_, axis) = axes(1.0);
        seen.images[7][axis("full body")] = 0.5;
        let expected = vec![
            (
                "side view".into(),
                "in 1 of 21 images, the clearest in 20.png".into(),
            ),
            (
                "full body".into(),
                "in none of 21 images; 7.png comes nearest".into(),
            ),
        ];
        assert_eq!(told(&items, &seen), [("views_lacking".into(), expected)]);
        // With one of twenty nothing is said of it.
        seen.images.remove(0);
        assert_eq!(told(&items[..20], &seen)[0].1.len(), 1);
    }

    #[test]
    fn clutter_and_subjects_at_the_edge_are_named_and_other_sets_left_alone() {
        let all: [&[&str]; 6] = [
            &["front view", "half body"],
            &["front view", "full body"],
            &["side view", "half body", "cluttered"],
            &["side view", "half body"],
            &["front view", "full body", "plain"],
            &["front view", "half body", "plain"],
        ];
        let (items, mut seen) = seen(&all, 10.0);
        let windows = seen.windows.as_mut().unwrap();
        windows[3].swap(0, 2);
        windows[4].swap(0, 3);
        // As much in the middle as on the left: that is in the middle.
        windows[5][1] = windows[5][0].clone();
        assert_eq!(
            told(&items, &seen),
            [
                (
                    "cluttered".into(),
                    vec![("2.png".into(), "100 % likely".into())]
                ),
                (
                    "off_centre".into(),
                    vec![
                        ("3.png".into(), "at the right".into()),
                        ("4.png".into(), "at the bottom".into())
                    ]
                ),
            ]
        );
        seen.windows = None;
        assert!(told(&items, &seen).is_empty());
    }
}
