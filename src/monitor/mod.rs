//! Watching the machine and writing TensorBoard logs.

mod gpu;
mod host;
mod nvml;
mod tensorboard;
mod tfevents;

pub use gpu::{GpuMonitor, GpuSource};
pub use host::HostMonitor;
pub use tensorboard::TensorBoard;
