//! What NVML says: memory by owner, utilisation, temperature, power, clocks; or why it says nothing.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{Segment, bar, fine_bar, labelled};
use crate::protocol::{GpuReading, GpuStatus};
use crate::ui::app::App;
use crate::ui::layout::Pane;
use crate::ui::text;
use crate::ui::theme::{Role, Theme};

/// Degrees from which the temperature is worth a look, and from which it is trouble.
const WARM: u32 = 80;
const HOT: u32 = 90;
/// Rows of a device with everything.
const FULL: usize = 9;
/// Columns of the labels.
const LABELS: usize = 8;

pub fn lines(app: &App, theme: &Theme, area: Rect) -> Vec<Line<'static>> {
    let columns = usize::from(area.width);
    match &app.state.gpu {
        None => vec![Line::styled(app.lang.no_reading(), theme[Role::Muted])],
        Some(GpuStatus::NoNvml { reason }) => {
            face(app, theme, columns, app.lang.no_gpu(), Role::Muted, reason)
        }
        Some(GpuStatus::NoDevice) => face(
            app,
            theme,
            columns,
            app.lang.no_gpu(),
            Role::Muted,
            app.lang.no_device_listed(),
        ),
        Some(GpuStatus::Lost { reason }) => face(
            app,
            theme,
            columns,
            app.lang.gpu_lost(),
            Role::Error,
            reason,
        ),
        Some(GpuStatus::Present { gpus }) => {
            // Every device has a place as long as there is a row for each.
            let rows = usize::from(area.height) / gpus.len().max(1);
            gpus.iter()
                .flat_map(|gpu| match rows {
                    _ if gpus.len() == 1 => full(app, theme, area, gpu, 2),
                    FULL.. => full(app, theme, area, gpu, 2),
                    7.. => full(app, theme, area, gpu, 0),
                    3.. => {
                        let mut lines = compact(theme, columns, gpu);
                        lines.push(busy_history(app, theme, gpu, columns));
                        lines
                    }
                    2 => compact(theme, columns, gpu),
                    _ => vec![row(theme, columns, gpu)],
                })
                .collect()
        }
    }
}

/// How many rows lie below, where not all devices have one.
pub fn info(app: &App, theme: &Theme) -> Vec<Segment> {
    let Some((lines, rows)) = super::extent(app, Pane::Gpu) else {
        return Vec::new();
    };
    let below = lines.saturating_sub(rows + app.view.scroll(Pane::Gpu));
    if below == 0 {
        return Vec::new();
    }
    let text = app.lang.rows_below(theme.glyphs.down, below);
    vec![vec![Span::styled(text, theme[Role::Warning])]]
}

fn face(
    app: &App,
    theme: &Theme,
    columns: usize,
    head: &str,
    role: Role,
    reason: &str,
) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(
        head.to_owned(),
        theme[role].patch(Style::new().add_modifier(ratatui::style::Modifier::BOLD)),
    )];
    lines.extend(
        text::wrap(reason, columns)
            .into_iter()
            .map(|l| Line::styled(l, theme[Role::Muted])),
    );
    let device = &app.state.device;
    if !device.is_empty() {
        lines.push(Line::default());
        lines.push(labelled(
            theme,
            app.lang.trains_on(),
            10,
            device,
            theme[Role::Text],
        ));
    }
    lines
}

/// Index, a sign for the device in use, and its name in what `columns` leave: the end tells models
/// apart.
fn name(theme: &Theme, columns: usize, gpu: &GpuReading) -> Vec<Span<'static>> {
    let (sign, role) = if gpu.in_use {
        (theme.glyphs.circle, Role::Good)
    } else {
        (" ", Role::Muted)
    };
    vec![
        Span::styled(format!("{} ", gpu.index), theme[Role::Muted]),
        Span::styled(format!("{sign} "), theme[role]),
        Span::styled(
            text::truncate_start(&gpu.name, columns.saturating_sub(4), theme.glyphs.ellipsis),
            theme[Role::Text],
        ),
    ]
}

/// Shares of this run and of everything else.
fn memory_parts(gpu: &GpuReading) -> [(f64, Role); 2] {
    let total = gpu.memory_total.max(1) as f64;
    let run = gpu.memory_run.unwrap_or(0).min(gpu.memory_used);
    [
        (run as f64 / total, Role::BarRun),
        ((gpu.memory_used - run) as f64 / total, Role::BarOther),
    ]
}

fn temperature(theme: &Theme, gpu: &GpuReading) -> Option<Span<'static>> {
    let t = gpu.temperature?;
    let role = match t {
        HOT.. => Role::Error,
        WARM.. => Role::Warning,
        _ => Role::Text,
    };
    Some(Span::styled(
        format!("{t} {}C", theme.glyphs.degree),
        theme[role],
    ))
}

fn power(gpu: &GpuReading) -> Option<String> {
    let watts = gpu.power?;
    Some(match gpu.power_limit {
        Some(limit) => format!("{watts:.0} / {limit:.0} W"),
        None => format!("{watts:.0} W"),
    })
}

/// Everything that NVML tells, a row each, with so many history lines where there is room.
fn full(
    app: &App,
    theme: &Theme,
    area: Rect,
    gpu: &GpuReading,
    histories: usize,
) -> Vec<Line<'static>> {
    let columns = usize::from(area.width);
    let text_style = theme[Role::Text];
    let mut lines = vec![Line::from(name(theme, columns, gpu))];

    let used = format!(
        " {} / {}",
        text::bytes(gpu.memory_used),
        text::bytes(gpu.memory_total)
    );
    let room = columns.saturating_sub(LABELS + text::width(&used));
    let mut spans = vec![Span::styled(
        text::pad(app.lang.memory(), LABELS),
        theme[Role::Muted],
    )];
    spans.extend(bar(theme, &memory_parts(gpu), room));
    spans.push(Span::styled(used, text_style));
    lines.push(Line::from(spans));

    let others = gpu.memory_used.saturating_sub(gpu.memory_run.unwrap_or(0));
    let mut spans = vec![Span::raw(" ".repeat(LABELS))];
    if let Some(run) = gpu.memory_run {
        spans.push(Span::styled(
            format!("{} {}", app.lang.run_share(), text::bytes(run)),
            theme[Role::BarRun],
        ));
        spans.push(Span::styled(
            format!("  {} ", app.lang.others()),
            theme[Role::Muted],
        ));
        spans.push(Span::styled(text::bytes(others), theme[Role::BarOther]));
    } else {
        spans.push(Span::styled(app.lang.owner_unknown(), theme[Role::Muted]));
    }
    lines.push(Line::from(spans));

    if let Some(utilization) = gpu.utilization {
        let value = format!(" {utilization:>3} %");
        let mut spans = vec![Span::styled(
            text::pad(app.lang.busy(), LABELS),
            theme[Role::Muted],
        )];
        spans.extend(fine_bar(
            theme,
            f64::from(utilization) / 100.0,
            Role::BarRun,
            columns.saturating_sub(LABELS + text::width(&value)),
        ));
        spans.push(Span::styled(value, text_style));
        lines.push(Line::from(spans));
    }
    let mut spans = Vec::new();
    spans.extend(temperature(theme, gpu));
    if let Some(power) = power(gpu) {
        spans.push(Span::styled(
            format!("{}{power}", if spans.is_empty() { "" } else { "   " }),
            text_style,
        ));
    }
    if !spans.is_empty() {
        spans.insert(
            0,
            Span::styled(text::pad(app.lang.heat(), LABELS), theme[Role::Muted]),
        );
        lines.push(Line::from(spans));
    }
    let clocks = match (gpu.clock, gpu.memory_clock) {
        (Some(core), Some(memory)) => app.lang.clock_memory(core, memory),
        (Some(core), None) => format!("{core} MHz"),
        _ => String::new(),
    };
    if !clocks.is_empty() {
        lines.push(labelled(
            theme,
            app.lang.clock(),
            LABELS,
            clocks,
            text_style,
        ));
    }
    if !gpu.throttling.is_empty() {
        lines.push(labelled(
            theme,
            app.lang.held_by(),
            LABELS,
            gpu.throttling.join(", "),
            theme[Role::Warning],
        ));
    }
    let room = usize::from(area.height).saturating_sub(lines.len());
    for line in [
        busy_history(app, theme, gpu, columns),
        memory_history(app, theme, gpu, columns),
    ]
    .into_iter()
    .take(histories.min(room))
    {
        lines.push(line);
    }
    lines
}

fn busy_history(app: &App, theme: &Theme, gpu: &GpuReading, columns: usize) -> Line<'static> {
    let shares = |_: u64, busy: u32| f64::from(busy) / 100.0;
    history(app, theme, gpu, app.lang.busy(), shares, columns)
}

fn memory_history(app: &App, theme: &Theme, gpu: &GpuReading, columns: usize) -> Line<'static> {
    let total = gpu.memory_total.max(1) as f64;
    let shares = |used: u64, _: u32| used as f64 / total;
    history(app, theme, gpu, app.lang.memory(), shares, columns)
}

fn history(
    app: &App,
    theme: &Theme,
    gpu: &GpuReading,
    label: &str,
    share: impl Fn(u64, u32) -> f64,
    columns: usize,
) -> Line<'static> {
    let values: Vec<f64> = app
        .state
        .gpu_history
        .iter()
        .filter(|h| h.index == gpu.index)
        .flat_map(|h| &h.readings)
        .map(|(used, busy)| share(*used, *busy))
        .collect();
    history_line(theme, label, LABELS, &values, app.readings, columns)
}

/// Two rows: memory, and everything else in words.
fn compact(theme: &Theme, columns: usize, gpu: &GpuReading) -> Vec<Line<'static>> {
    let used = format!(
        " {} / {}",
        text::bytes(gpu.memory_used),
        text::bytes(gpu.memory_total)
    );
    let throttling = gpu.throttling.join(", ");
    let facts = [
        gpu.utilization
            .map(|u| Span::styled(format!("{u} %"), theme[Role::Text])),
        temperature(theme, gpu),
        (!throttling.is_empty()).then(|| Span::styled(throttling, theme[Role::Warning])),
        power(gpu).map(|p| Span::styled(p, theme[Role::Text])),
    ];
    // Facts give way to the name: it tells which device this is.
    let least = 4 + text::width(&gpu.name).min(16);
    let mut words = 0;
    let mut rest = Vec::new();
    for fact in facts.into_iter().flatten() {
        let more = 2 + text::width(&fact.content);
        if least + words + more > columns {
            break;
        }
        words += more;
        rest.extend([Span::raw("  "), fact]);
    }
    let mut head = name(theme, columns.saturating_sub(words), gpu);
    head.extend(rest);
    let mut spans = vec![Span::raw("  ")];
    spans.extend(bar(
        theme,
        &memory_parts(gpu),
        columns.saturating_sub(2 + text::width(&used)),
    ));
    spans.push(Span::styled(used, theme[Role::Text]));
    vec![Line::from(head), Line::from(spans)]
}

/// One row: name, memory, utilisation and temperature.
fn row(theme: &Theme, columns: usize, gpu: &GpuReading) -> Line<'static> {
    let gib = |bytes: u64| format!("{:.0}", bytes as f64 / (1u64 << 30) as f64);
    let used = format!(" {:>3}/{} GiB", gib(gpu.memory_used), gib(gpu.memory_total));
    let mut facts = vec![Span::styled(used, theme[Role::Text])];
    if let Some(busy) = gpu.utilization {
        facts.push(Span::styled(format!(" {busy:>3} %"), theme[Role::Text]));
    }
    if let Some(heat) = temperature(theme, gpu) {
        facts.extend([Span::raw(" "), heat]);
    }
    let words: usize = facts.iter().map(Span::width).sum();
    let room = columns.saturating_sub(words + 1);
    let names = (room / 2).clamp(4, 28).min(room);
    let mut spans = name(theme, names, gpu);
    let used: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::raw(" ".repeat(names.saturating_sub(used) + 1)));
    spans.extend(bar(
        theme,
        &memory_parts(gpu),
        room.saturating_sub(names.max(used)),
    ));
    spans.extend(facts);
    Line::from(spans)
}

/// Shares over time, the newest at the right. Several readings share a column, and the columns are
/// cut at multiples of `readings`, so that the line moves once in a while instead of always.
pub fn history_line(
    theme: &Theme,
    label: &str,
    labels: usize,
    values: &[f64],
    readings: u64,
    columns: usize,
) -> Line<'static> {
    const A_COLUMN: usize = 8;
    let levels = theme.glyphs.levels;
    let room = columns.saturating_sub(labels);
    // How many of the newest readings belong to the column that is being filled.
    let open = (readings % A_COLUMN as u64) as usize;
    let full = values.len().saturating_sub(open);
    let level = |chunk: &[f64]| {
        let mean = chunk.iter().sum::<f64>() / chunk.len() as f64;
        let share = if mean.is_finite() { mean } else { 0.0 };
        levels[(share.clamp(0.0, 1.0) * (levels.len() - 1) as f64).round() as usize]
    };
    let mut text: Vec<&str> = values[full..]
        .chunks(A_COLUMN)
        .chain(values[..full].rchunks(A_COLUMN))
        .take(room)
        .map(level)
        .collect();
    text.reverse();
    let text = text.concat();
    Line::from(vec![
        Span::styled(text::pad(label, labels), theme[Role::Muted]),
        Span::styled(text, theme[Role::Accent]),
    ])
}
