//! What is drawn over the panes: help, palette, dialogs, toasts, and the row of hints below.

mod pick;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::app::{App, Connection, Overlay, STOP_CHOICES};
use super::keymap::{self, Act, Binding, Group, TABLE};
use super::layout::Pane;
use super::line::LineEdit;
use super::panes::draw_lines;
use super::text::{self, pad, truncate, width, wrap};
use super::theme::{Role, Theme};
use crate::protocol::PhaseName;

/// Draws whatever is open.
pub fn draw(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    match &app.overlay {
        None | Some(Overlay::Filter { .. }) => {}
        Some(Overlay::Help { scroll }) => help(app, theme, *scroll, area, buf),
        Some(Overlay::Palette { line, selected }) => {
            palette(app, theme, line, *selected, area, buf)
        }
        Some(Overlay::Prompt { line }) => pick::prompt(app, theme, line, area, buf),
        Some(Overlay::Ask { asked, line }) => pick::ask(app, theme, asked, line, area, buf),
        Some(Overlay::Edit { key, line, error }) => {
            pick::edit(app, theme, key, line, error.as_deref(), area, buf);
        }
        Some(Overlay::Themes { .. }) => pick::themes(app, theme, area, buf),
        Some(Overlay::Runs { selected }) => pick::runs(app, theme, *selected, area, buf),
        Some(Overlay::Changes {
            text,
            changes,
            errors,
            scroll,
        }) => {
            let asked = text.is_some();
            pick::changes(app, theme, asked, changes, errors, *scroll, area, buf);
        }
        Some(Overlay::Stop { selected }) => stop(app, theme, *selected, area, buf),
        Some(Overlay::StartRunner) => start_runner(app, theme, area, buf),
    }
    let toasts: Vec<_> = app
        .toasts
        .iter()
        .map(|t| (t.text.as_str(), t.good))
        .collect();
    toast_boxes(theme, &toasts, area, buf);
}

/// An empty box with a title in the middle of the screen; returns its inside.
pub(super) fn popup(
    theme: &Theme,
    title: &str,
    size: (u16, u16),
    area: Rect,
    buf: &mut Buffer,
) -> Rect {
    let columns = (size.0 + 4).min(area.width);
    let rows = (size.1 + 2).min(area.height);
    let frame = Rect {
        x: area.x + (area.width - columns) / 2,
        y: area.y + (area.height - rows) / 3,
        width: columns,
        height: rows,
    };
    blank(theme, frame, buf);
    let g = theme.glyphs;
    let rule = g.rule.repeat(usize::from(columns.saturating_sub(2)));
    let style = theme[Role::Focus];
    for (y, [left, right]) in [(frame.y, g.box_top), (frame.bottom() - 1, g.box_bottom)] {
        buf.set_string(frame.x, y, format!("{left}{rule}{right}"), style);
    }
    for y in frame.y + 1..frame.bottom() - 1 {
        buf.set_string(frame.x, y, g.vertical, style);
        buf.set_string(frame.right() - 1, y, g.vertical, style);
    }
    buf.set_string(frame.x + 2, frame.y, format!(" {title} "), style);
    Rect {
        x: frame.x + 2,
        y: frame.y + 1,
        width: columns - 4,
        height: rows - 2,
    }
}

fn blank(theme: &Theme, area: Rect, buf: &mut Buffer) {
    for y in area.y..area.bottom() {
        // A wide character whose second half lies under the area would swallow its border.
        if let Some(x) = area.x.checked_sub(1)
            && let Some(cell) = buf.cell_mut((x, y))
            && width(cell.symbol()) > 1
        {
            cell.set_symbol(" ");
        }
        for x in area.x..area.right() {
            if let Some(cell) = buf.cell_mut((x, y)) {
                cell.reset();
                cell.set_style(theme[Role::Background]);
            }
        }
    }
}

/// The help's lines: the key table, and what the marks mean.
fn help_lines(app: &App, theme: &Theme) -> Vec<Line<'static>> {
    let lang = app.lang;
    let keys = TABLE
        .iter()
        .map(|b| width(&app.keymap.label(b.act)))
        .max()
        .unwrap_or(0);
    let mut lines = Vec::new();
    for group in Group::ALL {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        lines.push(Line::styled(group.title(lang), theme[Role::Accent]));
        for binding in TABLE.iter().filter(|b| b.group == group) {
            lines.push(Line::from(vec![
                Span::styled(
                    pad(&app.keymap.label(binding.act), keys + 2),
                    theme[Role::Key],
                ),
                Span::styled((binding.help)(lang), theme[Role::Text]),
            ]));
        }
    }
    lines.push(Line::default());
    lines.push(Line::styled(lang.marks_below(), theme[Role::Accent]));
    let g = theme.glyphs;
    for (glyph, role, meaning) in [
        (g.checkpoint, Role::Good, lang.mark_checkpoint()),
        (g.non_finite, Role::Error, lang.mark_non_finite()),
        (g.pause, Role::Warning, lang.mark_pause()),
        (g.sample, Role::Key, lang.mark_sample()),
        (g.config_change, Role::Accent, lang.mark_config_change()),
        (g.resume, Role::Accent, lang.mark_resume()),
    ] {
        lines.push(Line::from(vec![
            Span::styled(pad(glyph, keys + 2), theme[role]),
            Span::styled(meaning, theme[Role::Text]),
        ]));
    }
    lines
}

/// Room for the help's lines on a screen.
fn help_rows(rows: u16) -> usize {
    usize::from(rows.saturating_sub(4))
}

/// Lines of the help that do not fit on the screen.
pub fn help_overflow(app: &App) -> usize {
    help_lines(app, &app.theme)
        .len()
        .saturating_sub(help_rows(app.size.1))
}

fn help(app: &App, theme: &Theme, scroll: usize, area: Rect, buf: &mut Buffer) {
    let lines = help_lines(app, theme);
    let rows = help_rows(area.height).min(lines.len());
    let columns = lines.iter().map(Line::width).max().unwrap_or(0) as u16;
    let more = lines.len().saturating_sub(scroll + rows);
    let title = match (scroll, more) {
        (0, 0) => app.lang.help_title().to_owned(),
        _ => app.lang.help_more(more),
    };
    let inner = popup(theme, &title, (columns, rows as u16), area, buf);
    draw_lines(&lines, scroll, inner, buf);
}

fn palette(
    app: &App,
    theme: &Theme,
    query: &LineEdit,
    selected: usize,
    area: Rect,
    buf: &mut Buffer,
) {
    let lang = app.lang;
    let found = keymap::search(query.text(), lang);
    let rows = 14.min(area.height.saturating_sub(5)).max(3);
    let inner = popup(theme, lang.actions_title(), (60, rows + 1), area, buf);
    let columns = usize::from(inner.width);
    let line = typed(theme, ": ", query, columns);
    buf.set_line(inner.x, inner.y, &line, inner.width);
    let list = Rect {
        y: inner.y + 1,
        height: inner.height.saturating_sub(1),
        ..inner
    };
    if found.is_empty() {
        buf.set_string(list.x, list.y, lang.no_such_action(), theme[Role::Muted]);
        return;
    }
    let skip = (selected + 1).saturating_sub(usize::from(list.height));
    for (row, (i, binding)) in found
        .iter()
        .enumerate()
        .skip(skip)
        .take(usize::from(list.height))
        .enumerate()
    {
        let line = palette_line(app, theme, binding, i == selected, columns);
        buf.set_line(list.x, list.y + row as u16, &line, list.width);
    }
}

fn palette_line(
    app: &App,
    theme: &Theme,
    binding: &Binding,
    selected: bool,
    columns: usize,
) -> Line<'static> {
    const NAMES: usize = 17;
    let ellipsis = theme.glyphs.ellipsis;
    let keys = app.keymap.label(binding.act);
    let helps = columns.saturating_sub(NAMES + width(&keys) + 1);
    let help = pad(
        &truncate((binding.help)(app.lang), helps, ellipsis),
        helps + 1,
    );
    let name = pad(binding.name, NAMES);
    if selected {
        return Line::styled(format!("{name}{help}{keys}"), theme[Role::Selection]);
    }
    Line::from(vec![
        Span::styled(name, theme[Role::Text]),
        Span::styled(help, theme[Role::Muted]),
        Span::styled(keys, theme[Role::Key]),
    ])
}

fn stop(app: &App, theme: &Theme, selected: usize, area: Rect, buf: &mut Buffer) {
    let state = &app.state;
    let saved = state.checkpoints.iter().map(|c| c.step).max().unwrap_or(0);
    let lost = state.last.step.saturating_sub(saved);
    let lang = app.lang;
    let question = format!(
        "{} {}",
        lang.stop_question(&state.run, text::count(state.last.step)),
        match lost {
            0 => lang.every_step_saved().to_owned(),
            1 => lang.one_step_unsaved().to_owned(),
            n => lang.steps_unsaved(text::count(n)),
        }
    );
    let choices = [
        (
            lang.stop_save(),
            lang.stop_save_what(),
            lang.stop_save_short(),
        ),
        (
            lang.stop_discard(),
            lang.stop_discard_what(),
            lang.stop_discard_short(),
        ),
        (
            lang.stop_cancel(),
            lang.stop_cancel_what(),
            lang.stop_cancel_what(),
        ),
    ];
    let columns = 68.min(area.width.saturating_sub(6));
    let question = wrap(&question, usize::from(columns));
    let rows = question.len() + 1 + STOP_CHOICES.len();
    let inner = popup(theme, lang.stop_title(), (columns, rows as u16), area, buf);
    let mut lines: Vec<Line> = question
        .into_iter()
        .map(|l| Line::styled(l, theme[Role::Text]))
        .collect();
    lines.push(Line::default());
    for (i, (key, (word, what, short))) in STOP_CHOICES.iter().zip(choices).enumerate() {
        let room = usize::from(inner.width).saturating_sub(13);
        let what = if width(what) > room { short } else { what };
        let text = format!("{} {what}", pad(word, 8));
        lines.push(if i == selected {
            Line::styled(
                pad(&format!(" {key}  {text}"), usize::from(inner.width)),
                theme[Role::Selection],
            )
        } else {
            let role = if *key == 'd' { Role::Error } else { Role::Text };
            Line::from(vec![
                Span::styled(format!(" {key}  "), theme[Role::Key]),
                Span::styled(pad(word, 9), theme[role]),
                Span::styled(what, theme[Role::Muted]),
            ])
        });
    }
    draw_lines(&lines, 0, inner, buf);
}

fn start_runner(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let (state, lang) = (&app.state, app.lang);
    let from = match state.checkpoints.iter().max_by_key(|c| c.step) {
        Some(c) => lang.goes_on_from(text::file_name(&c.path)),
        None => lang.begins_anew().to_owned(),
    };
    let what = if state.phase.is_end() {
        lang.run_has_ended(&state.run, lang.phase(state.phase))
    } else {
        lang.no_runner_of(&state.run)
    };
    let columns = 56.min(area.width.saturating_sub(6));
    let body = wrap(&lang.start_question(what, from), usize::from(columns));
    let inner = popup(
        theme,
        lang.start_title(),
        (columns, body.len() as u16 + 2),
        area,
        buf,
    );
    let mut lines: Vec<Line> = body
        .into_iter()
        .map(|l| Line::styled(l, theme[Role::Text]))
        .collect();
    lines.push(Line::default());
    lines.push(Line::from(vec![
        Span::styled("y", theme[Role::Key]),
        Span::styled(format!(" {}   ", lang.start_it()), theme[Role::Text]),
        Span::styled("n", theme[Role::Key]),
        Span::styled(format!(" {}", lang.leave_it()), theme[Role::Text]),
    ]));
    draw_lines(&lines, 0, inner, buf);
}

/// Toasts (text, and whether it is good news) above the last row, the newest lowest.
pub(super) fn toast_boxes(theme: &Theme, toasts: &[(&str, bool)], area: Rect, buf: &mut Buffer) {
    let columns = usize::from(area.width.saturating_sub(6)).min(64);
    let mut bottom = area.bottom().saturating_sub(1);
    for (text, good) in toasts.iter().rev() {
        let role = if *good { Role::Good } else { Role::Error };
        let style = theme[role].add_modifier(Modifier::REVERSED);
        let mut lines = wrap(text, columns);
        lines.truncate(4);
        let widest = lines.iter().map(|l| width(l.trim_end())).max().unwrap_or(0);
        let height = lines.len() as u16;
        if bottom < area.y + height + 1 {
            break;
        }
        bottom -= height;
        for (i, line) in lines.iter().enumerate() {
            let line = format!(" {} ", pad(line.trim_end(), widest));
            let x = area.right().saturating_sub(width(&line) as u16 + 1);
            buf.set_string(x, bottom + i as u16, line, style);
        }
        // A row between them.
        bottom = bottom.saturating_sub(1);
    }
}

/// A line being typed: what it is for, the text, and the cursor in it.
fn typed(theme: &Theme, head: &str, line: &LineEdit, columns: usize) -> Line<'static> {
    let (before, after) = line.view(columns.saturating_sub(width(head)));
    Line::from(vec![
        Span::styled(head.to_owned(), theme[Role::Key]),
        Span::styled(before, theme[Role::Text]),
        Span::styled(theme.glyphs.cursor, theme[Role::Accent]),
        Span::styled(after, theme[Role::Text]),
    ])
}

/// The row at the bottom: hints, or the filter being typed.
pub fn footer(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    if let Some(Overlay::Filter { pane, line, .. }) = &app.overlay {
        let head = format!("{} /", pane.title(app.lang));
        let hint = format!("   {}", app.lang.filter_hint());
        let columns = usize::from(area.width).saturating_sub(4 + width(&hint));
        let mut line = typed(theme, &head, line, columns.max(width(&head) + 8));
        line.push_span(Span::styled(hint, theme[Role::Muted]));
        buf.set_line(area.x + 1, area.y, &line, area.width.saturating_sub(2));
        return;
    }
    // The ways out and to the help always have their place.
    let (fixed, hints): (Vec<_>, Vec<_>) = TABLE
        .iter()
        .filter(|b| !(b.hint)(app.lang).is_empty())
        .partition(|b| matches!(b.act, Act::Help | Act::Detach));
    let mut end = area.right().saturating_sub(1);
    for binding in fixed.into_iter().rev() {
        let word = (binding.hint)(app.lang);
        let Some(key) = app.keymap.first(binding.act) else {
            continue;
        };
        end = end.saturating_sub(hint_width(&key, word));
        hint(theme, &key, word, end, area.y, buf);
        end = end.saturating_sub(2);
    }
    let mut x = area.x + 1;
    let steered = app.live() && !app.state.phase.is_end();
    for binding in hints {
        let captions = app.focus() == Pane::Data && app.has_images();
        let acts = match binding.act {
            Act::Pause => {
                app.state.phase != PhaseName::Done && app.connection != Connection::Before
            }
            // Captions are files, and need no runner.
            Act::EditValue => captions,
            _ => false,
        };
        if binding.group == Group::Run && !steered && !acts {
            continue;
        }
        let shows = match binding.act {
            Act::EditValue => captions || app.focus() == Pane::Config,
            _ => captions || binding.group != Group::Data,
        };
        if !shows {
            continue;
        }
        let Some(key) = app.keymap.first(binding.act) else {
            continue;
        };
        let word = word(app, binding);
        let columns = hint_width(&key, word);
        if x + columns > end {
            break;
        }
        hint(theme, &key, word, x, area.y, buf);
        x += columns + 2;
    }
}

/// The hint of the moment.
fn word(app: &App, binding: &Binding) -> &'static str {
    match (binding.act, app.state.phase) {
        (Act::Pause, PhaseName::Paused | PhaseName::Pausing) => app.lang.hint_resume(),
        (Act::Pause, phase) if phase.is_end() || app.runner_gone() => app.lang.hint_start_again(),
        (Act::Maximise, _) if app.view.maximised => app.lang.hint_restore(),
        (Act::EditValue, _) if app.focus() == Pane::Data => app.lang.hint_edit_caption(),
        _ => (binding.hint)(app.lang),
    }
}

fn hint_width(key: &str, word: &str) -> u16 {
    (width(key) + 1 + width(word)) as u16
}

fn hint(theme: &Theme, key: &str, word: &str, x: u16, y: u16, buf: &mut Buffer) {
    buf.set_string(x, y, key, theme[Role::Key]);
    buf.set_string(x + width(key) as u16 + 1, y, word, theme[Role::Muted]);
}
