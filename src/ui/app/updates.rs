//! What the link reports: snapshots, events, answers, and the state of the line.

use super::{Action, App, Connection, Pictures, Records};
use crate::protocol::{Event, EventKind, Level, PhaseName, Query, Reply};
use crate::run::link::Update;
use crate::ui::layout::Pane;

impl App {
    pub(super) fn link_update(&mut self, update: Update) -> Vec<Action> {
        match update {
            Update::Connected { readonly, .. } => {
                self.connection = Connection::Live;
                self.heard = self.now;
                self.pictures.try_again();
                if let Some(why) = readonly {
                    self.readonly = Some(why);
                }
            }
            Update::Snapshot(state) => {
                if matches!(self.connection, Connection::Opening) {
                    self.connection = Connection::NoRunner {
                        reason: String::new(),
                    };
                }
                // Answers that came while the connection was down are in the snapshot.
                let (acks, sender) = (&state.acks, &self.sender);
                self.pending
                    .retain(|p| !acks.iter().any(|a| a.id == p.id && a.sender == *sender));
                if state.data != self.state.data {
                    self.records = Records::default();
                }
                self.heard = self.now;
                self.state = *state;
            }
            Update::Event(event) => return self.event(&event),
            Update::Reply { id, reply } => return self.replied(id, reply),
            Update::RunnerStarted { result, .. } => match result {
                Ok(()) => self.toast(true, self.lang.runner_starts().into()),
                Err(why) => self.toast(false, self.lang.no_runner_started(why)),
            },
            Update::Dropped(count) => self.dropped += count,
            Update::LineLost { reason } => {
                for p in std::mem::take(&mut self.pending) {
                    self.toast(false, self.lang.line_was_lost(p.word));
                }
                self.connection = Connection::LineLost { reason };
            }
            Update::Before => {
                self.connection = Connection::Before;
                self.view.look_at(Pane::Data);
                self.view.maximised = true;
            }
            Update::Replay { speed } => self.connection = Connection::Replay { speed },
            Update::Disconnected { reason } if self.connection == Connection::Before => {
                self.toast(false, reason);
            }
            Update::Disconnected { reason } => {
                for p in std::mem::take(&mut self.pending) {
                    self.toast(false, self.lang.runner_is_gone(p.word));
                }
                let had = self.connection == Connection::Live;
                self.connection = if had && !self.state.phase.is_end() {
                    Connection::Lost {
                        since: self.now,
                        reason,
                    }
                } else {
                    Connection::NoRunner { reason }
                };
            }
        }
        Vec::new()
    }

    fn replied(&mut self, id: u64, reply: Reply) -> Vec<Action> {
        if let Some(at) = self.pending.iter().position(|p| p.id == id) {
            match reply {
                Reply::Error { message, level } => {
                    let word = self.pending.remove(at).word;
                    self.toast(level == Level::Info, format!("{word}: {message}"));
                }
                Reply::Done { message } => {
                    let word = self.pending.remove(at).word;
                    self.toast(true, format!("{word}: {message}"));
                    self.records.outdated();
                }
                _ => {}
            }
            return Vec::new();
        }
        match self.asked.remove(&id) {
            Some(Query::Runs | Query::Curves { .. }) => {
                if let Err(why) = self.others.take(reply, self.now) {
                    self.toast(false, why);
                }
                Vec::new()
            }
            Some(Query::QueuePlace) => {
                // An older runner knows no queue.
                self.queued.take(match reply {
                    Reply::QueuePlace { place } => place,
                    _ => None,
                });
                Vec::new()
            }
            Some(query) => self.config_reply(query, reply),
            None => {
                if !self.pictures.replied(id, &reply) {
                    self.records.replied(id, reply);
                }
                Vec::new()
            }
        }
    }

    fn event(&mut self, event: &Event) -> Vec<Action> {
        if event.seq <= self.state.seq {
            return Vec::new();
        }
        self.heard = self.now;
        if let EventKind::Sample { samples, .. } = &event.kind {
            for file in samples.iter().filter_map(|s| s.image.as_deref()) {
                self.pictures.outdated(file);
            }
        }
        match &event.kind {
            EventKind::Ack {
                id,
                sender,
                command,
                ok,
                message,
            } => {
                let mine = *sender == self.sender;
                if mine {
                    self.pending.retain(|p| p.id != *id);
                }
                let who = if mine {
                    String::new()
                } else {
                    format!(" ({sender})")
                };
                self.toast(*ok, format!("{command}: {message}{who}"));
                if self.has_images() {
                    self.records.outdated();
                }
            }
            EventKind::Data { .. } => {
                self.records = Records::default();
                self.pictures = Pictures::default();
            }
            EventKind::Hardware { .. } => self.readings += 1,
            EventKind::ConfigChanged { source, errors, .. } if !errors.is_empty() => {
                self.toast(false, self.lang.old_values_stay(source, &errors[0]));
            }
            EventKind::ConfigChanged {
                source, changes, ..
            } => {
                if let Some(change) = changes.first() {
                    let when = match change.applies.as_str() {
                        "live" => self.lang.change_now(),
                        "checkpoint" => self.lang.change_checkpoint(),
                        _ => self.lang.change_restart(),
                    };
                    let (key, new) = (&change.key, &change.new);
                    let sentence = match changes.len() {
                        1 => self.lang.key_changed(source, key, new, when),
                        n => self.lang.keys_changed(source, key, new, n - 1, when),
                    };
                    self.toast(change.applies != "restart", sentence);
                    self.show_changes(source, changes);
                }
            }
            EventKind::Phase {
                phase: PhaseName::Failed,
                error: Some(error),
                ..
            } => self.toast(false, error.clone()),
            _ => {}
        }
        let known = self.state.alerts.active().len();
        self.state.apply(event);
        let raised = self.state.alerts.active().len() > known;
        let ended = match &event.kind {
            EventKind::Phase { phase, .. } => phase.is_end(),
            EventKind::Finished { .. } => true,
            _ => false,
        };
        match self.bell && (raised || ended) {
            true => vec![Action::Bell],
            false => Vec::new(),
        }
    }
}
