//! File formats of adapters.

mod folder;
mod peft;

pub use peft::{read_peft, write_peft};
