//! What keys do in home, page by page and section by section.

use std::path::PathBuf;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::app::{Action, Dialog, Home, HomeLeave, Page, Section};
use super::desk::Deed;
use super::form::{Button, Step};
use crate::protocol::QueueState;
use crate::ui::line::LineEdit;

/// After the last key, before a changed form is checked.
const SETTLE: f64 = 0.3;

impl Home {
    pub(super) fn key(&mut self, key: KeyEvent) -> Vec<Action> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return vec![Action::Leave(HomeLeave::Quit)],
                KeyCode::Char('l') => return vec![Action::Redraw],
                KeyCode::Char('z') => return vec![Action::Suspend],
                _ => {}
            }
        }
        if let Some(dialog) = self.dialog.take() {
            return self.dialog_key(dialog, key);
        }
        match &mut self.page {
            Page::List => self.list_key(key),
            Page::Form(form) => {
                let step = form.key(key);
                self.form_step(step)
            }
            Page::Compare(view) => {
                match key.code {
                    KeyCode::Esc | KeyCode::Char('q' | 'c') | KeyCode::Backspace => {
                        self.page = Page::List;
                    }
                    KeyCode::Char('a') => {
                        view.align = view.align.next();
                    }
                    KeyCode::Char('L') => view.log = !view.log,
                    KeyCode::Down | KeyCode::Char('j') => {
                        let last = view.comparison.keys.len().saturating_sub(1);
                        view.scroll = (view.scroll + 1).min(last);
                    }
                    KeyCode::Up | KeyCode::Char('k') => {
                        view.scroll = view.scroll.saturating_sub(1);
                    }
                    KeyCode::Char('t') => self.next_theme(),
                    _ => {}
                }
                Vec::new()
            }
        }
    }

    fn next_theme(&mut self) {
        let next = (self.themes.chosen() + 1) % self.themes.names().len();
        self.themes.choose_index(next);
        self.theme = self.themes.theme();
        let text = self.lang.theme_is(&self.theme.name);
        self.toast(true, text);
    }

    pub(super) fn form_step(&mut self, step: Step) -> Vec<Action> {
        match step {
            Step::Stay => Vec::new(),
            Step::Changed => {
                let sources = self.settle.is_some_and(|(_, sources)| sources);
                self.settle = Some((self.now + SETTLE, sources));
                Vec::new()
            }
            Step::Sources => {
                self.settle = Some((self.now + SETTLE, true));
                Vec::new()
            }
            Step::Close if self.form_only => vec![Action::Leave(HomeLeave::Quit)],
            Step::Close => {
                self.page = Page::List;
                self.settle = None;
                Vec::new()
            }
            Step::Press(button) => self.press(button),
        }
    }

    /// Writes the form's config, and does what the button says with it.
    fn press(&mut self, button: Button) -> Vec<Action> {
        let Page::Form(form) = &self.page else {
            return Vec::new();
        };
        let write = Deed::Write {
            path: form.path(),
            text: form.yaml(),
        };
        let path = form.path();
        let bad = form.checked.as_ref().is_some_and(|c| !c.errors.is_empty());
        if bad && button != Button::Write {
            self.toast(false, self.lang.config_has_errors());
            return Vec::new();
        }
        let mut actions = vec![Action::Act(write)];
        match button {
            Button::Write => {}
            Button::WriteStart => actions.push(Action::Act(Deed::Start(path))),
            Button::WriteQueue => actions.push(Action::Act(Deed::Queue(path))),
        }
        actions
    }

    fn list_key(&mut self, key: KeyEvent) -> Vec<Action> {
        let section = self.section;
        match key.code {
            KeyCode::Char('q') => return vec![Action::Leave(HomeLeave::Quit)],
            KeyCode::Esc if !self.filter.is_empty() => self.filter.clear(),
            KeyCode::Char('?') | KeyCode::F(1) => self.dialog = Some(Dialog::Help),
            KeyCode::Char('t') => self.next_theme(),
            KeyCode::Char('n') => self.new_form(None, None),
            KeyCode::Char('/') => {
                self.dialog = Some(Dialog::Filter {
                    before: self.filter.clone(),
                });
            }
            KeyCode::Tab => self.section = Section::ALL[(section as usize + 1) % 3],
            KeyCode::BackTab => self.section = Section::ALL[(section as usize + 2) % 3],
            KeyCode::Char(c @ '1'..='3') => self.section = Section::ALL[c as usize - '1' as usize],
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(10),
            KeyCode::PageUp => self.step(-10),
            KeyCode::Home => self.selected[section as usize] = 0,
            KeyCode::Char('g') if section != Section::Queue => {
                self.selected[section as usize] = 0;
            }
            KeyCode::End | KeyCode::Char('G') => self.selected[section as usize] = usize::MAX,
            code => {
                return match section {
                    Section::Runs => self.runs_key(code),
                    Section::Configs => self.configs_key(code),
                    Section::Queue => self.queue_key(code),
                };
            }
        }
        Vec::new()
    }

    /// Moves the selection, at a section's end on to the next section.
    fn step(&mut self, by: isize) {
        let at = self.chosen(self.section);
        let next = at.saturating_add_signed(by);
        let count = self.count(self.section);
        let section = self.section as usize;
        if by == 1 && next >= count && section < 2 {
            self.section = Section::ALL[section + 1];
            self.selected[section + 1] = 0;
        } else if by == -1 && at == 0 && section > 0 {
            self.section = Section::ALL[section - 1];
            self.selected[section - 1] = usize::MAX;
        } else {
            self.selected[section] = next;
        }
    }

    fn runs_key(&mut self, code: KeyCode) -> Vec<Action> {
        let Some(run) = self.run().cloned() else {
            return Vec::new();
        };
        match code {
            KeyCode::Enter => return vec![Action::Leave(HomeLeave::Attach(run.folder))],
            KeyCode::Char(' ') => {
                if !self.marked.remove(&run.folder) {
                    self.marked.insert(run.folder);
                }
                self.step(1);
                self.section = Section::Runs;
            }
            KeyCode::Char('c') => {
                // In the order of the list, so that colours stay.
                let marked: Vec<PathBuf> = self
                    .all_runs()
                    .filter(|r| self.marked.contains(&r.folder))
                    .map(|r| r.folder.clone())
                    .collect();
                if marked.len() < 2 {
                    self.toast(false, self.lang.mark_two());
                } else {
                    return vec![Action::Compare(marked)];
                }
            }
            KeyCode::Char('d') | KeyCode::Delete => {
                if run.alive {
                    self.toast(false, self.lang.delete_live());
                } else {
                    self.dialog = Some(Dialog::Delete(Box::new(run)));
                }
            }
            KeyCode::Char('e') => return run.config.map(Action::Edit).into_iter().collect(),
            KeyCode::Char('a') => {
                let deed = run.config.map(Deed::Queue).map(Action::Act);
                return deed.into_iter().collect();
            }
            _ => {}
        }
        Vec::new()
    }

    fn configs_key(&mut self, code: KeyCode) -> Vec<Action> {
        let Some(config) = self.config().cloned() else {
            return Vec::new();
        };
        let bad = self.check_of(&config).is_some_and(|c| !c.errors.is_empty());
        match code {
            KeyCode::Char('v') => return vec![Action::Leave(HomeLeave::Data(config.path))],
            KeyCode::Enter | KeyCode::Char('a') if bad => {
                self.toast(false, self.lang.config_has_errors());
            }
            KeyCode::Enter => {
                self.dialog = Some(Dialog::Start {
                    config: config.path,
                    selected: 0,
                });
            }
            KeyCode::Char('a') => return vec![Action::Act(Deed::Queue(config.path))],
            KeyCode::Char('e') => return vec![Action::Edit(config.path)],
            _ => {}
        }
        Vec::new()
    }

    fn queue_key(&mut self, code: KeyCode) -> Vec<Action> {
        let act = |deed| vec![Action::Act(deed)];
        match code {
            KeyCode::Char('g') => return act(Deed::StartQueue),
            KeyCode::Char('X') => return act(Deed::ClearQueue),
            KeyCode::Char('S') => {
                self.dialog = Some(Dialog::StopQueue { selected: 0 });
                return Vec::new();
            }
            _ => {}
        }
        let Some(entry) = self.entry().cloned() else {
            return Vec::new();
        };
        match code {
            KeyCode::Enter if entry.state != QueueState::Waiting => {
                vec![Action::Leave(HomeLeave::Attach(entry.run_dir))]
            }
            KeyCode::Char('K' | '<') => act(Deed::Shift {
                entry: entry.id,
                earlier: true,
            }),
            KeyCode::Char('J' | '>') => act(Deed::Shift {
                entry: entry.id,
                earlier: false,
            }),
            KeyCode::Char('x') | KeyCode::Delete => act(Deed::Skip(entry.id)),
            KeyCode::Char('r') => act(Deed::Again(entry.id)),
            KeyCode::Char('e') => vec![Action::Edit(entry.config)],
            _ => Vec::new(),
        }
    }

    fn dialog_key(&mut self, dialog: Dialog, key: KeyEvent) -> Vec<Action> {
        let next = |selected: usize, last: usize| match key.code {
            KeyCode::Up | KeyCode::BackTab | KeyCode::Char('k') => Some(selected.saturating_sub(1)),
            KeyCode::Down | KeyCode::Tab | KeyCode::Char('j') => Some((selected + 1).min(last)),
            _ => None,
        };
        match dialog {
            Dialog::Help => Vec::new(),
            Dialog::Filter { before } => {
                match key.code {
                    KeyCode::Esc => self.filter = before,
                    KeyCode::Enter => {}
                    _ => {
                        edit(&mut self.filter, key);
                        self.dialog = Some(Dialog::Filter { before });
                    }
                }
                Vec::new()
            }
            Dialog::Delete(run) => match key.code {
                // A plain Enter must not delete.
                KeyCode::Char('y' | 'Y') => vec![Action::Act(Deed::Delete(run.folder))],
                KeyCode::Esc | KeyCode::Enter | KeyCode::Char('n' | 'N' | 'q') => Vec::new(),
                _ => {
                    self.dialog = Some(Dialog::Delete(run));
                    Vec::new()
                }
            },
            Dialog::Start { config, selected } => {
                let chosen = match key.code {
                    KeyCode::Enter => selected,
                    KeyCode::Char('s') => 0,
                    KeyCode::Char('a') => 1,
                    KeyCode::Esc | KeyCode::Char('n' | 'q') => 2,
                    _ => {
                        let selected = next(selected, 2).unwrap_or(selected);
                        self.dialog = Some(Dialog::Start { config, selected });
                        return Vec::new();
                    }
                };
                match chosen {
                    0 => vec![Action::Act(Deed::Start(config))],
                    1 => vec![Action::Act(Deed::Queue(config))],
                    _ => Vec::new(),
                }
            }
            Dialog::StopQueue { selected } => {
                let chosen = match key.code {
                    KeyCode::Enter => selected,
                    KeyCode::Char('s') => 0,
                    KeyCode::Char('a') => 1,
                    KeyCode::Esc | KeyCode::Char('n' | 'q') => 2,
                    _ => {
                        let selected = next(selected, 2).unwrap_or(selected);
                        self.dialog = Some(Dialog::StopQueue { selected });
                        return Vec::new();
                    }
                };
                match chosen {
                    0 => vec![Action::Act(Deed::StopQueue { now: true })],
                    1 => vec![Action::Act(Deed::StopQueue { now: false })],
                    _ => Vec::new(),
                }
            }
        }
    }
}

/// Takes a key at the end of a line that is typed.
pub(super) fn edit(text: &mut String, key: KeyEvent) {
    let mut line = LineEdit::new(text);
    line.key(key);
    *text = line.text().to_owned();
}
