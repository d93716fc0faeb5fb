//! Pictures that panes show, fetched when they are looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, App};
use crate::protocol::{PictureSource, Query, Reply};
use crate::ui::panes;
use crate::ui::picture::Picture;

/// Pictures kept.
const KEPT: usize = 256;

/// A picture in the size in which it is shown.
pub type Wanted = (PictureSource, (u16, u16));

/// What has been fetched, and what is on its way.
#[derive(Debug, Default)]
pub struct Pictures {
    /// With why there is none.
    there: BTreeMap<Wanted, Result<Picture, String>>,
    /// Query id -> picture.
    asked: BTreeMap<u64, Wanted>,
    wanted: BTreeSet<Wanted>,
}

impl Pictures {
    /// A picture fetched in this size (pixels); `None`: it is on its way.
    pub fn get(&self, source: &PictureSource, size: (u16, u16)) -> Option<Result<&Picture, &str>> {
        let there = self.there.get(&(source.clone(), size))?;
        Some(there.as_ref().map_err(String::as_str))
    }

    /// Forgets a sample's picture: its file was written anew.
    pub(super) fn outdated(&mut self, file: &str) {
        let other = |(source, _): &Wanted| !matches!(source, PictureSource::Sample { file: f } if f == file);
        self.there.retain(|wanted, _| other(wanted));
        self.asked.retain(|_, wanted| other(wanted));
        self.wanted.retain(other);
    }

    /// Forgets what could not be had, and what was asked of a runner that is gone.
    pub(super) fn try_again(&mut self) {
        self.there.retain(|_, picture| picture.is_ok());
        self.wanted = self.there.keys().cloned().collect();
    }

    pub(super) fn asked(&mut self, id: u64, wanted: Wanted) {
        self.asked.insert(id, wanted);
    }

    /// Takes an answer; false where it is to another question.
    pub(super) fn replied(&mut self, id: u64, reply: &Reply) -> bool {
        let Some(wanted) = self.asked.remove(&id) else {
            return false;
        };
        let picture = match reply {
            Reply::Picture { width, height, rgb } => {
                Picture::decode(*width, *height, rgb).ok_or_else(String::new)
            }
            Reply::Error { message, .. } => Err(message.clone()),
            _ => Err(String::new()),
        };
        if self.there.len() >= KEPT {
            self.there.clear();
            self.wanted = self.asked.values().cloned().collect();
        }
        self.there.insert(wanted, picture);
        true
    }
}

impl App {
    /// The pictures that show and are not there.
    pub(super) fn wanted_pictures(&mut self) -> Vec<Action> {
        panes::pictures(self)
            .into_iter()
            .filter(|wanted| !self.pictures.there.contains_key(wanted))
            .filter(|wanted| self.pictures.wanted.insert(wanted.clone()))
            .map(|(source, (width, height))| {
                Action::Query(Query::Picture {
                    source,
                    width,
                    height,
                })
            })
            .collect()
    }
}
