//! Records of the data, fetched when they are looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, App};
use crate::protocol::{Query, RecordPreview, Reply};
use crate::ui::layout::Pane;
use crate::ui::panes;

/// Records asked for at once.
const PAGE: usize = 8;
/// Pages kept.
const PAGES: usize = 64;

/// What has been fetched, and what is on its way.
#[derive(Debug, Default)]
pub struct Records {
    pages: BTreeMap<usize, Vec<RecordPreview>>,
    /// Query id -> page.
    asked: BTreeMap<u64, usize>,
    wanted: BTreeSet<usize>,
    /// Records in all, once known.
    pub total: Option<usize>,
    /// Why there are none.
    pub error: Option<String>,
}

impl Records {
    pub fn get(&self, index: usize) -> Option<&RecordPreview> {
        self.pages.get(&(index / PAGE))?.get(index % PAGE)
    }

    /// What is there may have changed: it shows until the next answer.
    pub(super) fn outdated(&mut self) {
        self.wanted.clear();
    }

    pub(super) fn asked(&mut self, id: u64, from: usize) {
        self.asked.insert(id, from / PAGE);
    }

    pub(super) fn replied(&mut self, id: u64, reply: Reply) {
        let Some(page) = self.asked.remove(&id) else {
            return;
        };
        match reply {
            Reply::Records { total, records, .. } => {
                self.total = Some(total);
                self.error = None;
                if self.pages.len() >= PAGES {
                    self.pages.clear();
                    self.wanted.clear();
                }
                self.pages.insert(page, records);
            }
            Reply::Error { message, .. } => self.error = Some(message),
            _ => {}
        }
    }
}

impl App {
    /// The page of records the data pane shows and does not have.
    pub(super) fn wanted_records(&mut self) -> Option<Action> {
        let shows = self
            .arrangement()?
            .slot_of(Pane::Data)
            .is_some_and(|slot| panes::data::shows_records(slot.inner()));
        let page = self.view.record / PAGE;
        let beyond = self.records.total.is_some_and(|t| page * PAGE >= t);
        if !shows || beyond || self.state.data.is_none() || !self.records.wanted.insert(page) {
            return None;
        }
        Some(Action::Query(Query::Records {
            from: page * PAGE,
            count: PAGE,
        }))
    }
}
