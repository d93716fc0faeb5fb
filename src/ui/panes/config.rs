//! The config as the run uses it: value, where it comes from, and when a change would act.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Segment, empty};
use crate::protocol::ConfigEntry;
use crate::ui::app::App;
use crate::ui::layout::Pane;
use crate::ui::text::{self, pad, truncate};
use crate::ui::theme::{Role, Theme};

/// The values that pass the filter.
pub fn shown(app: &App) -> Vec<&ConfigEntry> {
    let filter = app.view.filter(Pane::Config).to_lowercase();
    let passes = |e: &&ConfigEntry| {
        filter.is_empty()
            || e.key.to_lowercase().contains(&filter)
            || e.value.to_lowercase().contains(&filter)
    };
    app.state.config.iter().filter(passes).collect()
}

pub fn lines(app: &App, theme: &Theme, area: Rect) -> Vec<Line<'static>> {
    if app.state.config.is_empty() {
        return empty(theme, app.lang.no_config());
    }
    let columns = usize::from(area.width);
    let shown = shown(app);
    if shown.is_empty() {
        return empty(theme, app.lang.nothing_matches());
    }
    let source = |e: &ConfigEntry| app.lang.config_source(&e.source);
    let widest = |width: &dyn Fn(&ConfigEntry) -> usize, most: usize| {
        let widest = shown.iter().map(|e| width(e)).max().unwrap_or(0);
        widest.min(most)
    };
    let keys = widest(&|e| text::width(&e.key), columns * 2 / 5);
    let sources = if columns >= 54 {
        widest(&|e| text::width(&source(e)), columns / 4)
    } else {
        0
    };
    // At most as wide as "restart".
    let applies = if columns >= 36 { 7 } else { 0 };
    let gaps = 2 * (1 + usize::from(sources > 0) + usize::from(applies > 0));
    let values = columns.saturating_sub(keys + sources + applies + gaps);
    let ellipsis = theme.glyphs.ellipsis;
    let selected = app.view.value.min(shown.len() - 1);
    let focused = app.focus() == Pane::Config;
    shown
        .into_iter()
        .enumerate()
        .map(|(i, e)| {
            let default = e.source == "default";
            let value = theme[if default { Role::Muted } else { Role::Text }];
            let mut spans = vec![
                Span::styled(
                    pad(&truncate(&e.key, keys, ellipsis), keys + 2),
                    theme[Role::Muted],
                ),
                Span::styled(
                    pad(&truncate(&e.value, values, ellipsis), values + 2),
                    value,
                ),
            ];
            if sources > 0 {
                spans.push(Span::styled(
                    pad(&truncate(&source(e), sources, ellipsis), sources + 2),
                    theme[if default { Role::Faint } else { Role::Muted }],
                ));
            }
            if applies > 0 {
                let (word, role) = match e.applies.as_str() {
                    "live" => (app.lang.applies_live(), Role::Good),
                    "checkpoint" => (app.lang.applies_checkpoint(), Role::Accent),
                    _ => (app.lang.applies_restart(), Role::Faint),
                };
                spans.push(Span::styled(word, theme[role]));
            }
            if focused && i == selected {
                // One style over the whole row, to its end.
                let row: String = spans.iter().map(|s| s.content.as_ref()).collect();
                return Line::styled(pad(&row, columns), theme[Role::Selection]);
            }
            Line::from(spans)
        })
        .collect()
}

pub fn info(app: &App, theme: &Theme) -> Vec<Segment> {
    let mut segments = super::log::filter_info(app, theme, Pane::Config);
    if let Some(path) = &app.state.config_path {
        segments.push(vec![Span::styled(
            text::file_name(path).to_owned(),
            theme[Role::Muted],
        )]);
    }
    segments
}
