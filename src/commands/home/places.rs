//! Where bases, data and configs usually lie.

use std::fs;
use std::path::{Path, PathBuf};

use crate::model::diffusion::is_image_base;

/// Most that are offered.
const MOST: usize = 40;
/// How deep below `./models` bases are looked for.
const DEPTH: usize = 3;
const DATA: [&str; 9] = [
    "jsonl", "json", "csv", "txt", "png", "jpg", "jpeg", "webp", "bmp",
];

/// Bases below `./models`, and the built-in ones.
pub fn bases() -> Vec<String> {
    let mut found = Vec::new();
    bases_in(Path::new("./models"), DEPTH, &mut found);
    found.sort();
    found.truncate(MOST);
    found.push("builtin:tiny-llama".to_owned());
    found.push("builtin:tiny-sd".to_owned());
    found
}

fn bases_in(folder: &Path, depth: usize, found: &mut Vec<String>) {
    if ["config.json", "model_index.json"]
        .iter()
        .any(|name| folder.join(name).is_file())
    {
        found.push(folder.display().to_string());
        return;
    }
    for path in entries(folder) {
        if path.is_dir() && depth > 1 {
            bases_in(&path, depth - 1, found);
        } else if (has_extension(&path, &["gguf"]) && path.is_file())
            || path.to_str().is_some_and(is_image_base)
        {
            found.push(path.display().to_string());
        }
    }
}

/// Data files and folders of them in `./data`, and beside the configs.
pub fn data() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["./data", "./configs"] {
        for path in entries(Path::new(folder)) {
            let holds_data = || entries(&path).iter().any(|p| has_extension(p, &DATA));
            if (path.is_file() && has_extension(&path, &DATA[..4]))
                || (path.is_dir() && holds_data())
            {
                found.push(path.display().to_string());
            }
        }
    }
    found.truncate(MOST);
    found
}

/// The YAML files in a folder.
pub fn configs(folder: &Path) -> Vec<PathBuf> {
    let mut found = entries(folder);
    found.retain(|p| has_extension(p, &["yaml", "yml"]) && p.is_file());
    found
}

/// What lies in a folder, sorted; hidden things left out. Nothing where there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| extensions.contains(&e))
}
