//! The one loop: messages in, actions out, a frame when something has changed.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use super::app::{Action, App, Msg};
use super::draw_times::DrawTimes;
use super::pace::{Pace, Urgency};
use super::screen::Screen;
use super::terminal::{Guard, was_restored};
use super::{editor, view, yank};
use crate::protocol::{Command, EventKind, Query};
use crate::run::link::{Link, Update};

/// Seconds between looks at the clock.
const TICK: f64 = 1.0;

/// The deck's end of the wire, as far as the loop needs it.
pub trait Remote {
    fn command(&self, command: Command) -> u64;
    fn query(&self, query: Query) -> u64;
    /// What becomes of it is an update.
    fn start_runner(&self) -> u64;
}

impl Remote for Link {
    fn command(&self, command: Command) -> u64 {
        Link::command(self, command)
    }

    fn query(&self, query: Query) -> u64 {
        Link::query(self, query)
    }

    fn start_runner(&self) -> u64 {
        Link::start_runner(self)
    }
}

/// Seconds since the Unix epoch.
pub fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

/// How soon a message must be seen.
fn urgency(message: &Msg) -> Urgency {
    match message {
        Msg::Input(_) | Msg::Continued | Msg::End => Urgency::Key,
        Msg::Update(Update::Event(event)) => match &event.kind {
            EventKind::Message(_) => Urgency::Data,
            kind if kind.droppable() => Urgency::Data,
            _ => Urgency::News,
        },
        Msg::Update(Update::Dropped(_)) | Msg::Tick => Urgency::Data,
        Msg::Update(_)
        | Msg::Sent { .. }
        | Msg::Asked { .. }
        | Msg::Edited(_)
        | Msg::Yanked(_)
        | Msg::Themes(_) => Urgency::News,
    }
}

/// Runs until the deck is left.
///
/// # Errors
/// The deck has failed; a terminal that is gone is a way to leave, not a failure.
pub fn run<W: Write>(
    app: &mut App,
    messages: &Receiver<Msg>,
    remote: &impl Remote,
    guard: &Guard,
    screen: &mut Screen<W>,
) -> Result<()> {
    let mut pace = Pace::new(now());
    // The first frame shows at once that the deck is there.
    let mut changed = Some(Urgency::Key);
    let mut next_tick = now() + TICK;
    let mut times = DrawTimes::new();
    loop {
        let mut time = now();
        if was_restored() {
            bail!("the deck has failed; the run goes on, and `loradeck attach` shows it again");
        }
        if let Some(urgency) = changed
            && pace.due(urgency, app.quiet()) <= time
        {
            let drawn = screen.draw(app.size, |buf| {
                let area = *buf.area();
                view::draw(app, &app.theme, area, buf);
            });
            let Ok(bytes) = drawn else { return Ok(()) };
            times.note(now() - time);
            time = now();
            pace.drew(time, bytes, urgency, app.quiet());
            changed = None;
        }
        let due = changed.map_or(next_tick, |u| pace.due(u, app.quiet()).min(next_tick));
        let wait = Duration::from_secs_f64((due - time).clamp(0.001, TICK));
        let mut message = match messages.recv_timeout(wait) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) if now() >= next_tick => {
                next_tick = now() + TICK;
                Msg::Tick
            }
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        // Everything that has come in is taken in before a frame is drawn, keys excepted: what a
        // key does must be seen.
        loop {
            let urgency = urgency(&message);
            changed = changed.max(Some(urgency));
            let actions = app.update(now(), message);
            for action in actions {
                match act(app, action, messages, remote, guard, screen) {
                    Ok(false) => {}
                    Ok(true) | Err(_) => return Ok(()),
                }
            }
            if urgency == Urgency::Key {
                break;
            }
            match messages.try_recv() {
                Ok(next) => message = next,
                Err(_) => break,
            }
        }
    }
}

/// Does one thing; `true` ends the loop.
fn act<W: Write>(
    app: &mut App,
    action: Action,
    messages: &Receiver<Msg>,
    remote: &impl Remote,
    guard: &Guard,
    screen: &mut Screen<W>,
) -> io::Result<bool> {
    match action {
        Action::Leave => return Ok(true),
        Action::Command(command) => {
            let id = remote.command(command.clone());
            app.update(now(), Msg::Sent { id, command });
        }
        Action::Query(query) => {
            let id = remote.query(query.clone());
            app.update(now(), Msg::Asked { id, query });
        }
        Action::StartRunner => {
            remote.start_runner();
        }
        Action::Edit { name, text } => {
            guard.release();
            let (edited, ended) = editor::edit(app, &name, &text, messages);
            guard.retake()?;
            if app.mouse {
                guard.mouse(true)?;
            }
            if let Ok(size) = crossterm::terminal::size() {
                app.size = size;
            }
            screen.forget();
            if ended {
                return Ok(true);
            }
            for action in app.update(now(), Msg::Edited(edited)) {
                if act(app, action, messages, remote, guard, screen)? {
                    return Ok(true);
                }
            }
        }
        Action::Yank(text) => {
            let tmux = std::env::var_os("TMUX").is_some_and(|v| !v.is_empty());
            let copied = yank::copy(&text, tmux, screen.out());
            app.update(now(), Msg::Yanked(copied));
        }
        Action::Bell => {
            screen.out().write_all(b"\x07")?;
            screen.out().flush()?;
        }
        Action::Mouse(on) => guard.mouse(on)?,
        Action::Redraw => screen.forget(),
        Action::Suspend | Action::Retake => {
            if action == Action::Suspend {
                guard.suspend()?;
            } else {
                guard.retake()?;
            }
            if app.mouse {
                guard.mouse(true)?;
            }
            if let Ok(size) = crossterm::terminal::size() {
                app.size = size;
            }
            screen.forget();
        }
    }
    Ok(false)
}
