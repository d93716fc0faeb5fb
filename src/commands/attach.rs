//! `loradeck attach`.

use anyhow::Result;

use crate::cli::AttachArgs;

pub fn run(args: AttachArgs) -> Result<u8> {
    let _ = args;
    todo!("attach")
}
