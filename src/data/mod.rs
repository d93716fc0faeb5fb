//! Training data: reading, chat templates, tokenising with a loss mask, statistics, seeded batches.

mod batches;
mod blocks;
mod duplicates;
mod files;
mod findings;
mod formats;
pub mod images;
mod labels;
mod loader;
mod namespaces;
mod pixels;
mod scan;
mod scan_cache;
mod split;
mod statistics;
mod template;
mod tokens;

use anyhow::Result;

use crate::config::RunConfig;
use crate::error::input_error;
use crate::model::Tokenizer;
use crate::protocol::{DataStatistics, Finding, PackingStatistics, RecordPreview, RecordSegment};

pub use batches::{Arrangement, Batches, Cursor, collate};
pub use formats::{Message, Role};
pub use labels::{LabelFormat, Labels};
pub use loader::{Loader, MicroBatch};
pub use pixels::pixel_values;

/// A tokenised record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// "train.jsonl:17".
    pub origin: String,
    pub format: &'static str,
    pub ids: Vec<u32>,
    /// Whether each token counts in the loss.
    pub trained: Vec<bool>,
    /// Tokens beyond `sequence_len` that were left out.
    pub cut: usize,
}

/// A record that could not be used.
#[derive(Clone, Debug, PartialEq)]
pub struct BadRecord {
    pub file: String,
    /// From 1; 0: the whole file.
    pub line: usize,
    pub kind: BadKind,
    pub reason: String,
}

/// What is wrong with a record that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadKind {
    /// Not JSON, not UTF-8.
    Unreadable,
    /// Nothing that text training knows.
    OtherKind,
    /// Nothing to learn in it.
    Empty,
    /// Of a known format, which it breaks.
    Malformed,
    /// The chat template refuses it.
    Template,
    /// All that is trained on lies beyond `sequence_len`.
    TooLong,
    /// Of images.
    Other,
}

impl BadKind {
    /// In the order in which they are told.
    pub const ALL: [BadKind; 7] = [
        BadKind::Unreadable,
        BadKind::OtherKind,
        BadKind::Empty,
        BadKind::Malformed,
        BadKind::Template,
        BadKind::TooLong,
        BadKind::Other,
    ];
}

/// The data of a run, read, tokenised and split.
pub struct Dataset {
    pub train: Vec<Record>,
    pub eval: Vec<Record>,
    pub statistics: DataStatistics,
    pub bad: Vec<BadRecord>,
}

/// Reads and tokenises everything `train_data_dir` names (a file or a folder). Bad records are
/// listed in `bad`; whether they end the run is the caller's choice (`skip_bad_records`).
///
/// # Errors
/// Nothing usable at all: no file, no record, an unreadable folder, a chat template that is not
/// valid, a split that leaves nothing to train on.
pub fn load(config: &RunConfig, tokenizer: &Tokenizer) -> Result<Dataset> {
    load_with(config, tokenizer, &|_, _| {})
}

/// As [`load`]; `progress` is told how many records are read, of how many, from any thread.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    config: &RunConfig,
    tokenizer: &Tokenizer,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Dataset> {
    let encoder = tokens::Encoder {
        tokenizer,
        template: template::ChatTemplate::of(tokenizer, config.chat_template.as_deref())?,
        sequence_len: config.sequence_len,
        train_on_inputs: config.train_on_inputs,
    };
    let files::Found {
        files,
        mut warnings,
    } = files::find(&config.train_data_dir)?;
    let mut raw = Vec::new();
    for (name, path) in &files {
        let records = files::read(name, path)?;
        if records.is_empty() {
            warnings.push(format!("{name} holds no record"));
        }
        raw.push(records);
    }
    let scan::Scanned {
        records,
        prints,
        bad,
    } = scan::scan(raw, &encoder, progress)?;
    if records.is_empty() {
        return Err(nothing_usable(config, &bad));
    }
    if encoder.template.is_none() && records.iter().any(|r| r.format != "text") {
        warnings.push(
            "the base has no chat template: conversations take a plain form (`User: ...`, \
             `Assistant: ...`; alpaca's `### Instruction:`); `chat_template` gives another"
                .into(),
        );
    }
    let held_out_files = split::held_out_files(&files);
    let split::Split {
        train,
        eval,
        prints,
    } = split::split(
        records,
        prints,
        &held_out_files,
        config.eval_split,
        config.seed,
    )?;
    let mut statistics = statistics::of(&train, &eval, warnings);
    statistics.findings = findings::findings(&findings::Judged {
        train: &train,
        eval: &eval,
        prints: &prints,
        bad: &bad,
        sequence_len: config.sequence_len,
        skip_bad_records: config.skip_bad_records,
        split_by_files: !held_out_files.is_empty(),
    });
    let exact = |f: &&Finding| f.kind == "exact_duplicates";
    let exact = statistics.findings.iter().find(exact);
    statistics.duplicates = exact.map_or(0, |finding| finding.count);
    statistics.held_out_files = held_out_files;
    statistics.files = files.len() as u64;
    if config.packing {
        let packing = packing(config, &train);
        if packing.rows == train.len() as u64 && train.len() > 1 {
            statistics.warnings.push(format!(
                "`packing` found no two records that fit into `sequence_len: {}` together; write a \
                 larger one, or remove `packing`",
                config.sequence_len
            ));
        }
        statistics.packing = Some(packing);
    }
    if config.skip_bad_records {
        statistics.skipped = bad.len() as u64;
    }
    Ok(Dataset {
        train,
        eval,
        statistics,
        bad,
    })
}

/// The rows that packing makes of the training records.
fn packing(config: &RunConfig, train: &[Record]) -> PackingStatistics {
    let tokens: usize = train.iter().map(|record| record.ids.len()).sum();
    PackingStatistics {
        rows: Batches::of(config, train).rows() as u64,
        row_tokens: config.sequence_len as u64,
        tokens: tokens as u64,
    }
}

impl std::fmt::Display for BadRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.reason),
            line => write!(f, "{}:{line}: {}", self.file, self.reason),
        }
    }
}

fn nothing_usable(config: &RunConfig, bad: &[BadRecord]) -> anyhow::Error {
    let path = config.train_data_dir.display();
    if bad.is_empty() {
        return input_error(format!("train_data_dir: {path} holds no record"));
    }
    let mut text = format!(
        "train_data_dir: none of the {} records in {path} can be used:",
        bad.len()
    );
    for record in bad.iter().take(10) {
        text += &format!("\n  {record}");
    }
    if bad.len() > 10 {
        text += &format!("\n  and {} more", bad.len() - 10);
    }
    input_error(text)
}

impl Dataset {
    /// Records `from..from + count` (train first, then eval) as the model sees them.
    pub fn preview(&self, tokenizer: &Tokenizer, from: usize, count: usize) -> Vec<RecordPreview> {
        let train = self.train.iter().map(|r| (r, "train"));
        let eval = self.eval.iter().map(|r| (r, "eval"));
        train
            .chain(eval)
            .enumerate()
            .skip(from)
            .take(count)
            .map(|(index, (record, split))| RecordPreview {
                index,
                origin: record.origin.clone(),
                format: record.format.to_owned(),
                tokens: record.ids.len() as u64,
                trained_tokens: statistics::trained_tokens(record),
                truncated: record.cut > 0,
                split: split.to_owned(),
                segments: segments(record, tokenizer),
                image: None,
            })
            .collect()
    }
}

/// The record's text, cut where the mask changes. A character whose bytes lie on both sides of a
/// cut goes behind it.
fn segments(record: &Record, tokenizer: &Tokenizer) -> Vec<RecordSegment> {
    let decode = |count: usize| {
        tokenizer
            .decode(&record.ids[..count], true)
            .unwrap_or_default()
    };
    let whole = decode(record.ids.len());
    let mut segments = Vec::new();
    let (mut tokens, mut bytes) = (0, 0);
    for part in record.trained.chunk_by(|a, b| a == b) {
        tokens += part.len();
        let end = if tokens == record.ids.len() {
            whole.len()
        } else {
            let same = |(a, b): &(char, char)| a == b;
            let text = decode(tokens);
            let common = text.chars().zip(whole.chars()).take_while(same);
            common.map(|(c, _)| c.len_utf8()).sum::<usize>().max(bytes)
        };
        segments.push(RecordSegment {
            text: whole[bytes..end].to_owned(),
            trained: part[0],
        });
        bytes = end;
    }
    segments
}

/// The first question of the training data, on one line and not too long: something to sample.
/// `None` where the data asks none, or cannot be read.
pub fn first_question(train_data_dir: &std::path::Path) -> Option<String> {
    let found = files::find(train_data_dir).ok()?;
    let (name, path) = found.files.first()?;
    let records = files::read(name, path).ok()?;
    records
        .iter()
        .filter_map(|record| match formats::parse(&record.raw).ok()?.1 {
            formats::Content::Chat(messages) => messages
                .into_iter()
                .find(|m| m.role == formats::Role::User)
                .map(|m| m.content),
            formats::Content::Instruction {
                instruction, input, ..
            } if input.is_empty() => Some(instruction),
            formats::Content::Completion { prompt, .. } => Some(prompt),
            _ => None,
        })
        .map(|text| text.trim().to_owned())
        .find(|text| !text.is_empty() && text.chars().count() <= 160 && !text.contains('\n'))
}

/// A conversation as text, ready for the assistant's next turn: through the chat template
/// (`template` replaces the tokenizer's own), or, where there is none, in the plain form that
/// training gives it.
///
/// # Errors
/// The template is not valid, or refuses the conversation.
pub fn render_chat(
    tokenizer: &Tokenizer,
    template: Option<&str>,
    messages: &[Message],
) -> Result<String> {
    if let Some(template) = template::ChatTemplate::of(tokenizer, template)? {
        return template.render(messages, true).map_err(input_error);
    }
    let lines = messages.iter().map(|message| match message.role {
        Role::System => format!("{}\n\n", message.content),
        Role::User => format!("User: {}\n", message.content),
        Role::Assistant => format!("Assistant: {}\n", message.content),
    });
    Ok(lines.collect::<String>() + "Assistant:")
}
