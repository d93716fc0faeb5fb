//! What has been saved: checkpoints and exports, newest first.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Segment, empty};
use crate::ui::app::App;
use crate::ui::text::{self, pad, truncate};
use crate::ui::theme::{Role, Theme};

pub fn lines(app: &App, theme: &Theme, area: Rect) -> Vec<Line<'static>> {
    let state = &app.state;
    if state.checkpoints.is_empty() && state.exports.is_empty() {
        return empty(theme, app.lang.no_saves());
    }
    let columns = usize::from(area.width);
    let ellipsis = theme.glyphs.ellipsis;
    let row = |name: &str, role: Role, bytes: u64, time: f64, what: &str| {
        let names = columns.saturating_sub(32).clamp(11, 24);
        Line::from(vec![
            Span::styled(
                pad(&truncate(name, names, ellipsis), names + 1),
                theme[role],
            ),
            Span::styled(format!("{:>8}  ", text::bytes(bytes)), theme[Role::Text]),
            Span::styled(
                pad(&app.lang.ago(app.lang.age(app.now - time)), 11),
                theme[Role::Muted],
            ),
            Span::styled(
                truncate(what, columns.saturating_sub(names + 22), ellipsis),
                theme[Role::Muted],
            ),
        ])
    };
    let mut saved: Vec<(f64, Line)> = state
        .checkpoints
        .iter()
        .map(|c| {
            let reason = app.lang.checkpoint_reason(c.reason);
            let line = row(
                text::file_name(&c.path),
                Role::Good,
                c.bytes,
                c.time,
                reason,
            );
            (c.time, line)
        })
        .chain(state.exports.iter().map(|e| {
            let name = text::file_name(&e.path);
            let what = app.lang.export_at(text::count(e.step));
            (e.time, row(name, Role::Accent, e.bytes, e.time, &what))
        }))
        .collect();
    // Stable: of two at one time the later in the list is the newer.
    saved.reverse();
    saved.sort_by(|a, b| b.0.total_cmp(&a.0));
    saved.into_iter().map(|(_, line)| line).collect()
}

pub fn info(app: &App, theme: &Theme) -> Vec<Segment> {
    let state = &app.state;
    let mut segments = Vec::new();
    if let Some(last) = state.checkpoints.iter().map(|c| c.step).max() {
        let behind = state.last.step.saturating_sub(last);
        if behind > 0 {
            segments.push(vec![Span::styled(
                app.lang.steps_not_saved(text::count(behind)),
                theme[Role::Muted],
            )]);
        }
    }
    segments
}
