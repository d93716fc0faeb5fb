//! The loss: raw values faint, their moving average bold, held-out losses, and what happened.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Span;

use super::Segment;
use crate::ui::app::App;
use crate::ui::chart::{Chart, Curve, LevelLine, Mark, Window, points, smooth};
use crate::ui::text;
use crate::ui::theme::{Role, Theme};

pub fn draw(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let state = &app.state;
    let window = window(app);
    let points = points(&state.loss, window);
    if points.is_empty() && state.evals.is_empty() {
        let text = match state.last.step {
            0 => app.lang.no_step(),
            _ => app.lang.no_finite_loss(),
        };
        buf.set_stringn(
            area.x,
            area.y,
            text,
            usize::from(area.width),
            theme[Role::Muted],
        );
        return;
    }
    let base = state.base_eval_loss.map(|b| b.0).filter(|b| b.is_finite());
    Chart {
        window,
        log: app.view.log_loss,
        curve: Curve {
            points,
            raw: Some(Role::ChartRaw),
            smooth: Some(Role::ChartEma),
        },
        dots: state.evals.iter().map(|(s, v)| (*s, v.0)).collect(),
        level: base.map(|value| LevelLine {
            value,
            keep: app.view.zoom == 0,
            label: app.lang.bare_base_loss(text::number(value)),
            role: Role::ChartBase,
        }),
        marks: marks(app, theme),
        crosshair: app.view.crosshair,
    }
    .draw(theme, area, buf);
}

/// What both charts show of the steps.
pub fn window(app: &App) -> Window {
    Window::new(
        app.state.last.step,
        app.state.total_steps,
        app.view.zoom,
        app.view.crosshair,
    )
}

/// What happened, the gravest last.
pub fn marks(app: &App, theme: &Theme) -> Vec<Mark> {
    let g = theme.glyphs;
    let m = &app.state.marks;
    let saves: Vec<u64> = app.state.checkpoints.iter().map(|c| c.step).collect();
    [
        (&saves, g.checkpoint, Role::Good),
        (&m.config_changes, g.config_change, Role::Accent),
        (&m.pauses, g.pause, Role::Warning),
        (&m.resumes, g.resume, Role::Accent),
        (&m.non_finite, g.non_finite, Role::Error),
    ]
    .into_iter()
    .flat_map(|(steps, glyph, role)| {
        steps.iter().map(move |step| Mark {
            step: *step,
            glyph,
            role,
        })
    })
    .collect()
}

/// The values under the crosshair, or the legend.
pub fn info(app: &App, theme: &Theme) -> Vec<Segment> {
    match app.view.crosshair {
        Some(step) => readout(app, theme, step),
        None => legend(app, theme),
    }
}

fn legend(app: &App, theme: &Theme) -> Vec<Segment> {
    let g = theme.glyphs;
    let mut segments: Vec<Segment> = [
        (g.rule, Role::ChartRaw, app.lang.raw()),
        (g.rule_focus, Role::ChartEma, app.lang.average()),
        (g.eval, Role::ChartEval, app.lang.held_out()),
        (g.checkpoint, Role::Good, app.lang.checkpoint()),
    ]
    .into_iter()
    .map(|(glyph, role, word)| {
        vec![
            Span::styled(glyph, theme[role]),
            Span::styled(format!(" {word}"), theme[Role::Muted]),
        ]
    })
    .collect();
    if app.view.log_loss {
        segments.insert(
            0,
            vec![Span::styled(app.lang.logarithmic(), theme[Role::Accent])],
        );
    }
    if app.view.zoom > 0 {
        let zoom = format!("{}{}", g.times, 1u64 << app.view.zoom.min(40));
        segments.insert(0, vec![Span::styled(zoom, theme[Role::Accent])]);
    }
    segments
}

fn readout(app: &App, theme: &Theme, step: u64) -> Vec<Segment> {
    let lang = app.lang;
    let window = window(app);
    let nearest = |series| {
        points(series, window)
            .into_iter()
            .min_by(|a, b| {
                let d = |p: &f64| (p - step as f64).abs();
                d(&a.step).total_cmp(&d(&b.step))
            })
            .map(|p| p.mean)
    };
    let loss_points = points(&app.state.loss, window);
    let average = smooth(&loss_points, window)
        .into_iter()
        .rfind(|(s, _)| *s <= step as f64)
        .map(|(_, v)| v);
    let eval = app
        .state
        .evals
        .iter()
        .rfind(|(s, _)| *s <= step)
        .map(|(_, v)| v.0);
    let mut segments = vec![vec![Span::styled(
        app.lang.step_at(text::count(step)),
        theme[Role::Crosshair],
    )]];
    for (label, value, role) in [
        (lang.loss(), nearest(&app.state.loss), Role::Text),
        (lang.average(), average, Role::ChartEma),
        (lang.held_out(), eval, Role::ChartEval),
        (
            lang.rate_short(),
            nearest(&app.state.learning_rate),
            Role::ChartRate,
        ),
        (lang.norm_short(), nearest(&app.state.grad_norm), Role::Text),
    ] {
        let Some(value) = value else { continue };
        let value = if role == Role::ChartRate {
            text::scientific(value)
        } else {
            text::number(value)
        };
        segments.push(vec![
            Span::styled(format!("{label} "), theme[Role::Muted]),
            Span::styled(value, theme[role]),
        ]);
    }
    if app.state.marks.non_finite.contains(&step) {
        segments.insert(1, vec![Span::styled(lang.skipped(), theme[Role::Error])]);
    }
    segments
}
