//! `loradeck export`.

use anyhow::Result;

use crate::cli::ExportArgs;

pub fn run(args: ExportArgs) -> Result<u8> {
    let _ = args;
    todo!("export")
}
