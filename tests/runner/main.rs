//! The runner as a real process, around a trainer that only pretends.

mod clients;
mod endurance;
mod life;
mod others;
mod support;

/// Not a test: the process that the others start. See `support::Run::start`.
#[test]
#[ignore = "the runner process of the other tests"]
fn runner_process() {
    support::runner_process();
}
