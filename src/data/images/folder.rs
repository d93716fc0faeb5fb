//! What lies in a folder of images.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::decode::{EXTENSIONS, OTHER_EXTENSIONS};
use crate::error::input_error;

/// Folders below this depth are taken for a loop of links.
const MAX_DEPTH: usize = 24;

/// Names of images left out by hand, a line each; beside the images.
pub const EXCLUDED_FILE: &str = "loradeck-excluded.txt";

/// A folder's files by what they are for; names are relative to the folder, with `/`, and sorted.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub images: Vec<String>,
    /// `metadata.csv`, `metadata.jsonl`.
    pub tables: Vec<String>,
    /// `.txt` and `.caption`.
    pub sidecars: Vec<String>,
    /// Images of formats that are not read, and films.
    pub unread: Vec<String>,
    /// Everything else that is no obvious companion.
    pub others: Vec<String>,
}

/// Looks through a folder. Names that begin with `.` or `_` are passed over.
///
/// # Errors
/// It, or a folder in it, cannot be read. `key` is the config's key that names it.
pub(super) fn look(root: &Path, key: &str) -> Result<Contents> {
    let unreadable = |at: &Path, e: std::io::Error| {
        input_error(format!(
            "{key}: {} cannot be read ({e}); check the path and its permissions",
            at.display()
        ))
    };
    if !std::fs::metadata(root)
        .map_err(|e| unreadable(root, e))?
        .is_dir()
    {
        return Err(input_error(format!(
            "{key}: {} is not a folder; images are read from one",
            root.display()
        )));
    }
    let mut found = Contents::default();
    let mut folders: Vec<(PathBuf, usize)> = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| unreadable(&folder, e))? {
            let path = entry.map_err(|e| unreadable(&folder, e))?.path();
            let last = path.file_name().unwrap_or_default().to_string_lossy();
            if last.starts_with(['.', '_']) {
                continue;
            }
            if path.is_dir() {
                if depth >= MAX_DEPTH {
                    return Err(input_error(format!(
                        "{key}: {} lies more than {MAX_DEPTH} folders deep; is there a loop of links?",
                        path.display()
                    )));
                }
                folders.push((path, depth + 1));
                continue;
            }
            let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) else {
                // Runs and tables store names as text.
                found.unread.push(path.to_string_lossy().into_owned());
                continue;
            };
            found.sort_in(name.to_owned());
        }
    }
    for list in [
        &mut found.images,
        &mut found.tables,
        &mut found.sidecars,
        &mut found.unread,
        &mut found.others,
    ] {
        list.sort();
    }
    Ok(found)
}

impl Contents {
    fn sort_in(&mut self, name: String) {
        let last = name.rsplit('/').next().unwrap_or(&name).to_lowercase();
        let extension = last.rsplit_once('.').map_or("", |(_, e)| e);
        let list = if last == EXCLUDED_FILE {
            return;
        } else if EXTENSIONS.contains(&extension) {
            &mut self.images
        } else if last == "metadata.csv" || last == "metadata.jsonl" {
            &mut self.tables
        } else if is_companion(&last) || extension == "bak" {
            return;
        } else if extension == "txt" || extension == "caption" {
            &mut self.sidecars
        } else if OTHER_EXTENSIONS.contains(&extension) {
            &mut self.unread
        } else {
            &mut self.others
        };
        list.push(name);
    }
}

/// Files that accompany data and are none.
fn is_companion(last: &str) -> bool {
    ["readme", "license", "licence", "thumbs.db", "desktop.ini"]
        .iter()
        .any(|start| last.starts_with(start))
}

/// Repeats and class of a folder named as kohya's are, `10_name`; of the nearest one above `name`.
pub(super) fn kohya(name: &str) -> Option<(u32, String)> {
    let folders = name.rsplit_once('/')?.0;
    folders.rsplit('/').find_map(|folder| {
        let (repeats, class) = folder.split_once('_')?;
        let repeats = repeats.parse().ok().filter(|n| *n > 0)?;
        Some((repeats, class.trim().to_owned()))
    })
}

/// Names of images left out by hand.
pub(super) fn excluded(root: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(root.join(EXCLUDED_FILE)).unwrap_or_default();
    let lines = text.lines().map(str::trim);
    lines
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_and_class_come_from_the_nearest_folder_named_so() {
        assert_eq!(kohya("10_sks dog/a.png"), Some((10, "sks dog".into())));
        assert_eq!(kohya("10_dog/front/a.png"), Some((10, "dog".into())));
        assert_eq!(kohya("10_dog/3_front/a.png"), Some((3, "front".into())));
        for other in [
            "a.png",
            "10_a.png",
            "dogs/a.png",
            "0_dog/a.png",
            "x10_dog/a.png",
        ] {
            assert_eq!(kohya(other), None, "{other}");
        }
    }
}
