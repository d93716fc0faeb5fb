//! The file's text as keys and values with their places. serde_yaml stops at its first error and
//! keeps no places; keys are flat, so each key's lines are found by scanning, and on a syntax error
//! they are parsed key by key.

use std::path::Path;

use serde_yaml::Value;

use super::Problem;
use super::values::shown;

/// A config is text that a person writes; anything larger is another kind of file.
const MAX_BYTES: u64 = 4 << 20;

/// One key of the file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub value: Value,
    /// From 1; 0 for `--set`.
    pub line: usize,
    pub column: usize,
    pub value_column: usize,
}

/// Reads the file as text.
pub(super) fn text_of(path: &Path) -> Result<String, Problem> {
    let problem = |line, message: String, fix: &str| Problem {
        path: path.to_owned(),
        line,
        column: usize::from(line > 0),
        key: String::new(),
        message,
        fix: fix.to_owned(),
    };
    let unreadable = |e: &std::io::Error| {
        let message = if e.kind() == std::io::ErrorKind::NotFound {
            "this config file does not exist".to_owned()
        } else {
            format!(
                "this config file cannot be read: {}",
                super::paths::plain(e)
            )
        };
        problem(0, message, "correct the path")
    };
    let metadata = std::fs::metadata(path).map_err(|e| unreadable(&e))?;
    if metadata.is_dir() {
        return Err(problem(
            0,
            "this is a folder, not a config file".into(),
            "name the YAML file",
        ));
    }
    if metadata.len() > MAX_BYTES {
        return Err(problem(
            0,
            format!("this file of {} MB is no config", metadata.len() >> 20),
            "name the YAML file",
        ));
    }
    let bytes = std::fs::read(path).map_err(|e| unreadable(&e))?;
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(problem(
            1,
            "this file is UTF-16, not UTF-8".into(),
            "save it as UTF-8",
        ));
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        problem(
            line,
            "this line holds bytes that are not UTF-8".into(),
            "save the file as UTF-8",
        )
    })
}

/// Lines of one top-level key.
struct Chunk {
    key: String,
    /// From 0.
    first: usize,
    /// One past the last.
    end: usize,
    column: usize,
    value_column: usize,
}

/// All keys of the text that can be read, and a problem for each that cannot.
pub(super) fn entries(path: &Path, text: &str) -> (Vec<Entry>, Vec<Problem>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: Vec<&str> = text.lines().collect();
    let mut problems = Vec::new();
    let problem = |line: usize, column: usize, key: &str, message: String, fix: String| Problem {
        path: path.to_owned(),
        line,
        column,
        key: key.to_owned(),
        message,
        fix,
    };

    let start = lines.iter().position(|l| is_content(l)).unwrap_or(0);
    if let Some(at) = (start..lines.len()).find(|i| lines[*i].trim_end() == "---") {
        problems.push(problem(
            at + 1,
            1,
            "",
            "a second YAML document begins here".into(),
            "remove this line; a config is one document".into(),
        ));
        lines.truncate(at);
    }
    let chunks = chunks(&lines);

    // Without the later of two equal keys the rest can still be read.
    let mut kept: Vec<&str> = lines.clone();
    for (i, chunk) in chunks.iter().enumerate() {
        if chunk.key.is_empty() {
            continue;
        }
        if let Some(before) = chunks[..i].iter().find(|c| c.key == chunk.key) {
            kept[chunk.first..chunk.end].fill("");
            problems.push(problem(
                chunk.first + 1,
                chunk.column,
                &chunk.key,
                format!(
                    "`{}` is given twice: line {} has it already",
                    chunk.key,
                    before.first + 1
                ),
                "remove one of the two lines".into(),
            ));
        }
    }

    let place = |key: &str| {
        let chunk = chunks.iter().find(|c| c.key == key);
        let searched = || {
            // A config in braces has its keys anywhere.
            lines.iter().enumerate().find_map(|(i, line)| {
                let at = line.find(key)?;
                let column = line[..at].chars().count() + 1;
                Some((i + 1, column, column))
            })
        };
        chunk
            .map(|c| (c.first + 1, c.column, c.value_column))
            .or_else(searched)
            .unwrap_or((1, 1, 1))
    };
    let mut entries = Vec::new();
    let mut collect = |value: Value, problems: &mut Vec<Problem>| match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                let key = super::values::text_of(&key).unwrap_or_else(|| shown(&key));
                let (line, column, value_column) = place(&key);
                entries.push(Entry {
                    key,
                    value,
                    line,
                    column,
                    value_column,
                });
            }
        }
        Value::Null if !problems.is_empty() => {}
        Value::Null => problems.push(problem(
            0,
            0,
            "",
            "this config is empty".into(),
            "write at least `base_model` and `train_data_dir`".into(),
        )),
        Value::Sequence(_) => problems.push(problem(
            1,
            1,
            "",
            "this file is a list, not `key: value` lines".into(),
            "write one `key: value` per line, without a dash".into(),
        )),
        _ => problems.push(problem(
            1,
            1,
            "",
            "this file holds no `key: value` lines".into(),
            "write one `key: value` per line, with a space after the colon".into(),
        )),
    };

    match serde_yaml::from_str::<Value>(&kept.join("\n")) {
        Ok(value) => collect(value, &mut problems),
        Err(whole) => {
            let before = problems.len();
            for chunk in &chunks {
                if kept[chunk.first].is_empty() {
                    continue;
                }
                let part = &lines[chunk.first..chunk.end];
                match serde_yaml::from_str::<Value>(&part.join("\n")) {
                    Ok(value @ Value::Mapping(_)) => collect(value, &mut problems),
                    Ok(_) => problems.push(no_key(path, chunk, part[0])),
                    Err(e) => problems.push(syntax(path, &e, chunk.first, part, &chunk.key)),
                }
            }
            if problems.len() == before {
                problems.push(syntax(path, &whole, 0, &lines, ""));
            }
        }
    }
    (entries, problems)
}

/// Whether a line is more than blank, a comment or a document's mark.
fn is_content(line: &str) -> bool {
    let text = line.trim();
    !text.is_empty() && !text.starts_with(['#', '%']) && text != "---" && text != "..."
}

/// Cuts the text at its top-level keys.
fn chunks(lines: &[&str]) -> Vec<Chunk> {
    let indent = |l: &str| l.len() - l.trim_start_matches(' ').len();
    let mut chunks: Vec<Chunk> = Vec::new();
    let Some(top) = lines.iter().find(|l| is_content(l)).map(|l| indent(l)) else {
        return chunks;
    };
    for (i, line) in lines.iter().enumerate() {
        let rest = line.get(top..).unwrap_or("");
        let continues = rest.starts_with([' ', ']', '}'])
            || rest == "-"
            || rest.starts_with("- ")
            || (rest.starts_with('\t') && !chunks.is_empty());
        if !is_content(line) || indent(line) < top || continues {
            continue;
        }
        if let Some(last) = chunks.last_mut() {
            last.end = i;
        }
        let (key, length) = key_of(rest);
        let after = rest.get(length..).unwrap_or("");
        let blank = after.len() - after.trim_start().len();
        let columns = |bytes: usize| line[..bytes].chars().count() + 1;
        chunks.push(Chunk {
            key,
            first: i,
            end: lines.len(),
            column: columns(top),
            value_column: columns((top + length + blank).min(line.len())),
        });
    }
    chunks
}

/// The key a line begins with, and the bytes up to and with its colon; an empty key where there is
/// none.
fn key_of(line: &str) -> (String, usize) {
    for quote in ['"', '\''] {
        if let Some(rest) = line.strip_prefix(quote) {
            if let Some(end) = rest.find(quote) {
                let after = rest[end + 1..].trim_start();
                if after.starts_with(':') {
                    return (rest[..end].to_owned(), line.len() - after.len() + 1);
                }
            }
            return (String::new(), 0);
        }
    }
    for (at, _) in line.match_indices(':') {
        if line[at + 1..].is_empty() || line[at + 1..].starts_with([' ', '\t']) {
            return (line[..at].trim_end().to_owned(), at + 1);
        }
    }
    (String::new(), 0)
}

/// A line that should be `key: value` and is not.
fn no_key(path: &Path, chunk: &Chunk, line: &str) -> Problem {
    let line = line.trim();
    let word_end = line
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
        .unwrap_or(line.len());
    let (word, rest) = line.split_at(word_end);
    let value = rest.trim_start_matches([':', '=', ' ', '\t']);
    let written = match line.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line.to_owned(),
    };
    let message = if rest.starts_with(':') {
        format!("`{written}` lacks a space after the colon")
    } else if rest.trim_start().starts_with('=') {
        format!("`{written}` has `=` where YAML has `: `")
    } else {
        format!("`{written}` is not a `key: value` line")
    };
    Problem {
        path: path.to_owned(),
        line: chunk.first + 1,
        column: chunk.column,
        key: word.to_owned(),
        message,
        fix: if word.is_empty() || value.is_empty() {
            "write `key: value`, or remove the line".into()
        } else {
            format!("write `{word}: {value}`")
        },
    }
}

/// A YAML error in a person's words. `offset`: lines before `lines`.
fn syntax(
    path: &Path,
    error: &serde_yaml::Error,
    offset: usize,
    lines: &[&str],
    key: &str,
) -> Problem {
    let (mut line, mut column) = error
        .location()
        .map_or((1, 1), |l| (l.line(), l.column().max(1)));
    let raw = error.to_string();
    let first = raw.split(" at line ").next().unwrap_or(&raw);
    let tabbed = lines
        .iter()
        .position(|l| l[..l.len() - l.trim_start().len()].contains('\t') && !l.trim().is_empty());
    let text = lines.join("\n");
    let (message, fix): (String, &str) = if let Some(at) = tabbed {
        (line, column) = (at + 1, 1);
        (
            "this line is indented with a tab, which YAML does not allow".into(),
            "indent with spaces",
        )
    } else if line > 1 && first.contains("mapping values are not allowed") && !key.is_empty() {
        (
            format!("this line is indented, as if it belonged to `{key}`"),
            "remove the spaces before it",
        )
    } else if first.contains("unknown escape") || first.contains("hexdecimal") {
        (
            "a backslash inside double quotes begins an escape".into(),
            "use single quotes, or write `\\\\`",
        )
    } else if (first.contains("unexpected end of stream") || first.contains("end of document"))
        || (text.matches('"').count() % 2 == 1)
    {
        (line, column) = (1, 1);
        (
            "a quote or bracket that is opened here is never closed".into(),
            "close it",
        )
    } else if first.contains("cannot start any token") {
        (
            "this value begins with a character that YAML keeps for itself".into(),
            "put the value in quotes",
        )
    } else if first.contains("mapping values are not allowed") {
        (
            "this line holds a second `: `".into(),
            "put the value in quotes, or start a new line",
        )
    } else if first.contains("unknown anchor") || first.contains("alias") {
        (
            "a value that begins with `*` names a YAML anchor, and there is none of that name"
                .into(),
            "put the value in quotes",
        )
    } else if first.contains("did not find expected ',' or") {
        (line, column) = (1, 1);
        (
            "a list is opened with a bracket here and not closed well".into(),
            "close the bracket, and put commas between the values",
        )
    } else if first.contains("did not find expected '-' indicator")
        || first.contains("did not find expected key")
        || first.contains("could not find expected ':'")
    {
        (
            "this line does not fit the lines before it".into(),
            "give every key a line of its own, unindented, as `key: value`",
        )
    } else {
        (format!("this is not YAML: {first}"), "write `key: value`")
    };
    Problem {
        path: path.to_owned(),
        line: offset + line,
        column,
        key: key.to_owned(),
        message,
        fix: fix.to_owned(),
    }
}
