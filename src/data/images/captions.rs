//! Which caption belongs to which image, and by which rule.
//!
//! In this order: the table that `metadata_path` names; a `metadata.csv` or `metadata.jsonl` in the
//! image's folder or, else, one above; a `.txt`, then a `.caption` file beside the image; kohya's
//! folder name (`10_name`). The first that gives one wins.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path};

use anyhow::Result;
use serde_json::{Map, Value};

use super::super::BadRecord;
use super::super::files::{self, Raw};
use super::bad_record;
use super::folder::{Contents, kohya};
use crate::error::input_error;

const FILE_COLUMNS: [&str; 3] = ["file_name", "filename", "file"];
const TEXT_COLUMNS: [&str; 3] = ["text", "prompt", "caption"];

/// Where an image's caption comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CaptionSource {
    /// A row of a table: its name, the line, from 1, and the columns of file and text.
    Table {
        table: String,
        line: usize,
    },
    /// A file beside the image, `.txt` or `.caption`: its name.
    Beside {
        file: String,
    },
    /// The name of its folder, `10_name`.
    Folder {
        folder: String,
    },
    None,
}

impl CaptionSource {
    /// For a person, the same for all images of one rule.
    pub fn rule(&self) -> String {
        match self {
            CaptionSource::Table { table, .. } => table.clone(),
            CaptionSource::Beside { file } => {
                let extension = file.rsplit_once('.').map_or("", |(_, e)| e);
                format!(".{extension} beside the image")
            }
            CaptionSource::Folder { folder } => format!("folder name {folder}"),
            CaptionSource::None => "no caption".into(),
        }
    }

    /// For a person, exactly.
    pub fn place(&self) -> String {
        match self {
            CaptionSource::Table { table, line } => format!("{table}:{line}"),
            CaptionSource::Beside { file } => file.clone(),
            CaptionSource::Folder { folder } => folder.clone(),
            CaptionSource::None => String::new(),
        }
    }
}

/// A row that could not be given to an image.
#[derive(Clone, Debug, PartialEq)]
pub struct StrayRow {
    /// "metadata.csv:17".
    pub origin: String,
    /// The file it names.
    pub file: String,
    pub reason: String,
}

/// What was found for the images, and what was left over.
#[derive(Debug, Default)]
pub(super) struct Captions {
    /// By image name.
    pub found: BTreeMap<String, (String, CaptionSource)>,
    /// Rows without an image, and `.txt` files without one.
    pub strays: Vec<StrayRow>,
    /// Rows of a table that cannot be read.
    pub bad: Vec<BadRecord>,
    /// Images with captions by two rules that differ: name, and the place that was not used.
    pub twice: Vec<(String, String)>,
    /// Images that two rows of one table name: name, and the row that was not used.
    pub repeated: Vec<(String, String)>,
}

/// Finds the captions of a folder's images.
///
/// # Errors
/// `metadata_path` is no table of captions.
pub(super) fn find(
    root: &Path,
    contents: &Contents,
    metadata_path: Option<&Path>,
) -> Result<Captions> {
    let mut captions = Captions::default();
    let images = Names::of(&contents.images);
    if let Some(path) = metadata_path {
        let below = path.strip_prefix(root).ok().and_then(Path::to_str);
        let name = below.map_or_else(|| path.display().to_string(), str::to_owned);
        captions.table(root, &name, path, &images, true)?;
    }
    // A table of the image's own folder comes before one above.
    let mut tables = contents.tables.clone();
    tables.sort_by_key(|name| (std::cmp::Reverse(name.matches('/').count()), name.clone()));
    for name in &tables {
        let path = root.join(name);
        if metadata_path.is_none_or(|given| given != path) {
            captions.table(root, name, &path, &images, false)?;
        }
    }
    captions.sidecars(root, contents);
    for name in &contents.images {
        if let Some((_, class)) = kohya(name)
            && !class.is_empty()
            && !captions.found.contains_key(name)
        {
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            let source = CaptionSource::Folder {
                folder: folder.to_owned(),
            };
            captions.found.insert(name.clone(), (class, source));
        }
    }
    Ok(captions)
}

/// Image names as tables may write them.
struct Names {
    whole: HashMap<String, String>,
    /// Without the extension; `None` where two images share it.
    stems: HashMap<String, Option<String>>,
}

impl Names {
    fn of(images: &[String]) -> Self {
        let mut stems: HashMap<String, Option<String>> = HashMap::new();
        for name in images {
            stems
                .entry(stem(name).to_owned())
                .and_modify(|found| *found = None)
                .or_insert_with(|| Some(name.clone()));
        }
        Names {
            whole: images.iter().map(|n| (n.clone(), n.clone())).collect(),
            stems,
        }
    }

    fn get(&self, name: &str) -> Option<&String> {
        let by_stem = || self.stems.get(name)?.as_ref();
        self.whole.get(name).or_else(by_stem)
    }
}

fn stem(name: &str) -> &str {
    let folder = name.rfind('/').map_or(0, |at| at + 1);
    match name[folder..].rfind('.') {
        Some(at) if at > 0 => &name[..folder + at],
        _ => name,
    }
}

impl Captions {
    fn table(
        &mut self,
        root: &Path,
        name: &str,
        path: &Path,
        images: &Names,
        given: bool,
    ) -> Result<()> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        if !["csv", "jsonl", "ndjson"].contains(&extension.to_lowercase().as_str()) {
            return Err(input_error(format!(
                "metadata_path: {} is not a .csv or .jsonl file; write its rows into one, with \
                 `file_name` and `text`",
                path.display()
            )));
        }
        let rows = files::read(name, path)?;
        let mut fits = 0;
        let mut malformed = Vec::new();
        for row in rows {
            let line = row.line;
            let bad = |reason: String| bad_record(name, line, reason);
            let map = match row.raw {
                Raw::Row(map) => map,
                Raw::Json(text) => match serde_json::from_str::<Map<String, Value>>(&text) {
                    Ok(map) => map,
                    Err(e) => {
                        malformed.push(bad(files::json_reason(&e)));
                        continue;
                    }
                },
                Raw::Document(_) => continue,
                Raw::Bad(reason) => {
                    malformed.push(bad(reason));
                    continue;
                }
            };
            match file_and_text(&map) {
                Ok((file, text)) => {
                    fits += 1;
                    self.row(root, name, line, &file, text, images);
                }
                Err(reason) => malformed.push(bad(reason)),
            }
        }
        if given && fits == 0 {
            let why = malformed.first().map_or_else(
                || "it has no row".to_owned(),
                |b| format!("line {}: {}", b.line, b.reason),
            );
            return Err(input_error(format!(
                "metadata_path: {} gives no caption ({why}); its columns are `file_name` (or \
                 `filename`, `file`) and `text` (or `prompt`, `caption`)",
                path.display()
            )));
        }
        self.bad.extend(malformed);
        Ok(())
    }

    fn row(
        &mut self,
        root: &Path,
        table: &str,
        line: usize,
        file: &str,
        text: String,
        images: &Names,
    ) {
        let origin = format!("{table}:{line}");
        let stray = |reason: &str| StrayRow {
            origin: origin.clone(),
            file: file.to_owned(),
            reason: reason.to_owned(),
        };
        // Names stand relative to the table's folder, or to the data's.
        let folder = table.rsplit_once('/').map_or("", |(folder, _)| folder);
        let nested = !folder.is_empty() && !Path::new(table).is_absolute();
        let beside = (nested && !Path::new(file).is_absolute())
            .then(|| within(root, &format!("{folder}/{file}")))
            .flatten();
        let candidates: Vec<String> = beside.into_iter().chain(within(root, file)).collect();
        if candidates.is_empty() {
            self.strays.push(stray("it lies outside the data's folder"));
            return;
        }
        let Some(name) = candidates.iter().find_map(|c| images.get(c)) else {
            let exists = candidates.iter().any(|c| root.join(c).exists());
            self.strays.push(stray(match exists {
                true => "the file it names is not read as an image",
                false => "there is no such image",
            }));
            return;
        };
        let source = CaptionSource::Table {
            table: table.to_owned(),
            line,
        };
        match self.found.get(name) {
            None => drop(self.found.insert(name.clone(), (tidy(&text), source))),
            Some((_, CaptionSource::Table { table: t, .. })) if t == table => {
                self.repeated.push((name.clone(), origin));
            }
            Some((first, _)) if *first != tidy(&text) => self.twice.push((name.clone(), origin)),
            Some(_) => {}
        }
    }

    fn sidecars(&mut self, root: &Path, contents: &Contents) {
        let mut of_stem: HashMap<&str, Vec<&String>> = HashMap::new();
        for name in &contents.images {
            of_stem.entry(stem(name)).or_default().push(name);
        }
        // `.txt` before `.caption`.
        let rank = |name: &String| name.to_lowercase().ends_with(".caption");
        let mut sidecars: Vec<&String> = contents.sidecars.iter().collect();
        sidecars.sort_by_key(|name| rank(name));
        for file in sidecars {
            // `a.txt` beside `a.png`, and `a.png.txt`.
            let images = match of_stem.get(stem(file)) {
                Some(images) => images.clone(),
                None => match contents
                    .images
                    .binary_search_by(|n| n.as_str().cmp(stem(file)))
                {
                    Ok(at) => vec![&contents.images[at]],
                    Err(_) => Vec::new(),
                },
            };
            if images.is_empty() {
                self.strays.push(StrayRow {
                    origin: file.clone(),
                    file: stem(file).to_owned(),
                    reason: "no image lies beside it".into(),
                });
                continue;
            }
            let text = match read_text(&root.join(file)) {
                Ok(text) => tidy(&text),
                Err(reason) => {
                    self.bad.push(bad_record(file, 1, reason));
                    continue;
                }
            };
            for name in images {
                match self.found.get(name) {
                    // An empty file is no caption; it may still be the place for one.
                    None => {
                        let source = CaptionSource::Beside { file: file.clone() };
                        self.found.insert(name.clone(), (text.clone(), source));
                    }
                    Some((first, _)) if *first != text => {
                        self.twice.push((name.clone(), file.clone()));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

/// Text of a caption file.
fn read_text(path: &Path) -> Result<String, String> {
    const MAX_BYTES: u64 = 1 << 20;
    let unreadable = |e: std::io::Error| format!("it cannot be read ({e})");
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("it is no regular file".into());
    }
    if metadata.len() > MAX_BYTES {
        return Err("it is larger than a megabyte, and a caption is a line of text".into());
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| "it holds bytes that are not UTF-8")?;
    Ok(text.to_owned())
}

/// A caption on one line, without spaces around it.
pub(super) fn tidy(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

/// The column of a row that has one of these names, whatever their case.
pub(super) fn column<'a>(keys: impl Iterator<Item = &'a str>, names: &[&str]) -> Option<&'a str> {
    let keys: Vec<&str> = keys.collect();
    names.iter().find_map(|name| {
        let same = |key: &&&str| key.trim().eq_ignore_ascii_case(name);
        keys.iter().find(same).copied()
    })
}

/// Columns of a table's file names and captions.
pub(super) fn columns<'a>(
    keys: impl Iterator<Item = &'a str> + Clone,
) -> Option<(&'a str, &'a str)> {
    Some((
        column(keys.clone(), &FILE_COLUMNS)?,
        column(keys, &TEXT_COLUMNS)?,
    ))
}

fn file_and_text(row: &Map<String, Value>) -> Result<(String, String), String> {
    let Some((file, text)) = columns(row.keys().map(String::as_str)) else {
        let keys: Vec<String> = row.keys().take(8).map(|k| format!("`{k}`")).collect();
        return Err(format!(
            "its columns are {}; expected `file_name` and `text`",
            keys.join(", ")
        ));
    };
    let string = |key: &str| match &row[key] {
        Value::String(s) => Ok(s.clone()),
        Value::Null => Ok(String::new()),
        _ => Err(format!("`{key}` is not a text")),
    };
    let name = string(file)?;
    if name.trim().is_empty() {
        return Err(format!("`{file}` is empty"));
    }
    Ok((name.trim().to_owned(), string(text)?))
}

/// A name relative to `root`, plain, if it does not lead out of it.
pub(super) fn within(root: &Path, name: &str) -> Option<String> {
    let name = name.replace('\\', "/");
    let path = Path::new(name.trim_start_matches("./"));
    let relative = match path.is_absolute() {
        true => path.strip_prefix(root).ok()?,
        false => path,
    };
    let mut out: Vec<&str> = Vec::new();
    for part in relative.components() {
        match part {
            Component::Normal(part) => out.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()?),
            _ => return None,
        }
    }
    (!out.is_empty()).then(|| out.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_table_stay_within_the_folder() {
        let root = Path::new("/data/set");
        let name = |n| within(root, n);
        assert_eq!(name("a.png").as_deref(), Some("a.png"));
        assert_eq!(name("./sub/../a.png").as_deref(), Some("a.png"));
        assert_eq!(name("sub\\a.png").as_deref(), Some("sub/a.png"));
        assert_eq!(name("/data/set/sub/a.png").as_deref(), Some("sub/a.png"));
        for outside in [
            "../a.png",
            "sub/../../a.png",
            "/etc/passwd",
            "/data/setting/a.png",
            "..",
            "",
        ] {
            assert_eq!(name(outside), None, "{outside}");
        }
    }

    #[test]
    fn a_caption_is_one_line() {
        assert_eq!(tidy("  a dog,\r\n\r\n a cat \n"), "a dog, a cat");
        assert_eq!(tidy("\n \n"), "");
    }
}
