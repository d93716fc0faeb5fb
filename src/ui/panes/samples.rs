//! What the model says: the bare base and the adapter side by side, by step.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Segment, empty};
use crate::ui::app::App;
use crate::ui::lang::Lang;
use crate::ui::text::{self, pad, wrap};
use crate::ui::theme::{Role, Theme};

/// Narrower panes show the answers below one another.
const SIDE_BY_SIDE: usize = 56;

/// The step that shows.
fn step(app: &App) -> Option<u64> {
    let newest = app.state.samples.back()?.step;
    let chosen = app.view.sample_step.unwrap_or(newest);
    let there = app.state.samples.iter().any(|s| s.step == chosen);
    Some(if there { chosen } else { newest })
}

pub fn lines(app: &App, theme: &Theme, area: Rect) -> Vec<Line<'static>> {
    let Some(step) = step(app) else {
        return empty(theme, app.lang.no_samples());
    };
    let columns = usize::from(area.width);
    let mut lines = Vec::new();
    for line in app.state.samples.iter().filter(|s| s.step == step) {
        let sample = &line.sample;
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        for (i, part) in wrap(&sample.prompt, columns.saturating_sub(2))
            .into_iter()
            .enumerate()
        {
            let mark = if i == 0 { theme.glyphs.right } else { " " };
            lines.push(Line::from(vec![
                Span::styled(format!("{mark} "), theme[Role::Accent]),
                Span::styled(part, theme[Role::Title]),
            ]));
        }
        match &sample.base_text {
            Some(base) if columns >= SIDE_BY_SIDE => {
                lines.extend(side_by_side(app.lang, theme, base, &sample.text, columns));
            }
            Some(base) => {
                lines.extend(block(theme, app.lang.base(), base, Role::Muted, columns));
                lines.extend(block(
                    theme,
                    app.lang.adapter(),
                    &sample.text,
                    Role::Text,
                    columns,
                ));
            }
            None => lines.extend(block(
                theme,
                app.lang.adapter(),
                &sample.text,
                Role::Text,
                columns,
            )),
        }
    }
    lines
}

fn side_by_side(
    lang: Lang,
    theme: &Theme,
    base: &str,
    adapter: &str,
    columns: usize,
) -> Vec<Line<'static>> {
    let left = (columns - 3) / 2;
    let right = columns - 3 - left;
    let head = |word: &str| Span::styled(pad(word, left), theme[Role::Muted]);
    let rule = || Span::styled(format!(" {} ", theme.glyphs.vertical), theme[Role::Rule]);
    let mut lines = vec![Line::from(vec![
        head(lang.bare_base()),
        rule(),
        head(lang.with_adapter()),
    ])];
    let base = wrap(base.trim_end(), left);
    let adapter = wrap(adapter.trim_end(), right);
    for i in 0..base.len().max(adapter.len()) {
        let at = |lines: &[String]| lines.get(i).cloned().unwrap_or_default();
        lines.push(Line::from(vec![
            Span::styled(pad(&at(&base), left), theme[Role::Muted]),
            rule(),
            Span::styled(at(&adapter), theme[Role::Text]),
        ]));
    }
    lines
}

fn block(
    theme: &Theme,
    word: &'static str,
    text: &str,
    role: Role,
    columns: usize,
) -> Vec<Line<'static>> {
    const LABELS: usize = 8;
    wrap(text.trim_end(), columns.saturating_sub(LABELS))
        .into_iter()
        .enumerate()
        .map(|(i, part)| {
            let label = if i == 0 { word } else { "" };
            Line::from(vec![
                Span::styled(pad(label, LABELS), theme[Role::Muted]),
                Span::styled(part, theme[role]),
            ])
        })
        .collect()
}

pub fn info(app: &App, theme: &Theme) -> Vec<Segment> {
    let Some(step) = step(app) else {
        return Vec::new();
    };
    let steps = app.sample_steps();
    let at = steps.iter().position(|s| *s == step).unwrap_or(0) + 1;
    let g = theme.glyphs;
    vec![
        vec![Span::styled(
            app.lang.step_at(text::count(step)),
            theme[Role::Text],
        )],
        vec![Span::styled(
            format!("{} {at}/{} {}", g.left, steps.len(), g.right),
            theme[Role::Muted],
        )],
    ]
}
