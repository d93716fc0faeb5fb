//! Repositories of the Hugging Face hub by name, and what of them lies in the local cache. Nothing
//! here touches the network; `fetch/` does.
//!
//! The cache is laid out as `huggingface_hub` lays it out, so that either finds what the other
//! fetched: `models--owner--name/{blobs,refs,snapshots}`.

use std::path::{Path, PathBuf};

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoKind {
    Model,
    Dataset,
}

/// `owner/name`, `owner/name@revision`, or a file in it: `owner/name/file.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    pub kind: RepoKind,
    pub owner: String,
    pub name: String,
    /// A file of it, by its path inside.
    pub file: Option<String>,
    /// A branch, a tag or a commit.
    pub revision: String,
}

/// Extensions of files that hold weights or data: what ends so in `owner/name` is a file's path.
const FILES: &[&str] = &[
    "gguf",
    "bin",
    "safetensors",
    "ckpt",
    "pt",
    "pth",
    "jsonl",
    "json",
    "csv",
    "txt",
];

impl Repo {
    /// Reads a name. Whatever may be a path is none: what exists here, what begins with `.`, `/` or
    /// `~`, what lies in a folder that exists, `owner/name` with a data file's extension.
    pub fn parse(written: &str, kind: RepoKind) -> Option<Repo> {
        let (path, revision) = written.split_once('@').unwrap_or((written, "main"));
        let mut parts = path.splitn(3, '/');
        let (owner, name, file) = (parts.next()?, parts.next()?, parts.next());
        let fits = |s: &str| {
            s.starts_with(|c: char| c.is_ascii_alphanumeric())
                && s.len() <= 96
                && s.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let inside = |file: &str| {
            file.split('/')
                .all(|part| !part.is_empty() && part != "." && part != "..")
                && !file.contains(['\\', '\0'])
        };
        let is_file = |s: &str| {
            let extension = Path::new(s).extension().and_then(|e| e.to_str());
            extension.is_some_and(|e| FILES.contains(&e))
        };
        let revised =
            !revision.is_empty() && inside(revision) && !revision.contains(['?', '#', ' ']);
        let named = match file {
            None => !is_file(name),
            Some(file) => inside(file) && is_file(file),
        };
        let here = Path::new(written).exists() || Path::new(owner).exists();
        (fits(owner) && fits(name) && named && revised && !here).then(|| Repo {
            kind,
            owner: owner.to_owned(),
            name: name.to_owned(),
            file: file.map(str::to_owned),
            revision: revision.to_owned(),
        })
    }

    /// "owner/name".
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// As it is written in a config.
    pub fn written(&self) -> String {
        let file = self
            .file
            .as_ref()
            .map_or(String::new(), |file| format!("/{file}"));
        match self.revision.as_str() {
            "main" => format!("{}{file}", self.id()),
            revision => format!("{}{file}@{revision}", self.id()),
        }
    }

    /// Its folder in a cache.
    pub fn folder(&self, cache: &Path) -> PathBuf {
        let kind = match self.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        cache.join(format!("{kind}--{}--{}", self.owner, self.name))
    }

    /// The commit that its revision is in the cache.
    pub fn cached_commit(&self, cache: &Path) -> Option<String> {
        if is_commit(&self.revision) {
            return Some(self.revision.clone());
        }
        let path = self.folder(cache).join("refs").join(&self.revision);
        let commit = std::fs::read_to_string(path).ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    /// What the cache has of it: the snapshot's folder, or the file in it.
    pub fn cached(&self, cache: &Path) -> Option<PathBuf> {
        let commit = self.cached_commit(cache)?;
        let snapshot = self.folder(cache).join("snapshots").join(commit);
        let path = match &self.file {
            Some(file) => snapshot.join(file),
            None => only_gguf(&snapshot).unwrap_or(snapshot),
        };
        path.exists().then_some(path)
    }
}

/// The repositories that a config names, with the keys that name them, as far as it can be read.
pub fn named_in(config: &Path, sets: &[String]) -> Vec<(&'static str, Repo)> {
    let Ok(text) = super::read::text_of(config) else {
        return Vec::new();
    };
    let (entries, _) = super::read::entries(config, &text);
    let keys = [
        ("base_model", RepoKind::Model),
        ("train_data_dir", RepoKind::Dataset),
        ("clip_model", RepoKind::Model),
    ];
    let written = |key: &str| {
        let set = sets.iter().rev().filter_map(|set| set.split_once('='));
        let set = set
            .filter(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().to_owned());
        set.into_iter().next().or_else(|| {
            let entry = entries.iter().find(|entry| entry.key == key)?;
            entry.value.as_str().map(str::to_owned)
        })
    };
    keys.into_iter()
        .filter_map(|(key, kind)| Some((key, Repo::parse(&written(key)?, kind)?)))
        .collect()
}

/// The command that brings a repository into the cache; `flag` is what `loradeck fetch` needs to know
/// besides its name. A build that cannot fetch names the tool that shares the cache.
pub fn fetching(repo: &Repo, flag: &str) -> String {
    if cfg!(feature = "hub") {
        return format!("`loradeck fetch {flag}{}`", repo.written());
    }
    let kind = match repo.kind {
        RepoKind::Model => "",
        RepoKind::Dataset => " --repo-type dataset",
    };
    let revision = match repo.revision.as_str() {
        "main" => String::new(),
        revision => format!(" --revision {revision}"),
    };
    let file = repo
        .file
        .as_ref()
        .map_or(String::new(), |f| format!(" {f}"));
    format!(
        "`hf download {}{file}{kind}{revision}`, since this loradeck was built without the feature `hub`",
        repo.id()
    )
}

/// A full commit's name.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The one GGUF file of a folder that is no base otherwise.
pub fn only_gguf(snapshot: &Path) -> Option<PathBuf> {
    if snapshot.join("config.json").exists() || snapshot.join("model_index.json").exists() {
        return None;
    }
    let files = std::fs::read_dir(snapshot)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let mut found = files.filter(|path| path.extension().is_some_and(|e| e == "gguf"));
    match (found.next(), found.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// The cache's folder, by the variables that `huggingface_hub` reads.
pub fn cache_dir() -> PathBuf {
    let set = |name: &str| {
        let value = std::env::var_os(name).filter(|v| !v.is_empty())?;
        Some(PathBuf::from(value))
    };
    set("HF_HUB_CACHE")
        .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
        .unwrap_or_else(|| home().join("hub"))
}

/// Where Hugging Face's tools keep what is theirs: `HF_HOME`.
pub fn home() -> PathBuf {
    let set = |name: &str| {
        let value = std::env::var_os(name).filter(|v| !v.is_empty())?;
        Some(PathBuf::from(value))
    };
    set("HF_HOME")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(set("HOME")?.join(".cache/huggingface")))
        .unwrap_or_else(|| PathBuf::from("huggingface"))
}

/// The name of the repository that a path in a cache belongs to, for adapters that tell their base.
pub fn name_of_snapshot(path: &Path) -> Option<String> {
    let mut parts = path
        .components()
        .rev()
        .map(|part| part.as_os_str().to_str());
    loop {
        let part = parts.next()??;
        if part == "snapshots" {
            let folder = parts.next()??;
            let (owner, name) = folder.strip_prefix("models--")?.split_once("--")?;
            return Some(format!("{owner}/{name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_are_told_from_paths() {
        let read = |written: &str| Repo::parse(written, RepoKind::Model).map(|repo| repo.written());
        for name in [
            "HuggingFaceTB/SmolLM2-135M",
            "runwayml/stable-diffusion-v1-5@fp16",
            "owner/name/quantised/model.Q4_0.gguf",
            "owner/name/a.gguf@refs/pr/1",
        ] {
            assert_eq!(read(name).as_deref(), Some(name));
        }
        assert_eq!(read("owner/name@main").as_deref(), Some("owner/name"));
        for path in [
            "./owner/name",
            "/owner/name",
            "~/owner/name",
            "../owner/name",
            "owner",
            "owner/name/folder",
            "models/llama.gguf",
            "src/model",
            "owner/name/../x.gguf",
            "owner/name@",
            "owner/name@a b",
            "owner/na me",
        ] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    #[test]
    fn a_snapshot_knows_its_repository() {
        let name = |path: &str| name_of_snapshot(Path::new(path));
        let snapshot = "/c/models--owner--a--b/snapshots/0123";
        assert_eq!(name(snapshot).as_deref(), Some("owner/a--b"));
        assert_eq!(
            name(&format!("{snapshot}/x.gguf")).as_deref(),
            Some("owner/a--b")
        );
        assert_eq!(name("/models/llama"), None);
    }
}
