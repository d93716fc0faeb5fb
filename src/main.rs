//! Arguments, dispatch, exit codes.

use std::process::ExitCode;

use clap::Parser;
use loradeck::cli::{self, Cli};
use loradeck::error::exit_code;

fn main() -> ExitCode {
    match cli::dispatch(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("loradeck: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}
