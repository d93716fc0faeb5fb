//! Where code comes from, under which licence, and where it may be unsafe.

mod program;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::repository;

/// Files that may say `unsafe`, and why.
const UNSAFE: [(&str, &str); 5] = [
    (
        "src/ops/",
        "the numbers: products over raw slices, decoding of blocks, the counting allocator",
    ),
    ("src/model/source.rs", "maps a base's files into memory"),
    (
        "src/adapter/merge/gguf.rs",
        "maps a base's header into memory",
    ),
    (
        "src/main.rs",
        "sets variables before there is another thread",
    ),
    (
        "src/ui/terminal.rs",
        "the watchdog that restores the terminal",
    ),
];

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

/// Whether the keyword is there, outside comments.
fn says_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or("");
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .any(|word| word == "unsafe")
}

#[test]
fn unsafe_code_stays_where_it_has_a_reason_and_gives_it() {
    let mut files = Vec::new();
    rust_files(&repository().join("src"), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let name = file
            .strip_prefix(repository())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate().filter(|(_, l)| says_unsafe(l)) {
            if !UNSAFE.iter().any(|(place, _)| name.starts_with(place)) {
                wrong.push(format!("{name}:{}: unsafe has no place here", i + 1));
            }
            let before = &lines[i.saturating_sub(12)..=i];
            let reason = before
                .iter()
                .any(|l| l.contains("SAFETY") || l.contains("# Safety"));
            let declares = line.trim_start().starts_with("unsafe fn")
                || line.contains("unsafe fn")
                || line.contains("unsafe extern");
            if !reason && !declares {
                wrong.push(format!("{name}:{}: no SAFETY comment", i + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The strings of a TOML list `name = [ ... ]`.
fn list(toml: &str, name: &str) -> BTreeSet<String> {
    let (_, rest) = toml.split_once(&format!("\n{name} = [")).unwrap();
    let body = rest.split("\n]").next().unwrap();
    let lines = body.lines().map(|l| l.split('#').next().unwrap());
    lines
        .flat_map(|l| {
            l.split('"')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// `cargo deny check` says the same and more; this needs no other tool.
#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_the_registry() {
    let deny = fs::read_to_string(repository().join("deny.toml")).unwrap();
    let allowed = list(&deny, "allow");
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(repository())
        .output()
        .unwrap();
    if !out.status.success() {
        println!("not run: cargo has no metadata without a network here");
        return;
    }
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some(source) = package["source"].as_str() else {
            continue; // our own
        };
        if !source.starts_with("registry+https://github.com/rust-lang/crates.io-index") {
            wrong.push(format!("{name} comes from {source}"));
        }
        let licence = package["license"].as_str().unwrap_or("");
        let exception = deny.lines().any(|l| {
            !l.trim_start().starts_with('#')
                && l.contains(&format!("crate = \"{name}\""))
                && l.contains("allow = [")
        });
        // Every part, by one of its alternatives.
        let fits = licence.split(" AND ").all(|part| {
            let part = part.replace(['(', ')'], "").replace('/', " OR ");
            part.split(" OR ").any(|way| allowed.contains(way.trim()))
        });
        if !fits && !exception {
            wrong.push(format!("{name}: '{licence}' is not allowed by deny.toml"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
