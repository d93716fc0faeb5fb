//! The panes: plain functions that draw a part of the deck's state into an area.

pub mod checkpoints;
pub mod config;
pub mod data;
pub mod gpu;
pub mod header;
pub mod host;
pub mod images;
pub mod log;
pub mod loss;
pub mod rate;
mod sample_pictures;
pub mod samples;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::app::{App, Wanted};
use super::layout::{Pane, Slot};
use super::text::{truncate, width};
use super::theme::{Role, Theme};

/// Words that belong together: shown whole or not at all.
pub type Segment = Vec<Span<'static>>;

/// Draws a slot: its title row with tabs, and the pane that shows.
pub fn draw(app: &App, theme: &Theme, slot: &Slot, buf: &mut Buffer) {
    title(app, theme, slot, buf);
    let inner = slot.inner();
    match slot.active {
        Pane::Loss => loss::draw(app, theme, inner, buf),
        Pane::Rate => rate::draw(app, theme, inner, buf),
        Pane::Data => data::draw(app, theme, inner, buf),
        pane => {
            let lines = lines(app, theme, pane, inner).unwrap_or_default();
            let skip = match pane {
                Pane::Log => lines
                    .len()
                    .saturating_sub(usize::from(inner.height))
                    .saturating_sub(app.view.scroll(pane)),
                _ => app.view.scroll(pane),
            };
            draw_lines(&lines, skip, inner, buf);
        }
    }
}

/// All lines of a pane that is made of lines.
fn lines(app: &App, theme: &Theme, pane: Pane, inner: Rect) -> Option<Vec<Line<'static>>> {
    match pane {
        Pane::Gpu => Some(gpu::lines(app, theme, inner)),
        Pane::Host => Some(host::lines(app, theme, inner)),
        Pane::Config => Some(config::lines(app, theme, inner)),
        Pane::Samples => Some(samples::lines(app, theme, inner)),
        Pane::Checkpoints => Some(checkpoints::lines(app, theme, inner)),
        Pane::Log => Some(log::lines(app, theme, inner)),
        Pane::Data => Some(data::scrolled(app, theme, inner).0),
        Pane::Loss | Pane::Rate => None,
    }
}

/// Pictures that panes show now, in the sizes in which they are shown.
pub fn pictures(app: &App) -> Vec<Wanted> {
    let Some(arrangement) = app.arrangement() else {
        return Vec::new();
    };
    let inner = |pane| arrangement.slot_of(pane).map(Slot::inner);
    let record = inner(Pane::Data).and_then(|area| data::picture(app, area));
    let samples = inner(Pane::Samples).map(|area| samples::pictures(app, area));
    record
        .into_iter()
        .chain(samples.into_iter().flatten())
        .collect()
}

/// A pane's lines as plain text, as wide as the screen.
pub fn plain(app: &App, pane: Pane) -> String {
    let area = Rect::new(0, 0, app.size.0, app.size.1);
    let lines = lines(app, &app.theme, pane, area).unwrap_or_default();
    let lines: Vec<String> = lines
        .iter()
        .map(|l| l.to_string().trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// Lines a showing pane has, and rows it has for them.
pub fn extent(app: &App, pane: Pane) -> Option<(usize, usize)> {
    let inner = app.arrangement()?.slot_of(pane)?.inner();
    let rows = match pane {
        Pane::Data => data::scrolled(app, &app.theme, inner).1,
        _ => inner,
    };
    let lines = lines(app, &app.theme, pane, inner)?;
    Some((lines.len(), usize::from(rows.height)))
}

/// What stands at the right of a pane's title row.
fn info(app: &App, theme: &Theme, pane: Pane) -> Vec<Segment> {
    match pane {
        Pane::Loss => loss::info(app, theme),
        Pane::Rate => rate::info(app, theme),
        Pane::Config => config::info(app, theme),
        Pane::Data => data::info(app, theme),
        Pane::Samples => samples::info(app, theme),
        Pane::Checkpoints => checkpoints::info(app, theme),
        Pane::Log => log::info(app, theme),
        Pane::Gpu => gpu::info(app, theme),
        Pane::Host => Vec::new(),
    }
}

fn title(app: &App, theme: &Theme, slot: &Slot, buf: &mut Buffer) {
    let g = theme.glyphs;
    let focused = app.focus() == slot.active;
    let (rule, role) = if focused {
        (g.rule_focus, Role::Focus)
    } else {
        (g.rule, Role::Rule)
    };
    let area = slot.area;
    let columns = usize::from(area.width.saturating_sub(1));
    buf.set_string(area.x, area.y, rule.repeat(columns), theme[role]);
    let mut end = area.x;
    for (pane, x, label) in slot.tabs(app.lang) {
        let style = match (pane == slot.active, focused) {
            (true, true) => theme[Role::Focus],
            (true, false) => theme[Role::Title],
            (false, _) => theme[Role::Muted],
        };
        let room = usize::from(area.right().saturating_sub(x + 2));
        let label = format!(" {} ", truncate(&label, room, g.ellipsis));
        buf.set_string(x - 1, area.y, &label, style);
        end = x + width(&label) as u16;
    }
    let right = area.right().saturating_sub(3);
    let room = usize::from(right.saturating_sub(end + 4));
    let mut line = vec![Span::raw(" ")];
    let mut used = 0;
    for segment in info(app, theme, slot.active) {
        let gap = if used == 0 { 0 } else { 2 };
        let columns: usize = segment.iter().map(|s| width(&s.content)).sum();
        if used + gap + columns > room {
            break;
        }
        line.push(Span::raw(" ".repeat(gap)));
        line.extend(segment);
        used += gap + columns;
    }
    if used > 0 {
        line.push(Span::raw(" "));
        let needed = used as u16 + 2;
        buf.set_line(right - needed, area.y, &Line::from(line), needed);
    }
}

/// Draws lines from the `skip`th on, each cut at the area's width.
pub fn draw_lines(lines: &[Line], skip: usize, area: Rect, buf: &mut Buffer) {
    for (row, line) in lines
        .iter()
        .skip(skip)
        .take(usize::from(area.height))
        .enumerate()
    {
        buf.set_line(area.x, area.y + row as u16, line, area.width);
    }
}

/// A sentence for a pane that has nothing to show yet.
fn empty(theme: &Theme, text: &str) -> Vec<Line<'static>> {
    vec![Line::styled(text.to_owned(), theme[Role::Muted])]
}

/// A bar of `columns` cells in parts: share of the whole (from 0 to 1) and role of each.
pub fn bar(theme: &Theme, parts: &[(f64, Role)], columns: usize) -> Vec<Span<'static>> {
    let g = theme.glyphs;
    let mut spans = Vec::new();
    let mut used = 0;
    let mut sum = 0.0;
    for (share, role) in parts {
        let share = if share.is_finite() {
            share.clamp(0.0, 1.0)
        } else {
            0.0
        };
        sum = (sum + share).min(1.0);
        let mut end = (sum * columns as f64).round() as usize;
        if share > 0.0 && end == used && used < columns {
            // What is there is shown, however small.
            end = used + 1;
        }
        if end > used {
            spans.push(Span::styled(g.full.repeat(end - used), theme[*role]));
            used = end;
        }
    }
    if used < columns {
        spans.push(Span::styled(
            g.empty.repeat(columns - used),
            theme[Role::BarFree],
        ));
    }
    spans
}

/// A bar whose last cell is filled in eighths.
pub fn fine_bar(theme: &Theme, share: f64, role: Role, columns: usize) -> Vec<Span<'static>> {
    let g = theme.glyphs;
    let share = if share.is_finite() {
        share.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let steps = g.eighths.len();
    let filled = (share * (columns * steps) as f64).floor() as usize;
    let mut text = g.full.repeat(filled / steps);
    let mut used = filled / steps;
    if !filled.is_multiple_of(steps) {
        text.push_str(g.eighths[filled % steps - 1]);
        used += 1;
    }
    vec![
        Span::styled(text, theme[role]),
        Span::styled(g.empty.repeat(columns - used), theme[Role::BarFree]),
    ]
}

/// Label in the muted role, padded, then a value.
pub fn labelled(
    theme: &Theme,
    label: &str,
    columns: usize,
    value: impl Into<String>,
    style: Style,
) -> Line<'static> {
    Line::from(vec![
        Span::styled(super::text::pad(label, columns), theme[Role::Muted]),
        Span::styled(value.into(), style),
    ])
}
