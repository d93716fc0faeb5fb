//! Runs side by side: their curves in one chart, and what differs between them.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::app::{CompareView, Home};
use super::desk::ComparedRun;
use super::list::cell;
use super::view::titled;
use crate::protocol::RunCurves;
use crate::ui::chart::{Chart, colours, letter, run_curve, window_of};
use crate::ui::panes::draw_lines;
use crate::ui::text::{self, width};
use crate::ui::theme::Role;

/// The runs' colours, by name as in every chart.
fn roles(runs: &[ComparedRun]) -> Vec<Role> {
    let names: Vec<&str> = runs.iter().map(|r| r.name.as_str()).collect();
    colours(&names)
}

pub fn draw(home: &Home, view: &CompareView, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    let table = table(home, view);
    // Where there is no room for both, the numbers tell more.
    let chart_rows = if area.height < 18 {
        0
    } else {
        area.height
            .saturating_sub(table.len() as u16 + 2)
            .clamp(area.height / 3, area.height * 2 / 3)
    };
    let top = Rect {
        height: chart_rows,
        ..area
    };
    let by = view.align.word(lang);
    if chart_rows > 0 {
        let inner = titled(theme, lang.compared(), by, true, top, buf);
        draw_chart(home, view, inner, buf);
    }
    let below = Rect {
        y: area.y + chart_rows,
        height: area.height - chart_rows,
        ..area
    };
    let inner = titled(theme, lang.compare_settings(), "", false, below, buf);
    let fixed = 8.min(table.len());
    let rows = usize::from(inner.height);
    if rows > fixed {
        draw_lines(&table[..fixed], 0, inner, buf);
        let rest = Rect {
            y: inner.y + fixed as u16,
            height: inner.height - fixed as u16,
            ..inner
        };
        draw_lines(&table[fixed..], view.scroll, rest, buf);
    } else {
        draw_lines(&table, view.scroll, inner, buf);
    }
}

fn draw_chart(home: &Home, view: &CompareView, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    let runs = &view.comparison.runs;
    if runs.iter().all(|r| r.curves.step == 0) {
        buf.set_string(area.x, area.y, lang.compare_no_curve(), theme[Role::Muted]);
        return;
    }
    let all: Vec<&RunCurves> = runs.iter().map(|r| &r.curves).collect();
    let window = window_of(&all, view.align, 0);
    let mut chart = Chart {
        window,
        log: view.log,
        curves: Vec::new(),
        dots: Vec::new(),
        level: None,
        marks: Vec::new(),
        crosshair: None,
        label: view.align.label(),
    };
    for (i, (run, role)) in all.into_iter().zip(roles(runs)).enumerate() {
        let (curve, dots) = run_curve(run, view.align, window, 0, role, i);
        chart.curves.push(curve);
        chart.dots.extend(dots);
    }
    chart.draw(theme, area, buf);
}

/// A row for each thing that is told of the runs, a column for each run.
fn table(home: &Home, view: &CompareView) -> Vec<Line<'static>> {
    let (theme, lang) = (&home.theme, home.lang);
    let runs = &view.comparison.runs;
    let room = usize::from(home.size.0).saturating_sub(4);
    let labels = view
        .comparison
        .keys
        .iter()
        .map(|(key, _)| width(key))
        .max()
        .unwrap_or(0)
        .clamp(14, 28)
        + 2;
    let columns = ((room.saturating_sub(labels)) / runs.len().max(1)).clamp(8, 32);
    let row = |label: &str, values: Vec<String>, role: Role| {
        let mut spans = vec![Span::styled(cell(label, labels, theme), theme[Role::Muted])];
        for value in values {
            spans.push(Span::styled(cell(&value, columns, theme), theme[role]));
        }
        Line::from(spans)
    };
    let roles = roles(runs);
    let mut names = vec![Span::raw(" ".repeat(labels))];
    for (i, run) in runs.iter().enumerate() {
        let name = format!("{} {}", letter(i), run.name);
        names.push(Span::styled(cell(&name, columns, theme), theme[roles[i]]));
    }
    let number = |v: Option<f64>| v.map_or("-".to_owned(), text::number);
    let every = |f: &dyn Fn(&ComparedRun) -> String| runs.iter().map(f).collect::<Vec<_>>();
    let mut lines = vec![
        Line::from(names),
        row(
            lang.column_step(),
            every(&|r| {
                let step = text::count(r.curves.step);
                format!("{step} {}", lang.phase(r.curves.phase))
            }),
            Role::Text,
        ),
        row(lang.row_loss(), every(&|r| number(r.last_loss)), Role::Text),
        row(lang.row_eval(), every(&|r| number(r.eval)), Role::Text),
        row(
            lang.row_speed(),
            every(&|r| r.tokens_per_second.map_or("-".into(), text::short)),
            Role::Text,
        ),
        row(
            lang.row_time(),
            every(&|r| lang.duration(r.seconds)),
            Role::Text,
        ),
        row(
            lang.row_memory(),
            every(&|r| text::bytes(r.peak_memory)),
            Role::Text,
        ),
        row(
            lang.row_revision(),
            every(&|r| {
                let revision = r.revision.as_deref().unwrap_or("-");
                let dirty = if revision.ends_with("-dirty") {
                    "+"
                } else {
                    ""
                };
                format!("{}{dirty}", revision.get(..10).unwrap_or(revision))
            }),
            Role::Text,
        ),
    ];
    let same = |values: &[String]| values.windows(2).all(|w| w[0] == w[1]);
    let programs = every(&|r| r.program.clone());
    if !same(&programs) {
        lines.push(row(lang.row_program(), programs, Role::Warning));
    }
    if view.comparison.keys.is_empty() {
        lines.push(Line::styled(lang.compare_same(), theme[Role::Muted]));
    }
    for (key, values) in &view.comparison.keys {
        let values = values
            .iter()
            .map(|v| v.as_deref().unwrap_or("-").trim_matches('"').to_owned())
            .map(|v| {
                // Of paths the end tells more.
                if v.contains('/') {
                    text::truncate_start(&v, columns - 1, theme.glyphs.ellipsis)
                } else {
                    v
                }
            })
            .collect();
        lines.push(row(key, values, Role::Accent));
    }
    lines
}
