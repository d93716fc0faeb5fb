//! Home: the runs there are, the configs to start, the queue; runs side by side; and the form for a
//! new run.
//!
//! - [`desk`]: what home asks of the rest of the house
//! - [`app`]: what home knows, and `update`, its only way to change; `keys`: what keys do
//! - [`form`]: the new run's form; `form_file`: the YAML it makes
//! - [`view`]: the whole screen from that

pub mod app;
mod compare;
pub mod desk;
mod details;
pub mod form;
mod form_file;
mod form_view;
mod keys;
mod list;
pub mod view;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use app::HomeLeave;
use app::{Action, Home, Msg, Section};
use desk::Desk;

use super::editor;
use super::event_loop::now;
use super::lang::Lang;
use super::screen::Screen;
use super::terminal::{Guard, Tty, Watchers, was_restored};
use super::theme::{Capabilities, Catalogue};
use crate::error::input_error;

/// Messages that may wait for home.
const WAITING: usize = 1024;
/// Seconds between looks at the runs.
const TICK: f64 = 1.0;

/// What home is opened with.
#[derive(Clone, Debug, Default)]
pub struct HomeOptions {
    /// A theme's name or a YAML file.
    pub theme: Option<String>,
    /// The interface's language as asked for; else the locale's.
    pub lang: Option<String>,
    /// Bases and data that a new run may be made of.
    pub bases: Vec<String>,
    pub data: Vec<String>,
    pub open: Open,
}

/// What home shows first.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Open {
    #[default]
    Runs,
    Queue,
    /// The form, and nothing but the form.
    Form {
        base: Option<String>,
        data: Option<String>,
    },
}

/// Opens home and blocks until it is left. The terminal is restored on every exit.
///
/// # Errors
/// There is no terminal.
pub fn home(desk: Arc<dyn Desk>, options: HomeOptions) -> Result<HomeLeave> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(input_error(
            "home needs a terminal; without one, `loradeck status` prints where a run stands and \
             `loradeck --help` lists every command",
        ));
    }
    let themes = Catalogue::open(
        Capabilities::detect(),
        &super::theme_folders(),
        super::theme_wanted(options.theme.as_deref()),
    );
    let size = crossterm::terminal::size().context("cannot read the terminal's size")?;
    let lang = Lang::detect(options.lang.as_deref());
    let mut home = Home::new(size, now(), themes, lang);
    home.bases = options.bases;
    home.data = options.data;
    match options.open {
        Open::Runs => {}
        Open::Queue => home.section = Section::Queue,
        Open::Form { base, data } => home.open_form(base, data),
    }
    let (messages, received) = sync_channel(WAITING);
    let workers = Workers::start(&desk, &messages)?;
    let guard = Guard::enter().context("cannot set up the terminal")?;
    let ttys = messages.clone();
    let watchers = Watchers::start(move |tty| {
        let message = match tty {
            Tty::Input(input) => Msg::Input(input),
            Tty::Continued => Msg::Continued,
            Tty::End => Msg::End,
        };
        ttys.send(message).is_ok()
    })
    .context("cannot watch the terminal")?;
    drop(messages);
    let mut screen = Screen::new(io::stdout());
    let left = run(&mut home, &received, &workers, &guard, &mut screen);
    // Whoever waits to send must not wait for ever.
    drop(received);
    drop(watchers);
    drop(guard);
    left
}

/// The threads that ask the desk: one for what is quick, one for what reads bases and data.
struct Workers {
    quick: Sender<Action>,
    slow: Sender<Action>,
}

impl Workers {
    fn start(desk: &Arc<dyn Desk>, messages: &SyncSender<Msg>) -> Result<Workers> {
        let spawn = |name: &str| -> Result<Sender<Action>> {
            let (sender, jobs) = channel();
            let (desk, messages) = (desk.clone(), messages.clone());
            thread::Builder::new()
                .name(name.into())
                .spawn(move || serve(&*desk, &jobs, &messages))
                .context("cannot start a thread")?;
            Ok(sender)
        };
        Ok(Workers {
            quick: spawn("home-desk")?,
            slow: spawn("home-checks")?,
        })
    }
}

fn serve(desk: &dyn Desk, jobs: &Receiver<Action>, messages: &SyncSender<Msg>) {
    while let Ok(job) = jobs.recv() {
        let job = newest(job, jobs);
        for job in job {
            let message = match job {
                Action::Look => Msg::Looked(desk.look()),
                Action::Check(config) => Msg::Checked {
                    checked: desk.check(&config.path),
                    config,
                },
                Action::CheckText { generation, text } => Msg::TextChecked {
                    generation,
                    checked: desk.check_text(&text),
                },
                Action::Suggest { base, data } => Msg::Suggested {
                    suggestion: desk.suggest(&base, &data),
                    base,
                    data,
                },
                Action::Compare(runs) => Msg::Compared(desk.compare(&runs)),
                Action::Act(deed) => Msg::Did {
                    result: desk.act(&deed),
                    deed,
                },
                _ => continue,
            };
            if messages.send(message).is_err() {
                return;
            }
        }
    }
}

/// Of the texts and sources that have piled up only the last of each: the others are old.
fn newest(first: Action, jobs: &Receiver<Action>) -> Vec<Action> {
    let mut all = vec![first];
    all.extend(jobs.try_iter());
    let last = |is: fn(&Action) -> bool| all.iter().rposition(is);
    let keep = [
        last(|a| matches!(a, Action::CheckText { .. })),
        last(|a| matches!(a, Action::Suggest { .. })),
    ];
    let mut at = 0;
    all.retain(|action| {
        let old = matches!(action, Action::CheckText { .. } | Action::Suggest { .. })
            && !keep.contains(&Some(at));
        at += 1;
        !old
    });
    all
}

fn run<W: Write>(
    home: &mut Home,
    messages: &Receiver<Msg>,
    workers: &Workers,
    guard: &Guard,
    screen: &mut Screen<W>,
) -> Result<HomeLeave> {
    let mut next_tick = 0.0;
    loop {
        if was_restored() {
            bail!("home has failed; runs and queue go on");
        }
        let drawn = screen.draw(home.size, |buf| {
            let area = *buf.area();
            view::draw(home, area, buf);
        });
        if drawn.is_err() {
            return Ok(HomeLeave::Quit);
        }
        let due = home.due().map_or(next_tick, |at| at.min(next_tick));
        let wait = Duration::from_secs_f64((due - now()).clamp(0.001, TICK));
        let mut message = match messages.recv_timeout(wait) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) if now() >= due => {
                if now() >= next_tick {
                    next_tick = now() + TICK;
                }
                Msg::Tick
            }
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(HomeLeave::Quit),
        };
        // Keys that have piled up are one frame.
        loop {
            for action in home.update(now(), message) {
                if let Some(leave) = act(home, action, workers, guard, screen)? {
                    return Ok(leave);
                }
            }
            match messages.try_recv() {
                Ok(next) => message = next,
                Err(_) => break,
            }
        }
    }
}

/// Does one thing; the way out ends the loop.
fn act<W: Write>(
    home: &mut Home,
    action: Action,
    workers: &Workers,
    guard: &Guard,
    screen: &mut Screen<W>,
) -> Result<Option<HomeLeave>> {
    match action {
        Action::Leave(leave) => return Ok(Some(leave)),
        Action::Look | Action::Compare(_) | Action::Act(_) => {
            // The thread lives as long as home does.
            let _ = workers.quick.send(action);
        }
        Action::Check(_) | Action::CheckText { .. } | Action::Suggest { .. } => {
            let _ = workers.slow.send(action);
        }
        Action::Redraw => screen.forget(),
        Action::Suspend | Action::Retake => {
            let set = if action == Action::Suspend {
                guard.suspend()
            } else {
                guard.retake()
            };
            if set.is_err() {
                return Ok(Some(HomeLeave::Quit));
            }
            resized(home, screen);
        }
        Action::Edit(path) => {
            guard.release();
            let edited = edit(&path);
            if guard.retake().is_err() {
                return Ok(Some(HomeLeave::Quit));
            }
            if let Err(why) = edited {
                let why = home.lang.no_editor(why);
                home.toast(false, why);
            }
            resized(home, screen);
        }
    }
    Ok(None)
}

fn resized<W: Write>(home: &mut Home, screen: &mut Screen<W>) {
    if let Ok(size) = crossterm::terminal::size() {
        home.size = size;
    }
    screen.forget();
}

/// Opens a file in the person's editor and waits for it.
fn edit(path: &Path) -> io::Result<()> {
    let status = editor::start(path)?.wait()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(status.to_string()))
    }
}
