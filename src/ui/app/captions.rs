//! Editing the captions of images by hand.

use crossterm::event::{KeyCode, KeyEvent};

use super::{Action, App, Connection, Overlay};
use crate::protocol::{Command, DataEdit, ImagePreview};
use crate::ui::layout::Pane;
use crate::ui::line::LineEdit;

/// What is typed.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    Caption { file: String },
    Find,
    ReplaceBy { find: String },
    RemoveTag,
}

impl App {
    /// Whether the data is of images.
    pub fn has_images(&self) -> bool {
        self.state.data.as_ref().is_some_and(|d| d.images.is_some())
    }

    /// The image that the data pane shows, with its file's name.
    fn image(&self) -> Option<(&str, &ImagePreview)> {
        let record = self.records.get(self.view.record)?;
        Some((&record.origin, record.image.as_ref()?))
    }

    /// Whether captions can be edited; says why not. Needs no runner: the link writes files itself.
    fn captions_open(&mut self) -> bool {
        let lang = self.lang;
        let why = match (&self.readonly, &self.connection) {
            _ if !self.has_images() => lang.no_captions_here().to_owned(),
            (Some(why), _) => lang.readonly_because(why),
            (None, Connection::Live | Connection::Before | Connection::NoRunner { .. }) => {
                return true;
            }
            _ => match self.refusal() {
                Some(why) => why,
                None => return true,
            },
        };
        self.toast(false, why);
        false
    }

    fn edit_data(&self, edit: DataEdit) -> Vec<Action> {
        vec![Action::Command(Command::EditData { edit })]
    }

    /// Opens the caption of the image that shows.
    pub(super) fn edit_caption(&mut self) {
        if !self.captions_open() {
            return;
        }
        let Some((file, image)) = self.image() else {
            return;
        };
        self.overlay = Some(Overlay::Ask {
            asked: Asked::Caption {
                file: file.to_owned(),
            },
            line: LineEdit::new(&image.caption),
        });
    }

    /// Opens what is asked for all captions.
    pub(super) fn edit_captions(&mut self, asked: Asked) {
        if self.captions_open() {
            self.view.look_at(Pane::Data);
            self.overlay = Some(Overlay::Ask {
                asked,
                line: LineEdit::default(),
            });
        }
    }

    pub(super) fn exclude_image(&mut self) -> Vec<Action> {
        if self.focus() != Pane::Data {
            self.view.look_at(Pane::Data);
            return Vec::new();
        }
        if !self.captions_open() {
            return Vec::new();
        }
        match self.image() {
            Some((file, image)) => self.edit_data(DataEdit::Exclude {
                file: file.to_owned(),
                excluded: !image.excluded,
            }),
            None => Vec::new(),
        }
    }

    pub(super) fn undo_caption(&mut self) -> Vec<Action> {
        match self.captions_open() {
            true => self.edit_data(DataEdit::Undo),
            false => Vec::new(),
        }
    }

    /// A key for a line that is typed about captions.
    pub(super) fn ask_key(
        &mut self,
        asked: Asked,
        mut line: LineEdit,
        key: KeyEvent,
    ) -> Vec<Action> {
        match key.code {
            KeyCode::Esc => return Vec::new(),
            KeyCode::Enter => {
                let text = line.text().to_owned();
                let edit = match asked {
                    Asked::Caption { file } => DataEdit::Caption {
                        file,
                        caption: text,
                    },
                    Asked::Find | Asked::RemoveTag if text.is_empty() => return Vec::new(),
                    Asked::Find => {
                        self.overlay = Some(Overlay::Ask {
                            asked: Asked::ReplaceBy { find: text },
                            line: LineEdit::default(),
                        });
                        return Vec::new();
                    }
                    Asked::ReplaceBy { find } => DataEdit::Replace {
                        find,
                        replace: text,
                    },
                    Asked::RemoveTag => DataEdit::RemoveTag { tag: text },
                };
                return self.edit_data(edit);
            }
            _ => drop(line.key(key)),
        }
        self.overlay = Some(Overlay::Ask { asked, line });
        Vec::new()
    }
}
