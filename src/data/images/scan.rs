//! Reading every image of a folder once, in parallel, and remembering what was found by content.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cache::{cache_folder, write};
use super::decode::{decode, read_bytes};
use super::look::Look;

/// Another way of looking at images needs another number, or old findings would be believed.
const VERSION: u32 = 1;

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Width and height, upright.
    pub size: (u32, u32),
    pub transparent: bool,
    pub turned: bool,
    pub look: Look,
}

/// A file that was read: its content's hash (hex), and what it is or why it cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub content: String,
    pub facts: Result<Facts, String>,
}

/// Size and time of change (nanoseconds since the epoch).
type Stamp = (u64, u64);

/// What is remembered of a folder between scans.
#[derive(Default, Serialize, Deserialize)]
struct Index {
    version: u32,
    /// By name: size and time of change when it was read, and its content's hash.
    files: HashMap<String, (u64, u64, String)>,
    /// By content's hash.
    facts: HashMap<String, Result<Facts, String>>,
}

/// Reads the images of `names` under `root`, in their order. `progress` is told of images done and
/// all there are.
pub(super) fn scan(
    root: &Path,
    names: &[String],
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Vec<Seen> {
    scan_with(root, names, index_path(root).as_deref(), progress)
}

fn scan_with(
    root: &Path,
    names: &[String],
    index_path: Option<&Path>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Vec<Seen> {
    let known = index_path.map(read_index).unwrap_or_default();
    let total = names.len() as u64;
    let done = AtomicU64::new(0);
    progress(0, total);
    let results: Vec<(Option<Stamp>, Seen, bool)> = names
        .par_iter()
        .map(|name| {
            let path = root.join(name);
            let stamp = stamp(&path);
            let (seen, new) = see(&known, name, &path, stamp);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            (stamp, seen, new)
        })
        .collect();
    let changed = results.iter().any(|(_, _, new)| *new) || known.files.len() != names.len();
    if changed && let Some(path) = index_path {
        let mut index = Index {
            version: VERSION,
            ..Index::default()
        };
        for (name, (stamp, seen, _)) in names.iter().zip(&results) {
            let Some((size, time)) = stamp.filter(|_| !seen.content.is_empty()) else {
                continue;
            };
            let content = seen.content.clone();
            index
                .files
                .insert(name.clone(), (size, time, content.clone()));
            index.facts.insert(content, seen.facts.clone());
        }
        // A folder that cannot be written to costs time at the next scan, nothing else.
        if let Ok(json) = serde_json::to_vec(&index) {
            let mut bytes = blake3::hash(&json).to_hex().as_bytes().to_vec();
            bytes.push(b'\n');
            bytes.extend(json);
            let _ = write(path, &bytes);
        }
    }
    results.into_iter().map(|(_, seen, _)| seen).collect()
}

/// What the file is, and whether it had to be read.
fn see(known: &Index, name: &str, path: &Path, stamp: Option<Stamp>) -> (Seen, bool) {
    if let (Some((size, time)), Some((old_size, old_time, content))) =
        (stamp, known.files.get(name))
        && (size, time) == (*old_size, *old_time)
        && let Some(facts) = known.facts.get(content)
    {
        let seen = Seen {
            content: content.clone(),
            facts: facts.clone(),
        };
        return (seen, false);
    }
    let bytes = match read_bytes(path) {
        Ok(bytes) => bytes,
        Err(reason) => {
            let seen = Seen {
                content: String::new(),
                facts: Err(reason),
            };
            return (seen, true);
        }
    };
    let content = blake3::hash(&bytes).to_hex().to_string();
    let facts = match known.facts.get(&content) {
        Some(facts) => facts.clone(),
        None => decode(&bytes).map(|decoded| Facts {
            size: (decoded.pixels.width, decoded.pixels.height),
            transparent: decoded.transparent,
            turned: decoded.turned,
            look: Look::of(&decoded.pixels),
        }),
    };
    (Seen { content, facts }, true)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    let time = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((metadata.len(), time.as_nanos() as u64))
}

fn index_path(root: &Path) -> Option<PathBuf> {
    let root = std::fs::canonicalize(root).ok()?;
    let name = blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex();
    Some(cache_folder()?.join("scans").join(&name.as_str()[..32]))
}

/// An index that is whole and of this version; else an empty one.
fn read_index(path: &Path) -> Index {
    let whole = || {
        let bytes = std::fs::read(path).ok()?;
        let end = bytes.iter().position(|b| *b == b'\n')?;
        let (hash, json) = (&bytes[..end], &bytes[end + 1..]);
        if blake3::hash(json).to_hex().as_bytes() != hash {
            return None;
        }
        let index: Index = serde_json::from_slice(json).ok()?;
        (index.version == VERSION).then_some(index)
    };
    whole().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn png(path: &Path, grey: u8) {
        image::RgbImage::from_pixel(20, 10, image::Rgb([grey; 3]))
            .save(path)
            .unwrap();
    }

    #[test]
    fn a_second_scan_reads_only_what_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("set");
        std::fs::create_dir(&root).unwrap();
        let index = folder.path().join("index");
        for (name, grey) in [("a.png", 10), ("b.png", 200)] {
            png(&root.join(name), grey);
        }
        std::fs::write(root.join("c.png"), "no image").unwrap();
        let names = ["a.png", "b.png", "c.png"].map(str::to_owned);
        let told = Mutex::new(Vec::new());
        let progress = |done, total| told.lock().unwrap().push((done, total));
        let first = scan_with(&root, &names, Some(&index), &progress);
        assert_eq!(first[0].facts.as_ref().unwrap().size, (20, 10));
        assert!(first[2].facts.as_ref().unwrap_err().contains("no PNG"));
        assert!(told.lock().unwrap().contains(&(3, 3)));

        // The index is believed where size and time are the same: a lie in it shows.
        let mut kept = read_index(&index);
        assert_eq!(kept.files.len(), 3);
        let lie = kept.files["a.png"].2.clone();
        kept.facts.get_mut(&lie).unwrap().as_mut().unwrap().size = (1, 1);
        let json = serde_json::to_vec(&kept).unwrap();
        let hash = blake3::hash(&json).to_hex();
        std::fs::write(&index, [hash.as_bytes(), b"\n", &json].concat()).unwrap();
        png(&root.join("b.png"), 90);
        let second = scan_with(&root, &names, Some(&index), &|_, _| {});
        assert_eq!(second[0].facts.as_ref().unwrap().size, (1, 1));
        assert_ne!(second[1].content, first[1].content);

        // A damaged index is made anew.
        let mut bytes = std::fs::read(&index).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(&index, bytes).unwrap();
        let third = scan_with(&root, &names, Some(&index), &|_, _| {});
        assert_eq!(third[0], first[0]);
        assert_eq!(read_index(&index).files.len(), 3);
    }
}
