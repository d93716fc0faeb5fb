//! Adapters as files: reading and writing every format, converting between them, merging them into
//! bases and combining them.
//!
//! [`Adapter`] is what an adapter is, whatever file it came from; each format's reader makes one and
//! its writer takes one ([`peft`], [`gguf`], [`kohya`], [`diffusers`]). [`convert`] makes an adapter
//! fit a format first.

mod combine;
mod convert;
mod diffusers;
mod family;
mod folder;
mod gguf;
mod image_names;
mod image_set;
mod inspect;
mod kohya;
mod lora_set;
mod merge;
mod model;
mod numbers;
mod open;
mod pattern;
mod peft;
mod safetensors_file;
mod svd;
mod write;

#[cfg(test)]
mod tests;

pub use combine::{Reduced, concatenate, reduce_rank};
pub use convert::{ExportOptions, check_format};
pub use image_set::{from_image_set, image_family, read_image_set, to_image_set};
pub use inspect::{PartReport, Report, inspect};
pub use lora_set::{from_lora_set, peft_files, read_lora_set, to_lora_set, write_peft};
pub use merge::{Loss, Merged, Progress, Weighted, base_bytes, merge};
pub use model::{Adapter, Family, Format, Keys, Part, Rows};
pub use numbers::{Dtype, Numbers};
pub use open::open;
pub use write::{IMAGE_FILE, Written, kohya_file, write};
