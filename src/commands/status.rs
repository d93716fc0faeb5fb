//! `loradeck status`.

use anyhow::Result;

use crate::cli::StatusArgs;

pub fn run(args: StatusArgs) -> Result<u8> {
    let _ = args;
    todo!("status")
}
