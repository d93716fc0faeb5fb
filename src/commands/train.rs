//! `loradeck train`: starts or resumes a run, and shows it.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{deck_options, home};
use crate::cli::TrainArgs;
use crate::config::{self, LoadedConfig};
use crate::error::input_error;
use crate::printable::{complain, say};
use crate::run::folder::{RunFolder, RunInfo, live_runner};
use crate::run::link::Place;
use crate::run::resume::{self, Decision, ResumeMode};
use crate::run::runner;
use crate::run::start::{self, Request};
use crate::run::status::load_state;
use crate::run::{headless, logind};
use crate::train::train;
use crate::ui::home::Open;
use crate::ui::{self, Leave};

/// How long a runner may take to end after its last event.
const END_PATIENCE: Duration = Duration::from_secs(5);

pub fn run(args: TrainArgs) -> Result<u8> {
    let loaded = load(&args)?;
    let folder = RunFolder::new(&loaded.config.output_dir);
    let decision = resume::decide(&folder, &loaded.config, &ResumeMode::new(&args.resume))?;
    let (checkpoint, notes) = match decision {
        Decision::Finished(sentence) => {
            say(&sentence);
            return Ok(0);
        }
        Decision::Start { checkpoint, notes } => (checkpoint, notes),
    };
    for note in &notes {
        say(note);
    }
    let request = Request {
        run_dir: folder.root().to_owned(),
        config_path: loaded.path.clone(),
        sets: args.sets.clone(),
        resume: checkpoint,
        argv: std::env::args().collect(),
    };
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if args.headless || !(args.detach || terminal) {
        return Ok(runner::run(
            request,
            loaded,
            runner::Place::Foreground,
            Box::new(train),
        ));
    }
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}"));
    }
    let child = match start::spawn(&folder, &request)? {
        Ok(child) => child,
        Err(failed) => {
            complain(&format!("loradeck: {}", failed.error));
            return Ok(failed.exit_code);
        }
    };
    if let Some(warning) = logind::kills_user_processes() {
        complain(&format!("warning: {warning}"));
    }
    if args.detach {
        let path = folder.root().display();
        say(&format!("run {path}, pid {}", child.id()));
        say(&format!("`loradeck attach {path}` opens it"));
        return Ok(0);
    }
    let leave = ui::deck(deck_options(
        Place::Folder(folder.root().to_owned()),
        false,
        &args.look,
    ))?;
    if leave == Leave::Home {
        return home::open(PathBuf::from("output"), args.look, Open::Runs);
    }
    after_deck(&folder, child, leave)
}

fn load(args: &TrainArgs) -> Result<LoadedConfig> {
    let path: &PathBuf = match (&args.config, &args.config_option) {
        (Some(path), _) | (None, Some(path)) => path,
        (None, None) => bail!(input_error("name a config file: `loradeck train CONFIG`")),
    };
    config::load(path, &args.sets).map_err(|problems| config::problems_error(&problems))
}

/// Says whether the run goes on; its exit code is this command's. How it ended the deck has told.
fn after_deck(folder: &RunFolder, mut child: Child, leave: Leave) -> Result<u8> {
    if leave == Leave::RunEnded {
        let until = Instant::now() + END_PATIENCE;
        while child.try_wait()?.is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // Not the child's pid: the deck may have started another runner.
    if let Some(pid) = live_runner(folder) {
        let path = folder.root().display();
        say(&format!(
            "the run goes on (pid {pid}); `loradeck attach {path}` opens it again"
        ));
        return Ok(0);
    }
    if leave == Leave::Detached {
        for line in headless::ending(&load_state(folder)?) {
            say(&line);
        }
    }
    Ok(RunInfo::read(folder)
        .and_then(|info| info.ended)
        .map_or(1, |ended| ended.exit_code))
}
