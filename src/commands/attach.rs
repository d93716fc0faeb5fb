//! `loradeck attach`: the deck on a run, live or ended.

use std::io::{IsTerminal, Write};

use anyhow::Result;

use crate::cli::AttachArgs;
use crate::error::input_error;
use crate::run::folder::live_runner;
use crate::run::status::find_run;
use crate::ui::{self, DeckOptions};

pub fn run(args: AttachArgs) -> Result<u8> {
    let folder = find_run(args.run.as_deref())?;
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Err(input_error(
            "the deck needs a terminal; `loradeck status` prints where the run stands",
        ));
    }
    ui::deck(DeckOptions {
        run_dir: folder.root().to_owned(),
        readonly: args.readonly,
        theme: args.deck.theme,
        lang: args.deck.lang,
        keymap: args.deck.keymap,
        bell: args.deck.bell,
    })?;
    if let Some(pid) = live_runner(&folder) {
        let path = folder.root().display();
        // The terminal may be gone, which is why the deck has ended.
        let _ = writeln!(
            std::io::stdout(),
            "the run goes on (pid {pid}); `loradeck attach {path}` opens it again"
        );
    }
    Ok(0)
}
