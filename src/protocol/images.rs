//! Images of a run's data, and pictures that travel to the deck.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a set of images holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageStatistics {
    /// Images trained on, each counted once.
    pub images: u64,
    /// Images of `reg_data_dir`.
    pub regularization: u64,
    /// Rows of an epoch: images times their repeats.
    pub rows: u64,
    /// Images left out by hand.
    pub excluded: u64,
    /// Where captions came from ("metadata.csv", "a .txt file", "none"): images.
    pub captions: BTreeMap<String, u64>,
    /// `resolution`.
    pub resolution: u64,
    /// Width and height of the image with the fewest pixels, of the median, and of the one with
    /// the most.
    pub smallest: (u32, u32),
    pub median: (u32, u32),
    pub largest: (u32, u32),
    /// Images that are enlarged to fill their bucket.
    pub upscaled: u64,
    /// By aspect ratio, portrait first.
    pub buckets: Vec<BucketCount>,
    /// The most frequent parts of captions between commas, with the images that have them.
    pub tags: Vec<(String, u64)>,
    /// Tags in all.
    pub distinct_tags: u64,
}

/// A bucket in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketCount {
    pub width: u32,
    pub height: u32,
    pub images: u64,
    /// Images times their repeats.
    pub rows: u64,
}

/// An image of the data, as told beside its caption.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImagePreview {
    /// Upright.
    pub width: u32,
    pub height: u32,
    pub bucket: (u32, u32),
    pub repeats: u32,
    /// Where the caption came from; empty: there is none.
    pub caption_source: String,
    /// The caption as it stands there, whole.
    pub caption: String,
    /// Left out by hand: it is not trained on from the next start.
    #[serde(default)]
    pub excluded: bool,
}

/// A picture that a deck may ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum PictureSource {
    /// A record of the training data.
    Record { index: usize },
    /// A file of the run's `samples` folder, by its name.
    Sample { file: String },
}

/// A change of the images' captions by hand, written into the files that they came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "snake_case")]
pub enum DataEdit {
    /// The whole caption of an image, which is told by its name.
    Caption { file: String, caption: String },
    /// Whether an image is left out.
    Exclude { file: String, excluded: bool },
    /// Literal text, in all captions.
    Replace { find: String, replace: String },
    /// A part between commas, in all captions.
    RemoveTag { tag: String },
    /// Takes the last edit back.
    Undo,
}

impl DataEdit {
    /// For the log, in a few words.
    pub fn word(&self) -> String {
        match self {
            DataEdit::Caption { file, .. } => format!("caption of {file}"),
            DataEdit::Exclude {
                file,
                excluded: true,
            } => format!("leave out {file}"),
            DataEdit::Exclude { file, .. } => format!("take in {file}"),
            DataEdit::Replace { find, replace } => format!("replace `{find}` by `{replace}`"),
            DataEdit::RemoveTag { tag } => format!("remove tag `{tag}`"),
            DataEdit::Undo => "undo".into(),
        }
    }
}
