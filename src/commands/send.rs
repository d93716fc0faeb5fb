//! `loradeck send`: one command to a run, and its answer.

use std::time::Duration;

use anyhow::Result;

use crate::cli::{SendAction, SendArgs};
use crate::error::input_error;
use crate::printable::{complain, say};
use crate::protocol::{Command, StopMode};
use crate::run::client::Client;
use crate::run::folder::{RunFolder, live_runner};
use crate::run::status::{find_run, load_state};

/// After this, the wait is explained.
const SOON: Duration = Duration::from_secs(3);

pub fn run(args: SendArgs) -> Result<u8> {
    let folder = find_run(Some(&args.run))?;
    let command = command(args.action, args.argument)?;
    let word = command.word();
    if live_runner(&folder).is_none() {
        complain(&format!("loradeck: {}", nobody(&folder, &word)?));
        return Ok(1);
    }
    let mut client = Client::connect(&folder, false)?;
    let answer = client.command(command, SOON, || {
        complain("waiting: the run takes commands between two micro-batches, once it is loaded");
    })?;
    if answer.ok {
        // Whoever reads may have left: `send RUN pause | head -0`.
        say(&format!("{word}: {}", answer.message));
        Ok(0)
    } else {
        complain(&format!("loradeck: {word}: {}", answer.message));
        Ok(1)
    }
}

/// Why nobody takes the command, and what helps.
fn nobody(folder: &RunFolder, word: &str) -> Result<String> {
    let state = load_state(folder)?;
    let path = folder.root().display();
    let config = state.config_path.as_deref().unwrap_or("CONFIG");
    Ok(format!(
        "{word}: no runner is alive in {path} (it is {}); `loradeck train {config}` goes on with an \
         unfinished run",
        state.phase.as_str()
    ))
}

fn command(action: SendAction, argument: Option<String>) -> Result<Command> {
    let takes_none = |command: Command| match &argument {
        None => Ok(command),
        Some(extra) => Err(input_error(format!(
            "{} takes no argument, but got {extra:?}",
            command.word()
        ))),
    };
    match action {
        SendAction::Pause => takes_none(Command::Pause),
        SendAction::Resume => takes_none(Command::Resume),
        SendAction::Checkpoint => takes_none(Command::Checkpoint),
        SendAction::Export => takes_none(Command::Export),
        SendAction::Eval => takes_none(Command::Eval),
        SendAction::Sample => Ok(Command::Sample { prompt: argument }),
        SendAction::Stop => match argument.as_deref() {
            None | Some("save") => Ok(Command::Stop {
                mode: StopMode::Save,
            }),
            Some("discard") => Ok(Command::Stop {
                mode: StopMode::Discard,
            }),
            Some(other) => Err(input_error(format!(
                "stop takes `save` (the default) or `discard`, not {other:?}"
            ))),
        },
        SendAction::Set => match argument.as_deref().and_then(|a| a.split_once('=')) {
            Some((key, value)) => Ok(Command::Set {
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            }),
            None => Err(input_error(
                "set takes key=value, for example `set learning_rate=1e-4`",
            )),
        },
    }
}
