//! `loradeck check`.

pub(super) mod examine;
mod examine_images;
pub(super) mod findings;
mod images;
mod json;
mod text;
mod trial;

use anyhow::Result;

use super::{deck_options, fetch};
use crate::cli::CheckArgs;
use crate::printable::{write_json, write_out};
use crate::protocol::Severity;
use crate::run::link::Place;
use crate::ui;

/// Examines a config, its base and its data, and tries the pipeline out if asked. Prints the report;
/// the exit code is 0, 2 with a mistake in the config, or 1 where training would go wrong: with data that
/// is wrong, or after a trial that failed. Warnings do not count.
pub fn run(args: CheckArgs) -> Result<u8> {
    fetch::named_in(&args.config, &args.sets)?;
    if args.edit {
        let place = Place::Before {
            config: args.config.clone(),
            sets: args.sets.clone(),
        };
        ui::deck(deck_options(place, false, &args.look))?;
    }
    let mut report = examine::examine(&args.config, &args.sets);
    let wrong = findings::count(report.findings(), Severity::Wrong) > 0;
    if args.try_run && report.problems.is_empty() && !wrong {
        if !args.json {
            print(&text::report(&report, &text::Look::of_terminal()))?;
        }
        report.trial = trial::run(&report, |step| {
            if !args.json {
                print(&text::trial_step(step, &text::Look::of_terminal())).ok();
            }
        });
    } else if !args.json {
        print(&text::report(&report, &text::Look::of_terminal()))?;
    }
    if args.json {
        unless_closed(write_json(&format!("{:#}", json::report(&report))))?;
    } else {
        print(&text::verdict(&report, args.try_run))?;
    }
    Ok(match report.problems.is_empty() {
        false => 2,
        true => u8::from(wrong || report.trial.iter().any(|step| step.outcome.is_err())),
    })
}

fn print(text: &str) -> Result<()> {
    unless_closed(write_out(text))
}

/// A reader that has seen enough (`| head`) is no failure.
fn unless_closed(written: std::io::Result<()>) -> Result<()> {
    match written {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
