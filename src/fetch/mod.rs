//! Fetching repositories of the Hugging Face hub into its standard cache.
//!
//! What the cache has is used as it is, without asking the hub: a run that is resumed trains on what
//! it began with, also offline. What is missing is fetched file by file, resumed where it was cut,
//! and checked against the hub's checksums before it gets its name.

#[cfg(feature = "hub")]
mod choose;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
#[cfg(all(test, feature = "hub"))]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::config::hub::{self, Repo, RepoKind};
use crate::error::input_error;

/// What is needed of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A base: its configs, its tokenizer, its weights as safetensors (or its one GGUF file).
    Base,
    /// A captioning model; its weights may be PyTorch's, where there are no others.
    Captioner,
    /// Training data: the files that can be read.
    Data,
}

/// How far a download is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub file: String,
    /// Bytes of all files together.
    pub done: u64,
    pub total: u64,
}

/// Where to fetch from and to.
#[derive(Clone)]
pub struct Hub {
    /// Without a slash at its end.
    pub endpoint: String,
    /// Sent to the endpoint's own host only. `Hub` has no `Debug`, so that no log can show it.
    pub token: Option<String>,
    pub cache: PathBuf,
    pub offline: bool,
    /// The first wait before something is tried again; it doubles.
    pub patience: Duration,
}

const ENDPOINT: &str = "https://huggingface.co";

impl Hub {
    /// By the variables that `huggingface_hub` reads: `HF_ENDPOINT`, `HF_TOKEN` (else the file that
    /// `hf auth login` wrote), `HF_HUB_CACHE`, `HF_HOME`, `HF_HUB_OFFLINE`.
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        let yes = |name: &str| {
            let value = set(name).unwrap_or_default().to_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.trim())
        };
        let token_file = || {
            let path =
                set("HF_TOKEN_PATH").map_or_else(|| hub::home().join("token"), PathBuf::from);
            std::fs::read_to_string(path).ok()
        };
        let token = set("HF_TOKEN")
            .or_else(|| set("HUGGING_FACE_HUB_TOKEN"))
            .or_else(token_file)
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Hub {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token,
            cache: hub::cache_dir(),
            offline: yes("HF_HUB_OFFLINE") || yes("TRANSFORMERS_OFFLINE"),
            patience: Duration::from_secs(1),
        }
    }

    /// The path of what is wanted of a repository, fetched where the cache does not have it. With
    /// `update`, the hub is asked whether the revision has moved.
    ///
    /// # Errors
    /// A sentence: no such repository, no access, no connection, no space, nothing in it that can be
    /// used.
    pub fn fetch(
        &self,
        repo: &Repo,
        wanted: Wanted,
        update: bool,
        progress: &dyn Fn(&Progress),
    ) -> Result<PathBuf> {
        if !update
            && self.is_complete(repo, wanted)
            && let Some(path) = repo.cached(&self.cache)
        {
            return Ok(path);
        }
        let flag = match wanted {
            Wanted::Base => "",
            Wanted::Captioner => "--captions ",
            Wanted::Data => "--data ",
        };
        if self.offline {
            return repo.cached(&self.cache).ok_or_else(|| {
                input_error(format!(
                    "{} is not in the cache ({}), and HF_HUB_OFFLINE forbids to fetch it; fetch it \
                     where there is a network, with {}, or write a path",
                    repo.written(),
                    self.cache.display(),
                    hub::fetching(repo, flag)
                ))
            });
        }
        #[cfg(feature = "hub")]
        return self.fetch_from_hub(repo, wanted, progress);
        #[cfg(not(feature = "hub"))]
        {
            let _ = progress;
            repo.cached(&self.cache).ok_or_else(|| {
                input_error(format!(
                    "{} is not in the cache ({}); fetch it with {}, or write a path",
                    repo.written(),
                    self.cache.display(),
                    hub::fetching(repo, flag)
                ))
            })
        }
    }

    /// Whether all that is wanted was fetched before and still lies there.
    fn is_complete(&self, repo: &Repo, wanted: Wanted) -> bool {
        let Some(commit) = repo.cached_commit(&self.cache) else {
            return false;
        };
        let folder = repo.folder(&self.cache);
        let Ok(listed) = std::fs::read_to_string(mark(repo, wanted, &folder, &commit)) else {
            return false;
        };
        let snapshot = folder.join("snapshots").join(&commit);
        listed.lines().all(|file| snapshot.join(file).exists())
    }
}

/// The file that lists what was wanted of a commit, once it is all there. `huggingface_hub` passes
/// over it.
fn mark(repo: &Repo, wanted: Wanted, folder: &std::path::Path, commit: &str) -> PathBuf {
    let what = match (&repo.file, wanted) {
        (Some(file), _) => file.replace('/', "--"),
        (None, Wanted::Base) => "base".to_owned(),
        (None, Wanted::Captioner) => "captioner".to_owned(),
        (None, Wanted::Data) => "data".to_owned(),
    };
    folder.join("loradeck").join(format!("{commit}-{what}"))
}

/// What a base's, a captioner's or the data's name stands for: a path that exists as it is, else a
/// repository, fetched where needed.
///
/// # Errors
/// As [`Hub::fetch`]; neither a path nor a repository's name.
pub fn local_path(written: &str, wanted: Wanted, progress: &dyn Fn(&Progress)) -> Result<String> {
    let kind = match wanted {
        Wanted::Data => RepoKind::Dataset,
        Wanted::Base | Wanted::Captioner => RepoKind::Model,
    };
    match Repo::parse(written, kind) {
        Some(repo) => {
            let path = Hub::from_environment().fetch(&repo, wanted, false, progress)?;
            Ok(path.display().to_string())
        }
        None => Ok(written.to_owned()),
    }
}
