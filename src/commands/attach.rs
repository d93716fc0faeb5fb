//! `loradeck attach`: the deck on a run, live or ended, here or on another machine.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{deck_options, home};
use crate::cli::AttachArgs;
use crate::error::input_error;
use crate::printable::say;
use crate::run::folder::{RunFolder, live_runner};
use crate::run::link::{Place, SCHEME, SshAddress};
use crate::run::status::find_run;
use crate::ui::home::Open;
use crate::ui::{self, Leave};

pub fn run(args: AttachArgs) -> Result<u8> {
    let place = match args.run {
        Some(run) if run.starts_with(SCHEME) => Place::Ssh {
            address: SshAddress::parse(&run)?,
            program: args.remote_program,
        },
        run => Place::Folder(find_run(run.as_deref().map(Path::new))?.root().to_owned()),
    };
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Err(input_error(
            "the deck needs a terminal; `loradeck status` prints where the run stands",
        ));
    }
    let leave = ui::deck(deck_options(place.clone(), args.readonly, &args.look))?;
    if leave == Leave::Home {
        return home::open(PathBuf::from("output"), args.look, Open::Runs);
    }
    match place {
        Place::Folder(path) => {
            if let Some(pid) = live_runner(&RunFolder::new(&path)) {
                let path = path.display();
                say(&format!(
                    "the run goes on (pid {pid}); `loradeck attach {path}` opens it again"
                ));
            }
        }
        Place::Ssh { address, .. } if leave == Leave::Detached => {
            say(&format!("`loradeck attach {address}` opens it again"));
        }
        _ => {}
    }
    Ok(0)
}
