//! What a set of images holds, for a person.

use std::fmt::Write;

use super::examine::CaptionOf;
use super::text::{Look, grouped, plural};
use crate::protocol::{DataStatistics, ImageStatistics};

/// Files that are named of each way in which captions come; `--json` has all.
const FILES: usize = 3;
/// Tags that are listed.
const TAGS: usize = 20;

pub(super) fn write(
    out: &mut String,
    data: &DataStatistics,
    images: &ImageStatistics,
    captions: &[CaptionOf],
    look: &Look,
) {
    let mut also = String::new();
    for (count, word) in [
        (images.regularization, "of regularization"),
        (data.eval_records, "held out"),
        (images.excluded, "left out by hand"),
    ] {
        if count > 0 {
            also += &format!(", {} {word}", grouped(count));
        }
    }
    let _ = writeln!(
        out,
        "  {}{also}; {} an epoch",
        plural(images.images, "image"),
        plural(images.rows, "row")
    );
    let _ = writeln!(out, "  captions:");
    for (rule, n) in &images.captions {
        let of_rule = captions.iter().filter(|c| c.rule == *rule);
        let named: Vec<&str> = of_rule.map(|c| c.file.as_str()).take(FILES).collect();
        let more = *n as usize - named.len().min(*n as usize);
        let more = match more {
            0 => String::new(),
            n => format!(" and {} more", grouped(n as u64)),
        };
        let files = named.join(", ");
        let _ = writeln!(out, "    {} {rule}: {files}{more}", grouped(*n));
    }
    let size = |(width, height): (u32, u32)| format!("{width}x{height}");
    let _ = writeln!(
        out,
        "  sizes: {} to {}, median {}; {} enlarged for `resolution: {}`",
        size(images.smallest),
        size(images.largest),
        size(images.median),
        grouped(images.upscaled),
        images.resolution
    );
    if data.max_length > 0 {
        let _ = writeln!(
            out,
            "  tokens of a caption: {} to {}, median {}, 95 % up to {}; {} cut",
            data.min_length, data.max_length, data.median_length, data.p95_length, data.truncated
        );
    }
    let tags = images.tags.iter().filter(|(_, n)| *n > 1);
    let tags: Vec<String> = tags
        .take(TAGS)
        .map(|(tag, n)| format!("{tag} {n}"))
        .collect();
    if !tags.is_empty() {
        let _ = writeln!(
            out,
            "  tags ({} different): {}",
            grouped(images.distinct_tags),
            tags.join(", ")
        );
    }
    let most = images
        .buckets
        .iter()
        .map(|b| b.images)
        .max()
        .unwrap_or(1)
        .max(1);
    let bar = if look.unicode { "█" } else { "#" };
    for bucket in &images.buckets {
        let label = size((bucket.width, bucket.height));
        let aspect = f64::from(bucket.width) / f64::from(bucket.height.max(1));
        let length = (bucket.images * 40).div_ceil(most) as usize;
        let bars = bar.repeat(length);
        let _ = writeln!(out, "  {label:>11} {aspect:>5.2} {bars} {}", bucket.images);
    }
}
