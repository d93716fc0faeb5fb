//! The machine around the run: processors, memory, disk.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::gpu::history_line;
use super::{bar, empty};
use crate::ui::app::App;
use crate::ui::text;
use crate::ui::theme::{Role, Theme};

const LABELS: usize = 8;
/// Bytes left on the disk that are worth a warning, and that are trouble.
const DISK_LOW: u64 = 5 << 30;
const DISK_FULL: u64 = 1 << 30;

pub fn lines(app: &App, theme: &Theme, area: Rect) -> Vec<Line<'static>> {
    let Some(host) = &app.state.host else {
        return empty(theme, app.lang.no_reading());
    };
    let columns = usize::from(area.width);
    let lang = app.lang;
    let row = |label: &str, parts: &[(f64, Role)], value: String, role: Role| {
        let value = format!(" {value}");
        let room = columns.saturating_sub(LABELS + text::width(&value));
        let mut spans = vec![Span::styled(text::pad(label, LABELS), theme[Role::Muted])];
        spans.extend(bar(theme, parts, room));
        spans.push(Span::styled(value, theme[role]));
        Line::from(spans)
    };
    let under = |run: String, others: String| {
        Line::from(vec![
            Span::raw(" ".repeat(LABELS)),
            Span::styled(format!("{} {run}", lang.run_share()), theme[Role::BarRun]),
            Span::styled(format!("  {} ", lang.others()), theme[Role::Muted]),
            Span::styled(others, theme[Role::BarOther]),
        ])
    };

    // This run's percent are of one core, the whole's of all.
    let cores = f64::from(host.cores.max(1));
    let all = f64::from(host.cpu) / 100.0;
    let run = (f64::from(host.run_cpu) / 100.0 / cores).min(all);
    let memory = host.memory_total.max(1) as f64;
    let run_memory = host.memory_run.min(host.memory_used);
    let disk_used = host.disk_total.saturating_sub(host.disk_free);
    let disk_role = if host.disk_free < DISK_FULL {
        Role::Error
    } else if host.disk_free < DISK_LOW {
        Role::Warning
    } else {
        Role::Text
    };
    let mut lines = vec![
        row(
            lang.cpu(),
            &[(run, Role::BarRun), (all - run, Role::BarOther)],
            lang.percent_of_cores(format!("{:>3.0}", host.cpu), host.cores),
            Role::Text,
        ),
        row(
            lang.ram(),
            &[
                (run_memory as f64 / memory, Role::BarRun),
                (
                    (host.memory_used - run_memory) as f64 / memory,
                    Role::BarOther,
                ),
            ],
            format!(
                "{} / {}",
                text::bytes(host.memory_used),
                text::bytes(host.memory_total)
            ),
            Role::Text,
        ),
        under(
            text::bytes(host.memory_run),
            text::bytes(host.memory_used - run_memory),
        ),
        row(
            lang.disk(),
            &[(
                disk_used as f64 / host.disk_total.max(1) as f64,
                Role::Muted,
            )],
            lang.bytes_left(text::bytes(host.disk_free)),
            disk_role,
        ),
    ];
    let rows = usize::from(area.height);
    if lines.len() + 1 < rows {
        lines.insert(
            1,
            under(
                lang.cores(format!("{:.1}", f64::from(host.run_cpu) / 100.0)),
                format!("{:.1}", (all - run) * cores),
            ),
        );
    }
    if lines.len() < rows {
        let values: Vec<f64> = app
            .state
            .host_history
            .iter()
            .map(|(cpu, _)| f64::from(*cpu) / 100.0)
            .collect();
        lines.push(history_line(
            theme,
            lang.history(),
            LABELS,
            &values,
            app.readings,
            columns,
        ));
    }
    lines
}
