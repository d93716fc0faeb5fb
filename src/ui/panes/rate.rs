//! Learning rate and gradient norm, side by side, over the steps that the loss shows.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Span;

use super::Segment;
use super::loss::{curve, window};
use crate::protocol::Series;
use crate::ui::app::App;
use crate::ui::chart::{Chart, Curve, points, step_label};
use crate::ui::text;
use crate::ui::theme::{Role, Theme};

pub fn draw(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let state = &app.state;
    if state.last.step == 0 {
        buf.set_string(area.x, area.y, app.lang.no_step(), theme[Role::Muted]);
        return;
    }
    // Below one another where the pane is narrow and high.
    let beside = area.width >= 60 || area.height < 10;
    let (first, second) = if beside {
        let left = (area.width - 2) / 2;
        (
            Rect {
                width: left,
                ..area
            },
            Rect {
                x: area.x + left + 2,
                width: area.width - left - 2,
                ..area
            },
        )
    } else {
        let top = area.height / 2;
        (
            Rect {
                height: top,
                ..area
            },
            Rect {
                y: area.y + top,
                height: area.height - top,
                ..area
            },
        )
    };
    one(
        app,
        theme,
        (
            app.lang.learning_rate(),
            text::scientific(state.last.learning_rate),
        ),
        &state.learning_rate,
        (Role::ChartRate, None),
        false,
        first,
        buf,
    );
    let log = app.view.log_norm;
    one(
        app,
        theme,
        (
            if log {
                app.lang.gradient_norm_log()
            } else {
                app.lang.gradient_norm()
            },
            text::number(state.last.grad_norm.0),
        ),
        &state.grad_norm,
        (Role::ChartRaw, Some(Role::ChartEma)),
        log,
        second,
        buf,
    );
}

#[allow(clippy::too_many_arguments)]
fn one(
    app: &App,
    theme: &Theme,
    (label, value): (&str, String),
    series: &Series,
    (raw, smooth): (Role, Option<Role>),
    log: bool,
    area: Rect,
    buf: &mut Buffer,
) {
    let columns = usize::from(area.width);
    let head = text::truncate(&format!("{label} {value}"), columns, theme.glyphs.ellipsis);
    buf.set_string(area.x, area.y, &head, theme[Role::Muted]);
    let at = text::width(label) as u16 + 1;
    if usize::from(at) + text::width(&value) <= columns {
        buf.set_string(area.x + at, area.y, &value, theme[Role::Text]);
    }
    let window = window(app);
    Chart {
        window,
        log,
        curves: vec![match smooth {
            Some(smooth) => curve(app, points(series, window), window, (raw, smooth)),
            None => Curve {
                points: points(series, window),
                raw: Some(raw),
                smooth: None,
                average: Vec::new(),
                letter: None,
            },
        }],
        dots: Vec::new(),
        level: None,
        marks: Vec::new(),
        crosshair: app.view.crosshair.map(|s| s as f64),
        label: step_label,
    }
    .draw(
        theme,
        Rect {
            y: area.y + 1,
            height: area.height.saturating_sub(1),
            ..area
        },
        buf,
    );
}

pub fn info(app: &App, theme: &Theme) -> Vec<Segment> {
    let scheduler = app
        .state
        .config
        .iter()
        .find(|e| e.key == "lr_scheduler")
        .map(|e| e.value.clone());
    scheduler
        .map(|value| vec![Span::styled(value, theme[Role::Muted])])
        .into_iter()
        .collect()
}
