//! `loradeck runner`: the process that trains, started by `train` or by a deck.

use anyhow::Result;

use crate::cli::RunnerArgs;
use crate::config;
use crate::error::exit_code;
use crate::printable::complain;
use crate::run::runner::{self, Place, first_word};
use crate::run::start::{FirstWord, Request};
use crate::train::train;

pub fn run(args: RunnerArgs) -> Result<u8> {
    // Fails only for a leader of a process group, which has a session of its own already.
    let _ = rustix::process::setsid();
    let place = Place::Background;
    let loaded = Request::read(&args.request).and_then(|request| {
        let loaded = config::load(&request.config_path, &request.sets)
            .map_err(|problems| config::problems_error(&problems))?;
        Ok((request, loaded))
    });
    match loaded {
        Ok((request, loaded)) => Ok(runner::run(request, loaded, place, Box::new(train))),
        Err(e) => {
            let error = format!("{e:#}");
            let exit_code = exit_code(&e);
            complain(&format!("loradeck: {error}"));
            first_word(place, &FirstWord::Failed { error, exit_code }, None);
            Ok(exit_code)
        }
    }
}
