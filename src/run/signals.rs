//! Signals to a runner: SIGHUP means nothing, SIGTERM and SIGINT end the run.

use std::thread;

use anyhow::{Context, Result};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// Ignores SIGHUP and calls `on_signal` with the number of each SIGTERM and SIGINT, on a thread of
/// its own.
///
/// # Errors
/// The system refuses handlers or a thread.
pub fn handle(mut on_signal: impl FnMut(i32) + Send + 'static) -> Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot listen for signals")?;
    let entered = runtime.enter();
    // Registered here, so that no signal after this call acts as by default.
    let (term, int) = (SignalKind::terminate(), SignalKind::interrupt());
    let mut on_term = signal(term).context("cannot listen for SIGTERM")?;
    let mut on_int = signal(int).context("cannot listen for SIGINT")?;
    let mut on_hup = signal(SignalKind::hangup()).context("cannot ignore SIGHUP")?;
    drop(entered);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        Some(()) = on_term.recv() => on_signal(term.as_raw_value()),
                        Some(()) = on_int.recv() => on_signal(int.as_raw_value()),
                        Some(()) = on_hup.recv() => {}
                    }
                }
            });
        })?;
    Ok(())
}
