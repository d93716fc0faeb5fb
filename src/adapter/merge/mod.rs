//! Merging adapters into a base: the weights become `W + strength * scale * B A`, computed in f32,
//! tensor by tensor from file to file, so that a base of any size needs little memory.
//!
//! | base | result |
//! |---|---|
//! | Hugging Face folder | the same files and types ([`folder_base`]) |
//! | diffusers folder | the same ([`folder_base`]) |
//! | a single-file Stable Diffusion checkpoint | the same ([`checkpoint`]) |
//! | GGUF | the merged tensors in a type that holds the update, the rest untouched ([`gguf`]) |

mod checkpoint;
mod folder_base;
mod gguf;
mod safetensors;
mod stream;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::quantized::GgmlDType;

use self::stream::Matrix;
use self::update::{Slot, Update};
use super::folder::Unfinished;
use super::model::{Adapter, Family};
use crate::error::input_error;

/// Is called with the bytes of the base that were worked through; an error ends the merge.
pub type Progress<'a> = dyn FnMut(u64) -> Result<()> + 'a;

/// An adapter and how much of it is merged: 1.0 is the adapter as trained.
pub type Weighted = (Adapter, f64);

/// What [`merge`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    pub path: PathBuf,
    pub bytes: u64,
    /// Tensors that were changed.
    pub tensors: usize,
    pub loss: Loss,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
}

/// What rounding the merged weights to the types of the result cost, as sums of squares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Of the result minus the exact sum.
    error: f64,
    /// Of the exact sum.
    weight: f64,
    /// Of what the adapters add.
    update: f64,
}

impl Loss {
    fn add(&mut self, before: &[f32], exact: &[f32], rounded: &[f32]) {
        for ((&before, &exact), &rounded) in before.iter().zip(exact).zip(rounded) {
            let square = |x: f32, y: f32| (f64::from(x) - f64::from(y)).powi(2);
            self.error += square(rounded, exact);
            self.weight += f64::from(exact).powi(2);
            self.update += square(exact, before);
        }
    }

    /// The error's norm over the weights'.
    pub fn of_weights(&self) -> f64 {
        ratio(self.error, self.weight)
    }

    /// The error's norm over that of what the adapters add: at 1 they are lost in the rounding.
    pub fn of_update(&self) -> f64 {
        ratio(self.error, self.update)
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 {
        (part / whole).sqrt()
    } else {
        0.0
    }
}

/// The kinds of bases that adapters are merged into.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    HuggingFace,
    Diffusers,
    Checkpoint,
    Gguf,
}

impl Kind {
    fn of(base: &Path) -> Result<Self> {
        let file = base.display();
        let metadata = std::fs::metadata(base)
            .map_err(|e| input_error(format!("the base {file} cannot be read: {e}")))?;
        if metadata.is_dir() {
            return match () {
                () if base.join("model_index.json").is_file() => Ok(Kind::Diffusers),
                () if base.join("config.json").is_file() => Ok(Kind::HuggingFace),
                () => Err(input_error(format!(
                    "{file} is no base: it has neither config.json (a language model) nor \
                     model_index.json (a diffusers pipeline)"
                ))),
            };
        }
        match base.extension().and_then(|e| e.to_str()) {
            Some("gguf") => Ok(Kind::Gguf),
            Some("safetensors") => Ok(Kind::Checkpoint),
            _ => Err(input_error(format!(
                "{file} is no base that can be merged into: name a Hugging Face or diffusers \
                 folder, a .gguf file or a Stable Diffusion checkpoint as .safetensors"
            ))),
        }
    }

    /// What the name of a file of this kind ends in; `None`: it is a folder.
    fn extension(self) -> Option<&'static str> {
        match self {
            Kind::HuggingFace | Kind::Diffusers => None,
            Kind::Checkpoint => Some("safetensors"),
            Kind::Gguf => Some("gguf"),
        }
    }
}

/// Bytes of a base, for showing progress: those that a merge works through.
///
/// # Errors
/// The base cannot be read.
pub fn base_bytes(base: &Path) -> Result<u64> {
    match Kind::of(base)?.extension() {
        None => folder_base::bytes(base),
        Some(_) => Ok(std::fs::metadata(base)?.len()),
    }
}

/// Merges adapters into `base` and writes the result, in the base's own form, as `output`, which is
/// there whole or not at all. In a GGUF, `gguf_type` is the type of the merged tensors (by default
/// their own, or Q8_0 where they are quantised).
///
/// # Errors
/// An adapter of another base, a base of a kind that is not supported, something in the way of
/// `output`, too little space, the disk fails, or what `progress` returns.
pub fn merge(
    base: &Path,
    adapters: Vec<Weighted>,
    output: &Path,
    gguf_type: Option<GgmlDType>,
    progress: &mut Progress<'_>,
) -> Result<Merged> {
    let kind = Kind::of(base)?;
    check_adapters(kind, &adapters)?;
    check_output(base, kind, output)?;
    if gguf_type.is_some() && kind != Kind::Gguf {
        return Err(input_error(
            "--dtype is for GGUF bases; the others keep the types of their tensors",
        ));
    }
    check_space(base, output)?;
    let unfinished = Unfinished::beside(output)?;
    let mut job = Job {
        base,
        output: unfinished.path(),
        found: BTreeSet::new(),
        loss: Loss::default(),
        notes: Vec::new(),
        progress,
    };
    match kind {
        Kind::HuggingFace => folder_base::hugging_face(&mut job, adapters)?,
        Kind::Diffusers => folder_base::diffusers(&mut job, &adapters)?,
        Kind::Checkpoint => checkpoint::merge(&mut job, &adapters)?,
        Kind::Gguf => {
            let (header, start) = gguf::header(base)?;
            let file = base.display().to_string();
            let updates = updates(&adapters, |adapter, module, _| {
                gguf::slot(&header, adapter, module, &file)
            })?;
            missing(&updates, &file, |tensor| {
                header.tensors.contains_key(tensor)
            })?;
            gguf::merge(&mut job, &header, &start, &updates, gguf_type)?;
        }
    }
    let (tensors, loss, notes) = (job.found.len(), job.loss, job.notes);
    let bytes = size_of(unfinished.path())?;
    unfinished.finish()?;
    Ok(Merged {
        path: output.to_owned(),
        bytes,
        tensors,
        loss,
        notes,
    })
}

/// What the parts of a merge share.
struct Job<'a, 'p> {
    base: &'a Path,
    /// The hidden name under which the result is written.
    output: &'a Path,
    /// Tensors that were changed.
    found: BTreeSet<String>,
    loss: Loss,
    notes: Vec<String>,
    progress: &'a mut Progress<'p>,
}

type Updates = BTreeMap<String, Vec<Update>>;

/// The updates of every tensor; `slot` tells where a module lies.
fn updates(
    adapters: &[Weighted],
    mut slot: impl FnMut(&Adapter, &str, usize) -> Result<Slot>,
) -> Result<Updates> {
    let mut updates: Updates = BTreeMap::new();
    for (adapter, strength) in adapters {
        for (module, part) in &adapter.parts {
            let slot = slot(adapter, module, part.outputs())?;
            let update = Update::new(adapter, part, *strength, &slot);
            updates.entry(slot.tensor).or_default().push(update);
        }
    }
    Ok(updates)
}

/// Refuses updates of tensors that the base does not have.
fn missing(updates: &Updates, file: &str, has: impl Fn(&str) -> bool) -> Result<()> {
    match updates.keys().find(|tensor| !has(tensor)) {
        None => Ok(()),
        Some(tensor) => Err(input_error(format!(
            "the adapter is of another base: {file} has no tensor {tensor}"
        ))),
    }
}

fn check_adapters(kind: Kind, adapters: &[Weighted]) -> Result<()> {
    let text = matches!(kind, Kind::HuggingFace | Kind::Gguf);
    for (adapter, _) in adapters {
        adapter
            .check_finite()
            .map_err(|e| input_error(e.to_string()))?;
        if (adapter.family == Family::Text) != text {
            return Err(input_error(format!(
                "an adapter of a {} cannot be merged into a base that is {}",
                adapter.family.name(),
                if text {
                    "a language model"
                } else {
                    "an image model"
                }
            )));
        }
    }
    Ok(())
}

fn check_output(base: &Path, kind: Kind, output: &Path) -> Result<()> {
    let shown = output.display();
    if let Some(extension) = kind.extension()
        && output.extension().is_none_or(|e| e != extension)
    {
        return Err(input_error(format!(
            "--output {shown}: this base is merged into one file; name it with .{extension}"
        )));
    }
    let is_empty_folder = kind.extension().is_none()
        && std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
    if output.exists() && !is_empty_folder {
        return Err(input_error(format!(
            "--output {shown} exists already; name another, or delete it first"
        )));
    }
    if let (Ok(base), Some(Ok(parent))) =
        (base.canonicalize(), output.parent().map(Path::canonicalize))
        && parent.starts_with(&base)
    {
        return Err(input_error(format!(
            "--output {shown} lies inside the base"
        )));
    }
    Ok(())
}

/// A merge never leaves the disk full and the result missing.
fn check_space(base: &Path, output: &Path) -> Result<()> {
    let there = output.ancestors().skip(1).find(|folder| folder.is_dir());
    let there = there.unwrap_or(Path::new("."));
    let stat = rustix::fs::statvfs(there)
        .with_context(|| format!("asking for the space left at {}", there.display()))?;
    let (free, needed) = (
        stat.f_bavail.saturating_mul(stat.f_frsize),
        base_bytes(base)?,
    );
    if free < needed {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        return Err(input_error(format!(
            "{} has {:.1} GiB free, the merged base needs {:.1} GiB: free some space or write to \
             another disk",
            there.display(),
            gib(free),
            gib(needed)
        )));
    }
    Ok(())
}

/// Whether updates fit a tensor of the base.
fn check_shape(matrix: &Matrix, updates: &[Update], file: &str) -> Result<()> {
    for update in updates {
        if update.columns() != matrix.columns || update.end_row() > matrix.rows || !update.divides()
        {
            return Err(input_error(format!(
                "the adapter is of another base: {} of {file} has {} rows of {} numbers, the \
                 adapter's update {} of {}",
                matrix.name,
                matrix.rows,
                matrix.columns,
                update.end_row(),
                update.columns()
            )));
        }
    }
    Ok(())
}

/// Bytes of a file or of all files in a folder.
fn size_of(path: &Path) -> Result<u64> {
    let metadata = std::fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        bytes += size_of(&entry?.path())?;
    }
    Ok(bytes)
}
