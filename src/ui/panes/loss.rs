//! The loss: raw values faint, their moving average bold, held-out losses, and what happened.

use std::borrow::Cow;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Span;

use super::Segment;
use crate::protocol::RunCurves;
use crate::ui::app::{App, NO_AVERAGE};
use crate::ui::chart::{
    Align, Chart, Curve, Dot, LevelLine, Mark, Point, Window, colours, letter, memory, points,
    run_curve, smooth, step_label, window_of,
};
use crate::ui::text;
use crate::ui::theme::{Role, Theme};

pub fn draw(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    if !app.others.chosen.is_empty() {
        return draw_runs(app, theme, area, buf);
    }
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
    let roles = (Role::ChartRaw, Role::ChartEma);
    Chart {
        window,
        log: app.view.log_loss,
        curves: vec![curve(app, points, window, roles)],
        dots: state
            .evals
            .iter()
            .map(|(s, v)| Dot {
                x: *s as f64,
                value: v.0,
                role: Role::ChartEval,
                letter: None,
            })
            .collect(),
        level: base.map(|value| LevelLine {
            value,
            keep: app.view.zoom == 0,
            label: app.lang.bare_base_loss(text::number(value)),
            role: Role::ChartBase,
        }),
        marks: marks(app, theme),
        crosshair: app.view.crosshair.map(|s| s as f64),
        label: step_label,
    }
    .draw(theme, area, buf);
}

/// Raw values in one role and their average in another; without an average the raw values take
/// its role.
pub fn curve(
    app: &App,
    points: Vec<Point>,
    window: Window,
    (raw, smoothed): (Role, Role),
) -> Curve {
    let smoothing = app.view.smoothing;
    if smoothing == NO_AVERAGE {
        return Curve {
            points,
            raw: Some(smoothed),
            smooth: None,
            average: Vec::new(),
            letter: None,
        };
    }
    Curve {
        raw: Some(raw),
        smooth: Some(smoothed),
        average: smooth(&points, memory(window.span(), smoothing)),
        letter: None,
        points,
    }
}

/// This run among others: averages alone, aligned as chosen.
fn draw_runs(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let runs = runs(app);
    let align = app.others.align;
    let curves: Vec<&RunCurves> = runs.iter().map(|(run, ..)| run.as_ref()).collect();
    let window = match app.view.pan {
        Some(_) if align == Align::Step => window(app),
        _ => window_of(&curves, align, app.view.zoom),
    };
    let smoothing = app.view.smoothing.max(NO_AVERAGE + 1);
    let mut chart = Chart {
        window,
        log: app.view.log_loss,
        curves: Vec::new(),
        dots: Vec::new(),
        level: None,
        marks: Vec::new(),
        crosshair: app
            .view
            .crosshair
            .map(|s| align.place(s as f64, &app.state.tokens, &app.state.seconds)),
        label: align.label(),
    };
    for (run, role, number) in &runs {
        let (curve, dots) = run_curve(run, align, window, smoothing, *role, *number);
        chart.curves.push(curve);
        chart.dots.extend(dots);
    }
    chart.draw(theme, area, buf);
}

/// The runs that show with their colours and numbers, this one last: it is drawn over the others,
/// and is the first, `A`.
fn runs(app: &App) -> Vec<(Cow<'_, RunCurves>, Role, usize)> {
    let others: Vec<&RunCurves> = app.others.curves().collect();
    let names: Vec<&str> = others.iter().map(|r| r.run.as_str()).collect();
    let colours = colours(&names);
    others
        .into_iter()
        .zip(colours)
        .enumerate()
        .map(|(i, (run, role))| (Cow::Borrowed(run), role, i + 1))
        .chain([(Cow::Owned(RunCurves::of(&app.state)), Role::ChartEma, 0)])
        .collect()
}

/// What both charts show of the steps.
pub fn window(app: &App) -> Window {
    let (state, view) = (&app.state, &app.view);
    let window = Window::new(
        state.last.step,
        state.total_steps,
        view.zoom,
        view.crosshair.filter(|_| view.pan.is_none()),
    );
    match view.pan {
        Some(last) => Window {
            first: last - window.span(),
            last,
        },
        None => window,
    }
}

/// What happened, the gravest last.
pub fn marks(app: &App, theme: &Theme) -> Vec<Mark> {
    let g = theme.glyphs;
    let m = &app.state.marks;
    let saves = app.state.checkpoints.iter().map(|c| c.step).collect();
    let samples = app.sample_steps().into();
    [
        (&samples, g.sample, Role::Key),
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
    if !app.others.chosen.is_empty() {
        return runs_legend(app, theme);
    }
    let (g, lang) = (theme.glyphs, app.lang);
    let curves = match app.view.smoothing {
        NO_AVERAGE => vec![(g.rule_focus, Role::ChartEma, lang.raw())],
        _ => vec![
            (g.rule, Role::ChartRaw, lang.raw()),
            (g.rule_focus, Role::ChartEma, lang.average()),
        ],
    };
    let signs = [
        (g.eval, Role::ChartEval, lang.held_out()),
        (g.checkpoint, Role::Good, lang.checkpoint()),
        (g.sample, Role::Key, lang.hint_sample()),
    ];
    let legend = curves.into_iter().chain(signs).map(|(glyph, role, word)| {
        vec![
            Span::styled(glyph, theme[role]),
            Span::styled(format!(" {word}"), theme[Role::Muted]),
        ]
    });
    settings(app, theme).into_iter().chain(legend).collect()
}

/// What differs from the usual view.
fn settings(app: &App, theme: &Theme) -> Vec<Segment> {
    let (view, lang) = (&app.view, app.lang);
    let mut words = Vec::new();
    if view.zoom > 0 {
        let times = format!("{}{}", theme.glyphs.times, 1u64 << view.zoom.min(40));
        words.push(match view.pan {
            Some(_) => lang.window_fixed(times),
            None => times,
        });
    }
    if view.log_loss {
        words.push(lang.logarithmic().to_owned());
    }
    if view.smoothing != 0 && view.smoothing != NO_AVERAGE {
        let steps = memory(window(app).span(), view.smoothing);
        words.push(lang.average_over(text::short(steps.round().max(1.0))));
    }
    words
        .into_iter()
        .map(|word| vec![Span::styled(word, theme[Role::Accent])])
        .collect()
}

/// By what the runs are aligned, and each with its colour and loss, this one first.
fn runs_legend(app: &App, theme: &Theme) -> Vec<Segment> {
    let word = app.others.align.word(app.lang);
    let mut segments = vec![vec![Span::styled(word, theme[Role::Accent])]];
    let runs = runs(app);
    // Of many runs the names matter more than the numbers.
    let few = runs.len() <= 2;
    let (this, others) = runs
        .split_last()
        .map_or((None, &[][..]), |(t, o)| (Some(t), o));
    segments.extend(this.into_iter().chain(others).map(|(run, role, number)| {
        let name = text::truncate(&run.run, 20, theme.glyphs.ellipsis);
        let mut segment = vec![
            Span::styled(letter(*number), theme[*role]),
            Span::styled(format!(" {name}"), theme[Role::Text]),
        ];
        if few {
            let loss = text::number(run.loss.last().map_or(f64::NAN, |l| l.1));
            segment.push(Span::styled(format!(" {loss}"), theme[Role::Muted]));
        }
        segment
    }));
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
    let average = smooth(&loss_points, memory(window.span(), app.view.smoothing))
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
        (
            lang.average(),
            average.filter(|_| app.view.smoothing != NO_AVERAGE),
            Role::ChartEma,
        ),
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
