//! Pictures from an image base with adapters: samplers, guidance, PNG files.

mod draw;
mod line;
mod noise;
mod png_file;
mod sampler;
#[cfg(test)]
mod sampler_tests;

pub use draw::{Painter, Picture};
pub use line::Drawing;
pub use noise::NoiseLevels;
pub use png_file::parameters;
pub use sampler::{Sampler, SamplerKind, gaussian};
