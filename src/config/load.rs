//! From the file's keys to a complete, checked config.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_yaml::Value;

use super::image_keys::{IMAGE_KEYS, TEXT_KEYS};
use super::keys::{self, KEYS, Key};
use super::names::{Advice, advise};
use super::read::{self, Entry};
use super::rules::{impossible, text_defaults};
use super::values::{Fault, shown};
use super::{ExportFormat, LoadedConfig, Problem, RunConfig, TargetModules, TaskType, paths};
use crate::protocol::ConfigEntry;

/// See [`super::load`].
pub(super) fn load(path: &Path, sets: &[String]) -> Result<LoadedConfig, Vec<Problem>> {
    let text = read::text_of(path).map_err(|p| vec![p])?;
    load_text(path, &text, sets)
}

/// See [`super::load_text`].
pub(super) fn load_text(
    path: &Path,
    text: &str,
    sets: &[String],
) -> Result<LoadedConfig, Vec<Problem>> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let text = text.to_owned();
    let (in_file, problems) = read::entries(&path, &text);
    let promised: Vec<&str> = keys::names()
        .filter(|name| problems.iter().any(|p| p.key == *name))
        .collect();
    let unread = problems.iter().any(|p| p.key.is_empty());
    let mut reader = Reader {
        path: &path,
        config: text_defaults(),
        given: BTreeMap::new(),
        promised,
        problems,
        warnings: Vec::new(),
    };
    let from_sets = reader.sets(sets);
    let entries: Vec<Entry> = in_file
        .into_iter()
        .filter(|e| from_sets.iter().all(|s| s.key != e.key))
        .chain(from_sets.iter().cloned())
        .collect();

    let task = reader.task(&entries);
    for entry in &entries {
        reader.entry(entry, task);
    }
    reader.required(unread);
    reader.defaults(task);
    // Combinations are judged only where every value stands by itself.
    if reader.problems.is_empty() {
        reader.combinations();
    }
    if !reader.problems.is_empty() {
        let mut problems = reader.problems;
        problems.sort_by_key(|p| (p.line == 0, p.line, p.column));
        return Err(problems);
    }
    reader.advise();
    Ok(LoadedConfig {
        entries: reader.listing(),
        config: reader.config,
        warnings: reader.warnings,
        path,
        text,
    })
}

/// Where a key was given.
#[derive(Clone, Copy)]
struct Given {
    /// 0: by `--set`.
    line: usize,
    column: usize,
}

struct Reader<'a> {
    path: &'a Path,
    config: RunConfig,
    given: BTreeMap<&'static str, Given>,
    /// Keys of lines that are misspelt or no YAML: those are not reported as missing as well.
    promised: Vec<&'static str>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&self, given: Given, key: &str, message: String, fix: String) -> Problem {
        Problem {
            path: self.path.to_owned(),
            line: given.line,
            column: given.column,
            key: key.to_owned(),
            message,
            fix,
        }
    }

    /// Reads `--set key=value`; of several for one key the last wins.
    fn sets(&mut self, sets: &[String]) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for set in sets {
            let Some((key, raw)) = set.split_once('=') else {
                let nowhere = Given { line: 0, column: 0 };
                self.problems.push(self.problem(
                    nowhere,
                    set,
                    format!("`--set {set}` has no `=`"),
                    "write `--set key=value`".into(),
                ));
                continue;
            };
            entries.retain(|e| e.key != key.trim());
            entries.push(Entry {
                key: key.trim().to_owned(),
                value: from_text(raw),
                line: 0,
                column: 0,
                value_column: 0,
            });
        }
        entries
    }

    /// The run's task: as written, else read off the base; `None` while neither tells.
    fn task(&self, entries: &[Entry]) -> Option<TaskType> {
        let find = |key: &str| entries.iter().find(|e| e.key == key);
        let mut scratch = text_defaults();
        let written = find("task_type")
            .filter(|e| read_key("task_type", &mut scratch, &e.value).is_ok())
            .is_some();
        if written {
            return Some(scratch.task_type);
        }
        let base = find("base_model")?;
        match paths::base(&base.value) {
            Ok(path) => paths::task_of(&path),
            // A base that is not there can still be told by its name.
            Err(_) => paths::task_of(base.value.as_str()?),
        }
    }

    fn entry(&mut self, entry: &Entry, task: Option<TaskType>) {
        let at_key = Given {
            line: entry.line,
            column: entry.column,
        };
        let at_value = Given {
            line: entry.line,
            column: entry.value_column,
        };
        let image_key = IMAGE_KEYS.iter().find(|k| k.name == entry.key);
        let key = keys::find(&entry.key)
            .or_else(|| image_key.filter(|_| task != Some(TaskType::TextGeneration)));
        if task == Some(TaskType::TextToImage) && TEXT_KEYS.contains(&entry.key.as_str()) {
            let name = &entry.key;
            let message =
                format!("`{name}` belongs to text-generation, and this run is text-to-image");
            let fix = "remove the line".into();
            self.problems
                .push(self.problem(at_key, name, on_set(entry, message), fix));
            return;
        }
        if let Some(key) = key {
            self.given.insert(key.name, at_key);
            if let Err(fault) = read(key, &mut self.config, &entry.value) {
                let (message, fix) = sentence(key, &shown(&entry.value), fault);
                self.problems
                    .push(self.problem(at_value, key.name, on_set(entry, message), fix));
            }
            return;
        }
        let name = &entry.key;
        let (message, fix) = if image_key.is_some() {
            (
                format!("`{name}` belongs to text-to-image, and this run is text-generation"),
                "remove the line".into(),
            )
        } else {
            self.unknown(entry)
        };
        self.problems
            .push(self.problem(at_key, name, on_set(entry, message), fix));
    }

    fn unknown(&mut self, entry: &Entry) -> (String, String) {
        let name = &entry.key;
        if matches!(entry.value, Value::Mapping(_)) {
            return (
                format!("`{name}` is not a key, and keys are not nested"),
                "write every key unindented, on a line of its own".into(),
            );
        }
        let (message, ours) = match advise(name, keys::names()) {
            Advice::Renamed(ours) => (format!("`{name}` is called `{ours}` here"), ours),
            Advice::Misspelt(ours) => (format!("`{name}` is not a key"), ours),
            Advice::Elsewhere(fix) => {
                return (format!("`{name}` is not a key of loradeck"), fix.into());
            }
            Advice::None => {
                return (
                    format!("`{name}` is not a key"),
                    "remove the line; the README lists all keys".into(),
                );
            }
        };
        self.promised.push(ours);
        let fits = read_key(ours, &mut self.config.clone(), &entry.value).is_ok();
        let fix = match (message.contains("called"), fits) {
            (true, true) => format!("write `{ours}: {}`", shown(&entry.value)),
            (true, false) => match keys::find(ours) {
                Some(key) => format!("write for example `{ours}: {}`", key.example),
                None => format!("write `{ours}`"),
            },
            (false, _) => format!("did you mean `{ours}`?"),
        };
        (message, fix)
    }

    /// `unread`: parts of the file could not be read at all, so that nothing is known to miss.
    fn required(&mut self, unread: bool) {
        if unread {
            return;
        }
        for (name, what) in [
            ("base_model", "the base to train an adapter for"),
            ("train_data_dir", "the training data"),
        ] {
            if !self.given.contains_key(name) && !self.promised.contains(&name) {
                let example = keys::find(name).map_or("", |k| k.example);
                self.problems.push(self.problem(
                    Given { line: 0, column: 0 },
                    name,
                    format!("`{name}` is missing: {what}"),
                    format!("write for example `{name}: {example}`"),
                ));
            }
        }
    }

    /// Defaults that follow from other keys.
    fn defaults(&mut self, task: Option<TaskType>) {
        let absent = |name: &str| !self.given.contains_key(name);
        let config = &mut self.config;
        if absent("lora_alpha") {
            config.lora_alpha = config.lora_rank as f64;
        }
        if absent("output_dir") {
            let stem = self.path.file_stem().unwrap_or_default();
            let folder = PathBuf::from("output").join(stem);
            config.output_dir = std::path::absolute(&folder).unwrap_or(folder);
        }
        if let Some(task) = task {
            config.task_type = task;
        } else if absent("task_type") && !config.base_model.is_empty() {
            let given = self.given["base_model"];
            let message = format!(
                "`base_model: {}` does not tell what it is for",
                config.base_model
            );
            let fix = "write `task_type: text-generation`".into();
            self.problems
                .push(self.problem(given, "base_model", message, fix));
            return;
        }
        if config.task_type == TaskType::TextToImage {
            if absent("batch_size") {
                config.batch_size = 4;
            }
            if absent("target_modules") {
                let names = ["to_q", "to_k", "to_v", "to_out.0"];
                config.target_modules = TargetModules::Names(names.map(str::to_owned).to_vec());
            }
            if absent("export_formats") {
                config.export_formats = vec![ExportFormat::Diffusers, ExportFormat::Kohya];
            }
        }
    }

    fn combinations(&mut self) {
        for (name, fault) in impossible(&self.config) {
            let Some(key) = keys::find_any(name) else {
                continue;
            };
            let given = self
                .given
                .get(name)
                .copied()
                .unwrap_or(Given { line: 0, column: 0 });
            let (message, fix) = sentence(key, &(key.show)(&self.config), fault);
            self.problems.push(self.problem(given, name, message, fix));
        }
    }

    /// Warnings: what is possible, and hardly meant.
    fn advise(&mut self) {
        let config = &self.config;
        let given = |name: &str| self.given.get(name).copied();
        let mut found: Vec<(Given, &str, String, &str)> = Vec::new();
        if let Some(at) = given("sample_steps").filter(|_| config.sample_prompts.is_empty()) {
            found.push((
                at,
                "sample_steps",
                "`sample_steps` does nothing without `sample_prompts`".into(),
                "write `sample_prompts`, or remove the line",
            ));
        }
        if let Some(at) = given("eval_steps").filter(|_| config.eval_split == 0.0) {
            found.push((
                at,
                "eval_steps",
                "`eval_steps` does nothing while `eval_split` is 0".into(),
                "write for example `eval_split: 0.05`, or remove the line",
            ));
        }
        if let Some(at) =
            given("group_by_length").filter(|_| config.group_by_length && config.packing)
        {
            found.push((
                at,
                "group_by_length",
                "`group_by_length` does nothing beside `packing`: all rows are of like length"
                    .into(),
                "remove one of the two",
            ));
        }
        if let (Some(at), Some(_), Some(steps)) =
            (given("epochs"), given("max_steps"), config.max_steps)
        {
            found.push((
                at,
                "epochs",
                format!("`epochs` does nothing beside `max_steps: {steps}`"),
                "remove one of the two",
            ));
        }
        if let Some(at) = given("learning_rate").filter(|_| config.learning_rate > 1e-2) {
            found.push((
                at,
                "learning_rate",
                format!(
                    "`learning_rate: {}` is very high for LoRA",
                    super::values::decimal(config.learning_rate)
                ),
                "usual are 1e-5 to 1e-3",
            ));
        }
        let warnings: Vec<Problem> = found
            .into_iter()
            .map(|(at, key, message, fix)| self.problem(at, key, message, fix.into()))
            .collect();
        self.warnings.extend(warnings);
    }

    fn listing(&self) -> Vec<ConfigEntry> {
        used_keys(&self.config)
            .map(|key| ConfigEntry {
                key: key.name.into(),
                value: (key.show)(&self.config),
                source: match self.given.get(key.name) {
                    Some(Given { line: 0, .. }) => "--set".into(),
                    Some(given) => format!("line {}", given.line),
                    None if key.name == "task_type" => "from the base".into(),
                    None => "default".into(),
                },
                applies: key.applies.as_str().into(),
            })
            .collect()
    }
}

/// Keys that say something for this config's task, in the order of the documentation.
pub(super) fn used_keys(config: &RunConfig) -> impl Iterator<Item = &'static Key> {
    let image = config.task_type == TaskType::TextToImage;
    KEYS.iter()
        .filter(move |key| !image || !TEXT_KEYS.contains(&key.name))
        .chain(IMAGE_KEYS.iter().filter(move |_| image))
}

/// A value from the command line: YAML, or the text itself where that is none.
pub(super) fn from_text(raw: &str) -> Value {
    match serde_yaml::from_str(raw) {
        Ok(Value::Mapping(_)) | Err(_) => Value::String(raw.to_owned()),
        Ok(value) => value,
    }
}

/// Reads a value; an empty one is a fault for every key.
pub(super) fn read(key: &Key, config: &mut RunConfig, value: &Value) -> Result<(), Fault> {
    match value {
        Value::Null if key.default == "required" => Err(Fault::new("has no value", "")),
        Value::Null => Err(Fault::new(
            "has no value",
            format!(
                "write one, or remove the line for the default ({})",
                key.default
            ),
        )),
        Value::Tagged(tagged) => Err(Fault::new(
            format!(
                "has the YAML tag `{}`, which loradeck does not use",
                tagged.tag
            ),
            "write the value without it",
        )),
        value => (key.read)(config, value),
    }
}

fn read_key(name: &str, config: &mut RunConfig, value: &Value) -> Result<(), Fault> {
    match keys::find_any(name) {
        Some(key) => read(key, config, value),
        None => Ok(()),
    }
}

/// A fault as message and fix.
pub(super) fn sentence(key: &Key, value: &str, fault: Fault) -> (String, String) {
    let message = format!("`{}: {value}` {}", key.name, fault.verdict).replace(": `", ":`");
    let fix = if fault.fix.is_empty() {
        format!("write for example `{}: {}`", key.name, key.example)
    } else {
        fault.fix
    };
    (message, fix)
}

fn on_set(entry: &Entry, message: String) -> String {
    if entry.line == 0 {
        format!("--set: {message}")
    } else {
        message
    }
}
