//! The data of image training: counts, sizes and buckets; and an image with its caption.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::labelled;
use crate::protocol::{ImagePreview, ImageStatistics, PictureSource, RecordPreview};
use crate::ui::app::{App, Wanted};
use crate::ui::lang::Lang;
use crate::ui::picture;
use crate::ui::text::{self, wrap};
use crate::ui::theme::{Role, Theme};

const LABELS: usize = 9;
/// Rows below a picture that its caption is sure of.
const CAPTION_ROWS: u16 = 4;
/// Tags that are told.
const TAGS: usize = 12;

fn size((width, height): (u32, u32)) -> String {
    format!("{width}x{height}")
}

/// Counts, in a line each; long ones wrapped.
pub fn statistics(
    lang: Lang,
    theme: &Theme,
    images: &ImageStatistics,
    columns: usize,
) -> Vec<Line<'static>> {
    let count = |n: u64| text::count(n);
    let mut first = vec![lang.images_and_rows(count(images.images), count(images.rows))];
    if images.regularization > 0 {
        first.push(lang.images_regularization(count(images.regularization)));
    }
    if images.excluded > 0 {
        first.push(lang.images_excluded(count(images.excluded)));
    }
    let captions = images.captions.iter();
    let captions: Vec<String> = captions
        .map(|(rule, n)| format!("{rule} {}", count(*n)))
        .collect();
    let mut sizes = vec![lang.sizes_from_to(size(images.smallest), size(images.largest))];
    if images.upscaled > 0 {
        sizes.push(lang.images_enlarged(count(images.upscaled)));
    }
    // Tags that one caption has say nothing.
    let tags = images
        .tags
        .iter()
        .filter(|(_, n)| *n > 1 || images.images == 1);
    let tags: Vec<String> = tags
        .take(TAGS)
        .map(|(tag, n)| format!("{tag} {n}"))
        .collect();
    let mut lines = Vec::new();
    for (label, parts) in [
        (lang.images(), first),
        (lang.captions(), captions),
        (lang.sizes(), sizes),
        (lang.tags(), tags),
    ] {
        let value = wrap(&parts.join(", "), columns.saturating_sub(LABELS));
        for (i, part) in value.into_iter().enumerate() {
            let label = if i == 0 { label } else { "" };
            lines.push(labelled(theme, label, LABELS, part, theme[Role::Text]));
        }
    }
    lines
}

/// A bar for each bucket, portraits first.
pub fn buckets(
    lang: Lang,
    theme: &Theme,
    images: &ImageStatistics,
    columns: usize,
    rows: usize,
) -> Vec<Line<'static>> {
    let mut shown: Vec<_> = images.buckets.iter().collect();
    // Of more than fit, the fullest.
    if shown.len() > rows.saturating_sub(1) {
        shown.sort_by_key(|b| std::cmp::Reverse(b.images));
        shown.truncate(rows.saturating_sub(1));
        shown.sort_by(|a, b| {
            let aspect =
                |b: &&crate::protocol::BucketCount| f64::from(b.width) / f64::from(b.height);
            aspect(a).total_cmp(&aspect(b))
        });
    }
    let most = shown.iter().map(|b| b.images).max().unwrap_or(1).max(1);
    let room = columns.saturating_sub(LABELS + text::count(most).len() + 1);
    let head = format!("{} {}", lang.buckets(), images.buckets.len());
    let mut lines = vec![Line::styled(head, theme[Role::Muted])];
    for bucket in shown {
        let label = size((bucket.width, bucket.height));
        let share = bucket.images as f64 / most as f64;
        let mut bar = super::fine_bar(theme, share, Role::Accent, room);
        bar.truncate(1);
        let mut spans = vec![Span::styled(text::pad(&label, LABELS), theme[Role::Muted])];
        spans.extend(bar);
        let images = format!(" {}", text::count(bucket.images));
        spans.push(Span::styled(images, theme[Role::Muted]));
        lines.push(Line::from(spans));
    }
    lines
}

/// Where the picture of an image lies within the preview's area, and what to ask for.
fn place(record: &RecordPreview, image: &ImagePreview, area: Rect) -> (Rect, Wanted) {
    let room = Rect {
        height: area.height.saturating_sub(CAPTION_ROWS).max(3),
        ..area
    };
    let cells = picture::fitted((image.width, image.height), room);
    let index = record.index;
    (
        cells,
        (PictureSource::Record { index }, picture::pixels(cells)),
    )
}

/// The picture that the preview shows.
pub fn wanted(app: &App, area: Rect) -> Option<Wanted> {
    let record = app.records.get(app.view.record)?;
    Some(place(record, record.image.as_ref()?, area).1)
}

/// An image, as far as it has come, and its caption.
pub fn preview(
    app: &App,
    theme: &Theme,
    record: &RecordPreview,
    image: &ImagePreview,
    area: Rect,
) -> Vec<Line<'static>> {
    let columns = usize::from(area.width);
    let g = theme.glyphs;
    let lang = app.lang;
    let mut head = vec![
        text::truncate_start(&record.origin, columns / 2, g.ellipsis),
        record.split.clone(),
        lang.image_size_in_bucket(size((image.width, image.height)), size(image.bucket)),
    ];
    if image.repeats > 1 {
        head.push(lang.repeats_times(image.repeats));
    }
    if record.tokens > 0 {
        head.push(lang.caption_tokens(record.tokens));
    }
    if record.truncated {
        head.push(lang.record_cut().to_owned());
    }
    let head = head.join(&format!(" {} ", g.separator));
    let role = if image.excluded {
        Role::Warning
    } else {
        Role::Accent
    };
    let mut lines = vec![Line::styled(
        text::truncate(&head, columns, g.ellipsis),
        theme[role],
    )];
    let (cells, (source, pixels)) = place(record, image, area);
    match app.pictures.get(&source, pixels) {
        Some(Ok(shown)) => lines.extend(picture::lines(shown, theme, cells.width, cells.height)),
        other => {
            let why = match other {
                Some(Err(why)) if !why.is_empty() => why.to_owned(),
                _ => format!("{}{}", lang.fetching_picture(), g.ellipsis),
            };
            let mut told: Vec<Line> = wrap(&why, columns)
                .into_iter()
                .map(|l| Line::styled(l, theme[Role::Muted]))
                .collect();
            // The caption keeps its place when the picture comes.
            told.resize(usize::from(cells.height), Line::default());
            lines.extend(told);
        }
    }
    let (caption, role) = match record.segments.first() {
        Some(segment) if !segment.text.is_empty() => (segment.text.as_str(), Role::Text),
        _ => (lang.no_caption(), Role::Warning),
    };
    lines.extend(
        wrap(caption, columns)
            .into_iter()
            .map(|l| Line::styled(l, theme[role])),
    );
    if !image.caption_source.is_empty() {
        let source = text::truncate_start(&image.caption_source, columns, g.ellipsis);
        lines.push(Line::styled(source, theme[Role::Muted]));
    }
    lines
}
