//! `loradeck label`: captions for a folder of images.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::fetch;
use super::generate::parse_device;
use super::progress::Bar;
use crate::cli::{EarlyStop, LabelArgs, LabelWay};
use crate::data::images::{self, Rgb};
use crate::data::{LabelFormat, Labels};
use crate::error::input_error;
use crate::fetch::Wanted;
use crate::generate::{EarlyStopping, Labeller, SearchOptions};
use crate::model;
use crate::printable::{complain, say};

/// BLIP base.
const MODEL: &str = "Salesforce/blip-image-captioning-base";

/// Writes captions, a batch at a time; what is written stays when it is stopped. The exit code is 1
/// where an image could not be read.
pub fn run(args: LabelArgs) -> Result<u8> {
    let (path, format) = target(&args)?;
    let mut labels = Labels::open(&path, format)?;
    let all = images::list(&args.input)?;
    if all.is_empty() {
        return Err(input_error(format!(
            "--input: {} holds no images",
            args.input.display()
        )));
    }
    let total = all.len();
    let wanted = |name: &str| args.overwrite || labels.get(name).is_none();
    let todo: Vec<(String, PathBuf)> = all.into_iter().filter(|(name, _)| wanted(name)).collect();
    let kept = total - todo.len();
    if todo.is_empty() {
        say(&format!(
            "all {total} images have captions in {}; --overwrite writes them anew",
            path.display()
        ));
        return Ok(0);
    }
    let labeller = open(&args)?;
    let bar = Bar::new("writing captions");
    let mut unreadable = 0;
    for (at, batch) in todo.chunks(args.batch_size).enumerate() {
        bar.update((at * args.batch_size) as u64, todo.len() as u64);
        let mut names: Vec<&str> = Vec::new();
        let mut pictures: Vec<Rgb> = Vec::new();
        for (name, path) in batch {
            match images::open(path) {
                Ok(picture) => {
                    names.push(name);
                    pictures.push(picture);
                }
                Err(e) => {
                    unreadable += 1;
                    complain(&format!("warning: left out: {e:#}"));
                }
            }
        }
        if pictures.is_empty() {
            continue;
        }
        for (name, caption) in names.into_iter().zip(labeller.captions(&pictures)?) {
            labels.set(name, with_prefix(args.prefix.as_deref(), &caption));
        }
        labels.save()?;
    }
    drop(bar);
    let written = todo.len() - unreadable;
    let place = path.display();
    let mut told = format!("{written} captions in {place}");
    if kept > 0 {
        told += &format!("; {kept} were there already");
    }
    if unreadable > 0 {
        told += &format!("; {unreadable} images could not be read");
    }
    say(&told);
    Ok(u8::from(unreadable > 0))
}

/// Where captions go, and how.
fn target(args: &LabelArgs) -> Result<(PathBuf, LabelFormat)> {
    let extension = |path: &Path| {
        let extension = path.extension()?.to_str()?;
        Some(extension.to_lowercase())
    };
    let by_name = match args.output.as_deref().and_then(extension).as_deref() {
        Some("csv") => Some(LabelFormat::Csv),
        Some("jsonl") => Some(LabelFormat::Jsonl),
        _ => None,
    };
    let asked = args.format.map(|way| match way {
        LabelWay::Csv => LabelFormat::Csv,
        LabelWay::Jsonl => LabelFormat::Jsonl,
        LabelWay::Txt => LabelFormat::Txt,
    });
    let format = asked.or(by_name).ok_or_else(|| {
        input_error(match &args.output {
            Some(output) => format!(
                "--output {}: name a .csv or .jsonl file, or say --format csv, jsonl or txt",
                output.display()
            ),
            None => {
                "name a file: `--output metadata.csv`; or say `--format txt` for a .txt beside \
                     each image"
                    .to_owned()
            }
        })
    })?;
    match (&args.output, format) {
        (None, LabelFormat::Txt) => Ok((args.input.clone(), format)),
        (Some(output), LabelFormat::Txt) if output.is_file() => Err(input_error(format!(
            "--output {}: with --format txt it is a folder, and this is a file",
            output.display()
        ))),
        (Some(output), LabelFormat::Csv | LabelFormat::Jsonl) if output.is_dir() => {
            Err(input_error(format!(
                "--output {} is a folder: name the file in it, such as metadata.csv",
                output.display()
            )))
        }
        (Some(output), _) => Ok((output.clone(), format)),
        (None, _) => Err(input_error("name a file: `--output metadata.csv`")),
    }
}

fn open(args: &LabelArgs) -> Result<Labeller> {
    let options = SearchOptions {
        beams: args.beams,
        max_tokens: args.max_tokens,
        min_tokens: args.min_tokens,
        length_penalty: args.length_penalty,
        early_stopping: match args.early_stopping {
            EarlyStop::Yes => EarlyStopping::Yes,
            EarlyStop::No => EarlyStopping::No,
            EarlyStop::Never => EarlyStopping::Never,
        },
        repetition_penalty: args.repetition_penalty,
        no_repeat_ngram: args.no_repeat_ngram,
    };
    if options.repetition_penalty <= 0.0 || options.min_tokens > options.max_tokens {
        return Err(input_error(
            "--repetition-penalty must be above 0, and --min-tokens at most --max-tokens",
        ));
    }
    let device = model::device(parse_device(&args.device)?)?;
    let written = args.model.as_deref().unwrap_or(MODEL);
    let folder = fetch::path_of(written, Wanted::Captioner).map_err(|e| match args.model {
        Some(_) => e,
        None => input_error(format!(
            "{e:#}. Without --model captions are written by {MODEL}; a folder with its config.json, \
             weights and tokenizer.json can be named instead: --model DIR"
        )),
    })?;
    Labeller::open(Path::new(&folder), &device, args.begin.as_deref(), options)
}

/// The trigger word stands first.
fn with_prefix(prefix: Option<&str>, caption: &str) -> String {
    match prefix.map(str::trim).filter(|prefix| !prefix.is_empty()) {
        Some(prefix) => format!("{}, {caption}", prefix.trim_end_matches(',')),
        None => caption.to_owned(),
    }
}
