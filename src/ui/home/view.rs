//! Home's whole screen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::app::{Dialog, Home, Page, Section};
use super::{compare, form_view, list};
use crate::ui::layout::SMALLEST;
use crate::ui::overlays::{popup, toast_boxes};
use crate::ui::panes::draw_lines;
use crate::ui::text::{pad, truncate, width, wrap};
use crate::ui::theme::{Role, Theme};

/// Draws everything into a blank buffer.
pub fn draw(home: &Home, area: Rect, buf: &mut Buffer) {
    let theme = &home.theme;
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        crate::ui::view::too_small(home.lang, theme, area, buf);
    } else {
        let body = Rect {
            height: area.height - 1,
            ..area
        };
        match &home.page {
            Page::List => list::draw(home, body, buf),
            Page::Compare(view) => compare::draw(home, view, body, buf),
            Page::Form(form) => form_view::draw(home, form, body, buf),
        }
        footer(home, area, buf);
        dialog(home, area, buf);
        let toasts: Vec<_> = home
            .toasts
            .iter()
            .map(|t| (t.text.as_str(), t.good))
            .collect();
        toast_boxes(theme, &toasts, area, buf);
    }
    crate::ui::view::finish(theme, area, buf);
}

/// A rule with a title, and something at its right; returns the area below it.
pub(super) fn titled(
    theme: &Theme,
    title: &str,
    right: &str,
    focused: bool,
    area: Rect,
    buf: &mut Buffer,
) -> Rect {
    let g = theme.glyphs;
    let (rule, role) = if focused {
        (g.rule_focus, Role::Focus)
    } else {
        (g.rule, Role::Rule)
    };
    let columns = usize::from(area.width);
    buf.set_string(area.x, area.y, rule.repeat(columns), theme[role]);
    let role = if focused { Role::Focus } else { Role::Title };
    let title = format!(
        " {} ",
        truncate(title, columns.saturating_sub(6), g.ellipsis)
    );
    buf.set_string(area.x + 2, area.y, &title, theme[role]);
    let used = 2 + width(&title) + 2;
    let right = format!(" {right} ");
    if width(&right) > 2 && used + width(&right) + 2 <= columns {
        let x = area.right() - 2 - width(&right) as u16;
        buf.set_string(x, area.y, &right, theme[Role::Muted]);
    }
    Rect {
        x: area.x + 1,
        y: area.y + 1,
        width: area.width.saturating_sub(2),
        height: area.height.saturating_sub(1),
    }
}

/// A key and what it does.
type Hint = (&'static str, &'static str);

/// The row at the bottom: what the keys do here, or the filter being typed.
fn footer(home: &Home, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    let y = area.bottom() - 1;
    if let Some(Dialog::Filter { .. }) = &home.dialog {
        let line = Line::from(vec![
            Span::styled("/", theme[Role::Key]),
            Span::styled(home.filter.clone(), theme[Role::Text]),
            Span::styled(theme.glyphs.cursor, theme[Role::Accent]),
            Span::styled(format!("   {}", lang.filter_hint()), theme[Role::Muted]),
        ]);
        buf.set_line(area.x + 1, y, &line, area.width.saturating_sub(2));
        return;
    }
    let (hints, fixed): (Vec<Hint>, Vec<Hint>) = match &home.page {
        Page::Form(_) => (vec![("", lang.form_hint())], vec![("Esc", lang.key_back())]),
        Page::Compare(_) => (
            vec![("a", lang.key_align()), ("L", lang.key_log_scale())],
            vec![("Esc", lang.key_back())],
        ),
        Page::List => (
            list_hints(home),
            vec![("q", lang.key_leave()), ("?", lang.help_title())],
        ),
    };
    let mut end = area.right().saturating_sub(1);
    for (key, word) in fixed.iter().rev() {
        end = end.saturating_sub((width(key) + 1 + width(word)) as u16);
        hint(theme, key, word, end, y, buf);
        end = end.saturating_sub(2);
    }
    let mut x = area.x + 1;
    for (key, word) in hints {
        let columns = (width(key) + 1 + width(word)) as u16;
        if x + columns > end {
            break;
        }
        hint(theme, key, word, x, y, buf);
        x += columns + 2;
    }
}

fn hint(theme: &Theme, key: &str, word: &str, x: u16, y: u16, buf: &mut Buffer) {
    buf.set_string(x, y, key, theme[Role::Key]);
    buf.set_string(x + width(key) as u16 + 1, y, word, theme[Role::Muted]);
}

fn list_hints(home: &Home) -> Vec<Hint> {
    let lang = home.lang;
    let mut hints = match home.section {
        Section::Runs if home.run().is_some() => vec![
            ("Enter", lang.key_attach()),
            ("n", lang.key_new()),
            ("Space", lang.key_mark()),
            ("c", lang.key_compare()),
            ("d", lang.key_delete()),
        ],
        Section::Configs if home.config().is_some() => vec![
            ("Enter", lang.key_start()),
            ("a", lang.key_queue_add()),
            ("e", lang.key_edit()),
            ("v", lang.key_data()),
            ("n", lang.key_new()),
        ],
        Section::Queue if home.entry().is_some() => vec![
            ("Enter", lang.key_attach()),
            ("K J", lang.key_move()),
            ("x", lang.key_skip()),
            ("r", lang.key_again()),
            match home.overview.as_ref().is_some_and(|o| o.queue_runs) {
                true => ("S", lang.key_stop_queue()),
                false => ("g", lang.key_start_queue()),
            },
            ("X", lang.key_clear()),
        ],
        _ => vec![("n", lang.key_new())],
    };
    hints.push(("/", lang.key_filter()));
    hints.push(("Tab", lang.key_section()));
    hints
}

fn dialog(home: &Home, area: Rect, buf: &mut Buffer) {
    let lang = home.lang;
    match &home.dialog {
        None | Some(Dialog::Filter { .. }) => {}
        Some(Dialog::Help) => help(home, area, buf),
        Some(Dialog::Delete(run)) => {
            let folder = run.folder.display().to_string();
            let question = lang.delete_question(&run.name, folder);
            let keys = [
                ("y", lang.delete_it(), true),
                ("n", lang.keep_the_run(), false),
            ];
            choices(home, lang.delete_title(), &question, &keys, None, area, buf);
        }
        Some(Dialog::Start { config, selected }) => {
            let question = lang.start_question_config(config.display());
            let keys = [
                ("s", lang.start_and_attach(), false),
                ("a", lang.add_to_queue(), false),
                ("n", lang.let_it_be(), false),
            ];
            let title = lang.start_config_title();
            choices(home, title, &question, &keys, Some(*selected), area, buf);
        }
        Some(Dialog::StopQueue { selected }) => {
            let waiting = home
                .overview
                .iter()
                .flat_map(|o| &o.queue)
                .filter(|e| e.state == crate::protocol::QueueState::Waiting)
                .count();
            let question = lang.stop_queue_question(waiting);
            let keys = [
                ("s", lang.stop_queue_now(), false),
                ("a", lang.stop_queue_after(), false),
                ("n", lang.let_it_be(), false),
            ];
            let title = lang.stop_queue_title();
            choices(home, title, &question, &keys, Some(*selected), area, buf);
        }
    }
}

/// A question with its answers: key, words, and whether work is lost.
fn choices(
    home: &Home,
    title: &str,
    question: &str,
    keys: &[(&str, &str, bool)],
    selected: Option<usize>,
    area: Rect,
    buf: &mut Buffer,
) {
    let theme = &home.theme;
    let columns = 66.min(area.width.saturating_sub(6));
    let question = wrap(question, usize::from(columns));
    let rows = question.len() + 1 + keys.len();
    let inner = popup(theme, title, (columns, rows as u16), area, buf);
    let mut lines: Vec<Line> = question
        .into_iter()
        .map(|l| Line::styled(l, theme[Role::Text]))
        .collect();
    lines.push(Line::default());
    for (i, (key, words, loses)) in keys.iter().enumerate() {
        lines.push(if selected == Some(i) {
            let text = format!(" {key}  {words}");
            Line::styled(pad(&text, usize::from(inner.width)), theme[Role::Selection])
        } else {
            let role = if *loses { Role::Error } else { Role::Text };
            Line::from(vec![
                Span::styled(format!(" {key}  "), theme[Role::Key]),
                Span::styled(*words, theme[role]),
            ])
        });
    }
    draw_lines(&lines, 0, inner, buf);
}

fn help(home: &Home, area: Rect, buf: &mut Buffer) {
    let (theme, lang) = (&home.theme, home.lang);
    let rows = [
        ("j k Tab 1 2 3", lang.home_key_moves()),
        ("Enter", lang.home_key_attach()),
        ("n", lang.home_key_new()),
        ("a", lang.home_key_add()),
        ("e", lang.home_key_edit()),
        ("v", lang.home_key_data()),
        ("Space c", lang.home_key_mark()),
        ("d", lang.home_key_delete()),
        ("K J", lang.home_key_shift()),
        ("x", lang.home_key_skip()),
        ("g S r X", lang.home_key_queue()),
        ("/", lang.home_key_filter()),
        ("t", lang.home_key_theme()),
        ("q Ctrl-C", lang.home_key_leave()),
    ];
    let columns = 72.min(area.width.saturating_sub(6));
    let words = usize::from(columns).saturating_sub(15);
    let mut lines = Vec::new();
    for (keys, meaning) in rows {
        for (i, text) in wrap(meaning, words).into_iter().enumerate() {
            let keys = if i == 0 { keys } else { "" };
            lines.push(Line::from(vec![
                Span::styled(pad(keys, 15), theme[Role::Key]),
                Span::styled(text, theme[Role::Text]),
            ]));
        }
    }
    let size = (columns, lines.len() as u16);
    let inner = popup(theme, lang.home_help(), size, area, buf);
    draw_lines(&lines, 0, inner, buf);
}
