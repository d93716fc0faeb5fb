//! Runs side by side: their curves in one chart, and what differs between them.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::app::{Align, CompareView, Home};
use super::desk::ComparedRun;
use super::list::cell;
use super::view::titled;
use crate::ui::chart::{Axis, Canvas, Window, points};
use crate::ui::panes::draw_lines;
use crate::ui::text::{self, width};
use crate::ui::theme::Role;

/// Colours of the runs, in their order; more runs begin again.
const ROLES: [Role; 6] = [
    Role::ChartEma,
    Role::ChartEval,
    Role::ChartRate,
    Role::Good,
    Role::Warning,
    Role::Accent,
];

/// What a run is called in the legend and the table, where colours may be missing.
fn letter(i: usize) -> char {
    char::from(b'A' + (i % 26) as u8)
}

fn role(i: usize) -> Role {
    ROLES[i % ROLES.len()]
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
    let by = lang.aligned_by(match view.align {
        Align::Step => lang.by_step(),
        Align::Share => lang.by_share(),
    });
    if chart_rows > 0 {
        let inner = titled(theme, lang.compare_title(), &by, true, top, buf);
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

/// Where a step lies on the common axis.
fn place(run: &ComparedRun, align: Align, step: f64) -> f64 {
    match align {
        Align::Step => step,
        // In ten thousandths, as the axis counts in whole numbers.
        Align::Share => step * 10_000.0 / run.total_steps.max(run.last_step).max(1) as f64,
    }
}

fn draw_chart(home: &Home, view: &CompareView, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    let runs = &view.comparison.runs;
    let last = runs
        .iter()
        .map(|r| place(r, view.align, r.last_step as f64) as u64)
        .max()
        .unwrap_or(0);
    if last == 0 {
        buf.set_string(area.x, area.y, lang.compare_no_curve(), theme[Role::Muted]);
        return;
    }
    let window = Window::new(last, last, 0, None);
    let curves: Vec<Vec<(f64, f64)>> = runs
        .iter()
        .map(|run| {
            let own = Window::new(run.last_step.max(1), run.total_steps, 0, None);
            points(&run.loss, own)
                .iter()
                .map(|p| (place(run, view.align, p.step), p.mean))
                .collect()
        })
        .collect();
    let values: Vec<f64> = curves.iter().flatten().map(|(_, v)| *v).collect();
    let plot_rows = area.height - 2;
    let axis = Axis::new(
        &values,
        &[],
        view.log,
        usize::from(plot_rows / 3).clamp(2, 8),
    );
    let labels = axis.ticks.iter().map(|(_, l)| width(l)).max().unwrap_or(0) as u16;
    let plot = Rect {
        x: area.x + labels + 1,
        y: area.y,
        width: area.width - labels - 1,
        height: plot_rows,
    };
    for (value, label) in &axis.ticks {
        if let Some(y) = axis.row(*value, usize::from(plot.height)) {
            let x = plot.x - 1 - width(label) as u16;
            buf.set_string(x, area.y + y as u16, label, theme[Role::Muted]);
        }
    }
    for (i, curve) in curves.iter().enumerate() {
        let mut canvas = Canvas::new(plot, theme.glyphs.unicode);
        let (across, down) = (canvas.width(), canvas.height());
        let mut sums: Vec<(f64, u32)> = vec![(0.0, 0); across];
        for (step, value) in curve {
            if let Some(x) = window.column(*step, across) {
                sums[x] = (sums[x].0 + value, sums[x].1 + 1);
            }
        }
        let mut last = None;
        for (x, (sum, n)) in sums.iter().enumerate() {
            let mean = sum / f64::from(*n);
            let Some(y) = (*n > 0).then(|| axis.row(mean, down)).flatten() else {
                continue;
            };
            canvas.line(last.unwrap_or((x, y)), (x, y));
            last = Some((x, y));
        }
        canvas.blit(buf, plot, theme[role(i)], i == 0);
        if let Some((x, y)) = last {
            let cell_x = (x * usize::from(plot.width) / across.max(1) + 1)
                .min(usize::from(plot.width) - 1) as u16;
            let cell_y = (y * usize::from(plot.height) / down.max(1)) as u16;
            let at = (plot.x + cell_x, plot.y + cell_y);
            if let Some(cell) = buf.cell_mut(at) {
                cell.set_char(letter(i)).set_style(theme[role(i)]);
            }
        }
    }
    let g = theme.glyphs;
    let rule = format!("{}{}", g.corner, g.rule.repeat(usize::from(plot.width)));
    buf.set_string(plot.x - 1, plot.bottom(), rule, theme[Role::Rule]);
    let mut free = area.x;
    for step in window.ticks(usize::from(plot.width / 12).max(1)) {
        let Some(x) = window.column(step, usize::from(plot.width)) else {
            continue;
        };
        let label = match view.align {
            Align::Step => text::count(step as u64),
            Align::Share => format!("{:.0} %", step / 100.0),
        };
        let w = width(&label) as u16;
        let x = (plot.x + x as u16)
            .saturating_sub(w / 2)
            .min(area.right() - w)
            .max(area.x);
        if x >= free {
            buf.set_string(x, plot.bottom() + 1, &label, theme[Role::Muted]);
            free = x + w + 2;
        }
    }
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
    let mut names = vec![Span::raw(" ".repeat(labels))];
    for (i, run) in runs.iter().enumerate() {
        let name = format!("{} {}", letter(i), run.name);
        names.push(Span::styled(cell(&name, columns, theme), theme[role(i)]));
    }
    let number = |v: Option<f64>| v.map_or("-".to_owned(), text::number);
    let every = |f: &dyn Fn(&ComparedRun) -> String| runs.iter().map(f).collect::<Vec<_>>();
    let mut lines = vec![
        Line::from(names),
        row(
            lang.column_step(),
            every(&|r| format!("{} {}", text::count(r.last_step), lang.phase(r.phase))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_keep_their_letter_and_neighbours_differ_in_colour() {
        assert_eq!((letter(0), letter(25), letter(26)), ('A', 'Z', 'A'));
        for i in 0..20 {
            assert_ne!(role(i), role(i + 1));
        }
    }

    #[test]
    fn a_share_of_the_run_is_the_same_place_whatever_the_run_s_length() {
        let of = |last_step, total_steps| ComparedRun {
            last_step,
            total_steps,
            ..ComparedRun::default()
        };
        let half = |run: &ComparedRun| place(run, Align::Share, run.last_step as f64);
        assert_eq!(half(&of(50, 100)), half(&of(500, 1000)));
        assert_eq!(place(&of(7, 0), Align::Share, 7.0), 10_000.0);
    }
}
