//! The deck: a ratatui front end that shows a run's state and sends commands.

use std::path::PathBuf;

use anyhow::Result;

/// What the deck is opened with.
#[derive(Clone, Debug)]
pub struct DeckOptions {
    pub run_dir: PathBuf,
    pub readonly: bool,
    /// A theme's name or a YAML file.
    pub theme: Option<String>,
}

/// Why the deck was left.
#[derive(Clone, Debug, PartialEq)]
pub enum Leave {
    /// `q`, Ctrl-C or a lost terminal: the run goes on.
    Detached,
    /// The run had ended.
    RunEnded,
}

/// Opens the deck on a run and blocks until it is left. The terminal is restored on every exit.
pub fn deck(options: DeckOptions) -> Result<Leave> {
    let _ = options;
    todo!("ui room")
}
