//! `loradeck replay`: a run's events once more.

use anyhow::Result;

use super::deck_options;
use crate::cli::ReplayArgs;
use crate::error::input_error;
use crate::run::link::Place;
use crate::run::status::find_run;
use crate::ui;

pub fn run(args: ReplayArgs) -> Result<u8> {
    if !(args.speed.is_finite() && args.speed > 0.0) {
        return Err(input_error(format!(
            "--speed is how many seconds of the run pass in one: a number above 0, not {}",
            args.speed
        )));
    }
    let folder = find_run(args.run.as_deref())?;
    ui::deck(deck_options(
        Place::Replay {
            folder: folder.root().to_owned(),
            speed: args.speed,
        },
        false,
        &args.look,
    ))?;
    Ok(0)
}
