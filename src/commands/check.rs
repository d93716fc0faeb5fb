//! `loradeck check`.

pub(super) mod examine;
mod json;
mod text;
mod trial;

use std::io::Write;

use anyhow::Result;

use crate::cli::CheckArgs;

/// Examines a config, its base and its data, and tries the pipeline out if asked. Prints the report;
/// the exit code is 0, or 2 with a problem (1 if only the trial failed). Warnings do not count.
pub fn run(args: CheckArgs) -> Result<u8> {
    let mut report = examine::examine(&args.config, &args.sets);
    if args.try_run && report.problems.is_empty() {
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
        print(&format!("{:#}\n", json::report(&report)))?;
    } else {
        print(&text::verdict(&report, args.try_run))?;
    }
    Ok(match report.problems.is_empty() {
        false => 2,
        true => u8::from(report.trial.iter().any(|step| step.outcome.is_err())),
    })
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    // A reader that has seen enough (`| head`) is no failure.
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
