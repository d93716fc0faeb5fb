//! The deck: a ratatui front end that shows a run's state and sends commands.
//!
//! - [`app`]: what the deck knows, and `update`, its only way to change
//! - [`view`]: the whole screen from that, made of [`layout`], [`panes`] and [`overlays`]
//! - [`chart`], [`text`], [`theme`]: what the panes are drawn with
//! - [`home`]: the screen before a run's deck
//! - [`lang`]: every text of the interface, in every language
//! - [`summary`]: what stays on the terminal
//! - [`keymap`]: the one table of keys
//! - [`event_loop`], [`pace`], [`screen`], [`encode`], [`terminal`]: when a frame is drawn, and onto what

pub mod app;
pub mod chart;
mod draw_times;
pub mod encode;
pub mod event_loop;
pub mod home;
pub mod keymap;
pub mod lang;
pub mod layout;
pub mod overlays;
pub mod pace;
pub mod panes;
pub mod screen;
pub mod summary;
pub mod terminal;
pub mod text;
pub mod theme;
pub mod view;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result};

use self::app::{App, Msg};
use self::lang::Lang;
use self::screen::Screen;
use self::terminal::{Guard, Tty, Watchers};
use self::theme::{Capabilities, Catalogue};
use crate::error::input_error;
use crate::run::link::{Link, Place};

/// Messages that may wait for the deck. A full channel holds up the link, and that the runner,
/// which then drops metrics for this deck and counts them.
const WAITING: usize = 4096;

/// What the deck is opened with.
#[derive(Clone, Debug)]
pub struct DeckOptions {
    pub place: Place,
    pub readonly: bool,
    /// A theme's name or a YAML file.
    pub theme: Option<String>,
    /// The interface's language as asked for; else the locale's.
    pub lang: Option<String>,
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
    let themes = Catalogue::open(
        Capabilities::detect(),
        &theme_folders(),
        theme_wanted(options.theme.as_deref()),
    );
    let (messages, received) = sync_channel(WAITING);
    let updates = messages.clone();
    let link = Link::open_place(&options.place, move |update| {
        // Fails once the deck is left; nobody is there to be told.
        let _ = updates.send(Msg::Update(update));
    })?;
    let size = crossterm::terminal::size().context("cannot read the terminal's size")?;
    let mut app = App::new(
        size,
        event_loop::now(),
        themes,
        link.sender(),
        options.readonly,
        Lang::detect(options.lang.as_deref()),
    );
    let guard = Guard::enter().context("cannot set up the terminal")?;
    let watchers = Watchers::start(move |tty| {
        let message = match tty {
            Tty::Input(input) => Msg::Input(input),
            Tty::Continued => Msg::Continued,
            Tty::End => Msg::End,
        };
        messages.send(message).is_ok()
    })
    .context("cannot watch the terminal")?;
    let mut screen = Screen::new(io::stdout());
    let left = event_loop::run(&mut app, &received, &link, &guard, &mut screen);
    // Whoever waits to send must not wait for ever.
    drop(received);
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
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let mut folders = vec![PathBuf::from("themes")];
    folders.extend(config.map(|c| c.join("loradeck/themes")));
    folders
}

/// The theme asked for, else the one for the terminal's own background.
fn theme_wanted(asked: Option<&str>) -> Option<&str> {
    asked.or_else(|| light_terminal().then_some("light"))
}

/// Some terminals tell their colours as `COLORFGBG=foreground;background`; 7 and 15 are white.
fn light_terminal() -> bool {
    std::env::var("COLORFGBG").is_ok_and(|v| matches!(v.rsplit(';').next(), Some("7" | "15")))
}
