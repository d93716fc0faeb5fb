//! `loradeck send`.

use anyhow::Result;

use crate::cli::SendArgs;

pub fn run(args: SendArgs) -> Result<u8> {
    let _ = args;
    todo!("send")
}
