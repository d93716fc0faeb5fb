//! Arrays kept on disk by what they were computed from, and shared between runs: latents, text
//! embeddings.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};

/// Beginning of every file; another layout gets another number.
const MAGIC: &[u8; 8] = b"ldcache1";
/// Checksum at the end of every file.
const HASH_BYTES: usize = 32;
/// Dimensions of an array at most: more is damage.
const MAX_RANK: usize = 8;

/// Numbers and their shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// What arrays were computed from: content and every setting that changes them.
#[derive(Clone)]
pub struct Key(blake3::Hasher);

impl Key {
    /// Of one kind of value: "latents", "text".
    pub fn new(kind: &str) -> Self {
        Key(blake3::Hasher::new()).of("kind", kind.as_bytes())
    }

    /// With one more thing that the value depends on.
    #[must_use]
    pub fn of(mut self, name: &str, value: &[u8]) -> Self {
        // Lengths keep neighbouring parts apart.
        for part in [name.as_bytes(), value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    fn name(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// The cache folder. Several processes may use it at the same time.
pub struct Cache {
    /// `None`: nothing is kept.
    root: Option<PathBuf>,
    /// The first thing that went wrong in writing.
    trouble: Mutex<Option<String>>,
}

/// The folder for what can be computed again: `$LORADECK_CACHE`, else `$XDG_CACHE_HOME/loradeck`,
/// else `~/.cache/loradeck`; `None` where none of them is set.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let under = |base: std::ffi::OsString| PathBuf::from(base).join("loradeck");
    set("LORADECK_CACHE")
        .map(PathBuf::from)
        .or_else(|| set("XDG_CACHE_HOME").map(under))
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/loradeck")))
}

impl Cache {
    /// The user's cache.
    pub fn open() -> Self {
        Self::at(cache_folder().map(|folder| folder.join("arrays")))
    }

    /// A cache that keeps nothing.
    pub fn none() -> Self {
        Self::at(None)
    }

    /// A cache in a folder, which need not exist.
    pub fn at(root: Option<PathBuf>) -> Self {
        Cache {
            root,
            trouble: Mutex::new(None),
        }
    }

    fn path(&self, key: &Key) -> Option<PathBuf> {
        let name = key.name();
        let (folder, file) = name.split_at(2);
        Some(self.root.as_ref()?.join(folder).join(file))
    }

    /// What is kept under a key; nothing where it is damaged.
    pub fn get(&self, key: &Key) -> Option<Vec<Array>> {
        let path = self.path(key)?;
        let arrays = parse(&std::fs::read(&path).ok()?);
        if arrays.is_none() {
            // Damaged: it is computed again and replaced.
            let _ = std::fs::remove_file(&path);
        }
        arrays
    }

    /// What is kept under a key, else what `compute` gives, which is then kept. That it cannot be
    /// written is no error: [`Cache::trouble`] tells.
    ///
    /// # Errors
    /// Those of `compute`.
    pub fn get_or(
        &self,
        key: &Key,
        compute: impl FnOnce() -> Result<Vec<Array>>,
    ) -> Result<Vec<Array>> {
        if let Some(kept) = self.get(key) {
            return Ok(kept);
        }
        let arrays = compute()?;
        if let Some(path) = self.path(key)
            && let Err(e) = write(&path, &bytes_of(&arrays))
        {
            let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            trouble.get_or_insert(format!(
                "the cache cannot be written, so everything in it is computed anew: {e}"
            ));
        }
        Ok(arrays)
    }

    /// Why nothing new is kept, once.
    pub fn trouble(&self) -> Option<String> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.take()
    }
}

/// Writes beside the final name and renames: a reader sees all of it or nothing.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().ok_or_else(|| anyhow!("no folder"))?;
    std::fs::create_dir_all(folder)
        .map_err(|e| anyhow!("{} cannot be made ({e})", folder.display()))?;
    let beside = folder.join(format!(
        ".{}-{}.tmp",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ));
    let written = std::fs::File::create(&beside)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        anyhow!("{} cannot be written ({e})", path.display())
    })
}

fn bytes_of(arrays: &[Array]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((arrays.len() as u32).to_le_bytes());
    for array in arrays {
        bytes.extend((array.shape.len() as u32).to_le_bytes());
        for side in &array.shape {
            bytes.extend((*side as u64).to_le_bytes());
        }
        bytes.extend(array.data.iter().flat_map(|v| v.to_le_bytes()));
    }
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    bytes
}

/// The arrays of a file that is whole.
fn parse(bytes: &[u8]) -> Option<Vec<Array>> {
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut word = |bytes: usize| -> Option<u64> {
        let (taken, after) = rest.split_at_checked(bytes)?;
        rest = after;
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(taken);
        Some(u64::from_le_bytes(word))
    };
    let count = word(4)?;
    let mut arrays = Vec::new();
    for _ in 0..count {
        let rank = word(4)? as usize;
        if rank > MAX_RANK {
            return None;
        }
        let shape: Vec<usize> = (0..rank)
            .map(|_| word(8).map(|side| side as usize))
            .collect::<Option<_>>()?;
        let numbers = shape
            .iter()
            .try_fold(1usize, |n, side| n.checked_mul(*side))
            .filter(|n| *n <= body.len())?;
        let data = (0..numbers)
            .map(|_| Some(f32::from_bits(word(4)? as u32)))
            .collect::<Option<_>>()?;
        arrays.push(Array { shape, data });
    }
    Some(arrays)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrays() -> Vec<Array> {
        vec![
            Array {
                shape: vec![2, 3],
                data: vec![1.0, -2.5, f32::MIN_POSITIVE, 0.0, -0.0, 1e30],
            },
            Array {
                shape: vec![],
                data: vec![7.0],
            },
        ]
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => found.extend(files(&path)),
                false => found.push(path),
            }
        }
        found
    }

    #[test]
    fn a_value_is_computed_once_and_found_by_another_process() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::new("latents").of("pixels", b"abc");
        let first = Cache::at(Some(folder.path().into()));
        assert_eq!(first.get_or(&key, || Ok(arrays())).unwrap(), arrays());
        let second = Cache::at(Some(folder.path().into()));
        let kept = second.get_or(&key, || panic!("computed again")).unwrap();
        assert_eq!(kept, arrays());
        let other = Key::new("latents").of("pixels", b"abd");
        assert!(second.get(&other).is_none());
        // Where one part ends and the next begins counts.
        assert_ne!(
            Key::new("t").of("ab", b"c").name(),
            Key::new("t").of("a", b"bc").name()
        );
    }

    #[test]
    fn a_file_cut_short_or_with_any_byte_flipped_is_computed_again_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(Some(folder.path().into()));
        let key = Key::new("latents");
        cache.get_or(&key, || Ok(arrays())).unwrap();
        let [path] = &files(folder.path())[..] else {
            panic!("one file")
        };
        let whole = std::fs::read(path).unwrap();
        let mut damaged = vec![whole[..whole.len() - 1].to_vec(), Vec::new()];
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            damaged.push(flipped);
        }
        for damage in damaged {
            std::fs::write(path, damage).unwrap();
            let mut computed = false;
            let value = cache.get_or(&key, || {
                computed = true;
                Ok(arrays())
            });
            assert_eq!(value.unwrap(), arrays());
            assert!(computed);
            assert_eq!(std::fs::read(path).unwrap(), whole);
        }
    }

    #[test]
    fn a_cache_that_cannot_be_written_says_so_once_and_computes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let cache = Cache::at(Some(file));
        let value = cache.get_or(&Key::new("x"), || Ok(arrays())).unwrap();
        assert_eq!(value, arrays());
        assert!(cache.trouble().unwrap().contains("computed anew"));
        assert!(cache.trouble().is_none());
    }

    #[test]
    fn two_writers_of_the_same_value_leave_it_whole() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let cache = Cache::at(Some(folder.path().into()));
                    for i in 0..50u8 {
                        let key = Key::new("x").of("i", &[i]);
                        assert_eq!(cache.get_or(&key, || Ok(arrays())).unwrap(), arrays());
                    }
                });
            }
        });
        // No half-written file is left beside them.
        assert_eq!(files(folder.path()).len(), 50);
    }
}
