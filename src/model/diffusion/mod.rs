//! Stable Diffusion: bases of its three kinds, whichever files they come in.
//!
//! A base is a UNet, one or two CLIP text encoders and a VAE, all described by data ([`config`])
//! and named as diffusers names them, with the component before: `unet.conv_in`. Opening reads
//! headers and maps the files ([`Source`]); the parts are put into memory one by one. Images are
//! rows of channels on a [`Grid`].

mod adapters;
mod clip;
mod config;
mod layers;
mod ldm;
mod memory;
mod modules;
mod names;
mod plan;
#[cfg(test)]
pub(crate) mod published;
mod source;
mod targets;
mod tensors;
mod text;
mod tokenizer;
mod train;
mod transformer;
mod unet;
mod vae;

pub use crate::ops::Grid;
pub use clip::ClipText;
pub use config::{ClipConfig, Kind, NoiseSchedule, Prediction, UNetConfig, VaeConfig};
pub use memory::{Training, memory_estimate};
pub use source::{Component, Description, Parts, Source, describe, is_image_base};
pub use targets::{ImageTarget, adaptable_modules, match_image_targets};
pub use text::{TextCondition, TextEncoders};
pub use tokenizer::{ClipTokenizer, open_clip_tokenizer};
pub use train::{ImagePass, Text};
pub use unet::{UNet, UNetInput};
pub use vae::{VaeDecoder, VaeEncoder};
