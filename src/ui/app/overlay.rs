//! What lies over the panes and takes the keys while it is open.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{Action, App, Asked};
use crate::config;
use crate::protocol::{Command, ConfigChange, StopMode};
use crate::ui::keymap;
use crate::ui::layout::Pane;
use crate::ui::line::LineEdit;

#[derive(Clone, Debug, PartialEq)]
pub enum Overlay {
    Help {
        scroll: usize,
    },
    Palette {
        line: LineEdit,
        selected: usize,
    },
    /// A prompt to sample.
    Prompt {
        line: LineEdit,
    },
    /// Text for captions.
    Ask {
        asked: Asked,
        line: LineEdit,
    },
    /// A value of the config.
    Edit {
        key: String,
        line: LineEdit,
        /// Why it cannot be set.
        error: Option<String>,
    },
    /// Themes to try; `before` comes back on Esc.
    Themes {
        before: usize,
    },
    /// Runs to show beside this one.
    Runs {
        selected: usize,
    },
    /// What an edit of the config file changes. With a text it is asked before it is written.
    Changes {
        text: Option<String>,
        changes: Vec<ConfigChange>,
        errors: Vec<String>,
        scroll: usize,
    },
    /// The stop dialog, with one of [`STOP_CHOICES`] selected.
    Stop {
        selected: usize,
    },
    /// A question, answered by yes or no: start a runner on a run that has ended early?
    StartRunner,
    /// A filter being typed for a pane; `before` comes back on Esc.
    Filter {
        pane: Pane,
        before: String,
        line: LineEdit,
    },
}

/// The keys of the ways to stop: save, discard, cancel.
pub const STOP_CHOICES: [char; 3] = ['s', 'd', 'c'];

impl App {
    /// A key for an open overlay, which has been taken off and is put back to stay open.
    pub(super) fn overlay_key(&mut self, overlay: Overlay, key: KeyEvent) -> Vec<Action> {
        let escape = key.code == KeyCode::Esc;
        match overlay {
            Overlay::Help { scroll } => {
                let scroll = match key.code {
                    KeyCode::Down | KeyCode::Char('j') => scroll + 1,
                    KeyCode::Up | KeyCode::Char('k') => scroll.saturating_sub(1),
                    KeyCode::PageDown | KeyCode::Char(' ') => scroll + 10,
                    KeyCode::PageUp => scroll.saturating_sub(10),
                    _ => return Vec::new(),
                };
                let most = crate::ui::overlays::help_overflow(self);
                self.overlay = Some(Overlay::Help {
                    scroll: scroll.min(most),
                });
                Vec::new()
            }
            Overlay::Palette { line, selected } => self.palette_key(line, selected, key),
            Overlay::Prompt { line } => self.prompt_key(line, key),
            Overlay::Ask { asked, line } => self.ask_key(asked, line, key),
            Overlay::Edit {
                key: name, line, ..
            } => self.edit_key(name, line, key),
            Overlay::Themes { before } => self.themes_key(before, key),
            Overlay::Runs { selected } => self.runs_key(selected, key),
            Overlay::Changes { .. } => self.changes_key(overlay, key),
            Overlay::Stop { selected } => self.stop_key(selected, key),
            Overlay::StartRunner => match key.code {
                KeyCode::Char('y' | 'Y') | KeyCode::Enter => vec![Action::StartRunner],
                KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => Vec::new(),
                _ => {
                    self.overlay = Some(overlay);
                    Vec::new()
                }
            },
            Overlay::Filter {
                pane,
                before,
                mut line,
            } => {
                if escape {
                    self.view.filters[pane as usize] = before;
                    return Vec::new();
                }
                if key.code != KeyCode::Enter {
                    line.key(key);
                    self.filter(pane, &line);
                    self.overlay = Some(Overlay::Filter { pane, before, line });
                }
                Vec::new()
            }
        }
    }

    fn filter(&mut self, pane: Pane, line: &LineEdit) {
        self.view.filters[pane as usize] = line.text().to_owned();
        self.view.scroll[pane as usize] = 0;
        self.view.value = 0;
    }

    fn prompt_key(&mut self, mut line: LineEdit, key: KeyEvent) -> Vec<Action> {
        match key.code {
            KeyCode::Esc => Vec::new(),
            KeyCode::Enter if !line.text().trim().is_empty() => {
                self.view.look_at(Pane::Samples);
                self.view.sample_step = None;
                self.command(Command::Sample {
                    prompt: Some(line.text().trim().to_owned()),
                })
            }
            _ => {
                line.key(key);
                self.overlay = Some(Overlay::Prompt { line });
                Vec::new()
            }
        }
    }

    fn themes_key(&mut self, before: usize, key: KeyEvent) -> Vec<Action> {
        let direction = match key.code {
            KeyCode::Enter => {
                self.toast(true, self.lang.theme_is(&self.theme.name));
                return Vec::new();
            }
            KeyCode::Esc | KeyCode::Char('q') => {
                self.themes.choose_index(before);
                return self.try_theme(0);
            }
            KeyCode::Down | KeyCode::Tab | KeyCode::Char('j' | 't') => 1,
            KeyCode::Up | KeyCode::BackTab | KeyCode::Char('k') => -1,
            _ => 0,
        };
        self.overlay = Some(Overlay::Themes { before });
        self.try_theme(direction)
    }

    /// Shows the theme so many further on in the list, which is a circle.
    pub(super) fn try_theme(&mut self, by: isize) -> Vec<Action> {
        let n = self.themes.names().len() as isize;
        let next = (self.themes.chosen() as isize + by).rem_euclid(n.max(1));
        self.themes.choose_index(next as usize);
        self.theme = self.themes.theme();
        Vec::new()
    }

    fn palette_key(&mut self, mut line: LineEdit, selected: usize, key: KeyEvent) -> Vec<Action> {
        let found = keymap::search(line.text(), self.lang);
        let last = found.len().saturating_sub(1);
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let selected = match key.code {
            KeyCode::Esc => return Vec::new(),
            KeyCode::Enter => {
                return match found.get(selected) {
                    Some(binding) => self.perform(binding.act),
                    None => Vec::new(),
                };
            }
            KeyCode::Down | KeyCode::Tab => (selected + 1).min(last),
            KeyCode::Up | KeyCode::BackTab => selected.saturating_sub(1),
            KeyCode::Char('n') if control => (selected + 1).min(last),
            KeyCode::Char('p') if control => selected.saturating_sub(1),
            _ => {
                line.key(key);
                0
            }
        };
        self.overlay = Some(Overlay::Palette { line, selected });
        Vec::new()
    }

    fn stop_key(&mut self, selected: usize, key: KeyEvent) -> Vec<Action> {
        let last = STOP_CHOICES.len() - 1;
        let chosen = match key.code {
            KeyCode::Esc => last,
            KeyCode::Enter => selected,
            KeyCode::Up | KeyCode::Left | KeyCode::BackTab | KeyCode::Char('k' | 'h') => {
                self.overlay = Some(Overlay::Stop {
                    selected: selected.saturating_sub(1),
                });
                return Vec::new();
            }
            KeyCode::Down | KeyCode::Right | KeyCode::Tab | KeyCode::Char('j' | 'l') => {
                self.overlay = Some(Overlay::Stop {
                    selected: (selected + 1).min(last),
                });
                return Vec::new();
            }
            KeyCode::Char(c) => match STOP_CHOICES.iter().position(|k| *k == c) {
                Some(chosen) => chosen,
                None => {
                    self.overlay = Some(Overlay::Stop { selected });
                    return Vec::new();
                }
            },
            _ => {
                self.overlay = Some(Overlay::Stop { selected });
                return Vec::new();
            }
        };
        match chosen {
            0 => self.command(Command::Stop {
                mode: StopMode::Save,
            }),
            1 => self.command(Command::Stop {
                mode: StopMode::Discard,
            }),
            _ => Vec::new(),
        }
    }

    /// Pasted text goes where text is typed, and nowhere else: a paste is no command.
    pub(super) fn paste(&mut self, text: &str) {
        match &mut self.overlay {
            Some(Overlay::Palette { line, selected }) => {
                line.insert(text);
                *selected = 0;
            }
            Some(Overlay::Prompt { line }) => line.insert(text),
            Some(Overlay::Edit { key, line, error }) => {
                line.insert(text);
                *error = config::check_value(&self.state.config, key, line.text()).err();
            }
            Some(Overlay::Filter { pane, line, .. }) => {
                line.insert(text);
                let (pane, line) = (*pane, line.clone());
                self.filter(pane, &line);
            }
            _ => {}
        }
    }
}
