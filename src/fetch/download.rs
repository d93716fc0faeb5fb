//! From the hub into the cache.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{FlockOperation, flock, statvfs};
use serde_json::Value;
use sha2::Digest;
use ureq::Body;
use ureq::http::{HeaderMap, Response};

use super::choose::{Listed, choose};
use super::client::{Answer, Client, TRIES, Trouble};
use super::{Hub, Progress, Wanted, mark};
use crate::config::hub::{Repo, RepoKind, is_commit};
use crate::error::input_error;

/// Bytes that must stay free beside the download.
const RESERVE: u64 = 64 << 20;

/// An answer about a repository is not longer than this.
const ANSWER: u64 = 64 << 20;

impl Hub {
    pub(super) fn fetch_from_hub(
        &self,
        repo: &Repo,
        wanted: Wanted,
        progress: &dyn Fn(&Progress),
    ) -> Result<PathBuf> {
        let client = Client::new(self);
        let (commit, all) = self.listing(&client, repo)?;
        let files = choose(repo, wanted, &all)?;
        let folder = repo.folder(&self.cache);
        let snapshot = folder.join("snapshots").join(&commit);
        let blobs = folder.join("blobs");
        let making = |at: &Path| format!("cannot make the folder {}", at.display());
        for at in [&snapshot, &blobs] {
            fs::create_dir_all(at).with_context(|| making(at))?;
        }
        let missing: Vec<&Listed> = files
            .iter()
            .filter(|file| !blobs.join(blob(file)).exists())
            .collect();
        has_room(repo, &blobs, &missing)?;
        let total: u64 = files.iter().map(|file| file.size).sum();
        let needed: u64 = missing.iter().map(|file| file.size).sum();
        let mut done = total - needed;
        for file in &files {
            if !blobs.join(blob(file)).exists() {
                let url = self.url(repo, &commit, &file.path);
                let _lock = self.lock(repo, &blob(file))?;
                let told = |bytes: u64| {
                    progress(&Progress {
                        file: file.path.clone(),
                        done: done + bytes,
                        total,
                    });
                };
                // Another process may have fetched it while this one waited for the lock.
                if !blobs.join(blob(file)).exists() {
                    download(self, &client, repo, file, &url, &blobs, &told)?;
                }
                done += file.size;
            }
            link(&snapshot, &file.path, &blob(file))?;
        }
        if !is_commit(&repo.revision) {
            write_whole(&folder.join("refs").join(&repo.revision), commit.as_bytes())?;
        }
        let names: String = files
            .iter()
            .map(|file| format!("{}\n", file.path))
            .collect();
        write_whole(&mark(repo, wanted, &folder, &commit), names.as_bytes())?;
        let path = repo.cached(&self.cache);
        path.ok_or_else(|| anyhow!("{} was fetched and is not in the cache", repo.written()))
    }

    fn api(&self, repo: &Repo) -> String {
        let kind = match repo.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        format!("{}/api/{kind}/{}", self.endpoint, repo.id())
    }

    fn url(&self, repo: &Repo, commit: &str, path: &str) -> String {
        let kind = match repo.kind {
            RepoKind::Model => "",
            RepoKind::Dataset => "datasets/",
        };
        let path = encoded(path, "/");
        format!(
            "{}/{kind}{}/resolve/{commit}/{path}",
            self.endpoint,
            repo.id()
        )
    }

    /// The commit that the revision is now, and its files.
    fn listing(&self, client: &Client<'_>, repo: &Repo) -> Result<(String, Vec<Listed>)> {
        let api = self.api(repo);
        let url = format!("{api}/revision/{}", encoded(&repo.revision, ""));
        let (info, _) = self.json(client, repo, &url)?;
        let commit = info
            .get("sha")
            .and_then(Value::as_str)
            .filter(|sha| is_commit(sha));
        let commit = commit
            .ok_or_else(|| self.strange(repo, "names no commit"))?
            .to_owned();
        let mut files = Vec::new();
        let mut next = Some(format!("{api}/tree/{commit}?recursive=true"));
        while let Some(url) = next {
            let (page, headers) = self.json(client, repo, &url)?;
            let entries = page
                .as_array()
                .ok_or_else(|| self.strange(repo, "lists no files"))?;
            for entry in entries.iter().filter(|e| e["type"] == "file") {
                let file = listed(entry).ok_or_else(|| self.strange(repo, "lists a file oddly"))?;
                files.push(file);
            }
            next = following(&headers).filter(|url| url.starts_with(&self.endpoint));
        }
        Ok((commit, files))
    }

    fn strange(&self, repo: &Repo, what: &str) -> anyhow::Error {
        input_error(format!(
            "{} {what} for {}: is HF_ENDPOINT a Hugging Face hub?",
            self.endpoint,
            repo.id()
        ))
    }

    fn json(&self, client: &Client<'_>, repo: &Repo, url: &str) -> Result<(Value, HeaderMap)> {
        for tries in 1.. {
            let mut response = match client.get_patiently(url)? {
                Answer::Good(response) => response,
                Answer::Refused(status, headers) => {
                    return Err(self.refused(repo, status, &headers));
                }
            };
            let headers = response.headers().clone();
            match response
                .body_mut()
                .with_config()
                .limit(ANSWER)
                .read_to_vec()
            {
                Ok(bytes) => {
                    let json = serde_json::from_slice(&bytes);
                    let json = json.map_err(|_| self.strange(repo, "answers with no JSON"))?;
                    return Ok((json, headers));
                }
                Err(_) if tries < TRIES => {
                    let reason = "the answer was cut off".to_owned();
                    client.wait(tries, &Trouble { reason, wait: None });
                }
                Err(_) => break,
            }
        }
        Err(client.no_answer("its answers are cut off"))
    }

    /// Why the hub gives nothing, and what to do.
    fn refused(&self, repo: &Repo, status: u16, headers: &HeaderMap) -> anyhow::Error {
        let code = headers
            .get("x-error-code")
            .and_then(|c| c.to_str().ok())
            .unwrap_or("");
        let (id, page) = (repo.id(), format!("{}/{}", self.endpoint, repo.id()));
        let here = "neither a file or folder here nor";
        let sentence = match (status, code) {
            (_, "GatedRepo") if self.token.is_some() => format!(
                "{id} is gated, and the token of HF_TOKEN has no access: accept its conditions at \
                 {page} with that account"
            ),
            (_, "GatedRepo") => format!(
                "{id} is gated: accept its conditions at {page}, and set HF_TOKEN to a token of \
                 that account"
            ),
            (_, "RevisionNotFound") => {
                format!("{id} has no revision {}: correct it", repo.revision)
            }
            (_, "EntryNotFound") => format!("{id} has lost a file while it was fetched: try again"),
            (401 | 404, "RepoNotFound" | "") if self.token.is_none() => format!(
                "{id} is {here} a public repository at {}: correct the name, or set HF_TOKEN if it \
                 is private",
                self.endpoint
            ),
            (401, _) => format!(
                "{} does not accept the token: set HF_TOKEN to a valid one, or unset it",
                self.endpoint
            ),
            (404, _) => format!(
                "{id} is {here} a repository at {} that the token of HF_TOKEN may see: correct the \
                 name",
                self.endpoint
            ),
            (403, _) => format!("the token of HF_TOKEN may not read {id}: use one that may"),
            _ => format!("{} refuses {id} with status {status}", self.endpoint),
        };
        input_error(sentence)
    }

    /// The lock that `huggingface_hub` takes for a file, too.
    fn lock(&self, repo: &Repo, blob: &str) -> Result<File> {
        let folder = repo.folder(&self.cache);
        let name = folder.file_name().unwrap_or_default();
        let locks = self.cache.join(".locks").join(name);
        fs::create_dir_all(&locks)
            .with_context(|| format!("cannot make the folder {}", locks.display()))?;
        let path = locks.join(format!("{blob}.lock"));
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        let file = opened.with_context(|| format!("cannot open {}", path.display()))?;
        flock(&file, FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }
}

/// The name of a file's content in the cache.
fn blob(file: &Listed) -> String {
    file.sha256.clone().unwrap_or_else(|| file.git.clone())
}

fn listed(entry: &Value) -> Option<Listed> {
    let hex = |text: &str, digits: usize| {
        (text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| text.to_owned())
    };
    let path = entry.get("path")?.as_str()?;
    // A name must stay inside the snapshot.
    let inside = path
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    let lfs = entry.get("lfs").filter(|lfs| !lfs.is_null());
    let sha256 = match lfs {
        Some(lfs) => Some(hex(lfs.get("oid")?.as_str()?, 64)?),
        None => None,
    };
    let size = lfs
        .and_then(|lfs| lfs.get("size"))
        .or_else(|| entry.get("size"))?;
    (inside && !path.contains(['\\', '\0'])).then_some(Listed {
        path: path.to_owned(),
        size: size.as_u64()?,
        sha256,
        git: hex(entry.get("oid")?.as_str()?, 40)?,
    })
}

/// The next page, as a `Link` header names it.
fn following(headers: &HeaderMap) -> Option<String> {
    let link = headers.get("link")?.to_str().ok()?;
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once('<')?;
    rest.split_once('>').map(|(url, _)| url.to_owned())
}

/// Percent-encoded, but for what is plain and for `kept`.
fn encoded(text: &str, kept: &str) -> String {
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || kept.as_bytes().contains(&b);
    let bytes = text.bytes().map(|b| match plain(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    });
    bytes.collect()
}

fn has_room(repo: &Repo, blobs: &Path, missing: &[&Listed]) -> Result<()> {
    let begun = |file: &&Listed| partial_length(&partial(blobs, file)).min(file.size);
    let needed: u64 = missing.iter().map(|file| file.size - begun(file)).sum();
    let Ok(disk) = statvfs(blobs) else {
        return Ok(());
    };
    let free = disk.f_bavail * disk.f_frsize;
    if needed > 0 && needed + RESERVE > free {
        return Err(input_error(format!(
            "{} needs {} MiB more in {}, where {} MiB are free: make room, or set HF_HOME to a \
             folder on a larger disk",
            repo.id(),
            needed.div_ceil(1 << 20),
            blobs.display(),
            free >> 20
        )));
    }
    Ok(())
}

/// Where a download that is not whole lies, as in `huggingface_hub`.
fn partial(blobs: &Path, file: &Listed) -> PathBuf {
    blobs.join(format!("{}.incomplete", blob(file)))
}

fn partial_length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// One file, from where a former try ended, until it is whole and right.
fn download(
    hub: &Hub,
    client: &Client<'_>,
    repo: &Repo,
    file: &Listed,
    url: &str,
    blobs: &Path,
    progress: &dyn Fn(u64),
) -> Result<()> {
    let at = partial(blobs, file);
    let failed = |reason: &str| {
        input_error(format!(
            "{} of {} cannot be fetched: {reason}",
            file.path,
            repo.id()
        ))
    };
    let (mut tries, mut spoiled) = (0, false);
    loop {
        let before = partial_length(&at);
        if before > file.size {
            fs::remove_file(&at).ok();
            continue;
        }
        let outcome = match before == file.size && before > 0 {
            true => Ok(()),
            false => match client.get(url, before) {
                Ok(Answer::Good(response)) => receive(response, &at, before, file, progress)?,
                Ok(Answer::Refused(416, _)) => {
                    fs::remove_file(&at).ok();
                    Err("the server refuses to go on where the download was cut"
                        .to_owned()
                        .into())
                }
                Ok(Answer::Refused(status, headers)) => {
                    return Err(hub.refused(repo, status, &headers));
                }
                Err(trouble) => Err(trouble),
            },
        };
        match outcome {
            Ok(()) if is_right(&at, file)? => break,
            // Whole and wrong: once more from the start, for a bad part of an older download.
            Ok(()) if !spoiled => {
                fs::remove_file(&at).ok();
                spoiled = true;
            }
            Ok(()) => {
                fs::remove_file(&at).ok();
                return Err(failed(
                    "what arrives does not have the checksum that the hub tells; try again later, \
                     and look whether a proxy changes downloads",
                ));
            }
            Err(trouble) => {
                // Whoever gets on gets new tries.
                tries = if partial_length(&at) > before {
                    1
                } else {
                    tries + 1
                };
                if tries >= TRIES {
                    return Err(failed(&format!(
                        "{}; what has arrived is kept, and the same command goes on from there",
                        trouble.reason
                    )));
                }
                client.wait(tries, &trouble);
            }
        }
    }
    let named = blobs.join(blob(file));
    fs::rename(&at, &named).with_context(|| format!("cannot write {}", named.display()))
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Trouble { reason, wait: None }
    }
}

/// Appends what arrives. The outer error ends the download, the inner one is worth another try.
fn receive(
    mut response: Response<Body>,
    at: &Path,
    before: u64,
    file: &Listed,
    progress: &dyn Fn(u64),
) -> Result<Result<(), Trouble>> {
    let resumed = response.status().as_u16() == 206;
    if resumed && begins(response.headers()) != Some(before) {
        fs::remove_file(at).ok();
        return Ok(Err("the server sends another part than asked for"
            .to_owned()
            .into()));
    }
    let writing = || format!("cannot write {}", at.display());
    let mut out = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(at)
        .with_context(writing)?;
    // A server that knows no ranges sends it all again.
    let mut length = if resumed { before } else { 0 };
    out.set_len(length).with_context(writing)?;
    out.seek(SeekFrom::Start(length)).with_context(writing)?;
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return Ok(Err("the connection was cut".to_owned().into())),
        };
        if length + count as u64 > file.size {
            out.set_len(0).with_context(writing)?;
            return Ok(Err("the server sends more than the hub tells"
                .to_owned()
                .into()));
        }
        out.write_all(&buffer[..count]).with_context(writing)?;
        length += count as u64;
        progress(length);
    }
    out.sync_all().with_context(writing)?;
    Ok(match length == file.size {
        true => Ok(()),
        false => Err("the server sends less than the hub tells".to_owned().into()),
    })
}

/// The first byte that a partial answer holds.
fn begins(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get("content-range")?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// Whether a downloaded file has the hub's checksum: SHA-256 of large files, else git's SHA-1.
fn is_right(at: &Path, file: &Listed) -> Result<bool> {
    let reading = || format!("cannot read {}", at.display());
    let mut input = File::open(at).with_context(reading)?;
    let sum = match &file.sha256 {
        Some(_) => {
            let mut hasher = sha2::Sha256::new();
            std::io::copy(&mut input, &mut hasher).with_context(reading)?;
            hex(&hasher.finalize())
        }
        None => {
            let mut hasher = sha1::Sha1::new();
            hasher.update(format!("blob {}\0", file.size));
            std::io::copy(&mut input, &mut hasher).with_context(reading)?;
            hex(&hasher.finalize())
        }
    };
    Ok(sum.eq_ignore_ascii_case(&blob(file)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Names a blob in a snapshot: by a relative link, or, where the disk knows none, by a hard one.
fn link(snapshot: &Path, path: &str, blob: &str) -> Result<()> {
    let at = snapshot.join(path);
    let up = "../".repeat(2 + path.matches('/').count());
    let target = PathBuf::from(format!("{up}blobs/{blob}"));
    if fs::read_link(&at).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let parent = at.parent().unwrap_or(snapshot);
    fs::create_dir_all(parent)
        .with_context(|| format!("cannot make the folder {}", parent.display()))?;
    fs::remove_file(&at).ok();
    std::os::unix::fs::symlink(&target, &at)
        .or_else(|_| fs::hard_link(parent.join(&target), &at))
        .with_context(|| format!("cannot link {}", at.display()))
}

/// Beside its final name first.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let writing = || format!("cannot write {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(writing)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(writing)
}
