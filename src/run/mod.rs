//! The runner process, the run folder, the event log, the control socket and the link to it.
//!
//! - `folder`: paths, `run.json`, the lock
//! - `segments`, `log`, `snapshot`: reading and writing `events.*.jsonl`, and their fold kept
//! - `hub`: the thread that numbers, writes, folds and hands on events
//! - `socket`, `outbox`, `server`: the control socket's serving end
//! - `control`: the way to the trainer
//! - `store`: answers to queries, from the folder
//! - [`link`], `client`: the other end, for decks and for `status` and `send`
//! - [`bridge`]: a link over stdin and stdout, for a deck on another machine
//! - `watch`, `sampler`, `tensorboard`, `notify`, `headless`, `provenance`, `signals`: tasks of a
//!   runner
//! - [`runner`], [`start`], [`resume`]: the process, starting it, and what it starts from
//! - [`queue`]: runs one after another
//! - [`status`]: where a run stands
//! - `logind`: whether logging out ends a run

pub mod bridge;
pub mod client;
mod control;
mod eviction;
pub mod folder;
pub mod headless;
mod hub;
pub mod link;
mod log;
pub mod logind;
mod notify;
mod outbox;
mod provenance;
pub mod queue;
pub mod resume;
pub mod runner;
mod sampler;
mod segments;
mod server;
pub mod signals;
mod snapshot;
pub mod socket;
pub mod start;
pub mod status;
mod store;
mod tensorboard;
mod watch;
