//! What is selected on home's first screen, in more words.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::app::{Home, Section};
use super::desk::{Checked, ConfigLine, Finding, Fit, Memory, QueueLine, RunLine};
use super::view::titled;
use crate::ui::lang::Lang;
use crate::ui::panes::draw_lines;
use crate::ui::text;
use crate::ui::theme::{Role, Theme};

/// What is selected, in more words.
pub(super) fn draw_details(home: &Home, area: Rect, buf: &mut Buffer) {
    let theme = &home.theme;
    let (title, lines) = match home.section {
        Section::Runs => home
            .run()
            .map_or_else(Default::default, |r| (r.name.clone(), run_words(home, r))),
        Section::Configs => home.config().map_or_else(Default::default, |c| {
            (c.path.display().to_string(), config_words(home, c))
        }),
        Section::Queue => home.entry().map_or_else(Default::default, |e| {
            (e.config.display().to_string(), entry_words(home, e))
        }),
    };
    if title.is_empty() {
        return;
    }
    let inner = titled(theme, &title, "", false, area, buf);
    draw_lines(&lines, 0, inner, buf);
}

fn words(theme: &Theme, text: impl Into<String>, role: Role) -> Line<'static> {
    Line::styled(text::one_line(&text.into()), theme[role])
}

fn run_words(home: &Home, run: &RunLine) -> Vec<Line<'static>> {
    let (theme, lang) = (&home.theme, home.lang);
    let mut lines = Vec::new();
    if let Some(error) = &run.error {
        lines.push(words(theme, error.clone(), Role::Error));
    }
    if !run.base.is_empty() {
        let base = text::file_name(&run.base).to_owned();
        let data = text::file_name(&run.data).to_owned();
        lines.push(words(theme, lang.with_data(base, data), Role::Text));
    }
    lines.push(words(theme, run.folder.display().to_string(), Role::Muted));
    if let Some(export) = run.exports.last() {
        let export = format!("{} {export}", theme.glyphs.arrow);
        lines.push(words(theme, export, Role::Good));
    }
    let mut origin = String::new();
    if let Some(config) = &run.config {
        origin = config.display().to_string();
    }
    if let Some(revision) = &run.revision {
        let short = revision.get(..10).unwrap_or(revision);
        let dirty = if revision.ends_with("-dirty") {
            "+"
        } else {
            ""
        };
        origin += &format!("  {} {short}{dirty}", lang.row_revision());
    }
    lines.push(words(theme, origin, Role::Muted));
    lines
}

fn config_words(home: &Home, config: &ConfigLine) -> Vec<Line<'static>> {
    let (theme, lang) = (&home.theme, home.lang);
    let Some(checked) = home.check_of(config) else {
        return vec![words(theme, lang.checking(), Role::Muted)];
    };
    let mut lines: Vec<Line> = findings(theme, lang, checked);
    if let Some(facts) = &checked.facts {
        if let Some(memory) = &facts.memory {
            lines.insert(0, memory_line(theme, lang, memory));
        }
        let run = format!("{} {}", theme.glyphs.arrow, facts.run_dir.display());
        lines.insert(0, words(theme, run, Role::Muted));
    }
    lines
}

/// Errors and warnings, each with its way out.
pub(super) fn findings(theme: &Theme, lang: Lang, checked: &Checked) -> Vec<Line<'static>> {
    let errors = checked.errors.iter().map(|f| (f, Role::Error));
    let warnings = checked.warnings.iter().map(|f| (f, Role::Warning));
    errors
        .chain(warnings)
        .map(|(f, role)| {
            let Finding {
                line, text, fix, ..
            } = f;
            let place = match line {
                0 => String::new(),
                line => format!("{}: ", lang.at_line(line)),
            };
            let mut spans = vec![Span::styled(
                format!("{place}{}", text::one_line(text)),
                theme[role],
            )];
            if !fix.is_empty() {
                let fix = format!(" {} {}", theme.glyphs.arrow, text::one_line(fix));
                spans.push(Span::styled(fix, theme[Role::Muted]));
            }
            Line::from(spans)
        })
        .collect()
}

pub(super) fn fit_word(lang: Lang, fit: Fit) -> (&'static str, Role) {
    match fit {
        Fit::Safe => (lang.fit_safe(), Role::Good),
        Fit::Tight => (lang.fit_tight(), Role::Warning),
        Fit::Exceeds => (lang.fit_exceeds(), Role::Error),
    }
}

pub(super) fn memory_line(theme: &Theme, lang: Lang, memory: &Memory) -> Line<'static> {
    let total = text::bytes(memory.total());
    match (memory.available, memory.fit) {
        (Some(available), Some(fit)) => {
            let (word, role) = fit_word(lang, fit);
            let text = lang.memory_of(total, text::bytes(available), word);
            Line::styled(text, theme[role])
        }
        _ => Line::styled(lang.memory_about(total), theme[Role::Text]),
    }
}

fn entry_words(home: &Home, entry: &QueueLine) -> Vec<Line<'static>> {
    let theme = &home.theme;
    let mut lines = Vec::new();
    for error in entry.error.iter().flat_map(|e| e.lines()) {
        lines.push(words(theme, error, Role::Error));
    }
    let run = format!("{} {}", theme.glyphs.arrow, entry.run_dir.display());
    lines.push(words(theme, run, Role::Muted));
    lines
}
