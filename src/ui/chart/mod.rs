//! Charts over steps: axes, curves, marks, crosshair; and sparklines where there is no room.

mod align;
mod canvas;
mod curve;
mod scale;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

pub use align::{Align, colours, letter, run_curve, window_of};
pub use canvas::Canvas;
pub use curve::{Point, columns, memory, points, smooth, trend};
pub use scale::{Axis, Window};

use super::text::{self, width};
use super::theme::{Role, Theme};

/// A curve and how it is drawn.
#[derive(Debug)]
pub struct Curve {
    pub points: Vec<Point>,
    /// Raw values, faint.
    pub raw: Option<Role>,
    /// Their moving average, over the raw values.
    pub smooth: Option<Role>,
    /// The average by place on the x axis.
    pub average: Vec<(f64, f64)>,
    /// Written on the average, where curves must be told apart without colours.
    pub letter: Option<&'static str>,
}

/// A single value: a held-out loss.
#[derive(Debug)]
pub struct Dot {
    pub x: f64,
    pub value: f64,
    pub role: Role,
    /// Drawn instead of the usual sign where there are no colours.
    pub letter: Option<&'static str>,
}

/// A horizontal line with a word.
#[derive(Debug)]
pub struct LevelLine {
    pub value: f64,
    /// Whether the chart must reach to it; else it shows where it happens to lie inside.
    pub keep: bool,
    pub label: String,
    pub role: Role,
}

/// A sign at a step, on the axis below.
#[derive(Debug)]
pub struct Mark {
    pub step: u64,
    pub glyph: &'static str,
    pub role: Role,
}

/// Everything one chart shows.
#[derive(Debug)]
pub struct Chart {
    pub window: Window,
    pub log: bool,
    /// Later ones are drawn over earlier ones.
    pub curves: Vec<Curve>,
    pub dots: Vec<Dot>,
    pub level: Option<LevelLine>,
    /// Later ones win where two share a column.
    pub marks: Vec<Mark>,
    pub crosshair: Option<f64>,
    /// Writes a place on the x axis.
    pub label: fn(f64) -> String,
}

/// Columns for each dot that there should be.
const DOTS: usize = 6;
/// Columns between the letters on one curve.
const LETTERS: usize = 16;
/// Rows below the plot: the axis with the marks, the steps.
const BELOW: u16 = 2;

impl Chart {
    /// Draws into an area; one too small for axes gets a sparkline.
    pub fn draw(&self, theme: &Theme, area: Rect, buf: &mut Buffer) {
        if area.width < 24 || area.height < 5 {
            self.sparkline(theme, area, buf);
            return;
        }
        let probe = Canvas::new(area, theme.glyphs.unicode);
        let mut values: Vec<f64> = Vec::new();
        for curve in &self.curves {
            if curve.raw.is_some() {
                let raw = columns(&curve.points, self.window, probe.width());
                values.extend(raw.iter().flatten().map(|p| p.mean));
            } else {
                let shown = |x: &f64| self.window.column(*x, 1).is_some();
                values.extend(curve.average.iter().filter(|(x, _)| shown(x)).map(|a| a.1));
            }
        }
        if values.is_empty() {
            values.extend(self.curves.iter().filter_map(|c| Some(c.average.last()?.1)));
        }
        let always: Vec<f64> = self
            .dots
            .iter()
            .filter(|d| self.window.column(d.x, 1).is_some())
            .map(|d| d.value)
            .chain(self.level.iter().filter(|l| l.keep).map(|l| l.value))
            .collect();
        let rows = usize::from(area.height - BELOW);
        let axis = Axis::new(&values, &always, self.log, (rows / 3).clamp(2, 8));

        let labels = axis.ticks.iter().map(|(_, l)| width(l)).max().unwrap_or(0) as u16;
        let plot = Rect {
            x: area.x + labels + 1,
            width: area.width - labels - 1,
            height: area.height - BELOW,
            ..area
        };
        self.grid(theme, &axis, area, plot, buf);
        self.level_line(theme, &axis, plot, buf);
        for curve in &self.curves {
            self.draw_curve(theme, &axis, curve, plot, buf);
        }
        self.draw_dots(theme, &axis, plot, buf);
        self.draw_letters(theme, &axis, plot, buf);
        self.below(theme, area, plot, buf);
        self.draw_crosshair(theme, plot, buf);
    }

    fn grid(&self, theme: &Theme, axis: &Axis, area: Rect, plot: Rect, buf: &mut Buffer) {
        for (value, label) in &axis.ticks {
            let Some(y) = axis.row(*value, usize::from(plot.height)) else {
                continue;
            };
            let x = plot.x - 1 - width(label) as u16;
            let row = area.y + y as u16;
            buf.set_string(x, row, label, theme[Role::Muted]);
            for x in (2..plot.width).step_by(6) {
                put(
                    buf,
                    plot,
                    usize::from(x),
                    y,
                    theme.glyphs.grid,
                    theme,
                    Role::Rule,
                );
            }
        }
    }

    fn level_line(&self, theme: &Theme, axis: &Axis, plot: Rect, buf: &mut Buffer) {
        let Some(level) = &self.level else { return };
        let Some(y) = axis.row(level.value, usize::from(plot.height)) else {
            return;
        };
        if !axis.contains(level.value) {
            return;
        }
        for x in 0..usize::from(plot.width) {
            put(buf, plot, x, y, theme.glyphs.dotted, theme, level.role);
        }
        let label = format!(" {} ", level.label);
        let x = plot.right().saturating_sub(width(&label) as u16 + 1);
        buf.set_string(x.max(plot.x), plot.y + y as u16, label, theme[level.role]);
    }

    fn draw_curve(&self, theme: &Theme, axis: &Axis, curve: &Curve, plot: Rect, buf: &mut Buffer) {
        let mut canvas = Canvas::new(plot, theme.glyphs.unicode);
        let (across, down) = (canvas.width(), canvas.height());
        if let Some(role) = curve.raw {
            let mut last = None;
            for (x, point) in columns(&curve.points, self.window, across)
                .iter()
                .enumerate()
            {
                let Some(p) = point else { continue };
                let Some(y) = axis.row(p.mean, down) else {
                    continue;
                };
                if let Some(from) = last {
                    canvas.line(from, (x, y));
                }
                if let (Some(top), Some(bottom)) = (axis.row(p.max, down), axis.row(p.min, down)) {
                    canvas.line((x, top), (x, bottom));
                }
                canvas.dot(x, y);
                last = Some((x, y));
            }
            canvas.blit(buf, plot, theme[role], curve.smooth.is_none());
        }
        if let Some(role) = curve.smooth {
            let mut canvas = Canvas::new(plot, theme.glyphs.unicode);
            let mut by_column: Vec<Option<f64>> = vec![None; across];
            for (step, value) in &curve.average {
                if let Some(x) = self.window.column(*step, across) {
                    by_column[x] = Some(*value);
                }
            }
            let mut last = None;
            for (x, value) in by_column.iter().enumerate() {
                let Some(y) = value.and_then(|v| axis.row(v, down)) else {
                    continue;
                };
                canvas.line(last.unwrap_or((x, y)), (x, y));
                last = Some((x, y));
            }
            canvas.blit(buf, plot, theme[role], true);
        }
    }

    /// The dots; where there are so many that they would hide the curves, some of them, the last
    /// always.
    fn draw_dots(&self, theme: &Theme, axis: &Axis, plot: Rect, buf: &mut Buffer) {
        let columns = usize::from(plot.width);
        let seen = self.dots.iter().filter_map(|dot| {
            let x = self.window.column(dot.x, columns)?;
            Some((x, axis.row(dot.value, usize::from(plot.height))?, dot))
        });
        let seen: Vec<(usize, usize, &Dot)> = seen.collect();
        let dense = seen.len() > columns / DOTS;
        for (i, (x, y, dot)) in seen.iter().enumerate() {
            let next = seen[i + 1..].iter().find(|(_, _, d)| d.role == dot.role);
            // Every so many columns one, wherever the window begins.
            let kept = x / DOTS != next.map_or(usize::MAX, |(x, ..)| x / DOTS);
            if !dense || kept {
                let letter = dot.letter.filter(|_| !theme.tells_runs_apart());
                let glyph = letter.unwrap_or(theme.glyphs.eval);
                put(buf, plot, *x, *y, glyph, theme, dot.role);
            }
        }
    }

    /// Every curve's letter at its end, and without colours along it: so many columns apart, the
    /// curves' letters at places of their own.
    fn draw_letters(&self, theme: &Theme, axis: &Axis, plot: Rect, buf: &mut Buffer) {
        let columns = usize::from(plot.width);
        let shift = LETTERS / self.curves.len().max(1);
        for (i, curve) in self.curves.iter().enumerate() {
            let (Some(letter), Some(role)) = (curve.letter, curve.smooth) else {
                continue;
            };
            let mut by_column: Vec<Option<f64>> = vec![None; columns];
            for (x, value) in &curve.average {
                if let Some(x) = self.window.column(*x, columns) {
                    by_column[x] = Some(*value);
                }
            }
            let last = by_column.iter().rposition(Option::is_some);
            for (x, value) in by_column.iter().enumerate() {
                let along = x % LETTERS == i * shift && !theme.tells_runs_apart();
                if (along || Some(x) == last)
                    && let Some(y) = value.and_then(|v| axis.row(v, usize::from(plot.height)))
                {
                    put(buf, plot, x, y, letter, theme, role);
                }
            }
        }
    }

    fn below(&self, theme: &Theme, area: Rect, plot: Rect, buf: &mut Buffer) {
        let g = theme.glyphs;
        let row = plot.bottom();
        let rule = format!("{}{}", g.corner, g.rule.repeat(usize::from(plot.width)));
        buf.set_string(plot.x - 1, row, rule, theme[Role::Rule]);
        for mark in &self.marks {
            if let Some(x) = self
                .window
                .column(mark.step as f64, usize::from(plot.width))
            {
                buf.set_string(plot.x + x as u16, row, mark.glyph, theme[mark.role]);
            }
        }
        let mut free = area.x;
        for step in self.window.ticks(usize::from(plot.width / 12).max(1)) {
            let Some(x) = self.window.column(step, usize::from(plot.width)) else {
                continue;
            };
            let label = (self.label)(step);
            let w = width(&label) as u16;
            let x = (plot.x + x as u16)
                .saturating_sub(w / 2)
                .min(area.right() - w)
                .max(area.x);
            if x >= free {
                buf.set_string(x, row + 1, &label, theme[Role::Muted]);
                free = x + w + 2;
            }
        }
    }

    fn draw_crosshair(&self, theme: &Theme, plot: Rect, buf: &mut Buffer) {
        let Some(x) = self
            .crosshair
            .and_then(|x| self.window.column(x, usize::from(plot.width)))
        else {
            return;
        };
        for y in 0..usize::from(plot.height) {
            let at = (plot.x + x as u16, plot.y + y as u16);
            if let Some(cell) = buf.cell_mut(at) {
                if cell.symbol() == " " || cell.symbol() == theme.glyphs.grid {
                    cell.set_symbol(theme.glyphs.crosshair);
                }
                cell.set_style(theme[Role::Crosshair]);
            }
        }
    }

    fn sparkline(&self, theme: &Theme, area: Rect, buf: &mut Buffer) {
        let Some(curve) = self.curves.last() else {
            return;
        };
        let values: Vec<Option<f64>> = columns(&curve.points, self.window, usize::from(area.width))
            .into_iter()
            .map(|p| p.map(|p| p.mean))
            .collect();
        let role = curve.smooth.or(curve.raw).unwrap_or(Role::ChartEma);
        sparkline(theme, role, &values, None, area, buf);
    }
}

/// A step as it is written below a chart.
pub fn step_label(step: f64) -> String {
    text::count(step as u64)
}

fn put(buf: &mut Buffer, plot: Rect, x: usize, y: usize, symbol: &str, theme: &Theme, role: Role) {
    let at = (plot.x + x as u16, plot.y + y as u16);
    if let Some(cell) = buf.cell_mut(at) {
        cell.set_symbol(symbol).set_style(theme[role]);
    }
}

/// Bars of one column each, as high as the area. Without a range the values' own is taken.
pub fn sparkline(
    theme: &Theme,
    role: Role,
    values: &[Option<f64>],
    range: Option<(f64, f64)>,
    area: Rect,
    buf: &mut Buffer,
) {
    let finite = || values.iter().flatten().copied().filter(|v| v.is_finite());
    let (lo, hi) = range.unwrap_or_else(|| {
        (
            finite().fold(f64::INFINITY, f64::min),
            finite().fold(f64::NEG_INFINITY, f64::max),
        )
    });
    let levels = theme.glyphs.levels;
    let steps = usize::from(area.height) * levels.len();
    for (x, value) in values.iter().take(usize::from(area.width)).enumerate() {
        let Some(value) = value.filter(|v| v.is_finite()) else {
            continue;
        };
        let share = if hi > lo {
            ((value - lo) / (hi - lo)).clamp(0.0, 1.0)
        } else {
            0.5
        };
        // At least one step, so that "low" is told from "nothing there".
        let filled = ((share * steps as f64).round() as usize).clamp(1, steps.max(1));
        for row in 0..usize::from(area.height) {
            let here = filled.saturating_sub(row * levels.len()).min(levels.len());
            if here == 0 {
                break;
            }
            let at = (area.x + x as u16, area.bottom() - 1 - row as u16);
            if let Some(cell) = buf.cell_mut(at) {
                cell.set_symbol(levels[here - 1]).set_style(theme[role]);
            }
        }
    }
}
