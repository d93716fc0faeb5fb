//! `loradeck chat`.

use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use super::adapters;
use super::generate::{open_base, open_loaded, sampling};
use crate::cli::ChatArgs;
use crate::generate::{Chat, Outcome};
use crate::printable::{complain, say, write_out};
use crate::run::signals;

/// SIGINT's number.
const INTERRUPT: i32 = 2;

/// Talks with a base and adapters: lines from stdin, replies to stdout.
pub fn run(args: ChatArgs) -> Result<u8> {
    let options = sampling(&args.sampling)?;
    let (base, device) = open_base(&args.base, &args.device)?;
    let open = |word: &str| open_loaded(word, &base, &device);
    let loaded = args
        .lora
        .iter()
        .map(|word| open(word).with_context(|| format!("--lora {word}")));
    let loaded = loaded.collect::<Result<Vec<_>>>()?;
    let mut chat = Chat::new(&base, None, loaded, options);
    adapters::warn_of_strengths(&chat.strengths());
    if let Some(system) = &args.system {
        chat.set_system(system);
    }
    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let busy = Arc::new(AtomicBool::new(false));
    let stop = Arc::new(AtomicBool::new(false));
    let (busy_there, stop_there) = (busy.clone(), stop.clone());
    signals::handle(move |signal| {
        if signal == INTERRUPT && busy_there.load(Ordering::Relaxed) && interactive {
            stop_there.store(true, Ordering::Relaxed);
        } else {
            // Nothing is held that would need to be put in order.
            std::process::exit(128 + signal);
        }
    })?;
    if interactive {
        say(&format!(
            "{}; /help lists the commands",
            base.description.name
        ));
    }
    let mut lines = io::stdin().lock().lines();
    loop {
        if interactive {
            write_out("> ").context("writing to stdout")?;
        }
        let Some(line) = lines.next() else {
            break;
        };
        let line = line.context("reading stdin")?;
        let said = match line.trim_start() {
            "" => continue,
            text if text.starts_with("//") => &text[1..],
            text if text.starts_with('/') => {
                match chat.command(text, &open) {
                    Ok(Outcome::Quit) => break,
                    Ok(Outcome::Told(text)) => complain(&text),
                    Ok(Outcome::Weighed(text)) => {
                        complain(&text);
                        adapters::warn_of_strengths(&chat.strengths());
                    }
                    Err(error) => complain(&format!("loradeck: {error:#}")),
                }
                continue;
            }
            _ => line.as_str(),
        };
        busy.store(true, Ordering::Relaxed);
        let mut written = Ok(());
        let reply = chat.reply(said, &mut |piece| {
            written = write_out(piece);
            written.is_ok() && !stop.swap(false, Ordering::Relaxed)
        });
        busy.store(false, Ordering::Relaxed);
        match reply {
            Ok(reply) => {
                written = written.and_then(|()| write_out("\n"));
                if reply.forgotten > 0 {
                    complain(&format!(
                        "loradeck: the context is full; the oldest {} messages are forgotten",
                        reply.forgotten
                    ));
                }
            }
            Err(error) => complain(&format!("loradeck: {error:#}")),
        }
        match written {
            // Who reads has seen enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            other => other.context("writing to stdout")?,
        }
    }
    if interactive {
        say("");
    }
    Ok(0)
}
