//! Captions on the disk: a table (`metadata.csv`, `metadata.jsonl`) or a `.txt` beside each image.
//! What is there stays, other columns too; every change replaces the file whole.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::error::input_error;

/// How captions are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelFormat {
    Csv,
    Jsonl,
    Txt,
}

/// Captions by the names of their images.
pub struct Labels {
    format: LabelFormat,
    /// The table, or the folder of the `.txt` files.
    path: PathBuf,
    /// The table's keys, in order.
    columns: Vec<String>,
    file_column: String,
    text_column: String,
    rows: Vec<Map<String, Value>>,
    by_name: HashMap<String, usize>,
    changed: Vec<String>,
}

const FILE: [&str; 3] = ["file_name", "filename", "file"];
const TEXT: [&str; 3] = ["text", "prompt", "caption"];

impl Labels {
    /// Opens what is there. For `.txt`, `path` is the folder that they lie in.
    ///
    /// # Errors
    /// A table that cannot be read, or has no columns for file and text: it is not touched.
    pub fn open(path: &Path, format: LabelFormat) -> Result<Self> {
        let mut labels = Labels {
            format,
            path: path.to_owned(),
            columns: vec![FILE[0].to_owned(), TEXT[0].to_owned()],
            file_column: FILE[0].to_owned(),
            text_column: TEXT[0].to_owned(),
            rows: Vec::new(),
            by_name: HashMap::new(),
            changed: Vec::new(),
        };
        if format == LabelFormat::Txt || !path.exists() {
            return Ok(labels);
        }
        let broken = |why: String| {
            input_error(format!(
                "{}: {why}; mend it, or write to another file",
                path.display()
            ))
        };
        let bytes = fs::read(path).map_err(|e| broken(format!("it cannot be read ({e})")))?;
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        match format {
            LabelFormat::Csv => labels.read_csv(bytes).map_err(broken)?,
            _ => labels.read_jsonl(bytes).map_err(broken)?,
        }
        let column = |names: &[&str]| {
            let found = labels.columns.iter().find(|c| names.contains(&c.trim()));
            found.cloned()
        };
        if !labels.rows.is_empty() || format == LabelFormat::Csv {
            let (file, text) = (column(&FILE), column(&TEXT));
            let (Some(file), Some(text)) = (file, text) else {
                return Err(broken(format!(
                    "it has the columns {}, not `file_name` and `text`",
                    labels.columns.join(", ")
                )));
            };
            (labels.file_column, labels.text_column) = (file, text);
        }
        for (at, row) in labels.rows.iter().enumerate() {
            if let Some(name) = row.get(&labels.file_column).and_then(Value::as_str) {
                labels.by_name.entry(plain(name)).or_insert(at);
            }
        }
        Ok(labels)
    }

    fn read_csv(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(bytes);
        let header = reader
            .headers()
            .map_err(|e| format!("it is no table: {e}"))?;
        self.columns = header.iter().map(str::to_owned).collect();
        for record in reader.records() {
            let record = record.map_err(|e| format!("it is no table: {e}"))?;
            let cells = record.iter().map(|cell| Value::String(cell.to_owned()));
            self.rows
                .push(self.columns.iter().cloned().zip(cells).collect());
        }
        Ok(())
    }

    fn read_jsonl(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.columns.clear();
        let lines = bytes.split(|b| *b == b'\n').enumerate();
        for (at, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
            let row: Map<String, Value> = serde_json::from_slice(line)
                .map_err(|e| format!("line {} is no JSON object: {e}", at + 1))?;
            for key in row.keys() {
                if !self.columns.contains(key) {
                    self.columns.push(key.clone());
                }
            }
            self.rows.push(row);
        }
        Ok(())
    }

    /// The caption of an image, if it has one that is not blank.
    pub fn get(&self, name: &str) -> Option<String> {
        let text = match self.format {
            LabelFormat::Txt => fs::read_to_string(self.beside(name)).ok()?,
            _ => {
                let row = &self.rows[*self.by_name.get(&plain(name))?];
                row.get(&self.text_column)?.as_str()?.to_owned()
            }
        };
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Gives an image a caption, in the place of the one that it has.
    pub fn set(&mut self, name: &str, caption: String) {
        self.changed.push(name.to_owned());
        let caption = Value::String(caption);
        match self.by_name.get(&plain(name)) {
            Some(&at) => {
                self.rows[at].insert(self.text_column.clone(), caption);
            }
            None => {
                let mut row = Map::new();
                row.insert(self.file_column.clone(), Value::String(name.to_owned()));
                row.insert(self.text_column.clone(), caption);
                self.by_name.insert(plain(name), self.rows.len());
                self.rows.push(row);
            }
        }
    }

    /// Writes what has changed. A reader sees the old file or the new one, never a part.
    ///
    /// # Errors
    /// The disk.
    pub fn save(&mut self) -> Result<()> {
        if self.changed.is_empty() {
            return Ok(());
        }
        match self.format {
            LabelFormat::Txt => {
                for name in std::mem::take(&mut self.changed) {
                    let row = &self.rows[self.by_name[&plain(&name)]];
                    let text = row[&self.text_column].as_str().unwrap_or_default();
                    replace(&self.beside(&name), format!("{text}\n").as_bytes())?;
                }
            }
            LabelFormat::Csv => {
                let mut writer = csv::Writer::from_writer(Vec::new());
                writer.write_record(&self.columns)?;
                for row in &self.rows {
                    let cell = |column: &String| match row.get(column) {
                        Some(Value::String(text)) => text.clone(),
                        Some(other) => other.to_string(),
                        None => String::new(),
                    };
                    writer.write_record(self.columns.iter().map(cell))?;
                }
                replace(
                    &self.path,
                    &writer.into_inner().context("cannot write a table")?,
                )?;
            }
            LabelFormat::Jsonl => {
                let lines = self
                    .rows
                    .iter()
                    .map(|row| Value::Object(row.clone()).to_string() + "\n");
                replace(&self.path, lines.collect::<String>().as_bytes())?;
            }
        }
        self.changed.clear();
        Ok(())
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.path.join(name).with_extension("txt")
    }
}

/// A name as it is compared: tables write `./a.png` for `a.png` now and then.
fn plain(name: &str) -> String {
    name.trim().trim_start_matches("./").to_owned()
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let writing = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(writing)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let write = || {
        let mut file = fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&partial)))
        .with_context(writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_that_are_there_stay() {
        let folder = tempfile::tempdir().unwrap();
        let csv = folder.path().join("metadata.csv");
        fs::write(
            &csv,
            "id,file,caption\n7,./a.png,\"a cat, here\"\n8,b.png,\n",
        )
        .unwrap();
        let mut labels = Labels::open(&csv, LabelFormat::Csv).unwrap();
        assert_eq!(labels.get("a.png").as_deref(), Some("a cat, here"));
        assert_eq!(labels.get("b.png"), None);
        labels.set("b.png", "a \"dog\"".into());
        labels.set("sub/c.png", "a bird".into());
        labels.save().unwrap();
        assert_eq!(
            fs::read_to_string(&csv).unwrap(),
            "id,file,caption\n7,./a.png,\"a cat, here\"\n8,b.png,\"a \"\"dog\"\"\"\n,sub/c.png,a bird\n"
        );

        let jsonl = folder.path().join("metadata.jsonl");
        fs::write(
            &jsonl,
            "{\"n\": 1, \"file_name\": \"a.png\", \"text\": \"x\"}\n",
        )
        .unwrap();
        let mut labels = Labels::open(&jsonl, LabelFormat::Jsonl).unwrap();
        labels.set("b.png", "y".into());
        labels.save().unwrap();
        assert_eq!(
            fs::read_to_string(&jsonl).unwrap(),
            "{\"n\":1,\"file_name\":\"a.png\",\"text\":\"x\"}\n{\"file_name\":\"b.png\",\"text\":\"y\"}\n"
        );
    }

    #[test]
    fn captions_beside_images_are_written_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut labels = Labels::open(folder.path(), LabelFormat::Txt).unwrap();
        labels.set("sub/a.b.png", "a cat".into());
        labels.save().unwrap();
        let written = fs::read_to_string(folder.path().join("sub/a.b.txt")).unwrap();
        assert_eq!(written, "a cat\n");
        let again = Labels::open(folder.path(), LabelFormat::Txt).unwrap();
        assert_eq!(again.get("sub/a.b.png").as_deref(), Some("a cat"));
    }

    #[test]
    fn a_table_that_cannot_be_read_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, format) in [
            ("a.csv", "x,y\n1,2\n", LabelFormat::Csv),
            ("b.csv", "file_name,text\na.png\n", LabelFormat::Csv),
            ("c.jsonl", "{\"file_name\": \n", LabelFormat::Jsonl),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            let error = Labels::open(&path, format).err().unwrap();
            assert_eq!(crate::error::exit_code(&error), 2);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
