//! One file per subcommand: glue only.

mod adapters;
pub mod attach;
pub mod bench;
pub mod bridge;
pub mod chat;
pub mod check;
pub mod combine;
pub mod doctor;
pub mod export;
pub mod generate;
mod generate_image;
pub mod home;
pub mod inspect;
pub mod merge;
pub mod new;
mod progress;
pub mod queue;
pub mod replay;
pub mod runner;
mod scratch;
pub mod send;
pub mod status;
pub mod train;

use anyhow::Result;

use crate::cli::{Cli, CommandLine, LookArgs};
use crate::run::link::Place;
use crate::ui::DeckOptions;

/// Runs the chosen subcommand; the value is the process's exit code.
///
/// # Errors
/// What the subcommand reports: see [`crate::error::exit_code`].
pub fn dispatch(cli: Cli) -> Result<u8> {
    let command = cli.command.unwrap_or(CommandLine::Home(cli.home));
    match command {
        CommandLine::Home(args) => home::run(args),
        CommandLine::New(args) => new::run(args),
        CommandLine::Queue(args) => queue::run(args),
        CommandLine::QueueWorker(args) => queue::work(args),
        CommandLine::Doctor(args) => doctor::run(args),
        CommandLine::Train(args) => train::run(args),
        CommandLine::Attach(args) => attach::run(args),
        CommandLine::Replay(args) => replay::run(args),
        CommandLine::Status(args) => status::run(args),
        CommandLine::Send(args) => send::run(args),
        CommandLine::Check(args) => check::run(args),
        CommandLine::Bench(args) => bench::run(args),
        CommandLine::Export(args) => export::run(args),
        CommandLine::Inspect(args) => inspect::run(args),
        CommandLine::Merge(args) => merge::run(args),
        CommandLine::Combine(args) => combine::run(args),
        CommandLine::Chat(args) => chat::run(args),
        CommandLine::Generate(args) => generate::run(args),
        CommandLine::Runner(args) => runner::run(args),
        CommandLine::Bridge(args) => bridge::run(args),
    }
}

/// What a deck is opened with.
fn deck_options(place: Place, readonly: bool, look: &LookArgs) -> DeckOptions {
    DeckOptions {
        place,
        readonly,
        theme: look.theme.clone(),
        lang: look.lang.clone(),
        keymap: look.keymap.clone(),
        bell: look.bell,
    }
}

/// `1.5 GiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}
