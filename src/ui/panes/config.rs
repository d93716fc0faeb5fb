//! The config as the run uses it: value, where it comes from, and when a change would act.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Segment, empty};
use crate::ui::app::App;
use crate::ui::layout::Pane;
use crate::ui::text::{self, pad, truncate};
use crate::ui::theme::{Role, Theme};

pub fn lines(app: &App, theme: &Theme, area: Rect) -> Vec<Line<'static>> {
    let config = &app.state.config;
    if config.is_empty() {
        return empty(theme, app.lang.no_config());
    }
    let columns = usize::from(area.width);
    let filter = app.view.filter(Pane::Config).to_lowercase();
    let shown: Vec<_> = config
        .iter()
        .filter(|e| {
            filter.is_empty()
                || e.key.to_lowercase().contains(&filter)
                || e.value.to_lowercase().contains(&filter)
        })
        .collect();
    if shown.is_empty() {
        return empty(theme, app.lang.nothing_matches());
    }
    let widest = |f: fn(&crate::protocol::ConfigEntry) -> &str, most: usize| {
        shown
            .iter()
            .map(|e| text::width(f(e)))
            .max()
            .unwrap_or(0)
            .min(most)
    };
    let keys = widest(|e| &e.key, columns * 2 / 5);
    let sources = if columns >= 54 {
        widest(|e| &e.source, columns / 4)
    } else {
        0
    };
    // At most as wide as "restart".
    let applies = if columns >= 36 { 7 } else { 0 };
    let gaps = 2 * (1 + usize::from(sources > 0) + usize::from(applies > 0));
    let values = columns.saturating_sub(keys + sources + applies + gaps);
    let ellipsis = theme.glyphs.ellipsis;
    shown
        .into_iter()
        .map(|e| {
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
                    pad(&truncate(&e.source, sources, ellipsis), sources + 2),
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
