//! The deck's state and its only way to change: `update` takes a message and says what is to be
//! done. It reads no clock, no file, no terminal.

mod act;
mod captions;
mod compare;
mod edit;
mod overlay;
mod pictures;
mod queue;
mod records;
mod updates;
mod view;
mod yank;

use std::collections::BTreeMap;

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

pub use captions::Asked;
pub use compare::Others;
pub use overlay::{Overlay, STOP_CHOICES};
pub use pictures::{Pictures, Wanted};
pub use queue::Queued;
pub use records::Records;
pub use view::{NO_AVERAGE, SMOOTHEST, View};

use super::keymap::Keymap;
use super::lang::Lang;
use super::layout::{Arrangement, Pane, arrange};
use super::theme::{Catalogue, Theme};
use crate::protocol::{Command, PhaseName, Query, RunState};
use crate::run::link::Update;

/// How long a toast stays, in seconds.
const TOAST: f64 = 5.0;
const TOAST_TROUBLE: f64 = 10.0;
/// Toasts shown at once.
const TOASTS: usize = 4;
/// A command without an answer for so long is given up on.
const PATIENCE: f64 = 30.0;
/// So long a lost runner is looked for before the deck says that there is none.
const RECONNECTING: f64 = 5.0;

/// What reaches the deck.
#[derive(Debug)]
pub enum Msg {
    Input(Input),
    Update(Update),
    /// A command went out under this id.
    Sent {
        id: u64,
        command: Command,
    },
    /// A query went out under this id.
    Asked {
        id: u64,
        query: Query,
    },
    /// The editor was left: the text, or why there is none.
    Edited(Result<String, String>),
    /// So many bytes were copied, or why none were.
    Yanked(Result<usize, String>),
    /// A theme's file has changed.
    Themes(Box<Catalogue>),
    /// Time has passed.
    Tick,
    /// The deck goes on after it was stopped.
    Continued,
    /// The terminal is gone, or a signal asks the deck to end.
    End,
}

/// What the event loop is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Command(Command),
    Query(Query),
    StartRunner,
    /// Open a text in the person's editor, under this file name.
    Edit {
        name: String,
        text: String,
    },
    /// Copy a text to the clipboard.
    Yank(String),
    Bell,
    /// Switch the terminal's mouse reports.
    Mouse(bool),
    /// Forget what the terminal shows and draw everything.
    Redraw,
    Suspend,
    /// Set the terminal up again: it may have been changed meanwhile.
    Retake,
    Leave,
}

/// The way to the runner.
#[derive(Clone, Debug, PartialEq)]
pub enum Connection {
    /// Nothing has been heard yet.
    Opening,
    Live,
    /// It was there, and is looked for.
    Lost {
        since: f64,
        reason: String,
    },
    /// The line to the run's machine is down, and is being set up again.
    LineLost {
        reason: String,
    },
    /// No run has begun: its data is looked through.
    Before,
    /// The run is played once more from its log.
    Replay {
        speed: f64,
    },
    /// The run is read from its folder.
    NoRunner {
        reason: String,
    },
}

/// A line that shows for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Toast {
    pub text: String,
    pub good: bool,
    until: f64,
}

/// A command on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    id: u64,
    pub word: String,
    since: f64,
}

/// Everything the deck knows.
#[derive(Debug)]
pub struct App {
    pub state: RunState,
    pub connection: Connection,
    /// Why no command is possible.
    pub readonly: Option<String>,
    /// Name of this deck in acknowledgements.
    pub sender: String,
    /// Metric events this deck missed.
    pub dropped: u64,
    /// Seconds since the Unix epoch, of this machine, at the last message.
    pub now: f64,
    /// When the last event came in, by this machine's clock.
    pub heard: f64,
    /// Readings of the machine seen so far: history lines are laid out by it.
    pub readings: u64,
    pub size: (u16, u16),
    pub view: View,
    pub overlay: Option<Overlay>,
    pub toasts: Vec<Toast>,
    pub pending: Vec<Pending>,
    pub records: Records,
    pub pictures: Pictures,
    pub mouse: bool,
    /// Left for home.
    pub to_home: bool,
    /// Whether an alert rings.
    pub bell: bool,
    pub theme: Theme,
    pub lang: Lang,
    pub keymap: Keymap,
    /// Other runs whose curves show in the loss chart.
    pub others: Others,
    pub queued: Queued,
    themes: Catalogue,
    /// Queries on their way, but for records.
    asked: BTreeMap<u64, Query>,
    /// The config file's text as it went to the editor.
    editing: String,
    /// Whether the next change of the config file is this deck's own.
    wrote_config: bool,
}

/// What a deck is opened with.
#[derive(Debug)]
pub struct Setup {
    pub themes: Catalogue,
    pub keymap: Keymap,
    /// Sentences for the first toasts.
    pub problems: Vec<String>,
    /// Name of this deck in acknowledgements.
    pub sender: String,
    pub readonly: bool,
    pub lang: Lang,
    pub bell: bool,
}

impl App {
    pub fn new(size: (u16, u16), now: f64, setup: Setup) -> App {
        let lang = setup.lang;
        let mut app = App {
            state: RunState::default(),
            connection: Connection::Opening,
            readonly: setup.readonly.then(|| lang.opened_readonly().to_owned()),
            sender: setup.sender,
            dropped: 0,
            now,
            heard: now,
            readings: 0,
            size,
            view: View::default(),
            overlay: None,
            toasts: Vec::new(),
            pending: Vec::new(),
            records: Records::default(),
            pictures: Pictures::default(),
            mouse: false,
            to_home: false,
            bell: setup.bell,
            theme: setup.themes.theme(),
            lang,
            keymap: setup.keymap,
            others: Others::default(),
            queued: Queued::default(),
            themes: setup.themes,
            asked: BTreeMap::new(),
            editing: String::new(),
            wrote_config: false,
        };
        for problem in app
            .themes
            .problems
            .clone()
            .into_iter()
            .chain(setup.problems)
        {
            app.toast(false, problem);
        }
        app
    }

    /// Takes one message in at the time `now`.
    pub fn update(&mut self, now: f64, msg: Msg) -> Vec<Action> {
        self.now = now;
        self.toasts.retain(|t| t.until > now);
        let mut actions = match msg {
            Msg::Input(input) => self.input(input),
            Msg::Update(update) => self.link_update(update),
            Msg::Sent { id, command } => {
                self.pending.push(Pending {
                    id,
                    word: command.word(),
                    since: now,
                });
                Vec::new()
            }
            Msg::Asked { id, query } => {
                match query {
                    Query::Records { from, .. } => self.records.asked(id, from),
                    Query::Picture {
                        source,
                        width,
                        height,
                    } => self.pictures.asked(id, (source, (width, height))),
                    query => drop(self.asked.insert(id, query)),
                }
                Vec::new()
            }
            Msg::Edited(edited) => self.edited(edited),
            Msg::Yanked(Ok(bytes)) => {
                self.toast(true, self.lang.copied(bytes));
                Vec::new()
            }
            Msg::Yanked(Err(why)) => {
                self.toast(false, self.lang.not_copied(why));
                Vec::new()
            }
            Msg::Themes(themes) => self.take_themes(*themes),
            Msg::Tick => self.tick(),
            Msg::Continued => vec![Action::Retake],
            Msg::End => vec![Action::Leave],
        };
        self.clamp_scroll();
        actions.extend(self.wanted_records());
        actions.extend(self.wanted_pictures());
        actions
    }

    fn tick(&mut self) -> Vec<Action> {
        let now = self.now;
        let (late, pending) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition::<Vec<_>, _>(|p| p.since + PATIENCE < now);
        self.pending = pending;
        for p in late {
            self.toast(false, self.lang.no_answer(p.word));
        }
        if let Connection::Lost { since, reason } = &self.connection
            && since + RECONNECTING < now
        {
            self.connection = Connection::NoRunner {
                reason: reason.clone(),
            };
        }
        let mut actions = self.refresh_others();
        actions.extend(self.wanted_place());
        actions
    }

    /// Themes as their files are now; the chosen one stays chosen.
    fn take_themes(&mut self, mut themes: Catalogue) -> Vec<Action> {
        themes.choose(&self.theme.name);
        for problem in themes.problems.clone() {
            if !self.themes.problems.contains(&problem) {
                self.toast(false, problem);
            }
        }
        self.themes = themes;
        self.theme = self.themes.theme();
        vec![Action::Redraw]
    }

    /// Names of the themes, and which is chosen.
    pub fn theme_names(&self) -> (Vec<&str>, usize) {
        (self.themes.names(), self.themes.chosen())
    }

    fn toast(&mut self, good: bool, text: String) {
        let stay = if good { TOAST } else { TOAST_TROUBLE };
        self.toasts.retain(|t| t.text != text);
        self.toasts.push(Toast {
            text,
            good,
            until: self.now + stay,
        });
        if self.toasts.len() > TOASTS {
            self.toasts.remove(0);
        }
    }

    fn input(&mut self, input: Input) -> Vec<Action> {
        match input {
            Input::Key(key) if key.kind != KeyEventKind::Release => self.key(key),
            Input::Mouse(mouse) => {
                self.mouse_event(mouse);
                Vec::new()
            }
            Input::Paste(text) => {
                self.paste(&text);
                Vec::new()
            }
            Input::Resize(columns, rows) => {
                self.size = (columns, rows);
                vec![Action::Redraw]
            }
            _ => Vec::new(),
        }
    }

    fn key(&mut self, key: KeyEvent) -> Vec<Action> {
        let control_c =
            key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
        if control_c {
            return vec![Action::Leave];
        }
        if let Some(overlay) = self.overlay.take() {
            return self.overlay_key(overlay, key);
        }
        match self.keymap.lookup(&key) {
            Some(act) => self.perform(act),
            None => Vec::new(),
        }
    }

    /// The pane with the focus.
    pub fn focus(&self) -> Pane {
        self.view.recent[0]
    }

    /// Where everything lies; `None` when the screen is too small.
    pub fn arrangement(&self) -> Option<Arrangement> {
        arrange(
            self.size,
            &self.view.recent,
            self.view.maximised,
            !self.state.alerts.active().is_empty(),
        )
    }

    /// Whether events are expected to come in.
    pub fn live(&self) -> bool {
        matches!(
            self.connection,
            Connection::Live | Connection::Replay { .. }
        )
    }

    /// Whether no runner is alive, whatever the run's last phase says.
    pub fn runner_gone(&self) -> bool {
        matches!(self.connection, Connection::NoRunner { .. })
    }

    /// Seconds since the last event: by this machine's clock while a runner talks, else since the
    /// time the event carries.
    pub fn age(&self) -> f64 {
        let by_our_clock = matches!(self.connection, Connection::LineLost { .. });
        if self.live() || by_our_clock {
            self.now - self.heard
        } else {
            self.now - self.state.time
        }
    }

    /// Whether the run stands still: then the deck is nearly silent.
    pub fn quiet(&self) -> bool {
        !self.live() || self.state.phase == PhaseName::Paused || self.state.phase.is_end()
    }
}
