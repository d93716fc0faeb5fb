//! What lies over the panes and takes the keys while it is open.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{Action, App};
use crate::protocol::{Command, StopMode};
use crate::ui::keymap;
use crate::ui::layout::Pane;

#[derive(Clone, Debug, PartialEq)]
pub enum Overlay {
    Help {
        scroll: usize,
    },
    Palette {
        query: String,
        selected: usize,
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
            Overlay::Palette { query, selected } => self.palette_key(query, selected, key),
            Overlay::Stop { selected } => self.stop_key(selected, key),
            Overlay::StartRunner => match key.code {
                KeyCode::Char('y' | 'Y') | KeyCode::Enter => vec![Action::StartRunner],
                KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => Vec::new(),
                _ => {
                    self.overlay = Some(overlay);
                    Vec::new()
                }
            },
            Overlay::Filter { pane, before } => {
                if escape {
                    self.view.filters[pane as usize] = before;
                    return Vec::new();
                }
                if key.code != KeyCode::Enter {
                    edit(&mut self.view.filters[pane as usize], key);
                    self.view.scroll[pane as usize] = 0;
                    self.overlay = Some(Overlay::Filter { pane, before });
                }
                Vec::new()
            }
        }
    }

    fn palette_key(&mut self, mut query: String, selected: usize, key: KeyEvent) -> Vec<Action> {
        let found = keymap::search(&query, self.lang);
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
                edit(&mut query, key);
                0
            }
        };
        self.overlay = Some(Overlay::Palette { query, selected });
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
        let text = crate::ui::text::one_line(text);
        match &mut self.overlay {
            Some(Overlay::Palette { query, selected }) => {
                query.push_str(&text);
                *selected = 0;
            }
            Some(Overlay::Filter { pane, .. }) => {
                self.view.filters[*pane as usize].push_str(&text);
            }
            _ => {}
        }
    }
}

/// Typing at the end of a line.
pub fn edit(text: &mut String, key: KeyEvent) {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('u') if control => text.clear(),
        KeyCode::Char('w') if control => {
            let kept = text.trim_end().rfind(' ').map_or(0, |at| at + 1);
            text.truncate(kept);
        }
        KeyCode::Char(c) if !control && !key.modifiers.contains(KeyModifiers::ALT) => text.push(c),
        KeyCode::Backspace => {
            text.pop();
        }
        _ => {}
    }
}
