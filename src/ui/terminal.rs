//! The terminal as it was found: taken over, watched, and given back on every way out.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, event, execute, terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::app::Msg;
use super::theme::{Capabilities, Catalogue, fingerprint};

/// Whether the terminal is taken over: restoring twice would disturb what was printed since.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Whether somebody else has the terminal's keys, and whether the thread that reads them has seen
/// that.
static HELD: AtomicBool = AtomicBool::new(false);
static PAUSED: AtomicBool = AtomicBool::new(false);

/// The terminal, taken over. Dropping it gives it back.
#[derive(Debug)]
pub struct Guard;

impl Guard {
    /// Raw mode, alternate screen, bracketed paste, no cursor, no mouse. A panic gives the terminal
    /// back before it prints.
    ///
    /// # Errors
    /// The terminal cannot be set.
    pub fn enter() -> io::Result<Guard> {
        static HOOK: std::sync::Once = std::sync::Once::new();
        HOOK.call_once(|| {
            let print = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                print(info);
            }));
        });
        take()?;
        Ok(Guard)
    }

    /// Gives the terminal back, stops this process group as the shell's Ctrl-Z does, and takes the
    /// terminal again when it goes on. Where nobody could continue it the system does not stop it.
    ///
    /// # Errors
    /// The terminal cannot be set again.
    pub fn suspend(&self) -> io::Result<()> {
        restore();
        rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)?;
        take()
    }

    /// Gives the terminal away until [`Guard::retake`]: no key is read, and Ctrl-C is for whoever
    /// has it.
    pub fn release(&self) {
        HELD.store(true, Ordering::SeqCst);
        // The thread that reads keys may be in the middle of a look.
        let until = std::time::Instant::now() + 2 * LOOK;
        while !PAUSED.load(Ordering::SeqCst) && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        restore();
    }

    /// Takes the terminal again after someone else may have set it.
    ///
    /// # Errors
    /// The terminal cannot be set.
    pub fn retake(&self) -> io::Result<()> {
        // crossterm believes that it still is raw.
        let _ = terminal::disable_raw_mode();
        take()?;
        HELD.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Switches mouse reports.
    ///
    /// # Errors
    /// The terminal cannot be written to.
    pub fn mouse(&self, on: bool) -> io::Result<()> {
        if on {
            execute!(io::stdout(), EnableMouseCapture)
        } else {
            execute!(io::stdout(), DisableMouseCapture)
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        restore();
    }
}

fn take() -> io::Result<()> {
    terminal::enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(
        io::stdout(),
        EnterAlternateScreen,
        EnableBracketedPaste,
        cursor::Hide
    )
}

/// Best effort: the terminal may be gone.
fn restore() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut out = io::stdout();
    // The end of a frame that a panic cut short, colours, then the modes.
    let _ = out.write_all(b"\x1b[?2026l\x1b[0m");
    let _ = execute!(
        out,
        DisableMouseCapture,
        DisableBracketedPaste,
        LeaveAlternateScreen,
        cursor::Show
    );
    let _ = terminal::disable_raw_mode();
}

/// Whether the terminal has been given back behind the deck's back: some thread has panicked.
pub fn was_restored() -> bool {
    !TAKEN.load(Ordering::SeqCst)
}

/// Threads that report keys, a lost terminal and signals, until this is dropped.
#[derive(Debug)]
pub struct Watchers {
    stop: Arc<AtomicBool>,
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How often a watcher looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(250);

impl Watchers {
    /// Starts them.
    ///
    /// # Errors
    /// No terminal can be opened, or no thread started.
    pub fn start(messages: &SyncSender<Msg>) -> io::Result<Watchers> {
        let stop = Arc::new(AtomicBool::new(false));
        let tty: OwnedFd = if io::stdin().is_terminal() {
            io::stdin().as_fd().try_clone_to_owned()?
        } else {
            File::open("/dev/tty")?.into()
        };
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(body)
                .map(drop)
        };
        let (tx, stopped) = (messages.clone(), stop.clone());
        spawn("deck-input", Box::new(move || input(&tx, &stopped)))?;
        let (tx, stopped) = (messages.clone(), stop.clone());
        spawn("deck-hangup", Box::new(move || hangup(&tty, &tx, &stopped)))?;
        let (tx, stopped) = (messages.clone(), stop.clone());
        spawn("deck-signals", Box::new(move || signals(&tx, &stopped)))?;
        Ok(Watchers { stop })
    }

    /// Looks after the themes' files, and sends all themes anew when one has changed.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn watch_themes(
        &self,
        messages: &SyncSender<Msg>,
        capabilities: Capabilities,
        folders: Vec<PathBuf>,
        wanted: Option<String>,
    ) -> io::Result<()> {
        let (messages, stop) = (messages.clone(), self.stop.clone());
        let body = move || {
            let mut seen = fingerprint(&folders, wanted.as_deref());
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(2 * LOOK);
                let now = fingerprint(&folders, wanted.as_deref());
                if now == seen {
                    continue;
                }
                seen = now;
                let themes = Catalogue::open(capabilities, &folders, wanted.as_deref());
                if messages.send(Msg::Themes(Box::new(themes))).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("deck-themes".into())
            .spawn(body)
            .map(drop)
    }
}

/// Reads keys. On a terminal that has died crossterm may never return: [`hangup`] tells of that.
fn input(messages: &SyncSender<Msg>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if HELD.load(Ordering::SeqCst) {
            PAUSED.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        PAUSED.store(false, Ordering::SeqCst);
        let message = match event::poll(LOOK) {
            Ok(false) => continue,
            Ok(true) => event::read().map(Msg::Input),
            Err(error) => Err(error),
        };
        let end = message.is_err();
        if messages.send(message.unwrap_or(Msg::End)).is_err() || end {
            return;
        }
    }
}

/// Asks for no event at all, so that only a hang-up wakes it.
fn hangup(tty: &OwnedFd, messages: &SyncSender<Msg>, stop: &AtomicBool) {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: LOOK.as_nanos() as _,
    };
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(tty, PollFlags::empty())];
        let gone = match poll(&mut fds, Some(&timeout)) {
            Ok(_) => fds[0]
                .revents()
                .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL),
            Err(rustix::io::Errno::INTR) => false,
            Err(_) => true,
        };
        if gone {
            let _ = messages.send(Msg::End);
            return;
        }
    }
}

/// Signals that end the deck (never the run), and the one that says it goes on after a stop.
fn signals(messages: &SyncSender<Msg>, stop: &AtomicBool) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return;
    };
    runtime.block_on(async {
        let continued = SignalKind::from_raw(rustix::process::Signal::CONT.as_raw());
        let (Ok(mut term), Ok(mut int), Ok(mut hup), Ok(mut cont)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::hangup()),
            signal(continued),
        ) else {
            return;
        };
        while !stop.load(Ordering::Relaxed) {
            let message = tokio::select! {
                _ = term.recv() => Msg::End,
                // Whoever has the terminal gets its Ctrl-C; so does this process.
                _ = int.recv() => match HELD.load(Ordering::SeqCst) {
                    true => continue,
                    false => Msg::End,
                },
                _ = hup.recv() => Msg::End,
                _ = cont.recv() => match HELD.load(Ordering::SeqCst) {
                    true => continue,
                    false => Msg::Continued,
                },
                () = tokio::time::sleep(LOOK) => continue,
            };
            // The deck's end may already have been reached.
            if messages.send(message).is_err() {
                return;
            }
        }
    });
}
