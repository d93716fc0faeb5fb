//! `loradeck runner`.

use anyhow::Result;

use crate::cli::RunnerArgs;

pub fn run(args: RunnerArgs) -> Result<u8> {
    let _ = args;
    todo!("runner")
}
