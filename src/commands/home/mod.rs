//! `loradeck` alone: home, and the decks opened from it.

mod advice;
mod advice_images;
mod desk;
mod places;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::{deck_options, fetch};
use crate::cli::{HomeArgs, LookArgs};
use crate::ui::home::{HomeLeave, HomeOptions, Open};
use crate::ui::{self, Leave};

use crate::run::link::Place;

pub use advice::advise;
pub use desk::{House, write_new};

pub fn run(args: HomeArgs) -> Result<u8> {
    open(args.runs, args.look, Open::Runs)
}

/// Opens home; a deck opened from it comes back to it.
///
/// # Errors
/// There is no terminal.
pub fn open(runs: PathBuf, look: LookArgs, open: Open) -> Result<u8> {
    let mut open = open;
    loop {
        let form_only = matches!(open, Open::Form { .. });
        let options = HomeOptions {
            theme: look.theme.clone(),
            lang: look.lang.clone(),
            bases: places::bases(),
            data: places::data(),
            open: std::mem::take(&mut open),
        };
        let leave = ui::home::home(Arc::new(House::new(&runs)), options)?;
        let place = match leave {
            HomeLeave::Quit => return Ok(0),
            HomeLeave::Attach(folder) => Place::Folder(folder),
            HomeLeave::Data(config) => {
                fetch::named_in(&config, &[])?;
                let sets = Vec::new();
                Place::Before { config, sets }
            }
        };
        let left = ui::deck(deck_options(place, false, &look));
        match left {
            // From home a deck is a place to come back from.
            Ok(left) if !ui::is_over() && (left == Leave::Home || !form_only) => {}
            Ok(_) => return Ok(0),
            Err(e) => return Err(e),
        }
    }
}
