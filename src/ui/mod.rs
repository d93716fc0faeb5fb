//! The deck: a ratatui front end that shows a run's state and sends commands.
//!
//! - [`app`]: what the deck knows, and `update`, its only way to change
//! - [`view`]: the whole screen from that, made of [`layout`], [`panes`] and [`overlays`]
//! - [`line`], [`diff`], [`yank`]: a line being typed, texts compared, the clipboard
//! - [`chart`], [`picture`], [`text`], [`theme`]: what the panes are drawn with
//! - [`home`]: the screen before a run's deck
//! - [`lang`]: every text of the interface, in every language
//! - [`summary`]: what stays on the terminal
//! - [`keymap`]: the one table of keys
//! - [`event_loop`], [`pace`], [`screen`], [`encode`], [`terminal`]: when a frame is drawn, and onto what

pub mod app;
pub mod chart;
pub mod diff;
mod draw_times;
mod editor;
pub mod encode;
pub mod event_loop;
pub mod home;
pub mod keymap;
pub mod lang;
pub mod layout;
pub mod line;
pub mod overlays;
pub mod pace;
pub mod panes;
pub mod picture;
pub mod screen;
pub mod summary;
pub mod terminal;
pub mod text;
pub mod theme;
pub mod view;
pub mod yank;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result};

use self::app::{App, Msg, Setup};
use self::keymap::Keymap;
use self::lang::Lang;
use self::screen::Screen;
use self::terminal::{Guard, Tty, Watchers};
use self::theme::{Capabilities, Catalogue};
use crate::error::input_error;
use crate::run::link::{Link, Place};

/// Messages that may wait for the deck. A full channel holds up the link, and that the runner,
/// which then drops metrics for this deck and counts them.
const WAITING: usize = 4096;

/// The training comes first where both want a core. More, and a key would wait too long for one.
const NICENESS: i32 = 5;

/// What the deck is opened with.
#[derive(Clone, Debug)]
pub struct DeckOptions {
    pub place: Place,
    pub readonly: bool,
    /// A theme's name or a YAML file.
    pub theme: Option<String>,
    /// The interface's language as asked for; else the locale's.
    pub lang: Option<String>,
    /// A person's own keys; else `loradeck/keymap.yaml` in the config folder.
    pub keymap: Option<PathBuf>,
    /// Whether alerts ring.
    pub bell: bool,
}

/// Why the deck was left.
#[derive(Clone, Debug, PartialEq)]
pub enum Leave {
    /// `q`, Ctrl-C or a lost terminal: the run goes on.
    Detached,
    /// The run had ended.
    RunEnded,
    /// `r`: to home.
    Home,
}

/// Whether the terminal is gone or a signal has asked for the end: no screen may follow.
pub fn is_over() -> bool {
    terminal::is_over()
}

/// Columns and rows of this process's terminal.
///
/// # Errors
/// There is none.
pub fn terminal_size() -> io::Result<(u16, u16)> {
    crossterm::terminal::size()
}

/// Opens the deck on a run and blocks until it is left. The terminal is restored on every exit.
///
/// # Errors
/// There is no terminal, or the run folder cannot be opened.
pub fn deck(options: DeckOptions) -> Result<Leave> {
    if !io::stdout().is_terminal() {
        return Err(input_error(
            "the deck needs a terminal; without one, `loradeck status RUN` prints where a run stands",
        ));
    }
    let (capabilities, folders) = (Capabilities::detect(), theme_folders());
    let wanted = theme_wanted(options.theme.as_deref()).map(str::to_owned);
    let themes = Catalogue::open(capabilities, &folders, wanted.as_deref());
    let (keymap, problems) = read_keymap(options.keymap.as_deref());
    let (messages, received) = sync_channel(WAITING);
    let updates = messages.clone();
    let link = Link::open_place(&options.place, move |update| {
        // Fails once the deck is left; nobody is there to be told.
        let _ = updates.send(Msg::Update(update));
    })?;
    if options.readonly {
        link.only_watch();
    }
    let size = crossterm::terminal::size().context("cannot read the terminal's size")?;
    let setup = Setup {
        themes,
        keymap,
        problems,
        sender: link.sender().to_owned(),
        readonly: options.readonly,
        lang: Lang::detect(options.lang.as_deref()),
        bell: options.bell,
    };
    let mut app = App::new(size, event_loop::now(), setup);
    let guard = Guard::enter().context("cannot set up the terminal")?;
    let themes_to = messages.clone();
    let watchers = Watchers::start(move |tty| {
        let message = match tty {
            Tty::Input(input) => Msg::Input(input),
            Tty::Continued => Msg::Continued,
            Tty::End => Msg::End,
        };
        messages.send(message).is_ok()
    })
    .context("cannot watch the terminal")?;
    watchers
        .watch_themes(themes_to, capabilities, folders, wanted)
        .context("cannot watch the themes")?;
    let mut screen = Screen::new(io::stdout());
    // On a thread of its own, as niceness is a thread's: what this process starts later, a runner
    // above all, must not inherit it.
    let left = std::thread::scope(|scope| {
        let (app, link, guard, screen) = (&mut app, &link, &guard, &mut screen);
        let deck = std::thread::Builder::new().name("deck".into());
        // Whoever waits to send must not wait for ever: the receiver ends with the loop.
        let deck = deck.spawn_scoped(scope, move || {
            // Refused or not, the deck is the same.
            let _ = rustix::process::nice(NICENESS);
            event_loop::run(app, &received, link, guard, screen)
        })?;
        deck.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    drop(watchers);
    drop(guard);
    left?;
    let ended = app.state.phase.is_end() && !app.live();
    if ended && !app.to_home && !is_over() {
        for line in summary::lines(&app) {
            // A terminal that goes away now takes nothing with it.
            let _ = writeln!(io::stdout(), "{line}");
        }
    }
    Ok(if app.to_home {
        Leave::Home
    } else if app.state.phase.is_end() {
        Leave::RunEnded
    } else {
        Leave::Detached
    })
}

/// Where theme files lie: beside the working directory, then in the user's config folder.
fn theme_folders() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("themes")];
    folders.extend(config_folder().map(|c| c.join("themes")));
    folders
}

/// `$XDG_CONFIG_HOME/loradeck`, or `~/.config/loradeck`.
fn config_folder() -> Option<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    config.map(|c| c.join("loradeck"))
}

/// The keys of the file that was asked for, or of the one in the config folder, with what is wrong
/// with it.
fn read_keymap(asked: Option<&Path>) -> (Keymap, Vec<String>) {
    let usual = config_folder()
        .map(|c| c.join("keymap.yaml"))
        .filter(|p| p.is_file());
    let Some(path) = asked.map(Path::to_owned).or(usual) else {
        return (Keymap::default(), Vec::new());
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Keymap::parse(&path, &text),
        Err(e) => {
            let problem = format!("cannot read the keymap {}: {e}", path.display());
            (Keymap::default(), vec![problem])
        }
    }
}

/// The theme asked for, else the one for the terminal's own background.
fn theme_wanted(asked: Option<&str>) -> Option<&str> {
    asked.or_else(|| light_terminal().then_some("light"))
}

/// Some terminals tell their colours as `COLORFGBG=foreground;background`; 7 and 15 are white.
fn light_terminal() -> bool {
    std::env::var("COLORFGBG").is_ok_and(|v| matches!(v.rsplit(';').next(), Some("7" | "15")))
}
