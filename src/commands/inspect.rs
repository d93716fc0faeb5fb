//! `loradeck inspect`.

use anyhow::Result;

use super::adapters;
use crate::adapter::inspect;
use crate::cli::InspectArgs;
use crate::printable::{write_json, write_out};

/// Prints what an adapter is and what is wrong with it.
pub fn run(args: InspectArgs) -> Result<u8> {
    let found = adapters::open(&args.adapter)?;
    let report = inspect(&found.adapter);
    // Who reads may have seen enough.
    let _ = match args.json {
        true => write_json(&format!("{:#}", report.json())),
        false => write_out(&format!(
            "{:<12}{}\n{}",
            "adapter",
            found.path.display(),
            report.text()
        )),
    };
    Ok(0)
}
