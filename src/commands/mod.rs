//! One file per subcommand: glue only.

pub mod attach;
pub mod check;
pub mod export;
pub mod generate;
pub mod runner;
pub mod send;
pub mod status;
pub mod train;
