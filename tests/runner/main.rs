//! The runner as a real process, around a trainer that only pretends.

mod clients;
mod endurance;
mod life;
mod others;
#[path = "../program/mod.rs"]
mod program;
mod support;

/// Not a test: the process that the others start. See `support::Run::start`.
#[test]
#[ignore = "the runner process of the other tests"]
fn runner_process() {
    support::runner_process();
}

/// Not a test either: a client of another user.
#[test]
#[ignore = "another user's client in a test of this folder"]
fn stranger_process() {
    others::stranger();
}
