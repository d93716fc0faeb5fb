//! How the form for a new run looks.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::app::Home;
use super::desk::{Memory, Rows};
use super::details::{findings, fit_word, memory_line};
use super::form::{Button, Field, Form, Place};
use super::list::cell;
use super::view::titled;
use crate::ui::panes::draw_lines;
use crate::ui::text::{self, truncate_start, width, wrap};
use crate::ui::theme::{Role, Theme};

pub fn draw(home: &Home, form: &Form, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    let wide = area.width >= 76;
    let left = Rect {
        width: if wide {
            (area.width * 52 / 100).clamp(44, 74)
        } else {
            area.width
        },
        ..area
    };
    let right_width = area.width - left.width;
    let inner = titled(theme, lang.form_title(), "", true, left, buf);
    draw_fields(home, form, inner, buf);
    if !wide {
        return;
    }
    let right = Rect {
        x: left.right() + 1,
        width: right_width - 1,
        ..area
    };
    let fits = fits(home, form);
    let rows = (fits.len() as u16 + 2).min(right.height / 2).max(3);
    let top = Rect {
        height: rows,
        ..right
    };
    let inner = titled(theme, lang.form_fits(), "", false, top, buf);
    draw_lines(&fits, 0, inner, buf);

    let check = check_lines(home, form, usize::from(right.width.saturating_sub(2)));
    let left_over = right.height - rows;
    let check_rows = (check.len() as u16 + 2).clamp(3, left_over.max(3));
    let middle = Rect {
        y: right.y + rows,
        height: check_rows.min(left_over),
        ..right
    };
    let inner = titled(theme, lang.form_check(), "", false, middle, buf);
    draw_lines(&check, 0, inner, buf);

    let below = Rect {
        y: middle.bottom(),
        height: right.bottom().saturating_sub(middle.bottom()),
        ..right
    };
    if below.height >= 5 {
        let inner = titled(theme, lang.form_text(), "", false, below, buf);
        draw_text(theme, form, inner, buf);
    }
}

/// Columns of the fields' names.
const LABELS: usize = 18;

fn draw_fields(home: &Home, form: &Form, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    let g = theme.glyphs;
    let room = usize::from(area.width).saturating_sub(LABELS);
    // Where there is room every field has its reason below it; else only the one with the cursor.
    let mut lines: Vec<Line> = Vec::new();
    let mut cursor = 0;
    let fields = form.fields();
    let roomy = usize::from(area.height) >= fields.len() * 2 + 3;
    for (i, field) in fields.into_iter().enumerate() {
        let chosen = form.place == Place::Field(i);
        if chosen {
            cursor = lines.len();
        }
        let label = match field {
            Field::Accumulation => "accumulation",
            field => field.label(lang),
        };
        let value = truncate_start(form.value(field), room.saturating_sub(5), g.ellipsis);
        let many = !form.choices(field).is_empty();
        let mut spans = vec![Span::styled(
            cell(label, LABELS, theme),
            theme[if chosen { Role::Focus } else { Role::Muted }],
        )];
        let (open, close) = match (chosen, many) {
            (true, true) => (format!("{} ", g.left), format!(" {}", g.right)),
            _ => ("  ".to_owned(), String::new()),
        };
        spans.push(Span::styled(open, theme[Role::Key]));
        spans.push(Span::styled(value, theme[Role::Text]));
        if chosen {
            spans.push(Span::styled(g.cursor, theme[Role::Accent]));
        }
        spans.push(Span::styled(close, theme[Role::Key]));
        lines.push(Line::from(spans));
        if chosen || roomy {
            let why = form.why(field);
            let rows = if chosen { 2 } else { 1 };
            for line in wrap(&why, room.saturating_sub(3)).into_iter().take(rows) {
                let line = format!("{}{line}", " ".repeat(LABELS + 2));
                lines.push(Line::styled(
                    line,
                    theme[Role::Faint].patch(theme[Role::Muted]),
                ));
            }
        }
    }
    lines.push(Line::default());
    let buttons = Button::ALL.map(|b| format!("[ {} ]", b.label(lang)));
    // On one row, or below each other where that is too narrow.
    let abreast = buttons.iter().map(|b| width(b) + 1).sum::<usize>() <= usize::from(area.width);
    let mut row = Vec::new();
    for (i, button) in buttons.into_iter().enumerate() {
        let chosen = form.place == Place::Button(i);
        if chosen {
            cursor = lines.len();
        }
        let role = if chosen { Role::Selection } else { Role::Text };
        row.push(Span::styled(button, theme[role]));
        row.push(Span::raw(" "));
        if !abreast {
            lines.push(Line::from(std::mem::take(&mut row)));
        }
    }
    if abreast {
        lines.push(Line::from(row));
    }
    let rows = usize::from(area.height);
    let skip = (cursor + 3)
        .saturating_sub(rows)
        .min(lines.len().saturating_sub(rows));
    draw_lines(&lines, skip, area, buf);
}

/// The memory by purpose, and for other batch sizes.
fn fits(home: &Home, form: &Form) -> Vec<Line<'static>> {
    let (theme, lang) = (&home.theme, home.lang);
    let muted = |text: &str| Line::styled(text.to_owned(), theme[Role::Muted]);
    if let Some(Err(why)) = &form.suggestion {
        let why = lang.cannot_suggest(text::one_line(why));
        return vec![Line::styled(why, theme[Role::Warning])];
    }
    let memory = form
        .checked
        .as_ref()
        .and_then(|c| c.facts.as_ref())
        .and_then(|f| f.memory.as_ref());
    match memory {
        Some(memory) => memory_lines(home, memory),
        None if form.suggestion.is_none() || form.checking => vec![muted(lang.form_reading())],
        None => vec![muted("-")],
    }
}

fn memory_lines(home: &Home, memory: &Memory) -> Vec<Line<'static>> {
    let (theme, lang) = (&home.theme, home.lang);
    let mut lines = vec![memory_line(theme, lang, memory)];
    let parts = [
        (lang.memory_weights(), memory.weights),
        (lang.memory_adapter(), memory.adapter),
        (lang.memory_optimizer(), memory.optimizer),
        (lang.memory_activations(), memory.activations),
        match memory.rows {
            Rows::Tokens(_) => (lang.memory_logits(), memory.logits),
            Rows::Pixels(..) => (lang.memory_pictures(), memory.pictures),
        },
    ];
    let labels = parts.iter().map(|(l, _)| width(l)).max().unwrap_or(0) + 2;
    for (label, bytes) in parts {
        let note = if label == lang.memory_activations() {
            match memory.rows {
                Rows::Tokens(tokens) => format!("  {}", lang.rows_of(text::count(tokens))),
                Rows::Pixels(width, height) => {
                    format!("  {}", lang.pictures_of(format!("{width}x{height}")))
                }
            }
        } else {
            String::new()
        };
        lines.push(Line::from(vec![
            Span::styled(cell(label, labels, theme), theme[Role::Muted]),
            Span::styled(format!("{:>9}", text::bytes(bytes)), theme[Role::Text]),
            Span::styled(note, theme[Role::Muted]),
        ]));
    }
    for (batch, bytes, fit) in &memory.batches {
        let (word, role) = fit.map_or(("", Role::Muted), |f| fit_word(lang, f));
        let text = lang.batch_of(batch, text::bytes(*bytes), word);
        lines.push(Line::styled(text, theme[role]));
    }
    lines
}

fn check_lines(home: &Home, form: &Form, columns: usize) -> Vec<Line<'static>> {
    let (theme, lang) = (&home.theme, home.lang);
    let mut lines = Vec::new();
    match &form.checked {
        None => {}
        Some(checked) => {
            for line in findings(theme, lang, checked) {
                let pieces: Vec<(String, _)> = line
                    .spans
                    .iter()
                    .map(|s| (s.content.to_string(), line.style.patch(s.style)))
                    .collect();
                for row in text::wrap_pieces(&pieces, columns) {
                    let spans = row.into_iter().map(|(t, s)| Span::styled(t, s));
                    lines.push(Line::from(spans.collect::<Vec<_>>()));
                }
            }
            if let Some(facts) = &checked.facts {
                let facts = lang.config_facts(
                    format!(
                        "{} {}",
                        facts.base,
                        text::short(facts.base_parameters as f64)
                    ),
                    text::count(facts.records),
                    text::count(facts.steps),
                );
                lines.push(Line::styled(facts, theme[Role::Text]));
            }
            if checked.errors.is_empty() && checked.warnings.is_empty() {
                let text = format!("{} {}", theme.glyphs.phase_done, lang.no_problem());
                lines.insert(0, Line::styled(text, theme[Role::Good]));
            }
        }
    }
    if form.checking {
        let text = format!("{} {}", theme.glyphs.phase_waiting, lang.checking());
        lines.push(Line::styled(text, theme[Role::Muted]));
    }
    lines
}

/// The file as it will be written, its lines numbered as the check names them.
fn draw_text(theme: &Theme, form: &Form, area: Rect, buf: &mut Buffer) {
    let text = form.yaml();
    let chosen = match form.place {
        Place::Field(i) => form.fields().get(i).map_or("", |f| f.label(form.lang)),
        Place::Button(_) => "",
    };
    let all: Vec<&str> = text.lines().collect();
    let at = all
        .iter()
        .position(|l| !chosen.is_empty() && l.starts_with(&format!("{chosen}:")));
    let rows = usize::from(area.height);
    let skip = at.map_or(0, |at| {
        (at + rows / 2)
            .saturating_sub(rows)
            .min(all.len().saturating_sub(rows))
    });
    let lines: Vec<Line> = all
        .iter()
        .enumerate()
        .map(|(i, line)| {
            let role = match line {
                l if l.starts_with('#') => Role::Muted,
                _ if Some(i) == at => Role::Focus,
                _ => Role::Text,
            };
            Line::from(vec![
                Span::styled(format!("{:>3} ", i + 1), theme[Role::Faint]),
                Span::styled((*line).to_owned(), theme[role]),
            ])
        })
        .collect();
    draw_lines(&lines, skip, area, buf);
}
