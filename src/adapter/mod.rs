//! File formats of adapters.

mod folder;
mod peft;

pub use peft::{peft_files, read_peft, write_peft};
