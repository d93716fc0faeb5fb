//! `loradeck status`: where a run stands.

use anyhow::Result;

use crate::cli::StatusArgs;
use crate::printable::{write_json, write_out};
use crate::run::status::{Status, current_state, find_run, human};

pub fn run(args: StatusArgs) -> Result<u8> {
    let folder = find_run(args.run.as_deref())?;
    let state = current_state(&folder)?;
    let status = Status::new(&folder, &state);
    // `status | head -1` closes stdout early.
    let _ = match args.json {
        true => write_json(&serde_json::to_string_pretty(&status)?),
        false => write_out(&(human(&status, &state) + "\n")),
    };
    Ok(0)
}
