//! Writes the run's events to TensorBoard's files, on a thread of its own.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::Result;

use crate::monitor::TensorBoard;
use crate::protocol::Level;

use super::folder::{RunFolder, now};
use super::hub::Hub;

/// Events that may wait for a slow disk; later ones are missing in TensorBoard then, never in the
/// event log.
const EVENTS: usize = 4096;

/// Starts the writer; it ends with the hub.
///
/// # Errors
/// The files cannot be created.
pub fn start(hub: &Hub, folder: &RunFolder) -> Result<JoinHandle<()>> {
    let mut board = TensorBoard::create(&folder.tensorboard(), now())?;
    let (tap, events) = mpsc::sync_channel(EVENTS);
    hub.tap(tap);
    let hub = Told(Some(hub.clone()));
    let thread = thread::Builder::new()
        .name("tensorboard".into())
        .spawn(move || {
            let mut hub = hub;
            while let Ok(event) = events.recv() {
                board.add(&event);
                for event in events.try_iter() {
                    board.add(&event);
                }
                if let Err(e) = board.flush() {
                    hub.tell(format!("the TensorBoard files cannot be written: {e}"));
                }
            }
        })?;
    Ok(thread)
}

/// Says something once.
struct Told(Option<Hub>);

impl Told {
    fn tell(&mut self, text: String) {
        if let Some(hub) = self.0.take() {
            hub.message(Level::Warning, text);
        }
    }
}
