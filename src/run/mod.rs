//! The runner process, the run folder, the event log, the control socket and the link to it.

pub mod link;
