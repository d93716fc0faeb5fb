//! Scanned records on the disk, by the content that they came from.
//!
//! A chunk's file is named by a hash of all that decides it: the raw records, the tokenizer, the
//! template, the settings. It ends with a hash of itself; one that does not fit is made again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::duplicates::{Common, Fingerprint};
use super::files::{Raw, RawRecord};
use super::formats::FORMATS;
use super::scan::Scanned;
use super::tokens::Encoder;
use super::{BadKind, BadRecord, Record};

/// Raised when what is written, or what it means, changes.
const VERSION: &str = "loradeck text scan 1";

/// Files that nobody has asked for this long are removed.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// What a killed process has begun to write goes sooner.
const BEGUN: Duration = Duration::from_secs(3600);

pub(super) struct ScanCache {
    folder: PathBuf,
    /// Of everything but the records.
    settings: blake3::Hasher,
}

impl ScanCache {
    /// `None` where there is no place for it.
    ///
    /// # Errors
    /// The tokenizer cannot be written down.
    pub fn open(encoder: &Encoder<'_>, common: &Common) -> Result<Option<Self>> {
        let Some(root) = root() else { return Ok(None) };
        let folder = root.join("text");
        if std::fs::create_dir_all(&folder).is_err() {
            return Ok(None);
        }
        remove_old(&folder);
        let mut settings = blake3::Hasher::new();
        settings.update(VERSION.as_bytes());
        settings.update(encoder.fingerprint()?.as_bytes());
        settings.update(common.digest().as_bytes());
        Ok(Some(ScanCache { folder, settings }))
    }

    /// What `compute` gives, or gave before for the same records. That the disk is full or read-only
    /// costs nothing but the time.
    pub fn get_or(&self, chunk: &[RawRecord], compute: impl FnOnce() -> Scanned) -> Scanned {
        let Some(first) = chunk.first() else {
            return compute();
        };
        let path = self.folder.join(self.name(chunk));
        let kept = std::fs::read(&path).ok();
        if let Some(scanned) = kept.and_then(|bytes| decode(&bytes, &first.file)) {
            if let Ok(file) = std::fs::File::open(&path) {
                file.set_modified(SystemTime::now()).ok();
            }
            return scanned;
        }
        let scanned = compute();
        store(&path, &encode(&scanned, &first.file)).ok();
        scanned
    }

    fn name(&self, chunk: &[RawRecord]) -> String {
        let mut hasher = self.settings.clone();
        for record in chunk {
            hasher.update(&(record.line as u64).to_le_bytes());
            let (kind, text) = match &record.raw {
                Raw::Json(text) => (b'j', text),
                Raw::Document(text) => (b'd', text),
                Raw::Bad(text) => (b'b', text),
                Raw::Row(map) => (b'r', &serde_json::Value::Object(map.clone()).to_string()),
            };
            hasher.update(&[kind]);
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Where loradeck keeps what it can make again.
fn root() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("LORADECK_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("loradeck")))
        .or_else(|| Some(set("HOME")?.join(".cache/loradeck")))
}

fn remove_old(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|m| m.modified());
        let begun = entry.path().extension().is_some_and(|e| e == "partial");
        let kept = if begun { BEGUN } else { KEPT };
        if modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > kept)) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

/// Beside its final name first, so that nobody reads half of it.
fn store(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let written = std::fs::File::create(&partial)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        std::fs::remove_file(&partial).ok();
    }
    written
}

fn encode(scanned: &Scanned, file: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let number = |out: &mut Vec<u8>, n: usize| out.extend((n as u64).to_le_bytes());
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    number(&mut out, scanned.records.len());
    for (record, print) in scanned.records.iter().zip(&scanned.prints) {
        text(
            &mut out,
            record.origin.strip_prefix(file).unwrap_or(&record.origin),
        );
        let format = FORMATS.iter().position(|name| *name == record.format);
        number(&mut out, format.unwrap_or(0));
        number(&mut out, record.cut);
        number(&mut out, record.ids.len());
        out.extend(record.ids.iter().flat_map(|id| id.to_le_bytes()));
        out.extend(record.trained.iter().map(|t| u8::from(*t)));
        out.extend(print.to_bytes());
    }
    number(&mut out, scanned.bad.len());
    for bad in &scanned.bad {
        number(&mut out, bad.line);
        let kind = BadKind::ALL.iter().position(|kind| *kind == bad.kind);
        number(&mut out, kind.unwrap_or(0));
        text(&mut out, &bad.reason);
    }
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes());
    out
}

/// `None` where the bytes are not what [`encode`] wrote.
fn decode(bytes: &[u8], file: &str) -> Option<Scanned> {
    let (bytes, hash) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(bytes).as_bytes() != hash {
        return None;
    }
    let mut from = Reader(bytes);
    let mut scanned = Scanned::default();
    for _ in 0..from.number()? {
        let origin = format!("{file}{}", from.text()?);
        let format = FORMATS.get(from.number()?)?;
        let cut = from.number()?;
        let count = from.number()?;
        let ids = from.take(count.checked_mul(4)?)?.as_chunks::<4>().0;
        let trained = from.take(count)?;
        scanned.records.push(Record {
            origin,
            format,
            ids: ids.iter().map(|id| u32::from_le_bytes(*id)).collect(),
            trained: trained.iter().map(|t| *t != 0).collect(),
            cut,
        });
        let print = from.take(Fingerprint::BYTES)?.try_into().ok()?;
        scanned.prints.push(Fingerprint::from_bytes(print));
    }
    for _ in 0..from.number()? {
        scanned.bad.push(BadRecord {
            file: file.to_owned(),
            line: from.number()?,
            kind: *BadKind::ALL.get(from.number()?)?,
            reason: from.text()?,
        });
    }
    from.0.is_empty().then_some(scanned)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        let bytes = self.take(8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    }

    fn text(&mut self) -> Option<String> {
        let count = self.number()?;
        String::from_utf8(self.take(count)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_under_the_files_name_and_damage_is_seen() {
        let mut words = super::super::duplicates::Words::default();
        words.add("one two three four five six seven eight nine ten eleven twelve");
        let print = Fingerprint::of(&words, &Common::default());
        let scanned = |file: &str| Scanned {
            records: vec![Record {
                origin: format!("{file}:3, piece 2"),
                format: "text",
                ids: vec![1, 70_000, 3],
                trained: vec![false, true, true],
                cut: 4,
            }],
            prints: vec![print.clone()],
            bad: vec![BadRecord {
                file: file.to_owned(),
                line: 9,
                kind: BadKind::Template,
                reason: "it ist so".into(),
            }],
        };
        let bytes = encode(&scanned("a.jsonl"), "a.jsonl");
        assert_eq!(decode(&bytes, "b/c.jsonl"), Some(scanned("b/c.jsonl")));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged, "a.jsonl"), None);
            assert_eq!(decode(&bytes[..at], "a.jsonl"), None);
        }
    }
}
