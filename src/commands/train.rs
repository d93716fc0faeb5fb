//! `loradeck train`.

use anyhow::Result;

use crate::cli::TrainArgs;

pub fn run(args: TrainArgs) -> Result<u8> {
    let _ = args;
    todo!("train")
}
