//! What is odd about the data, and what to do about it: one type for text and images.

use serde::{Deserialize, Serialize};

/// Items of a finding that travel in an event; `check` lists them all.
const TOLD: usize = 100;

/// Items that one line names.
const NAMED: usize = 5;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// The adapter will be worse for it.
    Warning,
    /// Training on this is training on something else than was meant.
    Wrong,
}

/// Something found in the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable word for scripts: "exact_duplicates".
    pub kind: String,
    pub severity: Severity,
    /// One sentence: what.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Items in all; `items` may hold fewer.
    pub count: u64,
    /// What it is about, the worst first.
    pub items: Vec<FindingItem>,
}

/// A file or record that a finding is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingItem {
    /// A file, or "train.jsonl:17".
    pub name: String,
    /// What about it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Finding {
    /// Of so many items as it names.
    pub fn new(
        kind: &str,
        severity: Severity,
        message: impl Into<String>,
        remedy: impl Into<String>,
        items: Vec<FindingItem>,
    ) -> Self {
        Finding {
            kind: kind.to_owned(),
            severity,
            message: message.into(),
            remedy: remedy.into(),
            count: items.len() as u64,
            items,
        }
    }

    /// In one line, with the first of its items.
    pub fn line(&self) -> String {
        let mut line = self.message.clone();
        for (i, item) in self.items.iter().take(NAMED).enumerate() {
            line += if i == 0 { ": " } else { ", " };
            line += &item.name;
        }
        match (self.count as usize).saturating_sub(NAMED.min(self.items.len())) {
            more if more > 0 && !self.items.is_empty() => format!("{line} and {more} more"),
            _ => line,
        }
    }

    /// Short enough for an event.
    pub fn told(mut self) -> Self {
        self.items.truncate(TOLD);
        self
    }
}

impl FindingItem {
    pub fn new(name: impl Into<String>, detail: impl Into<String>) -> Self {
        FindingItem {
            name: name.into(),
            detail: detail.into(),
        }
    }
}
