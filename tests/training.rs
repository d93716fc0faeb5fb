//! The training loop in this process, on the built-in base.

#[path = "support/training.rs"]
mod support;

use loradeck::protocol::EventKind;
use loradeck::train::Outcome;
use support::Run;

#[test]
fn a_run_reports_evaluates_samples_saves_and_exports() {
    let temp = tempfile::tempdir().unwrap();
    let run = Run::new(
        temp.path(),
        "epochs: 2\nsave_steps: 5\neval_steps: 4\nsample_steps: 4\nsample_prompts: [\"I have a cough.\"]",
    );
    let (outcome, events) = run.train(None);
    for e in &events {
        println!("{}", serde_json::to_string(e).unwrap());
    }
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert!(matches!(
        events.last(),
        Some(EventKind::Finished { step: 18, .. })
    ));
}
