//! The terminal as it was found: taken over, watched, and given back on every way out.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, event, execute, terminal};
use rustix::event::{PollFd, PollFlags, poll};

use super::app::Msg;
use super::theme::{Capabilities, Catalogue, fingerprint};

/// Whether the terminal is taken over: restoring twice would disturb what was printed since.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Whether somebody else has the terminal.
static HELD: AtomicBool = AtomicBool::new(false);
/// How often the process has gone on after a stop.
static CONTINUED: AtomicU64 = AtomicU64::new(0);
/// How long the system may take to stop the process. Where nobody could continue it, it never does.
const STOPPING: Duration = Duration::from_secs(1);

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
        let continued = CONTINUED.load(Ordering::SeqCst);
        rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)?;
        // The system hands the signal to any one thread, and this one runs on until that one has
        // stopped them all: a frame drawn by then would lie over the shell's screen.
        let until = Instant::now() + STOPPING;
        while CONTINUED.load(Ordering::SeqCst) == continued && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        take()
    }

    /// Gives the terminal away until [`Guard::retake`]: no key is read, and Ctrl-C is for whoever
    /// has it.
    pub fn release(&self) {
        HELD.store(true, Ordering::SeqCst);
        stop_reading();
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
        MAY_READ.store(true, Ordering::SeqCst);
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

/// What happens on the terminal.
#[derive(Debug)]
pub enum Tty {
    Input(event::Event),
    /// The process goes on after it was stopped.
    Continued,
    /// The terminal is gone, or a signal asks for the end.
    End,
}

/// Takes what happens; false when nobody is there any more.
type Sink = Box<dyn FnMut(Tty) -> bool + Send>;

/// Who is told now. The threads live as long as the process: a screen that follows another takes
/// over their reports, so that no key is lost on a thread that has outlived its screen.
static SINK: Mutex<Option<Sink>> = Mutex::new(None);
/// Whether keys may be read: not while the terminal is lent to another program.
static MAY_READ: AtomicBool = AtomicBool::new(false);
/// Whether the reading thread is at it.
static READS: AtomicBool = AtomicBool::new(false);

/// Whether the terminal is gone or a signal has asked for the end: no screen may follow.
static OVER: AtomicBool = AtomicBool::new(false);

/// See [`OVER`].
pub fn is_over() -> bool {
    OVER.load(Ordering::SeqCst)
}

fn tell(tty: Tty) {
    if matches!(tty, Tty::End) {
        OVER.store(true, Ordering::SeqCst);
    }
    let mut sink = SINK.lock().unwrap_or_else(|e| e.into_inner());
    if sink.as_mut().is_some_and(|sink| !sink(tty)) {
        *sink = None;
        MAY_READ.store(false, Ordering::SeqCst);
    }
}

/// Reports of keys, a lost terminal and signals, until this is dropped.
#[derive(Debug)]
pub struct Watchers {
    /// Ends the watch on the themes.
    stop: Arc<AtomicBool>,
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        stop_reading();
        *SINK.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }
}

/// How often a watcher looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// How long the reading thread may take to let go: on a dead terminal it never does.
const LETTING_GO: Duration = Duration::from_millis(300);

/// Keeps the reading thread off the terminal; what is typed waits in it.
fn stop_reading() {
    MAY_READ.store(false, Ordering::SeqCst);
    let until = Instant::now() + LETTING_GO;
    while READS.load(Ordering::SeqCst) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Watchers {
    /// Has everything reported to `sink`, which answers false when nobody listens any more.
    ///
    /// # Errors
    /// No terminal can be opened, or no thread started.
    pub fn start(sink: impl FnMut(Tty) -> bool + Send + 'static) -> io::Result<Watchers> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        *SINK.lock().unwrap_or_else(|e| e.into_inner()) = Some(Box::new(sink));
        MAY_READ.store(true, Ordering::SeqCst);
        let watchers = Watchers {
            stop: Arc::new(AtomicBool::new(false)),
        };
        if STARTED.swap(true, Ordering::SeqCst) {
            return Ok(watchers);
        }
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
        spawn("deck-input", Box::new(input))?;
        spawn("deck-hangup", Box::new(move || hangup(&tty)))?;
        spawn("deck-signals", Box::new(signals))?;
        Ok(watchers)
    }

    /// Looks after the themes' files, and sends all themes anew when one has changed.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn watch_themes(
        &self,
        messages: SyncSender<Msg>,
        capabilities: Capabilities,
        folders: Vec<PathBuf>,
        wanted: Option<String>,
    ) -> io::Result<()> {
        let stop = self.stop.clone();
        let body = move || {
            let mut seen = fingerprint(&folders, wanted.as_deref());
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(5 * LOOK);
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
fn input() {
    loop {
        if !MAY_READ.load(Ordering::SeqCst) {
            READS.store(false, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        READS.store(true, Ordering::SeqCst);
        // Asked again: it may have been forbidden in between.
        if !MAY_READ.load(Ordering::SeqCst) {
            continue;
        }
        match event::poll(LOOK) {
            Ok(false) => {}
            Ok(true) => match event::read() {
                Ok(event) => tell(Tty::Input(event)),
                Err(_) => return tell(Tty::End),
            },
            Err(_) => return tell(Tty::End),
        }
    }
}

/// Asks for no event at all, so that only a hang-up wakes it.
fn hangup(tty: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(tty, PollFlags::empty())];
        let gone = match poll(&mut fds, None) {
            Ok(_) => fds[0]
                .revents()
                .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL),
            Err(rustix::io::Errno::INTR) => false,
            Err(_) => true,
        };
        if gone {
            return tell(Tty::End);
        }
    }
}

/// Signals that end the deck (never the run), and the one that says it goes on after a stop.
fn signals() {
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
        loop {
            tell(tokio::select! {
                _ = term.recv() => Tty::End,
                // Whoever has the terminal gets its Ctrl-C; so does this process.
                _ = int.recv() => match HELD.load(Ordering::SeqCst) {
                    true => continue,
                    false => Tty::End,
                },
                _ = hup.recv() => Tty::End,
                _ = cont.recv() => {
                    CONTINUED.fetch_add(1, Ordering::SeqCst);
                    match HELD.load(Ordering::SeqCst) {
                        true => continue,
                        false => Tty::Continued,
                    }
                }
            });
        }
    });
}
