//! loradeck fine-tunes LoRA adapters from one YAML file and lets a person watch and steer the run
//! from a terminal.
//!
//! The map of the house; data flows down this list, commands flow back up:
//!
//! - [`protocol`]: events, commands, queries, replies, and the fold of events into a state
//! - [`config`]: the YAML file
//! - [`fetch`]: the Hugging Face hub and its cache
//! - [`random`]: counter-based random numbers
//! - [`error`]: which errors are the input's
//! - [`printable`]: text on its way to a terminal
//! - [`ops`]: differentiable operations with their own backward
//! - [`model`]: bases and their layers
//! - [`adapter`]: file formats of adapters
//! - [`data`]: records, chat templates, batches
//! - [`generate`]: text from a base with adapters
//! - [`train`]: the training loop
//! - [`monitor`]: the machine, TensorBoard
//! - [`run`]: the runner process, its folder, its socket
//! - [`ui`]: the deck
//! - [`commands`]: the command line's subcommands
//!
//! `tests/layering.rs` holds which room may use which.

pub mod adapter;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod error;
pub mod fetch;
pub mod generate;
pub mod model;
pub mod monitor;
pub mod ops;
pub mod printable;
pub mod protocol;
pub mod random;
pub mod run;
pub mod train;
pub mod ui;
