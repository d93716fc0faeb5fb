//! Differentiable operations with a backward of their own, so that frozen weights never get a
//! gradient and fused steps never detach. Each is checked by finite differences.
//!
//! Activations are `[tokens, features]`: the rows of a batch lie one after another, without
//! padding; where one ends is told by [`Span`]s. Images are `[pixels, channels]` alike, on a
//! [`Grid`]. On the CPU the operations run in f32 on rayon's
//! threads, and every sum is taken in an order that does not depend on scheduling, so equal inputs
//! give equal bits. On GPUs kernels of our own and cuBLAS do the same ([`cuda`]). What a
//! backward needs is noted on a [`Tape`].

mod activation;
mod attention;
mod bias;
mod columns;
mod conv;
mod cuda;
mod decode;
mod dora;
mod dropout;
mod embedding;
mod encode;
mod group_norm;
mod head;
pub mod heap;
mod images;
mod layer_norm;
mod linear;
mod lora;
mod loss_sum;
mod matrix;
mod norm;
pub mod profile;
mod rope;
mod rows;
mod squares;
mod swiglu;
mod tape;
mod tensors;
mod variable;
mod weight;
mod wide;

#[cfg(test)]
mod finite_differences;

pub use activation::{Activation, activate, geglu};
pub use attention::{Heads, Sight, Span, attention};
pub use bias::add_bias;
pub use columns::select_columns;
pub use conv::{FrozenConv, Grid, Kernel, conv2d};
#[cfg(test)]
pub(crate) use cuda::emulated::emulated;
pub use cuda::{Mailbox, device_product_rate, device_uuid, memory_in_use, optimizer, prepare};
pub(crate) use cuda::{emulating, serves as runs_kernels};
pub use dora::{DoraTerm, adapted_row_norms};
pub use dropout::Dropout;
pub use embedding::embedding;
pub use group_norm::{GroupNorm, group_norm};
pub use head::cross_entropy;
pub(crate) use head::tokens_at_once;
pub use images::{add, add_to_images, join_channels, upsample};
pub use layer_norm::layer_norm;
pub use linear::frozen_linear;
pub use lora::{LoraTerm, Residual, lora_linear, lora_linear_with_bias};
pub use loss_sum::LossSum;
pub use matrix::product_rate;
pub use norm::rms_norm;
pub use rope::{RopeTable, rope};
pub use rows::select_rows;
pub use squares::{Wanted, squared_errors};
pub use swiglu::swiglu;
pub use tape::{Gradients, Tape};
pub use tensors::to_vec;
pub use variable::Variable;
pub use weight::{Bytes, FrozenWeight, HostWeight};
