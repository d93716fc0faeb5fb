//! `loradeck bridge`: the far end of `loradeck attach ssh://...`.

use std::io;

use anyhow::Result;

use crate::cli::BridgeArgs;
use crate::run::bridge::{self, Known};

pub fn run(args: BridgeArgs) -> Result<u8> {
    let known = args.since.as_deref().map(Known::parse).transpose()?;
    bridge::serve(&args.run, known, io::stdin(), io::stdout())?;
    Ok(0)
}
