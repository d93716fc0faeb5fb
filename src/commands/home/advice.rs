//! What a run should be given, read off its base and its data.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use super::super::check::examine::available_memory;
use super::advice_images::advise_images;
use crate::config::{self, LoadedConfig, TaskType};
use crate::data;
use crate::model::{self, Description, memory_estimate};
use crate::protocol::DataStatistics;
use crate::ui::home::desk::{Advice, Row, Suggestion, Why};
use crate::ui::text;

/// Longest row that is suggested without being asked for.
const LENGTH: u64 = 2048;
/// Records of a step that are suggested.
const STEP: u64 = 8;
/// Batch sizes that are tried, largest first.
pub(super) const BATCHES: [u64; 4] = [8, 4, 2, 1];
/// Share of the machine's memory that a suggestion may fill.
pub(super) const SAFE: f64 = 0.8;

/// Reads base and data.
///
/// # Errors
/// One of them cannot be read: one sentence.
pub fn advise(base: &str, data: &str) -> Result<Suggestion> {
    let sources = format!(
        "base_model: {}\ntrain_data_dir: {}\n",
        yaml(base),
        yaml(data)
    );
    let loaded = load(&sources)?;
    if loaded.config.task_type == TaskType::TextToImage {
        return advise_images(&sources, &loaded.config.base_model);
    }
    let loaded = load(&format!("{sources}sequence_len: 1048576\n"))?;
    let described = model::describe(&loaded.config.base_model)?;
    let tokenizer = model::open_tokenizer(&loaded.config.base_model)?;
    let dataset = data::load(&loaded.config, &tokenizer)?;
    Ok(suggest(&loaded, &described, &dataset.statistics))
}

pub(super) fn load(text: &str) -> Result<LoadedConfig> {
    let scratch = Scratch::new(text)?;
    config::load(&scratch.0, &[]).map_err(|problems| {
        let first = problems.into_iter().next();
        anyhow!(first.map_or_else(String::new, |p| format!("{}; {}", p.message, p.fix)))
    })
}

fn suggest(loaded: &LoadedConfig, base: &Description, data: &DataStatistics) -> Suggestion {
    let records = data.train_records + data.eval_records;
    let length = length(base, data);
    let row = data.max_length.min(length.value);
    let batch_size = batch(base, data, row);
    let per_step = STEP.min(data.train_records.max(1));
    let accumulation = (per_step / batch_size.value).max(1);
    let epochs = match records {
        0..100 => 10,
        100..1000 => 5,
        1000..10_000 => 3,
        _ => 1,
    };
    let steps = (data.train_records * epochs / (batch_size.value * accumulation)).max(1);
    let times = 10.min(steps);
    let every = Advice {
        value: (steps / times).max(1),
        why: Why::Times { times },
    };
    let formats: Vec<&str> = data.formats.keys().map(String::as_str).collect();
    Suggestion {
        base: format!(
            "{}, {} in {}, {} layers, made for {} tokens",
            base.config.architecture,
            text::short(base.parameters as f64),
            base.dtype,
            base.config.layers,
            text::count(base.config.max_position_embeddings as u64)
        ),
        data: format!(
            "{} records ({}), {} tokens, {} trained on",
            text::count(records),
            formats.join(", "),
            text::short(data.tokens as f64),
            text::short(data.trained_tokens as f64)
        ),
        quantised: base.dtype.starts_with('Q'),
        row: Row::Tokens(length),
        gradient_accumulation_steps: Advice {
            value: accumulation,
            why: Why::StepOf {
                records: batch_size.value * accumulation,
            },
        },
        batch_size,
        epochs: Advice {
            value: epochs,
            why: Why::Records { records },
        },
        eval_steps: every.clone(),
        save_steps: every,
        prompt: data::first_question(&loaded.config.train_data_dir),
    }
}

/// Room for the longest record, or for 95 % of them where that is too long.
fn length(base: &Description, data: &DataStatistics) -> Advice<u64> {
    let context = (base.config.max_position_embeddings as u64).max(1);
    let round = |tokens: u64| tokens.max(1).div_ceil(64) * 64;
    let longest = data.max_length;
    if round(longest) <= LENGTH.min(context) {
        return Advice {
            value: round(longest),
            why: Why::Longest { tokens: longest },
        };
    }
    let value = round(data.p95_length).min(LENGTH).min(context);
    Advice {
        value,
        why: Why::Most {
            tokens: data.p95_length.min(value),
            longest,
        },
    }
}

/// The largest micro-batch that is safe, and no larger than a step.
fn batch(base: &Description, data: &DataStatistics, row: u64) -> Advice<u64> {
    let Some(available) = available_memory() else {
        return Advice {
            value: 2,
            why: Why::Unknown,
        };
    };
    let modules = adapted(base);
    let one = |(_, inputs, outputs): &(String, usize, usize)| (8 * (inputs + outputs)) as u64;
    let parameters = modules.iter().map(one).sum();
    let bytes = |batch: u64| {
        let (rows, row) = (batch as usize, row as usize);
        memory_estimate(base, parameters, &modules, rows, row, false).total()
    };
    let fits = |batch: &u64| {
        *batch <= data.train_records.max(1) && bytes(*batch) as f64 <= SAFE * available as f64
    };
    let value = BATCHES.into_iter().find(fits).unwrap_or(1);
    let next = bytes(value * 2);
    Advice {
        value,
        why: Why::Fits {
            bytes: bytes(value),
            available,
            more: (value < BATCHES[0] && next as f64 > SAFE * available as f64).then_some(next),
        },
    }
}

/// The modules of the default adapter: the attention's projections.
fn adapted(base: &Description) -> Vec<(String, usize, usize)> {
    let names = ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned);
    model::match_targets(&base.config, false, &names, None).unwrap_or_default()
}

/// A double-quoted YAML string.
fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A config's text in a file of its own, gone when dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// # Errors
    /// The temporary folder cannot be written.
    pub fn new(text: &str) -> Result<Scratch> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "loradeck-new-{}-{}.yaml",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let scratch = Scratch(path);
        file.write_all(text.as_bytes())?;
        Ok(scratch)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in the temporary folder, which the system clears.
        let _ = std::fs::remove_file(&self.0);
    }
}
