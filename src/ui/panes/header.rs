//! The run at a glance: name, phase, progress, the numbers that matter, and the connection.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Segment, fine_bar};
use crate::protocol::{PhaseName, Remedy, RunState};
use crate::ui::Lang;
use crate::ui::app::{App, Connection};
use crate::ui::chart::trend;
use crate::ui::keymap::Act;
use crate::ui::text::{self, width};
use crate::ui::theme::{Role, Theme};

/// Data of a stepping run older than this is called old.
const OLD: f64 = 15.0;

pub fn draw(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let row = |i: u16| Rect {
        x: area.x + 1,
        y: area.y + i,
        width: area.width.saturating_sub(2),
        height: 1,
    };
    match area.height {
        0 | 1 => {}
        2 => {
            ends(
                vec![phase(app, theme, false)],
                connection(app, theme, true),
                row(0),
                buf,
            );
            draw_small(app, theme, row(1), buf);
        }
        3 => {
            let mut left = vec![name(app, theme), phase(app, theme, true)];
            left.extend(queued(app, theme));
            ends(left, connection(app, theme, false), row(0), buf);
            progress(app, theme, row(1), buf);
            metrics(app, theme, row(2), buf);
        }
        _ => {
            let mut left = vec![
                vec![Span::styled("loradeck", theme[Role::Accent])],
                name(app, theme),
            ];
            left.extend(queued(app, theme));
            left.extend(facts(app, theme));
            ends(left, connection(app, theme, false), row(0), buf);
            let top = phase(app, theme, true);
            let used: u16 = top.iter().map(|s| width(&s.content) as u16).sum::<u16>() + 2;
            buf.set_line(row(1).x, row(1).y, &Line::from(top), row(1).width);
            if used < row(1).width {
                progress(
                    app,
                    theme,
                    Rect {
                        x: row(1).x + used,
                        width: row(1).width - used,
                        ..row(1)
                    },
                    buf,
                );
            }
            metrics(app, theme, row(2), buf);
        }
    }
}

/// The newest alert with its remedy, how to follow it, and how many more there are.
pub fn alert(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let active = app.state.alerts.active();
    let Some(newest) = active.last() else { return };
    let mut end = String::new();
    if matches!(newest.alert.remedy(), Remedy::Set { .. })
        && let Some(key) = app.keymap.first(Act::Remedy)
    {
        end += &format!("   {}", app.lang.remedy_key(key));
    }
    if active.len() > 1 {
        end += &format!("   {}", app.lang.more_alerts(active.len() - 1));
    }
    let columns = usize::from(area.width.saturating_sub(2));
    let sentence = format!("{} {}", theme.glyphs.alert, app.lang.alert(&newest.alert));
    // The remedy matters more than the key for it.
    let fits = width(&sentence) + width(&end) <= columns;
    let sentence = text::truncate(&sentence, columns, theme.glyphs.ellipsis);
    let mut spans = vec![Span::styled(sentence, theme[Role::Warning])];
    if fits {
        spans.push(Span::styled(end, theme[Role::Muted]));
    }
    buf.set_line(area.x + 1, area.y, &Line::from(spans), columns as u16);
}

/// Segments from the left as far as there is room, and one at the right.
fn ends(left: Vec<Segment>, right: Segment, area: Rect, buf: &mut Buffer) {
    let of = |s: &Segment| s.iter().map(|s| width(&s.content)).sum::<usize>();
    let needed = of(&right) as u16;
    let x = area.right().saturating_sub(needed).max(area.x);
    let room = area.width.saturating_sub(needed + 2);
    join(
        left,
        Rect {
            width: room,
            ..area
        },
        buf,
    );
    buf.set_line(x, area.y, &Line::from(right), needed.min(area.width));
}

/// Segments with a gap of two, as many as fit; the first is cut rather than left out.
fn join(segments: Vec<Segment>, area: Rect, buf: &mut Buffer) {
    let mut used = 0;
    for (i, segment) in segments.into_iter().enumerate() {
        let columns: usize = segment.iter().map(|s| width(&s.content)).sum();
        let gap = if i == 0 { 0 } else { 3 };
        if i > 0 && used + gap + columns > usize::from(area.width) {
            break;
        }
        let x = area.x + (used + gap) as u16;
        buf.set_line(
            x,
            area.y,
            &Line::from(segment),
            area.right().saturating_sub(x),
        );
        used += gap + columns;
    }
}

fn name(app: &App, theme: &Theme) -> Segment {
    let name = if app.state.run.is_empty() {
        app.lang.no_name()
    } else {
        &app.state.run
    };
    vec![Span::styled(
        text::truncate(name, 40, theme.glyphs.ellipsis),
        theme[Role::Title],
    )]
}

/// The place in the queue and what comes next.
fn queued(app: &App, theme: &Theme) -> Option<Segment> {
    let place = app.queued.place.as_ref()?;
    let mut spans = vec![Span::styled(
        app.lang.queue_place(place.place, place.of),
        theme[Role::Accent],
    )];
    let then = match place.next.first() {
        Some(_) if place.stops => Some(app.lang.queue_then_stops().to_owned()),
        Some(next) => Some(
            app.lang
                .queue_then(text::truncate(next, 24, theme.glyphs.ellipsis)),
        ),
        None => None,
    };
    spans.extend(then.map(|t| Span::styled(format!(" {t}"), theme[Role::Muted])));
    Some(spans)
}

/// Base, adapter and device, where there is room for them.
fn facts(app: &App, theme: &Theme) -> Vec<Segment> {
    let (base, adapter) = (&app.state.base, &app.state.adapter);
    if base.name.is_empty() {
        return Vec::new();
    }
    let muted = |text: String| vec![Span::styled(text, theme[Role::Muted])];
    let share = adapter.parameters as f64 / (base.parameters.max(1)) as f64 * 100.0;
    vec![
        muted(format!(
            "{} {} {}",
            text::truncate(text::file_name(&base.name), 44, theme.glyphs.ellipsis),
            base.dtype,
            text::short(base.parameters as f64)
        )),
        muted(app.lang.rank_trained(
            adapter.rank,
            text::short(adapter.parameters as f64),
            format!("{share:.2}"),
        )),
        muted(app.state.device.clone()),
    ]
}

/// The phase as it is: a runner that is gone trains nothing.
fn phase(app: &App, theme: &Theme, long: bool) -> Segment {
    let state = &app.state;
    if state.seq == 0 && app.connection == Connection::Opening {
        return vec![Span::styled(
            format!("{} {}", theme.glyphs.phase_waiting, app.lang.opening()),
            theme[Role::Muted],
        )];
    }
    if app.connection == Connection::Before {
        let waits = if state.data.is_none() {
            app.lang.reading_data()
        } else {
            app.lang.run_not_begun()
        };
        let waits = format!("{} {waits}", theme.glyphs.phase_waiting);
        return vec![Span::styled(waits, theme[Role::Muted])];
    }
    if app.runner_gone() && !state.phase.is_end() {
        return vec![
            Span::styled(
                format!("{} {}", theme.glyphs.phase_failed, app.lang.runner_gone()),
                theme[Role::Error],
            ),
            Span::styled(
                format!(" {}", app.lang.while_phase(app.lang.phase(state.phase))),
                theme[Role::Muted],
            ),
        ];
    }
    let (role, glyph) = theme.phase(state.phase);
    let mut spans = vec![Span::styled(
        format!("{glyph} {}", app.lang.phase(state.phase)),
        theme[role].patch(theme[Role::Title].fg(theme[role].fg.unwrap_or_default())),
    )];
    let mut detail = String::new();
    if long {
        detail = match state.phase {
            PhaseName::Pausing => app.lang.until_step_ended().into(),
            PhaseName::Paused => app
                .lang
                .for_so_long(app.lang.age(app.now - state.phase_since)),
            _ => state.phase_detail.clone(),
        };
    }
    if !detail.is_empty() {
        spans.push(Span::styled(
            format!(" {}", text::truncate(&detail, 48, theme.glyphs.ellipsis)),
            theme[Role::Muted],
        ));
    }
    for pending in app.pending.iter().take(2) {
        spans.push(Span::styled(
            format!("  {}{}", pending.word, theme.glyphs.ellipsis),
            theme[Role::Warning],
        ));
    }
    spans
}

fn connection(app: &App, theme: &Theme, short: bool) -> Segment {
    let (g, lang) = (theme.glyphs, app.lang);
    let mut spans = Vec::new();
    if app.dropped > 0 && !short {
        spans.push(Span::styled(
            format!(
                "{} {} ",
                lang.updates_dropped(text::count(app.dropped)),
                g.separator
            ),
            theme[Role::Warning],
        ));
    }
    let age = app.age();
    let stepping = app.connection == Connection::Live && app.state.phase == PhaseName::Training;
    if stepping && age > OLD && !short {
        spans.push(Span::styled(
            format!("{} {} ", lang.data_old(lang.age(age)), g.separator),
            theme[Role::Warning],
        ));
    }
    let (word, role) = match (&app.connection, &app.readonly) {
        (Connection::Opening, _) => (lang.connecting().to_owned(), Role::Muted),
        (Connection::Live, None) => (lang.live().to_owned(), Role::Good),
        (Connection::Live, Some(_)) => (lang.live_readonly().to_owned(), Role::Accent),
        (Connection::Lost { since, .. }, _) => (
            if short {
                lang.reconnecting().to_owned()
            } else {
                lang.reconnecting_age(lang.age(app.now - since))
            },
            Role::Warning,
        ),
        (Connection::LineLost { .. }, _) => (
            if short {
                lang.reconnecting().to_owned()
            } else {
                lang.reconnecting_age(lang.age(age))
            },
            Role::Warning,
        ),
        (Connection::Before, _) => (lang.only_data().to_owned(), Role::Accent),
        (Connection::Replay { speed }, _) => (
            lang.replay_at(format!("{}{speed}", theme.glyphs.times)),
            Role::Accent,
        ),
        (Connection::NoRunner { .. }, _) if app.state.phase.is_end() && !short => (
            lang.ended_ago(lang.age(app.now - app.state.phase_since)),
            Role::Muted,
        ),
        (Connection::NoRunner { .. }, _) => (lang.no_runner().to_owned(), Role::Muted),
    };
    spans.push(Span::styled(format!("{} {word}", g.circle), theme[role]));
    spans
}

/// Seconds left, while steps are being done.
fn eta(app: &App) -> Option<f64> {
    if app.runner_gone() || app.state.phase == PhaseName::Paused {
        return None;
    }
    app.state.eta_seconds()
}

/// Share of the run that is done.
fn share(app: &App) -> Option<f64> {
    let total = app.state.total_steps;
    (total > 0).then(|| (app.state.last.step as f64 / total as f64).clamp(0.0, 1.0))
}

fn steps(app: &App) -> String {
    let step = text::count(app.state.last.step);
    match app.state.total_steps {
        0 => app.lang.step_at(step),
        total => app.lang.step_of(step, text::count(total)),
    }
}

/// Step, gauge, percent, epoch and time left on one row; a failure's reason instead of them.
fn progress(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let state = &app.state;
    if app.connection == Connection::Before {
        return;
    }
    if let (PhaseName::Failed, Some(error)) = (state.phase, &state.error) {
        let error = text::truncate(error, usize::from(area.width), theme.glyphs.ellipsis);
        buf.set_string(area.x, area.y, error, theme[Role::Error]);
        return;
    }
    let mut left = steps(app);
    left.push(' ');
    let mut right = String::new();
    if let Some(share) = share(app) {
        right = format!(" {:>3} %", (share * 100.0).floor());
    }
    if state.last.step > 0 {
        right += &format!(
            "   {}",
            app.lang.epoch_at(format!("{:.2}", state.last.epoch))
        );
    }
    match eta(app) {
        Some(seconds) => {
            right += &format!("   {}", app.lang.time_left(app.lang.eta(seconds)));
        }
        _ if state.phase.is_end() && state.last.step > 0 => {
            let took = app.lang.duration(state.phase_since - state.first_started);
            right += &format!("   {}", app.lang.took(took));
        }
        _ => {}
    }
    let used = width(&left) + width(&right);
    let columns = usize::from(area.width).saturating_sub(used + 1);
    let mut spans = vec![Span::styled(left, theme[Role::Text])];
    if columns >= 8 {
        spans.extend(fine_bar(
            theme,
            share(app).unwrap_or(0.0),
            Role::Progress,
            columns,
        ));
    }
    spans.push(Span::styled(right, theme[Role::Text]));
    buf.set_line(area.x, area.y, &Line::from(spans), area.width);
}

/// Everything on one row of some 38 columns.
fn draw_small(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    if app.connection == Connection::Before {
        return;
    }
    let mut segments = Vec::new();
    let state = &app.state;
    let percent = share(app).map_or(String::new(), |s| format!(" {:.0} %", (s * 100.0).floor()));
    segments.push(vec![Span::styled(
        format!(
            "{}/{}{percent}",
            text::count(state.last.step),
            text::count(state.total_steps)
        ),
        theme[Role::Text],
    )]);
    segments.push(loss(app, theme));
    if let Some(eta) = eta(app) {
        segments.push(vec![Span::styled(app.lang.eta(eta), theme[Role::Muted])]);
    }
    join(segments, area, buf);
}

fn loss(app: &App, theme: &Theme) -> Segment {
    let last = app.state.last.loss.0;
    if app.state.last.step == 0 {
        return vec![Span::styled(
            format!("{} -", app.lang.loss()),
            theme[Role::Muted],
        )];
    }
    let role = if last.is_finite() {
        Role::ChartEma
    } else {
        Role::Error
    };
    let mut spans = vec![
        Span::styled(format!("{} ", app.lang.loss()), theme[Role::Muted]),
        Span::styled(text::number(last), theme[role]),
    ];
    if let Some(change) = trend(&app.state.loss) {
        let (glyph, role) = if change <= 0.0 {
            (theme.glyphs.down, Role::Good)
        } else {
            (theme.glyphs.up, Role::Warning)
        };
        spans.push(Span::styled(
            format!(" {glyph}{:.3}", change.abs()),
            theme[role],
        ));
    }
    spans
}

fn metrics(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let (state, lang) = (&app.state, app.lang);
    if app.connection == Connection::Before {
        return;
    }
    let pair = |label: &str, value: String| {
        vec![
            Span::styled(format!("{label} "), theme[Role::Muted]),
            Span::styled(value, theme[Role::Text]),
        ]
    };
    let mut segments = vec![loss(app, theme)];
    if let Some(eval) = state.eval_loss() {
        let role = if eval.is_finite() {
            Role::ChartEval
        } else {
            Role::Error
        };
        let mut spans = vec![
            Span::styled(format!("{} ", lang.eval()), theme[Role::Muted]),
            Span::styled(text::number(eval), theme[role]),
        ];
        if let Some(base) = state.base_eval_loss.map(|b| b.0).filter(|b| *b > 0.0) {
            let mut text = format!(" {}", lang.base_loss(text::number(base)));
            if eval.is_finite() && base.is_finite() {
                text += &format!(" ({:+.0} %)", (eval / base - 1.0) * 100.0);
            }
            spans.push(Span::styled(text, theme[Role::Muted]));
        }
        segments.push(spans);
    }
    if let Some((speed, unit)) = speed(state, lang) {
        segments.push(vec![
            Span::styled(speed, theme[Role::Text]),
            Span::styled(format!(" {unit}"), theme[Role::Muted]),
        ]);
    }
    if state.last.step > 0 {
        segments.push(pair(
            lang.rate_short(),
            text::scientific(state.last.learning_rate),
        ));
        segments.push(pair(
            lang.norm_short(),
            text::number(state.last.grad_norm.0),
        ));
    }
    if let Some(seconds) = state.throughput.seconds_per_step() {
        let (value, unit) = if seconds < 1.0 {
            (format!("{:.0}", seconds * 1000.0), lang.ms_per_step())
        } else {
            (format!("{seconds:.1}"), lang.s_per_step())
        };
        segments.push(vec![
            Span::styled(value, theme[Role::Text]),
            Span::styled(format!(" {unit}"), theme[Role::Muted]),
        ]);
    }
    if state.last.peak_memory_bytes > 0 {
        segments.push(pair(lang.peak(), text::bytes(state.last.peak_memory_bytes)));
    }
    if state.marks.skipped > 0 {
        segments.push(vec![Span::styled(
            format!(
                "{} {}",
                theme.glyphs.non_finite,
                lang.steps_skipped(state.marks.skipped)
            ),
            theme[Role::Error],
        )]);
    }
    if state.last.total_tokens > 0 {
        segments.push(pair(
            lang.seen(),
            text::short(state.last.total_tokens as f64),
        ));
    }
    join(segments, area, buf);
}

/// Tokens or pictures per second, and the unit.
pub(in crate::ui) fn speed(state: &RunState, lang: Lang) -> Option<(String, &'static str)> {
    let throughput = &state.throughput;
    let tokens = throughput.tokens_per_second();
    let images = throughput.images_per_second();
    tokens
        .map(|speed| (text::short(speed.round()), lang.tokens_per_second()))
        .or_else(|| images.map(|speed| (format!("{speed:.2}"), lang.images_per_second())))
}
