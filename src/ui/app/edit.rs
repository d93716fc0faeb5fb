//! Changing the config: a value in place, or the file in an editor, with a look at what it changes
//! before it is written.

use crossterm::event::{KeyCode, KeyEvent};

use super::{Action, App, Connection, Overlay};
use crate::config;
use crate::protocol::{Command, ConfigChange, ConfigEntry, Query, Remedy, Reply};
use crate::ui::layout::Pane;
use crate::ui::line::LineEdit;
use crate::ui::panes;
use crate::ui::text;

/// Source of changes that come from the config file, as the runner names it.
const FILE: &str = "config file";

impl App {
    /// Moves the config pane's selection; false at the end of the list, so that arrows leave it.
    pub(super) fn select_value(&mut self, by: i64) -> bool {
        let last = panes::config::shown(self).len().saturating_sub(1);
        let before = self.view.value.min(last);
        self.view.value = before.saturating_add_signed(by as isize).min(last);
        let rows = panes::extent(self, Pane::Config).map_or(1, |(_, rows)| rows.max(1));
        let scroll = &mut self.view.scroll[Pane::Config as usize];
        *scroll = (*scroll).clamp((self.view.value + 1).saturating_sub(rows), self.view.value);
        self.view.value != before || self.view.maximised
    }

    fn selected_value(&self) -> Option<&ConfigEntry> {
        let shown = panes::config::shown(self);
        shown
            .get(self.view.value.min(shown.len().saturating_sub(1)))
            .copied()
    }

    /// Opens the selected value, or says why it cannot be changed during the run.
    pub(super) fn edit_value(&mut self) {
        if self.focus() != Pane::Config {
            self.view.look_at(Pane::Config);
            return;
        }
        if let Some(why) = self.refusal() {
            return self.toast(false, why);
        }
        let Some(entry) = self.selected_value() else {
            return;
        };
        let (key, value) = (entry.key.clone(), entry.value.clone());
        if entry.applies == "restart" {
            let open = self.keymap.label(crate::ui::keymap::Act::EditFile);
            return self.toast(false, self.lang.needs_new_run(key, open));
        }
        self.open_value(key, &value);
    }

    fn open_value(&mut self, key: String, value: &str) {
        self.overlay = Some(Overlay::Edit {
            key,
            line: LineEdit::new(value),
            error: None,
        });
    }

    /// Opens the value that the newest alert's remedy names.
    pub(super) fn try_remedy(&mut self) {
        let Some(alert) = self.state.alerts.active().last() else {
            return self.toast(true, self.lang.no_alert().into());
        };
        match alert.alert.remedy().clone() {
            Remedy::Set { key, value } => match self.refusal() {
                Some(why) => self.toast(false, why),
                None => self.open_value(key, &value),
            },
            _ => {
                let sentence = self.lang.alert(&alert.alert);
                self.toast(true, sentence);
            }
        }
    }

    pub(super) fn edit_key(
        &mut self,
        name: String,
        mut line: LineEdit,
        key: KeyEvent,
    ) -> Vec<Action> {
        let mut error = None;
        match key.code {
            KeyCode::Esc => return Vec::new(),
            KeyCode::Enter => match config::check_value(&self.state.config, &name, line.text()) {
                Ok(value) => return self.command(Command::Set { key: name, value }),
                Err(why) => error = Some(why),
            },
            _ => {
                line.key(key);
                // Told while it is typed, but an empty line is only a beginning.
                if !line.text().trim().is_empty() {
                    error = config::check_value(&self.state.config, &name, line.text()).err();
                }
            }
        }
        self.overlay = Some(Overlay::Edit {
            key: name,
            line,
            error,
        });
        Vec::new()
    }

    /// Fetches the config file for the editor.
    pub(super) fn edit_file(&mut self) -> Vec<Action> {
        if let Some(why) = &self.readonly {
            let sentence = self.lang.readonly_because(why);
            self.toast(false, sentence);
            return Vec::new();
        }
        vec![Action::Query(Query::ConfigFile)]
    }

    /// Takes the answer to a query about the config file.
    pub(super) fn config_reply(&mut self, query: Query, reply: Reply) -> Vec<Action> {
        match (query, reply) {
            (Query::ConfigFile, Reply::ConfigFile { path, text }) => {
                self.editing = text.clone();
                vec![Action::Edit {
                    name: text::file_name(&path).to_owned(),
                    text,
                }]
            }
            (Query::CheckConfig { text }, Reply::ConfigCheck { changes, errors }) => {
                if errors.is_empty() && changes.iter().all(|c| c.applies == "live") {
                    return self.write_config(text);
                }
                self.overlay = Some(Overlay::Changes {
                    text: Some(text),
                    changes,
                    errors,
                    scroll: 0,
                });
                Vec::new()
            }
            (_, Reply::Error { message, .. }) => {
                self.toast(false, message);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The editor was left.
    pub(super) fn edited(&mut self, edited: Result<String, String>) -> Vec<Action> {
        match edited {
            Ok(text) if text == self.editing => {
                self.toast(true, self.lang.nothing_edited().into());
                Vec::new()
            }
            Ok(text) => vec![Action::Query(Query::CheckConfig { text })],
            Err(why) => {
                self.toast(false, why);
                Vec::new()
            }
        }
    }

    fn write_config(&mut self, text: String) -> Vec<Action> {
        if self.readonly.is_some() || matches!(self.connection, Connection::Lost { .. }) {
            return self.command(Command::WriteConfig { text });
        }
        // Without a runner the link writes the file.
        vec![Action::Command(Command::WriteConfig { text })]
    }

    /// Somebody else's edit that does not act at once is shown; one's own was looked at before.
    pub(super) fn show_changes(&mut self, source: &str, changes: &[ConfigChange]) {
        let waits = changes.iter().any(|c| c.applies != "live");
        if source == FILE && waits && self.overlay.is_none() && !self.wrote_config {
            self.overlay = Some(Overlay::Changes {
                text: None,
                changes: changes.to_vec(),
                errors: Vec::new(),
                scroll: 0,
            });
        }
        if source == FILE {
            self.wrote_config = false;
        }
    }

    pub(super) fn changes_key(&mut self, overlay: Overlay, key: KeyEvent) -> Vec<Action> {
        let Overlay::Changes {
            text,
            changes,
            errors,
            scroll,
        } = overlay
        else {
            return Vec::new();
        };
        let scroll = match key.code {
            KeyCode::Char('e') if text.is_some() => {
                let name = self.state.config_path.as_deref().unwrap_or("config.yaml");
                let name = text::file_name(name).to_owned();
                return text
                    .map(|text| Action::Edit { name, text })
                    .into_iter()
                    .collect();
            }
            KeyCode::Enter | KeyCode::Char('y') if errors.is_empty() => {
                let Some(text) = text else { return Vec::new() };
                self.wrote_config = true;
                return self.write_config(text);
            }
            KeyCode::Esc | KeyCode::Char('n' | 'q') => {
                if text.is_some() {
                    self.toast(true, self.lang.file_stays().into());
                }
                return Vec::new();
            }
            KeyCode::Down | KeyCode::Char('j') => scroll + 1,
            KeyCode::Up | KeyCode::Char('k') => scroll.saturating_sub(1),
            _ => scroll,
        };
        let lines = changes.len() + errors.len();
        self.overlay = Some(Overlay::Changes {
            text,
            changes,
            errors,
            scroll: scroll.min(lines.saturating_sub(1)),
        });
        Vec::new()
    }
}
