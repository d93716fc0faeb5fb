//! `loradeck new`: the form for a new run, or its defaults without questions.

use std::path::PathBuf;

use anyhow::{Result, anyhow};

use super::fetch;
use super::home::{self, advise};
use crate::cli::NewArgs;
use crate::error::input_error;
use crate::fetch::Wanted;
use crate::printable::{say, write_out};
use crate::ui::home::Open;
use crate::ui::home::form::Form;
use crate::ui::lang::Lang;

pub fn run(args: NewArgs) -> Result<u8> {
    // The form and its advice read them; the config keeps the names.
    for (written, wanted) in [(&args.base, Wanted::Base), (&args.data, Wanted::Data)] {
        if let Some(written) = written {
            fetch::path_of(written, wanted)?;
        }
    }
    if !args.yes {
        let open = Open::Form {
            base: args.base,
            data: args.data,
        };
        return home::open(PathBuf::from("output"), args.look, open);
    }
    let (Some(base), Some(data)) = (args.base, args.data) else {
        return Err(input_error(
            "--yes asks nothing, so name both: `loradeck new --yes --base BASE --data DATA`",
        ));
    };
    let lang = Lang::detect(args.look.lang.as_deref());
    let mut form = Form::new(
        lang,
        Some(base.clone()),
        Some(data.clone()),
        Vec::new(),
        Vec::new(),
    );
    let suggestion = advise(&base, &data).map_err(|e| input_error(format!("{e:#}")))?;
    form.advise(Ok(suggestion));
    let path = args.output.unwrap_or_else(|| form.path());
    let text = form.yaml();
    if path.as_os_str() == "-" {
        write_out(&text).map_err(|e| anyhow!("cannot write to stdout: {e}"))?;
        return Ok(0);
    }
    home::write_new(&path, &text)?;
    let shown = path.display();
    say(&format!(
        "wrote {shown}; `loradeck check {shown}` checks it, `loradeck train {shown}` starts it"
    ));
    Ok(0)
}
