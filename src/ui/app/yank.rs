//! What `yank` copies: what the pane with the focus is about.

use super::{Action, App};
use crate::ui::layout::Pane;
use crate::ui::panes;
use crate::ui::text;

impl App {
    pub(super) fn yank(&mut self) -> Vec<Action> {
        let text = self.yanked();
        if text.trim().is_empty() {
            self.toast(false, self.lang.nothing_to_copy().into());
            return Vec::new();
        }
        vec![Action::Yank(text)]
    }

    fn yanked(&self) -> String {
        match self.focus() {
            Pane::Config => panes::config::shown(self)
                .get(self.view.value)
                .map_or_else(String::new, |e| format!("{}: {}", e.key, e.value)),
            Pane::Data => self
                .records
                .get(self.view.record)
                .map_or_else(String::new, |record| {
                    let texts: Vec<&str> =
                        record.segments.iter().map(|s| s.text.as_str()).collect();
                    texts.concat()
                }),
            Pane::Samples => {
                let Some(step) = panes::samples::step(self) else {
                    return String::new();
                };
                let samples = self.state.samples.iter().filter(|s| s.step == step);
                let texts: Vec<String> = samples
                    .map(|s| {
                        let made = match &s.sample.image {
                            Some(file) => format!("{}/samples/{file}", self.state.run_dir),
                            None => s.sample.text.trim_end().to_owned(),
                        };
                        format!("> {}\n\n{made}\n", s.sample.prompt)
                    })
                    .collect();
                texts.join("\n")
            }
            Pane::Checkpoints => {
                let state = &self.state;
                let saved = state.checkpoints.iter().map(|c| c.path.as_str());
                let paths: Vec<&str> = saved
                    .chain(state.exports.iter().map(|e| e.path.as_str()))
                    .collect();
                paths.join("\n")
            }
            Pane::Loss | Pane::Rate => {
                let state = &self.state;
                format!(
                    "{} step {} loss {}",
                    state.run_dir,
                    state.last.step,
                    text::number(state.last.loss.0)
                )
            }
            Pane::Gpu | Pane::Host | Pane::Log => panes::plain(self, self.focus()),
        }
    }
}
