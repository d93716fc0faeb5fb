//! The data: what there is, how long it is, what is odd about it, and its records as the model
//! sees them.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{Segment, draw_lines, empty, images, labelled};
use crate::protocol::{DataStatistics, Severity};
use crate::ui::app::{App, Wanted};
use crate::ui::lang::Lang;
use crate::ui::text::{self, wrap, wrap_pieces};
use crate::ui::theme::{Role, Theme};

/// Columns of the statistics when the preview stands beside them.
const STATISTICS: u16 = 34;
const LABELS: usize = 9;

/// Whether the preview stands beside the statistics.
fn beside(area: Rect) -> bool {
    area.width >= STATISTICS * 2
}

/// Whether records show at all in an area of this size.
pub fn shows_records(area: Rect) -> bool {
    beside(area) || area.height >= 6
}

pub fn draw(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    if beside(area)
        && let Some(data) = &app.state.data
    {
        let left = Rect {
            width: STATISTICS - 3,
            ..area
        };
        let rows = usize::from(area.height);
        draw_lines(&statistics(app.lang, theme, data, left, rows), 0, left, buf);
        for y in area.y..area.bottom() {
            let x = area.x + STATISTICS - 2;
            buf.set_string(x, y, theme.glyphs.vertical, theme[Role::Rule]);
        }
    }
    let (lines, area) = scrolled(app, theme, area);
    draw_lines(
        &lines,
        app.view.scroll(crate::ui::layout::Pane::Data),
        area,
        buf,
    );
}

/// The picture that shows, if the data is of images.
pub fn picture(app: &App, area: Rect) -> Option<Wanted> {
    let area = match beside(area) {
        true => right(area),
        false => area,
    };
    shows_records(area)
        .then(|| images::wanted(app, area))
        .flatten()
}

/// Where records show beside the statistics.
fn right(area: Rect) -> Rect {
    Rect {
        x: area.x + STATISTICS,
        width: area.width - STATISTICS,
        ..area
    }
}

/// The lines that scroll, and where they lie.
pub fn scrolled(app: &App, theme: &Theme, area: Rect) -> (Vec<Line<'static>>, Rect) {
    let Some(data) = &app.state.data else {
        return (empty(theme, app.lang.not_read()), area);
    };
    if beside(area) {
        let right = right(area);
        return (preview(app, theme, right), right);
    }
    let mut lines = statistics(app.lang, theme, data, area, usize::MAX);
    if shows_records(area) {
        lines.push(Line::default());
        lines.extend(preview(app, theme, area));
    }
    (lines, area)
}

/// The statistics in at most `rows` lines: warnings first to stay, then the histogram.
fn statistics(
    lang: Lang,
    theme: &Theme,
    data: &DataStatistics,
    area: Rect,
    rows: usize,
) -> Vec<Line<'static>> {
    let columns = usize::from(area.width);
    let style = theme[Role::Text];
    if let Some(found) = &data.images {
        let mut lines = images::statistics(lang, theme, found, columns);
        lines.extend(warnings(theme, data, columns));
        let room = rows.saturating_sub(lines.len());
        if room >= 3 {
            lines.extend(images::buckets(lang, theme, found, columns, room.min(12)));
        }
        return lines;
    }
    let (train, eval) = (
        text::count(data.train_records),
        text::count(data.eval_records),
    );
    let records = match data.eval_records {
        0 => lang.train_records(train),
        _ => lang.train_and_held_out(train, eval),
    };
    let mut lines = vec![labelled(theme, lang.records(), LABELS, records, style)];
    let formats: Vec<String> = match data.formats.len() {
        1 => data.formats.keys().cloned().collect(),
        _ => data
            .formats
            .iter()
            .map(|(name, n)| format!("{name} {}", text::count(*n)))
            .collect(),
    };
    lines.push(labelled(
        theme,
        lang.format(),
        LABELS,
        formats.join(", "),
        style,
    ));
    let share = data.trained_tokens as f64 / data.tokens.max(1) as f64 * 100.0;
    lines.push(labelled(
        theme,
        lang.tokens(),
        LABELS,
        lang.tokens_trained(text::short(data.tokens as f64), share.round()),
        style,
    ));
    lines.push(labelled(
        theme,
        lang.length(),
        LABELS,
        lang.lengths(data.min_length, data.max_length, data.median_length),
        style,
    ));
    if let Some(packing) = &data.packing {
        let share = (packing.filled() * 100.0).round();
        lines.push(labelled(
            theme,
            lang.packed(),
            LABELS,
            lang.rows_filled(text::count(packing.rows), share),
            style,
        ));
    }
    let told = |n: u64, sentence: fn(Lang, String) -> String| {
        (n > 0).then(|| sentence(lang, text::count(n)))
    };
    let odd: Vec<String> = [
        told(data.truncated, Lang::records_cut),
        told(data.duplicates, Lang::records_duplicate),
        told(data.skipped, Lang::records_skipped),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !odd.is_empty() {
        lines.push(labelled(
            theme,
            lang.odd(),
            LABELS,
            odd.join(", "),
            theme[Role::Warning],
        ));
    }
    lines.extend(warnings(theme, data, columns));
    let room = rows.saturating_sub(lines.len());
    if room >= 3 {
        lines.extend(histogram(theme, data, columns, room.min(12)));
    }
    lines
}

/// What is odd about the data.
fn warnings(theme: &Theme, data: &DataStatistics, columns: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for finding in &data.findings {
        let role = match finding.severity {
            Severity::Note => Role::Muted,
            Severity::Warning => Role::Warning,
            Severity::Wrong => Role::Error,
        };
        remark(&mut lines, &finding.line(), columns, theme[role]);
    }
    for warning in &data.warnings {
        remark(&mut lines, warning, columns, theme[Role::Warning]);
    }
    lines
}

/// A marked sentence, wrapped.
fn remark(lines: &mut Vec<Line<'static>>, text: &str, columns: usize, style: Style) {
    let parts = wrap(text, columns.saturating_sub(2));
    for (i, part) in parts.into_iter().enumerate() {
        let mark = if i == 0 { "! " } else { "  " };
        lines.push(Line::styled(format!("{mark}{part}"), style));
    }
}

/// One row a bar; neighbouring buckets share one when there are too many.
fn histogram(
    theme: &Theme,
    data: &DataStatistics,
    columns: usize,
    rows: usize,
) -> Vec<Line<'static>> {
    if data.lengths.is_empty() {
        return Vec::new();
    }
    let each = data.lengths.len().div_ceil(rows);
    let bars: Vec<(u64, u64, u64)> = data
        .lengths
        .chunks(each)
        .map(|c| {
            let count = c.iter().map(|b| b.count).sum();
            (c[0].from, c[c.len() - 1].to, count)
        })
        .collect();
    let most = bars.iter().map(|b| b.2).max().unwrap_or(1).max(1);
    let counts = text::count(most).len();
    let room = columns.saturating_sub(LABELS + counts + 1);
    bars.into_iter()
        .map(|(from, to, count)| {
            let mut spans = vec![Span::styled(
                text::pad(&format!("{from}-{}", to.saturating_sub(1)), LABELS),
                theme[Role::Muted],
            )];
            let share = count as f64 / most as f64;
            let mut bar = super::fine_bar(theme, share, Role::Accent, room);
            bar.truncate(1);
            spans.extend(bar);
            spans.push(Span::styled(
                format!(" {}", text::count(count)),
                theme[Role::Muted],
            ));
            Line::from(spans)
        })
        .collect()
}

/// The record, with tokens that the loss does not count dim.
fn preview(app: &App, theme: &Theme, area: Rect) -> Vec<Line<'static>> {
    let columns = usize::from(area.width);
    let index = app.view.record;
    let Some(record) = app.records.get(index) else {
        let why = match &app.records.error {
            Some(error) => error.clone(),
            None => format!(
                "{}{}",
                app.lang.fetching_record(index + 1),
                theme.glyphs.ellipsis
            ),
        };
        return wrap(&why, columns)
            .into_iter()
            .map(|l| Line::styled(l, theme[Role::Muted]))
            .collect();
    };
    if let Some(image) = &record.image {
        return images::preview(app, theme, record, image, area);
    }
    let g = theme.glyphs;
    let mut head = format!(
        "{} {} {} {}",
        text::truncate_start(&record.origin, columns / 2, g.ellipsis),
        g.separator,
        record.split,
        app.lang
            .tokens_trained_on(record.trained_tokens, record.tokens)
    );
    if record.truncated {
        head += &format!(", {}", app.lang.record_cut());
    }
    let mut lines = vec![Line::styled(
        text::truncate(&head, columns, g.ellipsis),
        theme[Role::Accent],
    )];
    let pieces: Vec<_> = record
        .segments
        .iter()
        .map(|s| {
            let role = if s.trained {
                Role::Trained
            } else {
                Role::Masked
            };
            (s.text.clone(), theme[role])
        })
        .collect();
    for line in wrap_pieces(&pieces, columns) {
        lines.push(Line::from(
            line.into_iter()
                .map(|(text, style)| Span::styled(text, style))
                .collect::<Vec<_>>(),
        ));
    }
    lines
}

pub fn info(app: &App, theme: &Theme) -> Vec<Segment> {
    let Some(total) = app.records.total.filter(|t| *t > 0) else {
        return Vec::new();
    };
    let g = theme.glyphs;
    vec![vec![Span::styled(
        app.lang.record_place(
            g.left,
            text::count(app.view.record as u64 + 1),
            text::count(total as u64),
            g.right,
        ),
        theme[Role::Muted],
    )]]
}
