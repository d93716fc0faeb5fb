//! What is typed and chosen over the panes: a prompt, a value, a theme, runs, an edit's changes.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{popup, typed};
use crate::protocol::ConfigChange;
use crate::ui::app::{App, Asked};
use crate::ui::chart::{colours, letter};
use crate::ui::line::LineEdit;
use crate::ui::panes::draw_lines;
use crate::ui::text::{pad, truncate, width, wrap};
use crate::ui::theme::{Role, Theme};

/// Columns of a popup's inside, at most.
fn columns(most: u16, area: Rect) -> u16 {
    most.min(area.width.saturating_sub(6))
}

fn hints(theme: &Theme, hints: &[(&str, &str)]) -> Line<'static> {
    let mut spans = Vec::new();
    for (key, word) in hints {
        let gap = if spans.is_empty() { "" } else { "   " };
        spans.push(Span::styled(format!("{gap}{key}"), theme[Role::Key]));
        spans.push(Span::styled(format!(" {word}"), theme[Role::Muted]));
    }
    Line::from(spans)
}

pub fn prompt(app: &App, theme: &Theme, line: &LineEdit, area: Rect, buf: &mut Buffer) {
    let lang = app.lang;
    // What may follow the words of a picture's prompt.
    let options = app
        .has_images()
        .then(|| Line::styled(format!("  {}", lang.prompt_options()), theme[Role::Muted]));
    let rows = 3 + options.iter().count() as u16;
    let inner = popup(
        theme,
        lang.prompt_title(),
        (columns(76, area), rows),
        area,
        buf,
    );
    let mut lines = vec![typed(
        theme,
        &format!("{} ", theme.glyphs.right),
        line,
        usize::from(inner.width),
    )];
    lines.extend(options);
    lines.extend([
        Line::default(),
        hints(
            theme,
            &[("Enter", lang.hint_sample()), ("Esc", lang.stop_cancel())],
        ),
    ]);
    draw_lines(&lines, 0, inner, buf);
}

/// A line for captions: one, or what is sought in all.
pub fn ask(app: &App, theme: &Theme, asked: &Asked, line: &LineEdit, area: Rect, buf: &mut Buffer) {
    let lang = app.lang;
    let (title, done) = match asked {
        Asked::Caption { file } => (lang.caption_of(file), lang.save()),
        Asked::Find => (lang.find_title().to_owned(), lang.next()),
        Asked::ReplaceBy { find } => (lang.replace_title(find), lang.hint_replace()),
        Asked::RemoveTag => (lang.remove_tag_title().to_owned(), lang.remove()),
    };
    let columns = columns(100, area);
    let title = truncate(&title, usize::from(columns), theme.glyphs.ellipsis);
    let inner = popup(theme, &title, (columns, 3), area, buf);
    let head = format!("{} ", theme.glyphs.right);
    let lines = [
        typed(theme, &head, line, usize::from(inner.width)),
        Line::default(),
        hints(theme, &[("Enter", done), ("Esc", lang.stop_cancel())]),
    ];
    draw_lines(&lines, 0, inner, buf);
}

pub fn edit(
    app: &App,
    theme: &Theme,
    key: &str,
    line: &LineEdit,
    error: Option<&str>,
    area: Rect,
    buf: &mut Buffer,
) {
    let lang = app.lang;
    let columns = columns(76, area);
    let entry = app.state.config.iter().find(|e| e.key == key);
    let mut below: Vec<Line> = match (error, entry) {
        (Some(error), _) => wrap(error, usize::from(columns))
            .into_iter()
            .map(|l| Line::styled(l, theme[Role::Error]))
            .collect(),
        (None, Some(entry)) => {
            let when = match entry.applies.as_str() {
                "live" => lang.acts_at_once(),
                _ => lang.change_checkpoint(),
            };
            let now = lang.value_now(&entry.value, lang.config_source(&entry.source));
            wrap(
                &format!("{now} {} {when}", theme.glyphs.separator),
                usize::from(columns),
            )
            .into_iter()
            .map(|l| Line::styled(l, theme[Role::Muted]))
            .collect()
        }
        (None, None) => Vec::new(),
    };
    below.truncate(4);
    let rows = 3 + below.len() as u16;
    let inner = popup(theme, key, (columns, rows), area, buf);
    let mut lines = vec![typed(theme, "", line, usize::from(inner.width))];
    lines.extend(below);
    lines.push(Line::default());
    lines.push(hints(
        theme,
        &[("Enter", lang.set_it()), ("Esc", lang.stop_cancel())],
    ));
    draw_lines(&lines, 0, inner, buf);
}

/// At the right, so that the rest of the screen shows what the theme does.
pub fn themes(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let (names, chosen) = app.theme_names();
    let widest = names.iter().map(|n| width(n)).max().unwrap_or(0).max(18);
    let rows = names.len().min(usize::from(area.height.saturating_sub(5)));
    let size = (widest as u16 + 2, rows as u16 + 2);
    let columns = (size.0 + 4).min(area.width);
    let place = Rect {
        x: area.right() - columns,
        width: columns,
        ..area
    };
    let inner = popup(theme, app.lang.hint_theme(), size, place, buf);
    let skip = (chosen + 1).saturating_sub(rows);
    let mut lines: Vec<Line> = names
        .iter()
        .enumerate()
        .skip(skip)
        .take(rows)
        .map(|(i, name)| {
            let text = pad(&format!(" {name}"), usize::from(inner.width));
            let role = if i == chosen {
                Role::Selection
            } else {
                Role::Text
            };
            Line::styled(text, theme[role])
        })
        .collect();
    lines.push(Line::default());
    lines.push(hints(
        theme,
        &[
            ("Enter", app.lang.keep_it()),
            ("Esc", app.lang.stop_cancel()),
        ],
    ));
    draw_lines(&lines, 0, inner, buf);
}

pub fn runs(app: &App, theme: &Theme, selected: usize, area: Rect, buf: &mut Buffer) {
    let lang = app.lang;
    let names = app.other_runs();
    let rows = names
        .len()
        .clamp(1, usize::from(area.height.saturating_sub(6)).max(1));
    let columns = columns(60, area);
    let inner = popup(
        theme,
        lang.compare_title(),
        (columns, rows as u16 + 2),
        area,
        buf,
    );
    let mut lines: Vec<Line> = Vec::new();
    if names.is_empty() {
        let why = match app.others.names {
            None => lang.looking_for_runs(),
            Some(_) => lang.no_other_runs(),
        };
        lines.push(Line::styled(why, theme[Role::Muted]));
    }
    // The colours of the chart, which go by the runs that are there.
    let there: Vec<&str> = app.others.curves().map(|c| c.run.as_str()).collect();
    let roles = colours(&there);
    let skip = (selected + 1).saturating_sub(rows);
    for (i, name) in names.iter().enumerate().skip(skip).take(rows) {
        let at = there.iter().position(|n| n == name);
        let role = at.map(|at| (at, roles[at]));
        let (mark, role) = match (role, app.others.chosen.contains_key(*name)) {
            (Some((at, role)), _) => (letter(at + 1), role),
            (None, true) => (theme.glyphs.phase_waiting, Role::Muted),
            (None, false) => (" ", Role::Muted),
        };
        let name = truncate(
            name,
            usize::from(columns).saturating_sub(4),
            theme.glyphs.ellipsis,
        );
        lines.push(if i == selected {
            let text = format!(" {mark} {name}");
            Line::styled(pad(&text, usize::from(inner.width)), theme[Role::Selection])
        } else {
            Line::from(vec![
                Span::styled(format!(" {mark} "), theme[role]),
                Span::styled(name, theme[Role::Text]),
            ])
        });
    }
    lines.push(Line::default());
    let align = app.others.align.word(lang);
    lines.push(hints(
        theme,
        &[
            ("Enter", lang.show_it()),
            ("x", align),
            ("Esc", lang.close_it()),
        ],
    ));
    draw_lines(&lines, 0, inner, buf);
}

#[allow(clippy::too_many_arguments)]
pub fn changes(
    app: &App,
    theme: &Theme,
    asked: bool,
    changes: &[ConfigChange],
    errors: &[String],
    scroll: usize,
    area: Rect,
    buf: &mut Buffer,
) {
    let lang = app.lang;
    let columns = usize::from(columns(84, area));
    let mut lines: Vec<Line> = Vec::new();
    for error in errors {
        lines.extend(
            wrap(error, columns)
                .into_iter()
                .map(|l| Line::styled(l, theme[Role::Error])),
        );
    }
    for change in changes {
        let (when, role) = match change.applies.as_str() {
            "live" => (lang.change_now(), Role::Good),
            "checkpoint" => (lang.change_checkpoint(), Role::Accent),
            _ => (lang.change_restart(), Role::Warning),
        };
        let gap = columns
            .saturating_sub(width(&change.key) + width(when))
            .max(1);
        lines.push(Line::from(vec![
            Span::styled(change.key.clone(), theme[Role::Title]),
            Span::raw(" ".repeat(gap)),
            Span::styled(when, theme[role]),
        ]));
        for (sign, value, role) in [
            ("-", &change.old, Role::Removed),
            ("+", &change.new, Role::Added),
        ] {
            let value = truncate(value, columns.saturating_sub(2), theme.glyphs.ellipsis);
            lines.push(Line::styled(format!("{sign} {value}"), theme[role]));
        }
    }
    if changes.iter().any(|c| c.applies == "restart") {
        lines.push(Line::default());
        lines.extend(
            wrap(lang.restart_keys_wait(), columns)
                .into_iter()
                .map(|l| Line::styled(l, theme[Role::Muted])),
        );
    }
    let rows = lines
        .len()
        .min(usize::from(area.height.saturating_sub(6)))
        .max(1);
    let title = match (asked, errors.is_empty()) {
        (true, false) => lang.edit_broken_title(),
        (true, true) => lang.edit_asked_title(),
        (false, _) => lang.edit_seen_title(),
    };
    let inner = popup(theme, title, (columns as u16, rows as u16 + 2), area, buf);
    let list = Rect {
        height: inner.height.saturating_sub(2),
        ..inner
    };
    let scroll = scroll.min(lines.len().saturating_sub(usize::from(list.height)));
    draw_lines(&lines, scroll, list, buf);
    let keys: &[(&str, &str)] = match (asked, errors.is_empty()) {
        (true, true) => &[
            ("Enter", lang.write_it()),
            ("e", lang.edit_again()),
            ("Esc", lang.throw_away()),
        ],
        (true, false) => &[("e", lang.edit_again()), ("Esc", lang.throw_away())],
        (false, _) => &[("Esc", lang.close_it())],
    };
    let below = Rect {
        y: inner.bottom().saturating_sub(1),
        height: 1,
        ..inner
    };
    draw_lines(&[hints(theme, keys)], 0, below, buf);
}
