//! Which room may use which: the table of the README, held against the `use crate::` lines.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Plain data and pure functions that every room may use.
const EVERYWHERE: [&str; 4] = ["error", "printable", "protocol", "random"];

fn table() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        ("error", vec![]),
        ("printable", vec![]),
        ("random", vec![]),
        ("protocol", vec![]),
        ("config", vec![]),
        ("fetch", vec!["config"]),
        ("ops", vec![]),
        ("model", vec!["ops"]),
        ("adapter", vec!["model"]),
        ("data", vec!["config", "model"]),
        ("generate", vec!["data", "model", "adapter"]),
        (
            "train",
            vec!["config", "data", "ops", "model", "adapter", "generate"],
        ),
        ("monitor", vec![]),
        (
            "run",
            vec![
                "train", "generate", "adapter", "monitor", "data", "model", "config",
            ],
        ),
        ("ui", vec!["config", "run::link"]),
        (
            "commands",
            vec![
                "cli", "config", "fetch", "data", "model", "adapter", "generate", "train",
                "monitor", "run", "ui",
            ],
        ),
        ("cli", vec![]),
    ])
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Rooms named by `crate::` in a line, also inside braces: `use crate::{a::b, c}`.
fn rooms_used(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        // `$crate::` in macros and identifiers ending in "crate" are something else.
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        if let Some(inner) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut part = String::new();
            for c in inner.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        rooms.push(part.trim().to_owned());
                        part.clear();
                        continue;
                    }
                    _ => {}
                }
                part.push(c);
            }
            if !part.trim().is_empty() {
                rooms.push(part.trim().to_owned());
            }
        } else {
            rooms.push(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':')
                    .collect(),
            );
        }
    }
    rooms
}

#[test]
fn every_room_uses_only_the_rooms_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let table = table();
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap();
        let room = Path::new(first.as_os_str())
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        if room == "main" || room == "lib" {
            continue;
        }
        let allowed = table
            .get(room.as_str())
            .unwrap_or_else(|| panic!("src/{room} is not in the table of rooms"));
        let code: String = fs::read_to_string(&file)
            .unwrap()
            .lines()
            .filter(|l| !l.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        for used in rooms_used(&code) {
            let top = used.split("::").next().unwrap_or("");
            let fits = top == room
                || EVERYWHERE.contains(&top)
                || allowed.iter().any(|a| {
                    used == *a
                        || used.starts_with(&format!("{a}::"))
                        || (!a.contains("::") && top == *a)
                });
            if !fits {
                wrong.push(format!("src/{}: crate::{used}", relative.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "rooms reaching around the table:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn only_the_deck_draws_and_only_the_engine_computes() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let computing = ["ops", "model", "adapter", "generate", "train", "commands"];
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap().to_owned();
        let room = relative.components().next().unwrap();
        let room = room
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let text = fs::read_to_string(&file).unwrap();
        for (krate, rooms) in [
            ("ratatui::", &["ui"][..]),
            ("crossterm::", &["ui"][..]),
            ("candle_core::", &computing[..]),
            ("candle_nn::", &computing[..]),
        ] {
            if text.contains(krate) && !rooms.contains(&room.as_str()) {
                wrong.push(format!("src/{}: {krate}", relative.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "crates outside their rooms:\n{}",
        wrong.join("\n")
    );
}
