//! `loradeck fetch`, and what other commands fetch before they begin.

use std::path::Path;

use anyhow::Result;

use super::bytes;
use super::progress::Bar;
use crate::cli::FetchArgs;
use crate::config::hub::{self, Repo, RepoKind};
use crate::error::input_error;
use crate::fetch::{self, Hub, Progress, Wanted};
use crate::printable::say;

/// Fetches repositories, or brings them up to date, and prints where they lie.
pub fn run(args: FetchArgs) -> Result<u8> {
    let kind = match args.data {
        true => RepoKind::Dataset,
        false => RepoKind::Model,
    };
    for written in &args.repos {
        let repo = Repo::parse(written, kind).ok_or_else(|| {
            input_error(format!(
                "{written} is no repository's name (owner/name, owner/name@revision, \
                 owner/name/file.gguf), or names a file or folder here"
            ))
        })?;
        let wanted = match (args.data, args.captions) {
            (true, _) => Wanted::Data,
            (_, true) => Wanted::Captioner,
            _ => Wanted::Base,
        };
        say(&one(&repo, wanted, true)?);
    }
    Ok(0)
}

fn one(repo: &Repo, wanted: Wanted, update: bool) -> Result<String> {
    let bar = Bar::new(format!("fetching {}", repo.written()));
    let show = |progress: &Progress| bar.show(progress.done, progress.total, bytes);
    let path = Hub::from_environment().fetch(repo, wanted, update, &show)?;
    Ok(path.display().to_string())
}

/// Fetches what a config names and the cache does not have. What is wrong with the config else is
/// for its loading to tell.
pub(super) fn named_in(config: &Path, sets: &[String]) -> Result<()> {
    for (key, repo) in hub::named_in(config, sets) {
        let wanted = match key {
            "clip_model" => Wanted::Captioner,
            "train_data_dir" => Wanted::Data,
            _ => Wanted::Base,
        };
        one(&repo, wanted, false)?;
    }
    Ok(())
}

/// A base's path: as it is written, or of the repository that it names.
pub(super) fn base(written: &str) -> Result<String> {
    path_of(written, Wanted::Base)
}

pub(super) fn path_of(written: &str, wanted: Wanted) -> Result<String> {
    let bar = Bar::new(format!("fetching {written}"));
    fetch::local_path(written, wanted, &|progress| {
        bar.show(progress.done, progress.total, bytes);
    })
}
