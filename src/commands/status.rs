//! `loradeck status`: where a run stands.

use std::io::Write;

use anyhow::Result;

use crate::cli::StatusArgs;
use crate::run::status::{Status, current_state, find_run, human};

pub fn run(args: StatusArgs) -> Result<u8> {
    let folder = find_run(args.run.as_deref())?;
    let state = current_state(&folder)?;
    let status = Status::new(&folder, &state);
    let text = if args.json {
        serde_json::to_string_pretty(&status)?
    } else {
        human(&status, &state)
    };
    // `status | head -1` closes stdout early.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(0)
}
