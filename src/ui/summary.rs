//! What stays on the normal terminal when the deck of an ended run is left: the final numbers, the
//! loss as a chart, and where the exports lie.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::app::App;
use super::panes;
use super::text;
use crate::protocol::PhaseName;

/// Size of the chart at most.
const COLUMNS: u16 = 100;
const ROWS: u16 = 12;

/// The summary's lines, in plain text: it may be copied anywhere.
pub fn lines(app: &App) -> Vec<String> {
    let (state, lang) = (&app.state, app.lang);
    let mut out = Vec::new();
    let mut head = format!("{}: {}", state.run, lang.phase(state.phase));
    if !matches!(state.phase, PhaseName::Done) && !state.phase_detail.is_empty() {
        head += &format!(" ({})", state.phase_detail);
    }
    let steps = match state.total_steps {
        0 => lang.step_at(text::count(state.last.step)),
        total => lang.step_of(text::count(state.last.step), text::count(total)),
    };
    let time = lang.took(lang.duration(state.time - state.first_started));
    out.push(format!("{head}, {steps}, {time}"));
    if let Some(error) = &state.error {
        out.push(error.clone());
    }
    if state.last.step > 0 {
        let mut numbers = format!("{} {}", lang.loss(), text::number(state.last.loss.0));
        if let Some(eval) = state.eval_loss() {
            numbers += &format!("   {} {}", lang.eval(), text::number(eval));
        }
        if let Some(base) = state.base_eval_loss {
            numbers += &format!("   {}", lang.base_loss(text::number(base.0)));
        }
        if let Some((speed, unit)) = super::panes::header::speed(state, lang) {
            numbers += &format!("   {speed} {unit}");
        }
        out.push(numbers);
        out.extend(chart(app));
    }
    let arrow = app.theme.glyphs.arrow;
    for export in &state.exports {
        out.push(format!("{arrow} {}: {}", export.format, export.path));
    }
    if state.exports.is_empty()
        && let Some(newest) = state.checkpoints.iter().max_by_key(|c| c.step)
    {
        out.push(format!("{arrow} {}: {}", lang.checkpoint(), newest.path));
    }
    out
}

/// The loss pane as text.
fn chart(app: &App) -> Vec<String> {
    let area = Rect::new(0, 0, app.size.0.saturating_sub(1).min(COLUMNS), ROWS);
    let mut buf = Buffer::empty(area);
    panes::loss::draw(app, &app.theme, area, &mut buf);
    (0..area.height)
        .map(|y| {
            let row: String = (0..area.width).map(|x| buf[(x, y)].symbol()).collect();
            row.trim_end().to_owned()
        })
        .collect()
}
