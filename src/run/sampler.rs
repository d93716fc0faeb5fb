//! Reads the machine every few seconds while a run goes on.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::monitor::{GpuMonitor, HostMonitor};
use crate::protocol::{EventKind, PhaseName};
use crate::train::{self, Reporter};

use super::folder::RunFolder;
use super::hub::Hub;

const EVERY: Duration = Duration::from_secs(2);
/// While the run is paused.
const EVERY_PAUSED: Duration = Duration::from_secs(10);

/// Starts the sampler. It ends when the returned sender is dropped.
///
/// # Errors
/// The system refuses a thread.
pub fn start(folder: &RunFolder, hub: Hub) -> Result<Sender<()>> {
    let (stop, stopped) = mpsc::channel::<()>();
    let root = folder.root().to_owned();
    thread::Builder::new()
        .name("hardware".into())
        .spawn(move || {
            let mut gpu = GpuMonitor::open();
            let mut host = HostMonitor::new(&root);
            loop {
                hub.emit(EventKind::Hardware {
                    gpu: gpu.read(
                        &hub.device(),
                        train::device_uuid().as_deref(),
                        train::device_memory(),
                    ),
                    host: host.read(),
                });
                let pause = match hub.phase() {
                    PhaseName::Paused => EVERY_PAUSED,
                    _ => EVERY,
                };
                if stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        })?;
    Ok(stop)
}
