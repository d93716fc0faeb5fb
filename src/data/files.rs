//! From files to raw records, each with its file and line.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::error::input_error;

/// What a file holds at one place, before its format is known.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    /// A JSON value, as text.
    Json(String),
    /// A row of a table.
    Row(Map<String, Value>),
    /// A whole `.txt` file.
    Document(String),
    /// Unreadable: why.
    Bad(String),
}

#[derive(Clone, Debug)]
pub(super) struct RawRecord {
    /// Relative to the data's folder.
    pub file: String,
    /// From 1.
    pub line: usize,
    pub raw: Raw,
}

/// The data's files and what was passed over.
#[derive(Debug)]
pub(super) struct Found {
    /// Name (relative to the folder) and path, sorted by name.
    pub files: Vec<(String, PathBuf)>,
    /// A sentence for each kind of thing passed over.
    pub warnings: Vec<String>,
}

/// Formats that people have data in and that are not read.
const OTHER_FORMATS: &[&str] = &[
    "parquet", "arrow", "gz", "zst", "zip", "tsv", "xlsx", "pdf", "docx", "md", "html", "yaml",
    "yml",
];

/// Files that accompany data and are none, by the beginning of their names.
const COMPANIONS: &[&str] = &[
    "readme",
    "license",
    "licence",
    "copying",
    "notice",
    "changelog",
    "citation",
    "dataset_info",
    "dataset_dict",
    "dataset_card",
    "metadata.json",
    "state.json",
    "requirements",
];

/// Folders below this depth are taken for a loop of links.
const MAX_DEPTH: usize = 24;

fn is_data(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    ["jsonl", "json", "csv", "txt", "ndjson"].contains(&extension.to_lowercase().as_str())
}

/// Finds the data's files: `path` itself, or all below it.
///
/// # Errors
/// The folder cannot be read, or holds no data.
pub(super) fn find(path: &Path) -> Result<Found> {
    let unreadable = |at: &Path, e: std::io::Error| {
        input_error(format!(
            "train_data_dir: {} cannot be read ({e}); check the path and its permissions",
            at.display()
        ))
    };
    let metadata = std::fs::metadata(path).map_err(|e| unreadable(path, e))?;
    if !metadata.is_dir() {
        // Opening a named pipe would wait for a writer, and no signal ends that.
        if !metadata.is_file() {
            return Err(input_error(format!(
                "train_data_dir: {} is neither a file nor a folder; write the data into a file",
                path.display()
            )));
        }
        if !is_data(path) {
            return Err(input_error(format!(
                "train_data_dir: {} is not a .jsonl, .json, .csv or .txt file; convert it to one",
                path.display()
            )));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Ok(Found {
            files: vec![(name.into_owned(), path.to_owned())],
            warnings: Vec::new(),
        });
    }
    let mut files = Vec::new();
    let (mut companions, mut others) = (Vec::new(), Vec::new());
    let mut folders = vec![(path.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| unreadable(&folder, e))? {
            let at = entry.map_err(|e| unreadable(&folder, e))?.path();
            let name = at
                .strip_prefix(path)
                .unwrap_or(&at)
                .to_string_lossy()
                .into_owned();
            let last = at.file_name().unwrap_or_default().to_string_lossy();
            if last.starts_with(['.', '_']) {
                companions.push(name);
            } else if at.is_dir() {
                if depth >= MAX_DEPTH {
                    return Err(input_error(format!(
                        "train_data_dir: {} lies more than {MAX_DEPTH} folders deep; is there a \
                         loop of links?",
                        at.display()
                    )));
                }
                folders.push((at, depth + 1));
            } else if COMPANIONS
                .iter()
                .any(|c| last.to_lowercase().starts_with(c))
            {
                companions.push(name);
            } else if is_data(&at) && at.is_file() {
                files.push((name, at));
            } else {
                others.push(name);
            }
        }
    }
    files.sort();
    companions.sort();
    others.sort();
    if files.is_empty() {
        let seen = if others.is_empty() {
            String::new()
        } else {
            format!("; it holds {}", listed(&others))
        };
        return Err(input_error(format!(
            "train_data_dir: {} holds no .jsonl, .json, .csv or .txt file{seen}",
            path.display()
        )));
    }
    let mut warnings = Vec::new();
    if !companions.is_empty() {
        warnings.push(format!("passed over as no data: {}", listed(&companions)));
    }
    if !others.is_empty() {
        let known = others.iter().any(|name| {
            let extension = Path::new(name).extension().and_then(|e| e.to_str());
            extension.is_some_and(|e| OTHER_FORMATS.contains(&e))
        });
        warnings.push(format!(
            "not read: {}{}",
            listed(&others),
            if known {
                " (convert to .jsonl to use it)"
            } else {
                ""
            }
        ));
    }
    Ok(Found { files, warnings })
}

/// The first few names, and how many more.
pub(super) fn listed(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
    match names.len().saturating_sub(first.len()) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Cuts a file into raw records.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read(name: &str, path: &Path) -> Result<Vec<RawRecord>> {
    let bytes = std::fs::read(path).map_err(|e| {
        input_error(format!(
            "train_data_dir: {} cannot be read ({e}); check its permissions",
            path.display()
        ))
    })?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    let records = match extension.to_lowercase().as_str() {
        "csv" => rows(bytes),
        "txt" => document(bytes),
        "json" => array_or_lines(bytes),
        _ => lines(bytes),
    };
    Ok(records
        .into_iter()
        .map(|(line, raw)| RawRecord {
            file: name.to_owned(),
            line,
            raw,
        })
        .collect())
}

fn not_utf8() -> Raw {
    Raw::Bad("it holds bytes that are not UTF-8".into())
}

fn line_of(bytes: &[u8], at: usize) -> usize {
    bytes[..at.min(bytes.len())]
        .iter()
        .filter(|b| **b == b'\n')
        .count()
        + 1
}

fn lines(bytes: &[u8]) -> Vec<(usize, Raw)> {
    bytes
        .split(|b| *b == b'\n')
        .enumerate()
        .map(|(i, line)| (i + 1, line.trim_ascii()))
        .filter(|(_, line)| !line.is_empty())
        .map(|(number, line)| match std::str::from_utf8(line) {
            Ok(text) => (number, Raw::Json(text.to_owned())),
            Err(_) => (number, not_utf8()),
        })
        .collect()
}

fn document(bytes: &[u8]) -> Vec<(usize, Raw)> {
    match std::str::from_utf8(bytes) {
        Ok(text) => vec![(1, Raw::Document(text.replace("\r\n", "\n")))],
        Err(e) => vec![(line_of(bytes, e.valid_up_to()), not_utf8())],
    }
}

/// A `.json` file: an array of records, one record, or records one after another.
fn array_or_lines(bytes: &[u8]) -> Vec<(usize, Raw)> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        // Line by line, the good lines can still be told from the bad one.
        return lines(bytes);
    };
    let start = text.len() - text.trim_start().len();
    if !text[start..].starts_with('[') {
        return values(text);
    }
    elements(text, start)
        .into_iter()
        .map(|(at, raw)| (line_of(bytes, at), raw))
        .collect()
}

/// JSON values one after another. What follows a broken one cannot be told apart any more.
fn values(text: &str) -> Vec<(usize, Raw)> {
    let mut found = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut from = 0;
    while let Some(value) = stream.next() {
        let rest = &text[from..];
        let at = from + (rest.len() - rest.trim_start().len());
        let line = line_of(text.as_bytes(), at);
        match value {
            Ok(Value::Object(map)) => found.push((line, Raw::Row(map))),
            Ok(other) => found.push((line, Raw::Json(other.to_string()))),
            Err(e) => {
                // Broken lines of a JSON-lines file are told apart by their ends.
                let tail = lines(&text.as_bytes()[at..]);
                if found.is_empty() && tail.len() < 2 {
                    return vec![(e.line(), Raw::Bad(json_reason(&e)))];
                }
                found.extend(tail.into_iter().map(|(l, raw)| (l + line - 1, raw)));
                return found;
            }
        }
        from = stream.byte_offset();
    }
    found
}

/// The elements of the array that begins at `start`, with their places, each still unparsed: so one
/// that is broken spoils no other.
fn elements(text: &str, start: usize) -> Vec<(usize, Raw)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let mut from = start + 1;
    let mut push = |from: usize, to: usize, last: bool| {
        let element = &text[from..to];
        let at = from + (element.len() - element.trim_start().len());
        match element.trim() {
            // A comma after the last element, and an empty array.
            "" if last => {}
            "" => found.push((
                at,
                Raw::Bad("an element is missing between two commas".into()),
            )),
            element => found.push((at, Raw::Json(element.to_owned()))),
        }
    };
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    push(from, at, true);
                    let rest = text[at + 1..].trim();
                    if !rest.is_empty() {
                        found.push((at, Raw::Bad("something follows the closing bracket".into())));
                    }
                    return found;
                }
            }
            b',' if depth == 1 => {
                push(from, at, false);
                from = at + 1;
            }
            _ => {}
        }
    }
    push(from, text.len(), true);
    found.push((
        text.trim_end().len(),
        Raw::Bad("the file ends inside its array: the closing bracket is missing".into()),
    ));
    found
}

/// serde_json's reason without its place, which is told otherwise.
pub(super) fn json_reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    format!("it is not valid JSON: {reason} (column {})", error.column())
}

/// What stands between the cells of a table: whichever its header has most of.
pub(super) fn delimiter(bytes: &[u8]) -> u8 {
    let header = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| header.iter().filter(|b| **b == delimiter).count();
    [b',', b';', b'\t']
        .into_iter()
        .rev()
        .max_by_key(|d| count(*d))
        .unwrap_or(b',')
}

fn rows(bytes: &[u8]) -> Vec<(usize, Raw)> {
    let delimiter = delimiter(bytes);
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(bytes);
    let header: Vec<String> = match reader.headers() {
        Ok(header) => header.iter().map(|h| h.trim().to_owned()).collect(),
        Err(_) => return vec![(1, not_utf8())],
    };
    let mut found = Vec::new();
    // The reader's own line is one too small after CRLF: its place is then between the two bytes.
    let (mut counted, mut line_at) = (0, 1);
    let mut line_of = |position: Option<&csv::Position>| {
        let mut at = position.map_or(0, |p| p.byte() as usize).min(bytes.len());
        while bytes.get(at).is_some_and(|b| b"\r\n".contains(b)) {
            at += 1;
        }
        line_at += bytes[counted..at.max(counted)]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        counted = at.max(counted);
        line_at
    };
    for record in reader.byte_records() {
        match record {
            Ok(record) => {
                let line = line_of(record.position());
                let mut row = Map::new();
                let mut bad = false;
                for (key, cell) in header.iter().zip(record.iter()) {
                    match std::str::from_utf8(cell) {
                        Ok(text) => drop(row.insert(key.clone(), text.into())),
                        Err(_) => bad = true,
                    }
                }
                found.push((line, if bad { not_utf8() } else { Raw::Row(row) }));
            }
            Err(e) => {
                let line = line_of(e.position());
                let reason = match e.kind() {
                    csv::ErrorKind::UnequalLengths {
                        expected_len, len, ..
                    } => {
                        let s = if *len == 1 { "" } else { "s" };
                        format!("it has {len} cell{s}, and the header has {expected_len}")
                    }
                    _ => "it is not valid CSV".into(),
                };
                found.push((line, Raw::Bad(reason)));
            }
        }
    }
    found
}
