//! What each action of the key table does.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};

use super::{Action, App, Asked, Connection, NO_AVERAGE, Overlay, SMOOTHEST};
use crate::protocol::{Command, PhaseName};
use crate::ui::chart::Window;
use crate::ui::keymap::Act;
use crate::ui::layout::{Pane, neighbour};
use crate::ui::line::LineEdit;
use crate::ui::panes;
use crate::ui::text;

/// Lines a turn of the mouse wheel scrolls.
const WHEEL: i64 = 3;

impl App {
    /// Does what a key or the palette asks for.
    pub fn perform(&mut self, act: Act) -> Vec<Action> {
        match act {
            Act::Pause => return self.pause_or_resume(),
            Act::Checkpoint => return self.command(Command::Checkpoint),
            Act::Export => return self.command(Command::Export),
            Act::Sample => return self.command(Command::Sample { prompt: None }),
            Act::SamplePrompt => match self.refusal() {
                Some(why) => self.toast(false, why),
                None => {
                    self.overlay = Some(Overlay::Prompt {
                        line: LineEdit::default(),
                    });
                }
            },
            Act::Eval => return self.command(Command::Eval),
            Act::EditValue if self.focus() == Pane::Data && self.has_images() => {
                self.edit_caption();
            }
            Act::EditValue => self.edit_value(),
            Act::EditFile => return self.edit_file(),
            Act::Exclude => return self.exclude_image(),
            Act::Replace => self.edit_captions(Asked::Find),
            Act::RemoveTag => self.edit_captions(Asked::RemoveTag),
            Act::Undo => return self.undo_caption(),
            Act::Remedy => self.try_remedy(),
            Act::Compare => return self.compare(),
            Act::Align if self.others.chosen.is_empty() => {
                let key = self.keymap.label(Act::Compare);
                self.toast(false, self.lang.nothing_compared(key));
            }
            Act::Align => self.others.align = self.others.align.next(),
            Act::Yank => return self.yank(),
            Act::Bell => {
                self.bell = !self.bell;
                let sentence = match self.bell {
                    true => self.lang.bell_on(),
                    false => self.lang.bell_off(),
                };
                self.toast(true, sentence.into());
                return if self.bell {
                    vec![Action::Bell]
                } else {
                    Vec::new()
                };
            }
            Act::PanLeft => self.pan(-1),
            Act::PanRight => self.pan(1),
            Act::Smoother => self.view.smoothing = (self.view.smoothing + 1).min(SMOOTHEST),
            Act::Rougher => self.view.smoothing = (self.view.smoothing - 1).max(NO_AVERAGE),
            Act::Stop => {
                if let Some(why) = self.refusal() {
                    self.toast(false, why);
                } else {
                    self.overlay = Some(Overlay::Stop { selected: 0 });
                }
            }
            Act::Detach => return vec![Action::Leave],
            Act::Runs => {
                self.to_home = true;
                return vec![Action::Leave];
            }
            Act::Show(pane) => self.view.look_at(pane),
            Act::NextPane => self.cycle(1),
            Act::PreviousPane => self.cycle(Pane::ALL.len() - 1),
            Act::Up => self.vertical(-1),
            Act::Down => self.vertical(1),
            Act::Left => self.horizontal(-1),
            Act::Right => self.horizontal(1),
            Act::PageUp => self.turn(-self.page()),
            Act::PageDown => self.turn(self.page()),
            Act::First => self.jump(true),
            Act::Last => self.jump(false),
            Act::Maximise => self.view.maximised = !self.view.maximised,
            Act::Back => self.back(),
            Act::Filter => {
                if !matches!(self.focus(), Pane::Config | Pane::Log) {
                    self.view.look_at(Pane::Log);
                }
                let pane = self.focus();
                self.overlay = Some(Overlay::Filter {
                    pane,
                    before: self.view.filter(pane).to_owned(),
                    line: LineEdit::new(self.view.filter(pane)),
                });
            }
            Act::ZoomIn => {
                let deepest = Window::deepest_zoom(self.state.last.step, self.state.total_steps);
                self.view.zoom = (self.view.zoom + 1).min(deepest);
            }
            Act::ZoomOut => self.view.zoom = self.view.zoom.saturating_sub(1),
            Act::ZoomWhole => {
                self.view.zoom = 0;
                self.view.crosshair = None;
                self.view.pan = None;
            }
            Act::LogScale => {
                if self.focus() == Pane::Rate {
                    self.view.log_norm = !self.view.log_norm;
                } else {
                    self.view.log_loss = !self.view.log_loss;
                }
            }
            Act::CrosshairLeft => self.move_crosshair(-1),
            Act::CrosshairRight => self.move_crosshair(1),
            Act::Help => self.overlay = Some(Overlay::Help { scroll: 0 }),
            Act::Palette => {
                self.overlay = Some(Overlay::Palette {
                    line: LineEdit::default(),
                    selected: 0,
                })
            }
            Act::Theme => {
                self.overlay = Some(Overlay::Themes {
                    before: self.themes.chosen(),
                });
                return self.try_theme(1);
            }
            Act::Mouse => {
                self.mouse = !self.mouse;
                self.toast(
                    true,
                    if self.mouse {
                        self.lang.mouse_on().into()
                    } else {
                        self.lang.mouse_off().into()
                    },
                );
                return vec![Action::Mouse(self.mouse)];
            }
            Act::Redraw => return vec![Action::Redraw],
            Act::Suspend => return vec![Action::Suspend],
        }
        Vec::new()
    }

    /// Why a command cannot be sent now.
    pub(super) fn refusal(&self) -> Option<String> {
        let lang = self.lang;
        if let Some(why) = &self.readonly {
            return Some(lang.readonly_because(why));
        }
        match &self.connection {
            Connection::Live => None,
            Connection::Opening => Some(lang.not_connected().into()),
            Connection::Lost { .. } => Some(lang.runner_silent().into()),
            Connection::LineLost { .. } => Some(lang.line_is_down().into()),
            Connection::Replay { .. } => None,
            Connection::Before => Some(lang.run_not_begun_yet().into()),
            Connection::NoRunner { .. } if self.state.phase == PhaseName::Done => {
                Some(lang.run_finished().into())
            }
            Connection::NoRunner { .. } => Some(lang.no_runner_alive().into()),
        }
    }

    pub(super) fn command(&mut self, command: Command) -> Vec<Action> {
        if let Some(why) = self.refusal() {
            self.toast(false, why);
            return Vec::new();
        }
        vec![Action::Command(command)]
    }

    fn pause_or_resume(&mut self) -> Vec<Action> {
        let phase = self.state.phase;
        if self.readonly.is_none() && (phase.is_end() || self.runner_gone()) {
            if phase == PhaseName::Done {
                self.toast(false, self.lang.run_finished_more().into());
            } else {
                self.overlay = Some(Overlay::StartRunner);
            }
            return Vec::new();
        }
        self.command(match phase {
            PhaseName::Pausing | PhaseName::Paused => Command::Resume,
            _ => Command::Pause,
        })
    }

    fn cycle(&mut self, by: usize) {
        let at = self.focus() as usize;
        self.view.look_at(Pane::ALL[(at + by) % Pane::ALL.len()]);
    }

    fn vertical(&mut self, direction: i64) {
        let focus = self.focus();
        if focus == Pane::Config && self.select_value(direction) {
            return;
        }
        let scrolls = panes::extent(self, focus).is_some_and(|(lines, rows)| lines > rows);
        if scrolls || self.view.maximised {
            self.scroll_by(focus, direction);
        } else {
            self.move_focus((0, direction as i32));
        }
    }

    fn horizontal(&mut self, direction: i64) {
        match self.focus() {
            Pane::Samples => self.browse_samples(direction),
            Pane::Data => {
                let last = self
                    .records
                    .total
                    .map_or(usize::MAX, |t| t.saturating_sub(1));
                self.view.record = self
                    .view
                    .record
                    .saturating_add_signed(direction as isize)
                    .min(last);
                self.view.scroll[Pane::Data as usize] = 0;
            }
            Pane::Loss | Pane::Rate if self.view.maximised => self.move_crosshair(direction),
            _ => self.move_focus((direction as i32, 0)),
        }
    }

    fn move_focus(&mut self, direction: (i32, i32)) {
        let next = self
            .arrangement()
            .and_then(|a| neighbour(&a, self.focus(), direction));
        if let Some(pane) = next {
            self.view.look_at(pane);
        }
    }

    fn browse_samples(&mut self, direction: i64) {
        let steps = self.sample_steps();
        let Some(last) = steps.len().checked_sub(1) else {
            return;
        };
        let at = self
            .view
            .sample_step
            .and_then(|step| steps.iter().position(|s| *s == step))
            .unwrap_or(last);
        let next = at.saturating_add_signed(direction as isize).min(last);
        self.view.sample_step = (next < last).then(|| steps[next]);
        self.view.scroll[Pane::Samples as usize] = 0;
    }

    /// Steps that have samples, in order.
    pub fn sample_steps(&self) -> Vec<u64> {
        let mut steps: Vec<u64> = self.state.samples.iter().map(|s| s.step).collect();
        steps.dedup();
        steps
    }

    /// Moves by one dot of the chart, at least one step.
    fn move_crosshair(&mut self, direction: i64) {
        let last = self.state.last.step;
        if last == 0 {
            return;
        }
        let window = panes::loss::window(self);
        let columns = self
            .arrangement()
            .and_then(|a| {
                let slot = a.slot_of(self.focus()).or_else(|| a.slot_of(Pane::Loss));
                slot.map(|s| s.inner().width)
            })
            .unwrap_or(80);
        let stride = (window.span() / f64::from(columns.max(1))).round().max(1.0) as i64;
        let at = match self.view.crosshair {
            Some(at) => at.saturating_add_signed(direction * stride),
            None => last,
        };
        let at = at.clamp(1, last);
        if window.column(at as f64, 1).is_none() {
            self.view.pan = None;
        }
        self.view.crosshair = Some(at);
    }

    fn page(&self) -> i64 {
        panes::extent(self, self.focus()).map_or(1, |(_, rows)| rows.saturating_sub(1).max(1))
            as i64
    }

    fn turn(&mut self, lines: i64) {
        match self.focus() {
            Pane::Config => {
                let _ = self.select_value(lines);
            }
            pane => self.scroll_by(pane, lines),
        }
    }

    /// Moves the charts' window by a quarter of what it shows; in the samples, the left side.
    fn pan(&mut self, direction: i64) {
        if self.focus() == Pane::Samples {
            return self.browse_against(direction);
        }
        if self.view.zoom == 0 {
            self.view.zoom = 1;
        }
        let (step, total) = (self.state.last.step, self.state.total_steps);
        let now = panes::loss::window(self);
        let newest = Window::new(step, total, self.view.zoom, None);
        let last = (now.last + direction as f64 * now.span() / 4.0).max(now.span());
        self.view.pan = (last < newest.last).then_some(last);
        self.view.crosshair = self
            .view
            .crosshair
            .filter(|at| panes::loss::window(self).column(*at as f64, 1).is_some());
    }

    /// Before the first step that has samples stands the bare base.
    fn browse_against(&mut self, direction: i64) {
        let steps = self.sample_steps();
        let at = self
            .view
            .sample_against
            .and_then(|step| steps.iter().position(|s| *s == step))
            .map_or(0, |at| at + 1);
        let next = at
            .saturating_add_signed(direction as isize)
            .min(steps.len());
        self.view.sample_against = next.checked_sub(1).map(|at| steps[at]);
        self.view.scroll[Pane::Samples as usize] = 0;
    }

    /// Down is positive; the log's scroll counts from its end.
    fn scroll_by(&mut self, pane: Pane, lines: i64) {
        let lines = if pane == Pane::Log { -lines } else { lines };
        let scroll = &mut self.view.scroll[pane as usize];
        *scroll = scroll.saturating_add_signed(lines as isize);
    }

    fn jump(&mut self, first: bool) {
        let pane = self.focus();
        match pane {
            Pane::Samples => {
                self.view.sample_step = first
                    .then(|| self.sample_steps().first().copied())
                    .flatten();
            }
            Pane::Data => {
                self.view.record = match self.records.total {
                    Some(total) if !first => total.saturating_sub(1),
                    _ => 0,
                };
            }
            Pane::Config => {
                let _ = self.select_value(if first { -1_000_000 } else { 1_000_000 });
            }
            Pane::Loss | Pane::Rate if self.state.last.step > 0 => {
                self.view.crosshair = Some(if first { 1 } else { self.state.last.step });
            }
            _ => {
                let beginning = first != (pane == Pane::Log);
                self.view.scroll[pane as usize] = if beginning { 0 } else { usize::MAX };
            }
        }
    }

    /// Keeps every pane's scroll within what it has.
    pub(super) fn clamp_scroll(&mut self) {
        for pane in Pane::ALL {
            if self.view.scroll(pane) == 0 {
                continue;
            }
            let most =
                panes::extent(self, pane).map_or(0, |(lines, rows)| lines.saturating_sub(rows));
            let scroll = &mut self.view.scroll[pane as usize];
            *scroll = (*scroll).min(most);
        }
    }

    fn back(&mut self) {
        let focus = self.focus();
        if !self.view.filter(focus).is_empty() {
            self.view.filters[focus as usize].clear();
        } else if self.view.crosshair.is_some() {
            self.view.crosshair = None;
        } else if self.view.pan.is_some() {
            self.view.pan = None;
        } else if self.view.maximised {
            self.view.maximised = false;
        } else {
            self.toasts.clear();
        }
    }

    pub(super) fn mouse_event(&mut self, event: MouseEvent) {
        if self.overlay.is_some() {
            return;
        }
        let Some(arrangement) = self.arrangement() else {
            return;
        };
        let Some(slot) = arrangement.slot_at(event.column, event.row) else {
            return;
        };
        match event.kind {
            MouseEventKind::ScrollUp => self.scroll_by(slot.active, -WHEEL),
            MouseEventKind::ScrollDown => self.scroll_by(slot.active, WHEEL),
            MouseEventKind::Down(MouseButton::Left) => {
                let tab = slot.tabs(self.lang).into_iter().find(|(_, x, label)| {
                    event.row == slot.area.y
                        && (*x..*x + text::width(label) as u16).contains(&event.column)
                });
                self.view
                    .look_at(tab.map_or(slot.active, |(pane, _, _)| pane));
            }
            _ => {}
        }
    }
}
