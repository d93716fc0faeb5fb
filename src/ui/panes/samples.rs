//! What the model says or draws: the bare base and the adapter side by side, by step.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Segment, empty, sample_pictures};
use crate::protocol::{SampleLine, SampleText};
use crate::ui::app::{App, Wanted};
use crate::ui::diff;
use crate::ui::text::{self, Piece, pad, wrap, wrap_pieces};
use crate::ui::theme::{Role, Theme};

/// Narrower panes show the answers below one another.
const SIDE_BY_SIDE: usize = 56;

/// The step that shows.
pub fn step(app: &App) -> Option<u64> {
    let newest = app.state.samples.back()?.step;
    let chosen = app.view.sample_step.unwrap_or(newest);
    let there = app.state.samples.iter().any(|s| s.step == chosen);
    Some(if there { chosen } else { newest })
}

fn of_step(app: &App, step: u64) -> Vec<&SampleText> {
    let lines = app.state.samples.iter().filter(|s| s.step == step);
    lines.map(|line| &line.sample).collect()
}

fn has_pictures(samples: &[&SampleText]) -> bool {
    samples
        .iter()
        .any(|s| s.image.is_some() || s.base_image.is_some())
}

/// Pictures that show, in the sizes in which they do.
pub fn pictures(app: &App, area: Rect) -> Vec<Wanted> {
    let samples = step(app).map(|step| of_step(app, step));
    match samples.filter(|samples| has_pictures(samples)) {
        Some(samples) => sample_pictures::wanted(app, &samples, area),
        None => Vec::new(),
    }
}

/// What a sample is compared with.
struct Other<'a> {
    head: String,
    /// `None`: the prompt was not sampled there.
    text: Option<&'a str>,
}

/// The bare base's answer, or that of the step chosen for the left side.
fn other<'a>(app: &'a App, sample: &'a SampleText) -> Option<Other<'a>> {
    let Some(step) = app.view.sample_against else {
        return sample.base_text.as_deref().map(|text| Other {
            head: app.lang.bare_base().to_owned(),
            text: Some(text),
        });
    };
    let there = |s: &&SampleLine| s.step == step && s.sample.prompt == sample.prompt;
    Some(Other {
        head: app.lang.step_at(text::count(step)),
        text: app
            .state
            .samples
            .iter()
            .find(there)
            .map(|s| s.sample.text.as_str()),
    })
}

pub fn lines(app: &App, theme: &Theme, area: Rect) -> Vec<Line<'static>> {
    let Some(step) = step(app) else {
        return empty(theme, app.lang.no_samples());
    };
    let samples = of_step(app, step);
    if has_pictures(&samples) {
        return sample_pictures::lines(app, theme, &samples, area);
    }
    let columns = usize::from(area.width);
    let mut lines = Vec::new();
    for sample in samples {
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
        let head = match app.view.sample_against {
            None => app.lang.with_adapter().to_owned(),
            Some(_) => app.lang.step_at(text::count(step)),
        };
        let (left, right) = pieces(app, theme, sample);
        match other(app, sample) {
            Some(other) if columns >= SIDE_BY_SIDE => {
                let heads = [other.head, head];
                lines.extend(side_by_side(theme, heads, &left, &right, columns));
            }
            Some(other) => {
                let [old, new] = match app.view.sample_against {
                    None => [app.lang.base().to_owned(), app.lang.adapter().to_owned()],
                    Some(_) => [other.head, head],
                };
                lines.extend(block(theme, &old, &left, columns));
                lines.extend(block(theme, &new, &right, columns));
            }
            None => lines.extend(block(theme, app.lang.adapter(), &right, columns)),
        }
    }
    lines
}

/// Both texts in their styles; where they have enough in common, what one has alone stands out.
fn pieces(app: &App, theme: &Theme, sample: &SampleText) -> (Vec<Piece>, Vec<Piece>) {
    let new = sample.text.trim_end();
    let plain = |text: &str, role: Role| vec![(text.to_owned(), theme[role])];
    let Some(other) = other(app, sample) else {
        return (Vec::new(), plain(new, Role::Text));
    };
    let Some(old) = other.text else {
        let words = app.lang.not_sampled_then();
        return (plain(words, Role::Faint), plain(new, Role::Text));
    };
    let old = old.trim_end();
    let Some((left, right)) = diff::words(old, new) else {
        return (plain(old, Role::Muted), plain(new, Role::Text));
    };
    let styled = |parts: Vec<diff::Part>, same: Role, alone: Role| {
        parts
            .into_iter()
            .map(|(text, shared)| (text, theme[if shared { same } else { alone }]))
            .collect()
    };
    (
        styled(left, Role::Muted, Role::Removed),
        styled(right, Role::Text, Role::Added),
    )
}

fn spans(pieces: &[Piece]) -> Vec<Span<'static>> {
    pieces
        .iter()
        .map(|(text, style)| Span::styled(text.clone(), *style))
        .collect()
}

fn side_by_side(
    theme: &Theme,
    [left_head, right_head]: [String; 2],
    left: &[Piece],
    right: &[Piece],
    columns: usize,
) -> Vec<Line<'static>> {
    let left_columns = (columns - 3) / 2;
    let right_columns = columns - 3 - left_columns;
    let rule = || Span::styled(format!(" {} ", theme.glyphs.vertical), theme[Role::Rule]);
    let head = |word: &str, columns| {
        let word = text::truncate(word, columns, theme.glyphs.ellipsis);
        Span::styled(pad(&word, columns), theme[Role::Muted])
    };
    let mut lines = vec![Line::from(vec![
        head(&left_head, left_columns),
        rule(),
        head(&right_head, right_columns),
    ])];
    let left = wrap_pieces(left, left_columns);
    let right = wrap_pieces(right, right_columns);
    for i in 0..left.len().max(right.len()) {
        let mut line = left.get(i).map_or_else(Vec::new, |l| spans(l));
        let used: usize = line.iter().map(Span::width).sum();
        line.push(Span::raw(" ".repeat(left_columns.saturating_sub(used))));
        line.push(rule());
        line.extend(right.get(i).map_or_else(Vec::new, |l| spans(l)));
        lines.push(Line::from(line));
    }
    lines
}

fn block(theme: &Theme, word: &str, pieces: &[Piece], columns: usize) -> Vec<Line<'static>> {
    const LABELS: usize = 9;
    wrap_pieces(pieces, columns.saturating_sub(LABELS))
        .into_iter()
        .enumerate()
        .map(|(i, part)| {
            let label = if i == 0 { word } else { "" };
            let label = text::truncate(label, LABELS - 1, theme.glyphs.ellipsis);
            let mut line = vec![Span::styled(pad(&label, LABELS), theme[Role::Muted])];
            line.extend(spans(&part));
            Line::from(line)
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
