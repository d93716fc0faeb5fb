//! The YAML file: its keys, defaults, checks, and which changes may act during a run.

pub mod hub;
mod image_keys;
mod keys;
mod kinds;
mod live;
mod load;
mod names;
mod paths;
mod read;
mod rules;
mod values;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::protocol::{ConfigChange, ConfigEntry};

pub use keys::Applies;

/// A run's settings, complete: every default is filled in, every path absolute.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// A path, or `builtin:tiny-llama`.
    pub base_model: String,
    pub task_type: TaskType,
    pub train_data_dir: PathBuf,
    pub metadata_path: Option<PathBuf>,
    pub output_dir: PathBuf,

    pub lora_rank: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub target_modules: TargetModules,
    /// First and last layer (inclusive, from 0) that get adapters; `None`: all.
    pub layers: Option<(usize, usize)>,
    pub use_rslora: bool,
    pub use_dora: bool,
    pub share_adapters: ShareAdapters,
    /// B's learning rate over A's (LoRA+); 1.0 is plain LoRA.
    pub loraplus_ratio: f64,
    pub init_from: Option<PathBuf>,

    pub epochs: f64,
    pub max_steps: Option<u64>,
    /// Sequences of a micro-batch.
    pub batch_size: usize,
    pub gradient_accumulation_steps: usize,
    /// `None`: on a GPU only.
    pub gradient_checkpointing: Option<bool>,
    pub max_grad_norm: f64,
    pub learning_rate: f64,
    pub lr_scheduler: LrScheduler,
    pub warmup_steps: u64,
    pub weight_decay: f64,
    pub optimizer: Optimizer,
    pub seed: u64,
    /// `None`: f32 on the CPU, bf16 on a GPU.
    pub precision: Option<Precision>,
    /// What the base's linears are quantised to while loading, by llama.cpp's name.
    pub quantize: Option<&'static str>,
    pub device: DeviceChoice,

    pub sequence_len: usize,
    /// Fill rows of `sequence_len` with several records.
    pub packing: bool,
    pub group_by_length: bool,
    pub train_on_inputs: bool,
    /// A Jinja template that replaces the tokenizer's own.
    pub chat_template: Option<String>,
    pub skip_bad_records: bool,
    pub on_oom: OnOom,

    /// Share (below 1) or number (1 and above) of records held out; 0: no eval.
    pub eval_split: f64,
    pub eval_steps: u64,
    pub sample_prompts: Vec<String>,
    pub sample_steps: u64,
    pub save_steps: u64,
    /// Newest checkpoints kept; `None`: all.
    pub keep_checkpoints: Option<usize>,
    pub export_formats: Vec<ExportFormat>,
    /// Told of alerts and of the run's end, by `sh -c`.
    pub notify_command: Option<String>,

    // Keys of image training.
    /// Pixels of a side; with `buckets` its square is the area of every bucket.
    pub resolution: usize,
    pub buckets: bool,
    pub bucket_reso_steps: u32,
    /// `None`: half of `resolution`.
    pub min_bucket_reso: Option<u32>,
    /// `None`: twice `resolution`.
    pub max_bucket_reso: Option<u32>,
    pub bucket_no_upscale: bool,
    pub flip_aug: bool,
    pub trigger_word: Option<String>,
    pub shuffle_caption: bool,
    /// Parts between commas that stay in front when captions are shuffled.
    pub keep_tokens: usize,
    /// Share of captions trained on as empty ones.
    pub caption_dropout: f64,
    /// 75, 150 or 225.
    pub max_token_length: usize,
    /// Whether latents and text embeddings are kept on disk.
    pub cache_latents: bool,
    pub reg_data_dir: Option<PathBuf>,
    /// A whole CLIP's folder, which looks the images over.
    pub clip_model: Option<PathBuf>,
    pub prior_loss_weight: f64,
    pub min_snr_gamma: Option<f64>,
    pub noise_offset: f64,
    pub train_text_encoder: bool,
    /// `None`: `learning_rate`.
    pub text_encoder_lr: Option<f64>,
    /// 0: as the base was trained.
    pub clip_skip: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskType {
    TextGeneration,
    TextToImage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// Every linear of the blocks.
    AllLinear,
    /// Module names or suffixes: `q_proj`, `self_attn.q_proj`, `layers.0.mlp.up_proj`.
    Names(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareAdapters {
    None,
    /// One A/B for the same linear of all layers.
    Layers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrScheduler {
    Constant,
    Linear,
    Cosine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimizer {
    AdamW,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    Bf16,
    Fp16,
}

/// What a run does when memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOom {
    /// Compute micro-batches in smaller pieces, and more of them.
    Shrink,
    Pause,
    /// End after a checkpoint.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU when there is one and this program was built for it, else the CPU.
    Auto,
    Cpu,
    Cuda(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExportFormat {
    Peft,
    Diffusers,
    Kohya,
    Gguf,
}

/// A config file that was read without error.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    pub config: RunConfig,
    /// Every key with its value and where that comes from, in the order of the documentation.
    pub entries: Vec<ConfigEntry>,
    pub warnings: Vec<Problem>,
    /// The file (absolute).
    pub path: PathBuf,
    /// Its text, as read.
    pub text: String,
}

/// Something wrong with a config: what, where, and how to mend it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub path: PathBuf,
    /// From 1; 0 when the problem belongs to no line (a missing key, `--set`).
    pub line: usize,
    pub column: usize,
    pub key: String,
    /// One sentence, with the value.
    pub message: String,
    /// What to do; may be empty.
    pub fix: String,
}

impl fmt::Display for Problem {
    /// `path:line:column: message; fix`, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {}", self.message)?;
        if !self.fix.is_empty() {
            write!(f, "; {}", self.fix)?;
        }
        Ok(())
    }
}

/// All problems as one input error, a line each.
pub fn problems_error(problems: &[Problem]) -> anyhow::Error {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    crate::error::input_error(lines.join("\n"))
}

/// Reads, completes and checks a config. `sets` are `key=value` (YAML values) that win over the file.
///
/// # Errors
/// Every problem at once, in the order of the file.
pub fn load(path: &Path, sets: &[String]) -> Result<LoadedConfig, Vec<Problem>> {
    load::load(path, sets)
}

/// [`load`] for a text that is to become the file `path`.
///
/// # Errors
/// As [`load`].
pub fn load_text(path: &Path, text: &str, sets: &[String]) -> Result<LoadedConfig, Vec<Problem>> {
    load::load_text(path, text, sets)
}

/// What differs between a run's config and an edited one, with when each change acts.
pub fn diff(running: &RunConfig, edited: &RunConfig) -> Vec<ConfigChange> {
    live::diff(running, edited)
}

/// Takes over the values of the keys that may change live (and "checkpoint" ones).
pub fn apply_live(running: &mut RunConfig, edited: &RunConfig) {
    live::apply_live(running, edited);
}

/// Sets one live key from YAML text, validated as in a file.
///
/// # Errors
/// A sentence: unknown key, bad value, or a key that needs a restart.
pub fn set_live(running: &RunConfig, key: &str, value: &str) -> Result<RunConfig, String> {
    live::set_live(running, key, value)
}

/// Checks a value typed for a live key against a run's listing; returns it as it would be listed.
/// Whoever types may be on another machine than the run: paths are not looked at.
///
/// # Errors
/// As [`set_live`].
pub fn check_value(entries: &[ConfigEntry], key: &str, value: &str) -> Result<String, String> {
    live::check_value(entries, key, value)
}

/// Changes that forbid resuming a run: keys of what is computed, which would make the run another
/// one. Where the run lies and which device computes it may differ.
pub fn restart_keys_differ(stored: &RunConfig, wanted: &RunConfig) -> Vec<ConfigChange> {
    live::restart_keys_differ(stored, wanted)
}

/// The whole config as YAML: every key of its task in the order of the documentation, paths
/// absolute. [`load`] reads it back to an equal config.
pub fn to_yaml(config: &RunConfig) -> String {
    load::used_keys(config)
        .map(|key| format!("{}: {}\n", key.name, (key.show)(config)))
        .collect()
}

/// Every key with its default, effect and meaning, as a Markdown table (the README's).
pub fn markdown_table() -> String {
    let table = |out: &mut String, keys: &[keys::Key]| {
        *out += "| key | default | a change acts | what it is |\n|---|---|---|---|\n";
        for key in keys {
            *out += &format!(
                "| `{}` | {} | {} | {} |\n",
                key.name,
                key.default,
                key.applies.as_str(),
                key.doc
            );
        }
    };
    let mut out = String::new();
    table(&mut out, keys::KEYS);
    let text_only: Vec<String> = image_keys::TEXT_KEYS
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    out += &format!(
        "\nImage runs (`task_type: text-to-image`) refuse {}, and know besides:\n\n",
        text_only.join(", ")
    );
    table(&mut out, image_keys::IMAGE_KEYS);
    out
}
