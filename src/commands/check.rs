//! `loradeck check`.

use anyhow::Result;

use crate::cli::CheckArgs;

pub fn run(args: CheckArgs) -> Result<u8> {
    let _ = args;
    todo!("check")
}
