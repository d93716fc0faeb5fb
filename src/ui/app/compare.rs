//! Other runs in the loss chart: which there are, which show, and by what they are aligned.

use std::collections::BTreeMap;

use crossterm::event::{KeyCode, KeyEvent};

use super::{Action, App, Overlay};
use crate::protocol::{Query, Reply, RunCurves};
use crate::ui::chart::Align;
use crate::ui::layout::Pane;

/// Runs that show at once beside this one: as many as there are colours.
const MOST: usize = 6;
/// Seconds after which the curves of a run that still goes on are fetched again.
const FRESH: f64 = 10.0;

/// The other runs.
#[derive(Debug, Default)]
pub struct Others {
    /// Names of the runs beside this one, newest first, once known.
    pub names: Option<Vec<String>>,
    /// The chosen ones, with their curves once fetched.
    pub chosen: BTreeMap<String, Option<Fetched>>,
    pub align: Align,
}

/// Curves, and when they were fetched.
#[derive(Debug)]
pub struct Fetched {
    pub curves: RunCurves,
    at: f64,
}

impl Others {
    /// The curves that are there, by name.
    pub fn curves(&self) -> impl Iterator<Item = &RunCurves> {
        self.chosen.values().flatten().map(|f| &f.curves)
    }

    /// # Errors
    /// What the run says instead of an answer.
    pub(super) fn take(&mut self, reply: Reply, now: f64) -> Result<(), String> {
        match reply {
            Reply::Runs { runs } => self.names = Some(runs),
            Reply::Curves { curves } => {
                if let Some(slot) = self.chosen.get_mut(&curves.run) {
                    *slot = Some(Fetched {
                        curves: *curves,
                        at: now,
                    });
                }
            }
            Reply::Error { message, .. } => {
                self.chosen.retain(|_, fetched| fetched.is_some());
                self.names.get_or_insert_default();
                return Err(message);
            }
            _ => {}
        }
        Ok(())
    }
}

impl App {
    pub(super) fn compare(&mut self) -> Vec<Action> {
        self.view.look_at(Pane::Loss);
        self.overlay = Some(Overlay::Runs { selected: 0 });
        vec![Action::Query(Query::Runs)]
    }

    /// The runs that can be compared with this one.
    pub fn other_runs(&self) -> Vec<&str> {
        let names = self.others.names.iter().flatten().map(String::as_str);
        names.filter(|n| *n != self.state.run).collect()
    }

    pub(super) fn runs_key(&mut self, selected: usize, key: KeyEvent) -> Vec<Action> {
        let names = self.other_runs();
        let last = names.len().saturating_sub(1);
        let name = names.get(selected).map(|n| (*n).to_owned());
        let mut actions = Vec::new();
        let selected = match key.code {
            KeyCode::Esc | KeyCode::Char('q' | 'v') => return actions,
            KeyCode::Down | KeyCode::Tab | KeyCode::Char('j') => (selected + 1).min(last),
            KeyCode::Up | KeyCode::BackTab | KeyCode::Char('k') => selected.saturating_sub(1),
            KeyCode::Char('x') => {
                self.others.align = self.others.align.next();
                selected
            }
            KeyCode::Enter | KeyCode::Char(' ') => {
                actions.extend(name.and_then(|name| self.toggle(name)));
                selected
            }
            _ => selected,
        };
        self.overlay = Some(Overlay::Runs { selected });
        actions
    }

    fn toggle(&mut self, name: String) -> Option<Action> {
        if self.others.chosen.remove(&name).is_some() {
            return None;
        }
        if self.others.chosen.len() >= MOST {
            self.toast(false, self.lang.too_many_runs(MOST));
            return None;
        }
        self.others.chosen.insert(name.clone(), None);
        Some(Action::Query(Query::Curves { run: name }))
    }

    /// Asks again for the curves of runs that go on.
    pub(super) fn refresh_others(&mut self) -> Vec<Action> {
        let now = self.now;
        let old = self.others.chosen.iter_mut().filter_map(|(name, fetched)| {
            let fetched = fetched.as_mut()?;
            let due = !fetched.curves.phase.is_end() && fetched.at + FRESH < now;
            // One question at a time.
            fetched.at = if due { now } else { fetched.at };
            due.then(|| Action::Query(Query::Curves { run: name.clone() }))
        });
        old.collect()
    }
}
