//! `state.json`: everything of a run at a step that is neither adapter nor moment.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::data::{Cursor, Dataset, Record};
use crate::protocol::Num;
use crate::train::shrink::Pieces;

/// Version of `state.json`.
pub const STATE_VERSION: u32 = 1;

/// A run after `step` steps. Randomness needs no state: it is keyed by seed and step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub version: u32,
    pub step: u64,
    /// Steps of the whole run as planned when this was written; for people.
    pub total_steps: u64,
    /// Passes over the data so far, fractional; for people: the cursor counts.
    pub epoch: f64,
    /// Where step `step + 1` begins to read.
    pub cursor: Cursor,
    /// Updates made; fewer than `step` when updates were skipped. Bias correction depends on it.
    pub updates: u64,
    pub total_tokens: u64,
    pub non_finite_in_a_row: u32,
    /// Held-out loss of the bare base.
    pub base_loss: Option<Num>,
    pub best_eval: Option<BestEval>,
    /// Steps of the newest eval and samples, so that none is made twice.
    pub evaluated_at: Option<u64>,
    pub sampled_at: Option<u64>,
    /// In which pieces micro-batches are computed since memory ran out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces: Option<Pieces>,
    pub data: DataFingerprint,
    /// The config as YAML, with live changes.
    pub config: String,
    /// Of every other file in the folder, by name.
    pub files: BTreeMap<String, FileSum>,
    /// BLAKE3 of this file as JSON with `checksum` empty.
    pub checksum: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestEval {
    pub step: u64,
    pub loss: Num,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    pub bytes: u64,
    pub blake3: String,
}

/// Which data a run trains on: going on with other data would not be the same run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFingerprint {
    pub train_records: u64,
    pub eval_records: u64,
    pub blake3: String,
}

impl DataFingerprint {
    /// Of the records as tokenised, so templates, masks and splits count as well.
    pub fn of(data: &Dataset) -> Self {
        let mut hasher = blake3::Hasher::new();
        for records in [&data.train, &data.eval] {
            hasher.update(&(records.len() as u64).to_le_bytes());
            for record in records.iter() {
                hash_record(&mut hasher, record);
            }
        }
        DataFingerprint {
            train_records: data.train.len() as u64,
            eval_records: data.eval.len() as u64,
            blake3: hasher.finalize().to_hex().to_string(),
        }
    }

    /// What differs from the data of a checkpoint, for a person; `None` when nothing does.
    pub fn difference(&self, checkpoint: &DataFingerprint) -> Option<String> {
        if self == checkpoint {
            return None;
        }
        let counts = |f: &DataFingerprint| {
            format!(
                "{} training and {} held-out records",
                f.train_records, f.eval_records
            )
        };
        Some(
            if (self.train_records, self.eval_records)
                == (checkpoint.train_records, checkpoint.eval_records)
            {
                format!("{} as then, but with other content", counts(self))
            } else {
                format!("{} then, {} now", counts(checkpoint), counts(self))
            },
        )
    }
}

fn hash_record(hasher: &mut blake3::Hasher, record: &Record) {
    hasher.update(&(record.ids.len() as u64).to_le_bytes());
    for id in &record.ids {
        hasher.update(&id.to_le_bytes());
    }
    for &trained in &record.trained {
        hasher.update(&[u8::from(trained)]);
    }
}

impl State {
    /// The `base_model` of the config.
    pub fn base_model(&self) -> Result<String> {
        let config: serde_yaml::Mapping =
            serde_yaml::from_str(&self.config).context("the checkpoint's config cannot be read")?;
        let base = config.get("base_model").and_then(|v| v.as_str());
        Ok(base
            .context("the checkpoint's config names no base_model")?
            .to_owned())
    }

    /// The file's text, with its checksum filled in.
    pub(super) fn to_json(&self) -> Result<String> {
        let checksum = self.computed_checksum()?;
        let state = State {
            checksum,
            ..self.clone()
        };
        Ok(serde_json::to_string_pretty(&state)? + "\n")
    }

    /// Reads the file's text and holds it against its own checksum.
    pub(super) fn from_json(text: &str) -> Result<State> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } =
            serde_json::from_str(text).context("state.json cannot be read")?;
        if version != STATE_VERSION {
            bail!(
                "state.json has version {version}, this loradeck reads version {STATE_VERSION}: use the loradeck that wrote it"
            );
        }
        let state: State = serde_json::from_str(text).context("state.json cannot be read")?;
        // Byte by byte: the checksum is of the values, which a changed space leaves as they are.
        if state.checksum != state.computed_checksum()? || state.to_json()? != text {
            bail!("state.json does not match its checksum");
        }
        Ok(state)
    }

    fn computed_checksum(&self) -> Result<String> {
        let blank = State {
            checksum: String::new(),
            ..self.clone()
        };
        Ok(blake3::hash(&serde_json::to_vec(&blank)?)
            .to_hex()
            .to_string())
    }
}
