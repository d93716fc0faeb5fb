//! `loradeck generate`.

use anyhow::Result;

use crate::cli::GenerateArgs;

pub fn run(args: GenerateArgs) -> Result<u8> {
    let _ = args;
    todo!("generate")
}
