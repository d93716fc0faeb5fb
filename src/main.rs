//! Arguments, dispatch, exit codes.

use std::process::ExitCode;

use clap::Parser;
use loradeck::cli::Cli;
use loradeck::commands;
use loradeck::error::exit_code;
use loradeck::printable::complain;

fn main() -> ExitCode {
    // candle adds tensors on a thread pool of its own that pins its threads and busy-waits: beside
    // rayon's threads, which compute everything else, it more than doubled a step's time.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: no other thread exists yet that could read the environment meanwhile.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    // candle's errors would carry a backtrace into the sentences that people read.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // SAFETY: as above.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    }
    match commands::dispatch(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&format!("loradeck: {error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}
