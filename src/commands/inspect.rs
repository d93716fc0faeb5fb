//! `loradeck inspect`.

use std::io::Write;

use anyhow::Result;

use super::adapters;
use crate::adapter::inspect;
use crate::cli::InspectArgs;

/// Prints what an adapter is and what is wrong with it.
pub fn run(args: InspectArgs) -> Result<u8> {
    let found = adapters::open(&args.adapter)?;
    let report = inspect(&found.adapter);
    let text = match args.json {
        true => format!("{:#}\n", report.json()),
        false => format!(
            "{:<12}{}\n{}",
            "adapter",
            found.path.display(),
            report.text()
        ),
    };
    // Who reads may have seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(0)
}
