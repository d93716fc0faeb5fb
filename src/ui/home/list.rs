//! Home's first screen: runs, configs, the queue, and what is selected in more words.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::app::{Home, Section};
use super::desk::{Checked, ConfigLine, QueueLine, RunLine};
use super::details::draw_details;
use super::view::titled;
use crate::protocol::{PhaseName, QueueState};
use crate::ui::chart::sparkline;
use crate::ui::lang::Lang;
use crate::ui::text::{self, pad, truncate, truncate_start, width};
use crate::ui::theme::{Role, Theme};

/// Rows of the words on what is selected, with their rule.
const DETAILS: u16 = 6;

pub fn draw(home: &Home, area: Rect, buf: &mut Buffer) {
    header(home, area, buf);
    let details = if area.height >= 20 { DETAILS } else { 0 };
    let body = Rect {
        y: area.y + 1,
        height: area.height - 1 - details,
        ..area
    };
    let rows = share(home, body.height);
    let mut y = body.y;
    for (section, height) in Section::ALL.into_iter().zip(rows) {
        if height == 0 {
            continue;
        }
        draw_section(home, section, Rect { y, height, ..body }, buf);
        y += height;
    }
    if details > 0 {
        let area = Rect {
            y: area.bottom() - details,
            height: details,
            ..area
        };
        draw_details(home, area, buf);
    }
}

fn header(home: &Home, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    buf.set_string(area.x + 1, area.y, "loradeck", theme[Role::Accent]);
    let Some(overview) = &home.overview else {
        return;
    };
    let live = overview.runs.iter().filter(|r| r.alive).count();
    let mut right = lang.runs_counted(overview.runs.len(), live);
    let waiting = |e: &&QueueLine| e.state == QueueState::Waiting;
    let waiting = overview.queue.iter().filter(waiting).count();
    if waiting > 0 {
        right += &format!(
            " {} {} {}",
            theme.glyphs.separator,
            lang.home_queue(),
            lang.queue_counted(waiting)
        );
    }
    let x = area.right().saturating_sub(width(&right) as u16 + 1);
    if x < area.x + 10 {
        return;
    }
    buf.set_string(x, area.y, &right, theme[Role::Muted]);
    let room = usize::from(x.saturating_sub(area.x + 13));
    let folder = truncate_start(&overview.folder, room, theme.glyphs.ellipsis);
    buf.set_string(area.x + 12, area.y, folder, theme[Role::Title]);
}

/// Rows of each section, its rule included: what it needs as long as there is room, the section
/// with the focus first.
fn share(home: &Home, rows: u16) -> [u16; 3] {
    let need = |section: Section| {
        let lines = home.count(section).max(1) as u16;
        match section {
            // The columns' names.
            Section::Runs => lines + 2,
            Section::Configs => lines + 1,
            Section::Queue if home.count(section) == 0 && home.section != section => 0,
            Section::Queue => lines + 1,
        }
    };
    let needs = Section::ALL.map(need);
    let mut given = needs.map(|n| n.min(3));
    let mut left = rows.saturating_sub(given.iter().sum());
    let focus = home.section as usize;
    for i in [focus, 0, 1, 2] {
        let more = (needs[i] - given[i]).min(left);
        given[i] += more;
        left -= more;
    }
    // What nobody needs lies between the last section and the details.
    given
}

fn draw_section(home: &Home, section: Section, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    let focused = home.section == section;
    let title = format!("{} {}", section as usize + 1, section.title(lang));
    let right = match (section, &home.overview) {
        (Section::Queue, Some(o)) if o.queue_ends => lang.queue_will_end(),
        (Section::Queue, Some(o)) if o.queue_runs => lang.queue_runs(),
        (Section::Queue, Some(o)) if o.queue.iter().any(|e| !e.state.is_over()) => {
            lang.queue_stands()
        }
        _ => "",
    };
    let right = match section {
        _ if focused && !home.filter.is_empty() => format!("/{}", home.filter),
        _ => right.to_owned(),
    };
    let mut inner = titled(theme, &title, &right, focused, area, buf);
    if home.count(section) == 0 {
        let text = match (&home.overview, section) {
            (None, _) => home.trouble.as_deref().unwrap_or(lang.home_looking()),
            (_, Section::Runs) => lang.home_no_runs(),
            (_, Section::Configs) => lang.home_no_configs(),
            (_, Section::Queue) => lang.home_no_queue(),
        };
        let text = truncate(text, usize::from(inner.width), theme.glyphs.ellipsis);
        buf.set_string(inner.x + 1, inner.y, text, theme[Role::Muted]);
        return;
    }
    let columns = Columns::new(inner.width);
    if section == Section::Runs && inner.height > 1 {
        columns.names(home, inner, buf);
        inner.y += 1;
        inner.height -= 1;
    }
    let selected = home.selected[section as usize];
    let rows = usize::from(inner.height);
    let skip = (selected + 1).saturating_sub(rows);
    for row in 0..rows {
        let line = Rect {
            y: inner.y + row as u16,
            height: 1,
            ..inner
        };
        let at = skip + row;
        let chosen = at == selected && focused;
        match section {
            Section::Runs => {
                if let Some(run) = home.runs().get(at) {
                    run_row(home, run, &columns, chosen, line, buf);
                }
            }
            Section::Configs => {
                if let Some(config) = home.configs().get(at) {
                    config_row(home, config, chosen, line, buf);
                }
            }
            Section::Queue => {
                if let Some(entry) = home.queue().get(at) {
                    entry_row(home, entry, chosen, line, buf);
                }
            }
        }
    }
}

/// Where the columns of a run's row begin, by the room there is.
struct Columns {
    name: u16,
    phase: u16,
    step: u16,
    loss: u16,
    trend: u16,
    eval: u16,
    age: u16,
}

impl Columns {
    /// Widths; 0: left out.
    fn new(room: u16) -> Columns {
        let mut c = Columns {
            name: 18,
            phase: 13,
            step: 18,
            loss: 9,
            trend: 0,
            eval: 0,
            age: 8,
        };
        if room < 60 {
            c.step = 10;
            c.name = 14;
            c.age = 0;
            return c;
        }
        let fixed = 2 + c.name + c.phase + c.step + c.loss + c.age;
        let mut left = room.saturating_sub(fixed);
        if left >= 26 {
            c.eval = 10;
            left -= 10;
        }
        if left >= 9 {
            c.trend = left.min(40);
            left -= c.trend;
        }
        c.name += left.min(30);
        c
    }

    /// Column and width of each, in order, behind the mark.
    fn places(&self, x: u16) -> [(u16, u16); 7] {
        let mut at = x + 2;
        [
            self.name, self.phase, self.step, self.loss, self.trend, self.eval, self.age,
        ]
        .map(|columns| {
            let place = (at, columns);
            at += columns;
            place
        })
    }

    fn names(&self, home: &Home, area: Rect, buf: &mut Buffer) {
        let lang = home.lang;
        let names = [
            lang.column_run(),
            lang.column_phase(),
            lang.column_step(),
            lang.column_loss(),
            lang.column_trend(),
            lang.column_eval(),
            lang.column_age(),
        ];
        for (name, (x, columns)) in names.into_iter().zip(self.places(area.x)) {
            if columns > 0 {
                buf.set_string(x, area.y, name, home.theme[Role::Muted]);
            }
        }
    }
}

/// Paints a whole row as selected.
fn highlight(theme: &Theme, area: Rect, buf: &mut Buffer) {
    for x in area.x..area.right() {
        if let Some(cell) = buf.cell_mut((x, area.y)) {
            cell.set_style(theme[Role::Selection]);
        }
    }
}

fn put(
    theme: &Theme,
    text: &str,
    style: Style,
    (x, columns): (u16, u16),
    y: u16,
    buf: &mut Buffer,
) {
    if columns > 1 {
        let text = truncate(text, usize::from(columns - 1), theme.glyphs.ellipsis);
        buf.set_string(x, y, text, style);
    }
}

fn run_row(
    home: &Home,
    run: &RunLine,
    columns: &Columns,
    chosen: bool,
    area: Rect,
    buf: &mut Buffer,
) {
    let (theme, lang) = (&home.theme, home.lang);
    let [name, phase, step, loss, trend, eval, age] = columns.places(area.x);
    let y = area.y;
    if home.marked.contains(&run.folder) {
        buf.set_string(area.x, y, theme.glyphs.circle, theme[Role::Accent]);
    }
    put(theme, &run.name, theme[Role::Text], name, y, buf);
    let (role, glyph) = theme.phase(run.phase);
    let word = format!("{glyph} {}", lang.phase(run.phase));
    put(theme, &word, theme[role], phase, y, buf);
    let share = (run.total_steps > 0 && !matches!(run.phase, PhaseName::Done))
        .then(|| (run.step * 100 / run.total_steps).min(100));
    let steps = match (run.total_steps, share) {
        (0, _) => text::count(run.step),
        (total, Some(share)) if step.1 > 12 => {
            format!("{}/{} {share} %", text::count(run.step), text::count(total))
        }
        (total, _) => format!("{}/{}", text::count(run.step), text::count(total)),
    };
    put(theme, &steps, theme[Role::Text], step, y, buf);
    let number = |value: Option<f64>| value.map_or("-".to_owned(), text::number);
    let bad = run.loss.is_some_and(|l| !l.is_finite());
    let role = if bad { Role::Error } else { Role::ChartEma };
    put(theme, &number(run.loss), theme[role], loss, y, buf);
    put(
        theme,
        &number(run.eval),
        theme[Role::ChartEval],
        eval,
        y,
        buf,
    );
    let when = if run.alive { run.started } else { run.changed };
    put(theme, &ago(home, when), theme[Role::Muted], age, y, buf);
    if chosen {
        highlight(theme, area, buf);
    }
    if trend.1 > 2 {
        let values = resampled(&run.curve, usize::from(trend.1 - 2));
        let place = Rect::new(trend.0, y, trend.1 - 2, 1);
        sparkline(theme, Role::ChartEma, &values, None, place, buf);
        if chosen {
            highlight(theme, place, buf);
        }
    }
}

fn ago(home: &Home, time: f64) -> String {
    let age = home.now - time;
    if age < 10.0 {
        home.lang.home_now().to_owned()
    } else {
        home.lang.age(age)
    }
}

/// A curve in at most `n` values, each a mean of its share.
fn resampled(curve: &[f64], n: usize) -> Vec<Option<f64>> {
    if curve.len() <= n {
        return curve.iter().copied().map(Some).collect();
    }
    (0..n)
        .map(|i| {
            let (from, to) = (i * curve.len() / n, (i + 1) * curve.len() / n);
            let part = &curve[from..to.max(from + 1)];
            Some(part.iter().sum::<f64>() / part.len() as f64)
        })
        .collect()
}

fn config_row(home: &Home, config: &ConfigLine, chosen: bool, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    let name = config.path.file_name().map_or_else(
        || config.path.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    );
    let names = (area.width / 3).clamp(14, 34);
    put(
        theme,
        &name,
        theme[Role::Text],
        (area.x + 2, names),
        area.y,
        buf,
    );
    let x = area.x + 2 + names;
    let room = usize::from(area.right().saturating_sub(x));
    let (text, role) = match home.check_of(config) {
        None => (
            format!("{} {}", theme.glyphs.phase_waiting, lang.checking()),
            Role::Muted,
        ),
        Some(checked) => verdict(theme, lang, checked),
    };
    let text = truncate(&text, room, theme.glyphs.ellipsis);
    buf.set_string(x, area.y, text, theme[role]);
    if chosen {
        highlight(theme, area, buf);
    }
}

/// A check's outcome on one line.
fn verdict(theme: &Theme, lang: Lang, checked: &Checked) -> (String, Role) {
    let g = theme.glyphs;
    if let Some(first) = checked.errors.first() {
        let count = match checked.errors.len() {
            1 => lang.one_error().to_owned(),
            n => lang.n_errors(n),
        };
        let line = match first.line {
            0 => String::new(),
            line => format!("{}: ", lang.at_line(line)),
        };
        let text = format!("{} {count}: {line}{}", g.phase_failed, first.text);
        return (text, Role::Error);
    }
    let warned = match checked.warnings.len() {
        0 => String::new(),
        1 => format!(", {}", lang.one_warning()),
        n => format!(", {}", lang.n_warnings(n)),
    };
    let facts = checked.facts.as_ref().map_or_else(String::new, |f| {
        let base = format!("{} {}", f.base, text::short(f.base_parameters as f64));
        let facts = lang.config_facts(base, text::count(f.records), text::count(f.steps));
        format!(" {} {facts}", g.separator)
    });
    let role = if warned.is_empty() {
        Role::Good
    } else {
        Role::Warning
    };
    let text = format!("{} {}{warned}{facts}", g.phase_done, lang.no_problem());
    (text, role)
}

fn entry_row(home: &Home, entry: &QueueLine, chosen: bool, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    let g = theme.glyphs;
    let name = entry.config.file_name().map_or_else(
        || entry.config.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    );
    let names = (area.width / 3).clamp(14, 34);
    put(
        theme,
        &name,
        theme[Role::Text],
        (area.x + 2, names),
        area.y,
        buf,
    );
    let (glyph, word, role) = match entry.state {
        QueueState::Waiting => (g.phase_waiting, lang.queue_waiting(), Role::Muted),
        QueueState::Running => (g.phase_running, lang.queue_running(), Role::Good),
        QueueState::Done => (g.phase_done, lang.done(), Role::Good),
        QueueState::Failed => (g.phase_failed, lang.failed(), Role::Error),
        QueueState::Stopped => (g.phase_stopped, lang.stopped(), Role::Warning),
        QueueState::Skipped => (g.phase_stopped, lang.queue_skipped(), Role::Muted),
    };
    let mut line = format!("{glyph} {word}");
    let run = home
        .overview
        .iter()
        .flat_map(|o| &o.runs)
        .find(|r| r.folder == entry.run_dir);
    match (entry.state, run, &entry.error) {
        (QueueState::Running, Some(run), _) => {
            line += &format!(
                "   {} / {}   {}",
                text::count(run.step),
                text::count(run.total_steps),
                run.loss.map_or(String::new(), text::number)
            );
        }
        (QueueState::Failed, _, Some(error)) => line += &format!(": {error}"),
        (state, ..) if state.is_over() => {
            if let (Some(from), Some(to)) = (entry.started, entry.ended) {
                line += &format!("   {}", lang.took(lang.duration(to - from)));
            }
        }
        _ => {}
    }
    let x = area.x + 2 + names;
    let room = usize::from(area.right().saturating_sub(x));
    let line = truncate(&line, room, g.ellipsis);
    buf.set_string(x, area.y, line, theme[role]);
    if chosen {
        highlight(theme, area, buf);
    }
}

/// Padded label and value, as tables have them.
pub(super) fn cell(text: &str, columns: usize, theme: &Theme) -> String {
    pad(
        &truncate(text, columns.saturating_sub(1), theme.glyphs.ellipsis),
        columns,
    )
}
