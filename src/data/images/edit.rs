//! Captions changed by hand: written where each came from, at once or not at all, with the file as
//! it was kept beside it, and undone step by step.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::captions::{self, CaptionSource, columns, tidy};
use super::folder::{self, Contents, EXCLUDED_FILE};
use crate::config::RunConfig;
use crate::data::files;
use crate::error::input_error;
use crate::protocol::DataEdit;

/// What can be undone; lies in the data's folder, which passes over names with a dot.
const JOURNAL: &str = ".loradeck-edits.json";
/// Edits that can be undone.
const UNDOS: usize = 50;

/// One edit, as it can be taken back.
#[derive(Serialize, Deserialize)]
struct Step {
    what: String,
    files: Vec<Changed>,
}

/// A file before and after an edit.
#[derive(Serialize, Deserialize)]
struct Changed {
    path: PathBuf,
    /// `None`: there was no such file.
    before: Option<String>,
    /// Hash (blake3, hex) of what the edit left.
    after: String,
}

/// Carries out an edit of the images of `train_data_dir`. Returns a sentence that says what was
/// done.
///
/// # Errors
/// There is no such image, nothing to undo, a file that was changed meanwhile, or one that cannot
/// be written; then nothing has changed.
pub fn edit(config: &RunConfig, edit: &DataEdit) -> Result<String> {
    let root = &config.train_data_dir;
    let contents = folder::look(root, "train_data_dir")?;
    let editor = Editor {
        root,
        found: captions::find(root, &contents, config.metadata_path.as_deref())?,
        metadata_path: config.metadata_path.as_deref(),
        contents,
    };
    let (what, texts) = match edit {
        DataEdit::Caption { file, caption } => {
            editor.known(file)?;
            let what = format!("caption of {file}");
            let texts = editor.written(&BTreeMap::from([(file.clone(), tidy(caption))]))?;
            (what, texts)
        }
        DataEdit::Exclude { file, excluded } => {
            editor.known(file)?;
            let word = if *excluded { "left out" } else { "taken in" };
            (format!("{file} {word}"), editor.excluded(file, *excluded))
        }
        DataEdit::Replace { find, replace } if find.is_empty() => {
            bail!(input_error(format!(
                "there is nothing to look for, to be replaced by `{replace}`"
            )));
        }
        DataEdit::Replace { find, replace } => {
            let what = format!("`{find}` replaced by `{replace}`");
            editor.in_all(what, |caption| caption.replace(find, replace))?
        }
        DataEdit::RemoveTag { tag } => {
            let what = format!("tag `{}` removed", tag.trim());
            editor.in_all(what, |caption| without_tag(caption, tag.trim()))?
        }
        DataEdit::Undo => return undo(root),
    };
    if texts.is_empty() {
        return Ok(format!("{what}: nothing to change"));
    }
    let files = texts.len();
    commit(root, what.clone(), texts)?;
    Ok(match files {
        1 => what,
        n => format!("{what}: {n} files written"),
    })
}

struct Editor<'a> {
    root: &'a Path,
    contents: Contents,
    found: captions::Captions,
    metadata_path: Option<&'a Path>,
}

/// New texts of files.
type Texts = BTreeMap<PathBuf, String>;

impl Editor<'_> {
    fn known(&self, file: &str) -> Result<()> {
        match self.contents.images.iter().any(|name| name == file) {
            true => Ok(()),
            false => Err(input_error(format!(
                "there is no image {file} in {}",
                self.root.display()
            ))),
        }
    }

    /// Every caption that a file holds, changed; with the sentence, which counts them.
    fn in_all(&self, what: String, change: impl Fn(&str) -> String) -> Result<(String, Texts)> {
        let mut changed = BTreeMap::new();
        let mut named_by_folder = 0;
        for (name, (caption, source)) in &self.found.found {
            let new = tidy(&change(caption));
            if new == *caption {
                continue;
            }
            match source {
                CaptionSource::Folder { .. } => named_by_folder += 1,
                _ => drop(changed.insert(name.clone(), new)),
            }
        }
        let mut what = format!("{what} in {} captions", changed.len());
        if named_by_folder > 0 {
            what += &format!(" ({named_by_folder} more come from a folder's name)");
        }
        Ok((what, self.written(&changed)?))
    }

    /// The files that hold these captions, with them in it.
    fn written(&self, changed: &BTreeMap<String, String>) -> Result<Texts> {
        let mut texts = Texts::new();
        let mut tables: BTreeMap<&str, BTreeMap<usize, &str>> = BTreeMap::new();
        for (name, caption) in changed {
            match self.found.found.get(name).map(|(_, source)| source) {
                Some(CaptionSource::Table { table, line }) => {
                    tables.entry(table).or_default().insert(*line, caption);
                }
                Some(CaptionSource::Beside { file }) => {
                    texts.insert(self.root.join(file), format!("{caption}\n"));
                }
                _ => {
                    let beside = self.root.join(name).with_extension("txt");
                    texts.insert(beside, format!("{caption}\n"));
                }
            }
        }
        for (table, rows) in tables {
            let below = self.root.join(table);
            let path = match self.metadata_path {
                // The table that the config names may lie elsewhere; it is shown by its path.
                Some(path) if path.display().to_string() == table => path.to_owned(),
                _ => below,
            };
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            let csv = table.to_lowercase().ends_with(".csv");
            let text = match csv {
                true => in_csv(&text, table, &path, &rows)?,
                false => in_json_lines(&text, &rows)?,
            };
            texts.insert(path, text);
        }
        Ok(texts)
    }

    fn excluded(&self, file: &str, excluded: bool) -> Texts {
        let path = self.root.join(EXCLUDED_FILE);
        let old = fs::read_to_string(&path).unwrap_or_default();
        let mut lines: Vec<&str> = old.lines().filter(|l| l.trim() != file).collect();
        if excluded {
            lines.push(file);
        }
        let new: String = lines.iter().map(|l| format!("{l}\n")).collect();
        match new == old {
            true => Texts::new(),
            false => Texts::from([(path, new)]),
        }
    }
}

/// A caption without a part between its commas.
fn without_tag(caption: &str, tag: &str) -> String {
    let parts: Vec<&str> = caption.split(',').map(str::trim).collect();
    let kept: Vec<&str> = parts
        .iter()
        .copied()
        .filter(|part| !part.eq_ignore_ascii_case(tag))
        .collect();
    match kept.len() == parts.len() {
        true => caption.to_owned(),
        false => kept.join(", "),
    }
}

/// A table with other captions in some of its rows, which are told by their lines.
fn in_csv(text: &str, name: &str, path: &Path, rows: &BTreeMap<usize, &str>) -> Result<String> {
    let mark = if text.starts_with('\u{feff}') {
        "\u{feff}"
    } else {
        ""
    };
    let bytes = &text.as_bytes()[mark.len()..];
    let delimiter = files::delimiter(bytes);
    // The reading's records, one for each of this reader's.
    let lines: Vec<usize> = files::read(name, path)?.iter().map(|r| r.line).collect();
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes);
    let crlf = text.contains("\r\n");
    let mut writer = csv::WriterBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .terminator(match crlf {
            true => csv::Terminator::CRLF,
            false => csv::Terminator::Any(b'\n'),
        })
        .from_writer(Vec::new());
    let mut column = None;
    let mut left = rows.len();
    for (index, record) in reader.records().enumerate() {
        let mut record = record?;
        match index.checked_sub(1) {
            None => {
                let header: Vec<&str> = record.iter().collect();
                column = columns(header.iter().copied())
                    .and_then(|(_, text)| header.iter().position(|h| *h == text));
            }
            Some(row) => {
                let new = lines.get(row).and_then(|line| rows.get(line));
                if let (Some(new), Some(column)) = (new, column) {
                    let cells = record.iter().enumerate();
                    let cells = cells.map(|(at, cell)| if at == column { new } else { cell });
                    record = cells.collect();
                    left -= 1;
                }
            }
        }
        writer.write_record(&record)?;
    }
    if left > 0 {
        bail!("{name} has changed meanwhile; look at it again");
    }
    let bytes = writer.into_inner().map_err(|e| anyhow!("{e}"))?;
    Ok(format!("{mark}{}", String::from_utf8(bytes)?))
}

fn in_json_lines(text: &str, rows: &BTreeMap<usize, &str>) -> Result<String> {
    let mut out = String::new();
    let mut left = rows.len();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let Some(new) = rows.get(&(index + 1)) else {
            out += line;
            continue;
        };
        let row: Map<String, Value> = serde_json::from_str(line.trim_start_matches('\u{feff}'))?;
        let key = columns(row.keys().map(String::as_str)).map(|(_, text)| text.to_owned());
        let key = key.context("a row has changed meanwhile; look at it again")?;
        let mut row = row;
        row.insert(key, (*new).into());
        out += &serde_json::to_string(&row)?;
        out += if line.ends_with("\r\n") { "\r\n" } else { "\n" };
        left -= 1;
    }
    if left > 0 {
        bail!("the table has changed meanwhile; look at it again");
    }
    Ok(out)
}

/// Writes all texts, or none, and remembers how to take them back.
fn commit(root: &Path, what: String, texts: Texts) -> Result<()> {
    let mut files = Vec::new();
    for (path, text) in &texts {
        // Through a link the file itself is written.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        files.push(Changed {
            before: read_if_there(&path)?,
            after: blake3::hash(text.as_bytes()).to_hex().to_string(),
            path,
        });
    }
    for (at, (changed, text)) in files.iter().zip(texts.values()).enumerate() {
        let kept = changed.before.as_ref().map_or(Ok(()), |before| {
            let mut backup = changed.path.clone().into_os_string();
            backup.push(".bak");
            replace(Path::new(&backup), before)
        });
        if let Err(error) = kept.and_then(|()| replace(&changed.path, text)) {
            for written in &files[..at] {
                let _ = restore(written);
            }
            return Err(error);
        }
    }
    let mut steps = journal(root);
    steps.push(Step { what, files });
    let from = steps.len().saturating_sub(UNDOS);
    replace(&root.join(JOURNAL), &serde_json::to_string(&steps[from..])?)
}

/// Takes the last edit back.
fn undo(root: &Path) -> Result<String> {
    let mut steps = journal(root);
    let Some(step) = steps.pop() else {
        return Err(input_error("there is no edit to undo"));
    };
    for changed in &step.files {
        let now = read_if_there(&changed.path)?;
        let hash = now.map(|text| blake3::hash(text.as_bytes()).to_hex().to_string());
        if hash.as_deref() != Some(&changed.after) {
            return Err(input_error(format!(
                "{} was changed after that edit and stays as it is; what it was before lies \
                 beside it in a .bak file",
                changed.path.display()
            )));
        }
    }
    for changed in &step.files {
        restore(changed)?;
    }
    replace(&root.join(JOURNAL), &serde_json::to_string(&steps)?)?;
    Ok(format!("undone: {}", step.what))
}

fn restore(changed: &Changed) -> Result<()> {
    match &changed.before {
        Some(text) => replace(&changed.path, text),
        None => fs::remove_file(&changed.path)
            .with_context(|| format!("{} cannot be removed", changed.path.display())),
    }
}

fn journal(root: &Path) -> Vec<Step> {
    let text = fs::read_to_string(root.join(JOURNAL)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// A file's text, whole or as it was, on the disk when this returns.
fn replace(path: &Path, text: &str) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&beside)?;
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&beside);
        anyhow!(
            "{} cannot be written ({e}); nothing has changed",
            path.display()
        )
    })
}
