//! What was said, newest at the bottom.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Segment, empty};
use crate::protocol::Level;
use crate::ui::app::App;
use crate::ui::layout::Pane;
use crate::ui::text;
use crate::ui::theme::{Role, Theme};

pub fn lines(app: &App, theme: &Theme, area: Rect) -> Vec<Line<'static>> {
    if app.state.log.is_empty() {
        return empty(theme, app.lang.no_log());
    }
    let columns = usize::from(area.width);
    let filter = app.view.filter(Pane::Log).to_lowercase();
    let start = app.state.first_started;
    let times = app
        .state
        .log
        .back()
        .map_or(0, |l| text::width(&text::clock(l.time - start)))
        .max(5);
    // Paths are shown as they lie in the run folder, and whose command it was where it matters.
    let own = format!(" ({})", app.sender);
    let folder = format!("{}/", app.state.run_dir.trim_end_matches('/'));
    let mut lines = Vec::new();
    for entry in &app.state.log {
        let body = app.lang.log_entry(&entry.entry);
        let body = body.replace(&folder, "").replace(&own, "");
        let word = match entry.level {
            Level::Info => String::new(),
            Level::Warning => format!("{} ", app.lang.warning()),
            Level::Error => format!("{} ", app.lang.error()),
        };
        if !filter.is_empty() && !format!("{word}{body}").to_lowercase().contains(&filter) {
            continue;
        }
        let time = text::clock(entry.time - start);
        let head = format!("{time:>times$} ");
        let indent = times + 1;
        let style = theme[theme.level(entry.level)];
        let body = text::wrap(&format!("{word}{body}"), columns.saturating_sub(indent));
        for (i, part) in body.into_iter().enumerate() {
            let head = if i == 0 {
                head.clone()
            } else {
                " ".repeat(indent)
            };
            lines.push(Line::from(vec![
                Span::styled(head, theme[Role::Muted]),
                Span::styled(part, style),
            ]));
        }
    }
    if lines.is_empty() {
        return empty(theme, app.lang.nothing_matches());
    }
    lines
}

pub fn info(app: &App, theme: &Theme) -> Vec<Segment> {
    let mut segments = filter_info(app, theme, Pane::Log);
    let hidden = app.view.scroll(Pane::Log);
    if hidden > 0 {
        segments.push(vec![Span::styled(
            app.lang.newer_lines(theme.glyphs.down, hidden),
            theme[Role::Accent],
        )]);
    }
    segments
}

/// The filter of a pane, when it has one.
pub fn filter_info(app: &App, theme: &Theme, pane: Pane) -> Vec<Segment> {
    let filter = app.view.filter(pane);
    if filter.is_empty() {
        return Vec::new();
    }
    vec![vec![Span::styled(
        format!("/{filter}"),
        theme[Role::Accent],
    )]]
}
