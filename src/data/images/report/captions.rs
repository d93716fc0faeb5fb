//! Captions that are missing, left over, doubled or too long.

use super::{are_images, found, images, verb};
use crate::data::images::{ImageDataset, ImageItem};
use crate::protocol::{Finding, FindingItem, Severity};

pub(super) fn findings(dataset: &ImageDataset, trained: &[&ImageItem]) -> Vec<Finding> {
    let trigger = dataset.settings.trigger_word.as_deref();
    let without: Vec<FindingItem> = trained
        .iter()
        .filter(|item| item.caption.is_empty())
        .map(|item| {
            let empty = item.source.place();
            let detail = match empty.is_empty() {
                true => String::new(),
                false => format!("{empty} is empty"),
            };
            FindingItem::new(&item.name, detail)
        })
        .collect();
    let none_has = without.len() == trained.len();
    let severity = match (none_has, trigger) {
        // A set trained on its trigger word alone is a choice that people make.
        (true, Some(_)) => Severity::Note,
        (true, None) => Severity::Wrong,
        (false, _) => Severity::Warning,
    };
    let missing = found(
        "without_caption",
        severity,
        without,
        |n| match (none_has, trigger) {
            (true, Some(trigger)) => {
                format!("no image has a caption: all are trained on as `{trigger}`")
            }
            (true, None) => "no image has a caption".into(),
            (false, _) => format!("{} no caption", verb_has(n)),
        },
        "write captions (`loradeck label` makes a first version), or `trigger_word` for all",
    );
    let rows = &dataset.stray_rows;
    let all_stray = !dataset.left_over.had_captions;
    let strays = found(
        "caption_without_image",
        match all_stray {
            true => Severity::Wrong,
            false => Severity::Warning,
        },
        rows.iter()
            .map(|row| FindingItem::new(&row.origin, format!("{}: {}", row.file, row.reason)))
            .collect(),
        |n| match all_stray {
            true => format!("{n} captions belong to no image here, and no caption to any"),
            false => format!(
                "{n} {} to no image here",
                verb(n, "caption belongs", "captions belong")
            ),
        },
        "correct the file names, relative to the data's folder, or remove the rows",
    );
    let left = &dataset.left_over;
    let pairs = |pairs: &[(String, String)]| -> Vec<FindingItem> {
        let item =
            |(name, place): &(String, String)| FindingItem::new(name, format!("not {place}"));
        pairs.iter().map(item).collect()
    };
    let used = |name: &str| {
        let item = trained.iter().find(|i| i.name == name);
        item.map_or(String::new(), |i| format!("{} is used, ", i.source.place()))
    };
    let told = |list: &[(String, String)]| -> Vec<FindingItem> {
        let mut items = pairs(list);
        for item in &mut items {
            item.detail = format!("{}{}", used(&item.name), item.detail);
        }
        items
    };
    let twice = found(
        "captions_differ",
        Severity::Warning,
        told(&left.captions_twice),
        |n| format!("{} two captions that differ", verb_has(n)),
        "remove the one that is not meant",
    );
    let repeated = found(
        "caption_rows_repeated",
        Severity::Warning,
        told(&left.rows_repeated),
        |n| {
            format!(
                "{} in more than one row of a table; the first is used",
                are_images(n)
            )
        },
        "remove the other rows",
    );
    [missing, strays, twice, repeated]
        .into_iter()
        .flatten()
        .collect()
}

fn verb_has(count: usize) -> String {
    format!("{} {}", images(count), verb(count, "has", "have"))
}

/// Captions longer than the text encoder is given.
pub(super) fn truncated(items: &[ImageItem], lengths: &[u64], limit: usize) -> Option<Finding> {
    let mut long: Vec<(u64, &ImageItem)> = lengths.iter().copied().zip(items).collect();
    long.retain(|(tokens, _)| *tokens > limit as u64);
    long.sort_by_key(|(tokens, item)| (std::cmp::Reverse(*tokens), item.name.clone()));
    let longest = long.first().map_or(0, |(tokens, _)| *tokens);
    let named = long
        .iter()
        .map(|(tokens, item)| FindingItem::new(&item.name, format!("{tokens} tokens")))
        .collect();
    let fits = [75, 150, 225]
        .into_iter()
        .find(|n| *n >= longest && *n > limit as u64);
    let remedy = match fits {
        Some(fits) => format!("write `max_token_length: {fits}`, or shorten them"),
        None if limit < 225 => "write `max_token_length: 225`, and shorten them".into(),
        None => "shorten them".into(),
    };
    found(
        "captions_cut",
        Severity::Warning,
        named,
        |n| {
            format!(
                "{n} {} longer than {limit} tokens, and the rest is not seen",
                verb(n, "caption is", "captions are")
            )
        },
        &remedy,
    )
}
