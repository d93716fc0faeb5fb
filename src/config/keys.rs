//! The one table of keys. It drives reading, `check`'s listing, diffs, live changes, the stored
//! config and the README.

use serde_yaml::Value;

use super::image_keys::IMAGE_KEYS;
use super::kinds::{
    FORMATS, ON_OOM, OPTIMIZERS, OTHER_ON_OOM, OTHER_OPTIMIZERS, OTHER_PRECISIONS,
    OTHER_QUANTIZATIONS, OTHER_SCHEDULERS, OTHER_SHARING, OTHER_TASKS, PRECISIONS, QUANTIZATIONS,
    SCHEDULERS, SHARING, TASKS, device, export_formats, layers, optional, show_device,
    show_optional, show_targets, shown_word, target_modules,
};
use super::values::{
    Fault, boolean, count, decimal, flow, number, quoted, text, texts, whole, word,
};
use super::{RunConfig, paths};

/// When a change of a key acts on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// At the next micro-batch.
    Live,
    /// From the next checkpoint or export.
    Checkpoint,
    /// Not before a new run.
    Restart,
}

impl Applies {
    pub fn as_str(self) -> &'static str {
        match self {
            Applies::Live => "live",
            Applies::Checkpoint => "checkpoint",
            Applies::Restart => "restart",
        }
    }
}

/// A key that runs of this version use.
pub(super) struct Key {
    pub name: &'static str,
    pub applies: Applies,
    /// As documented; "required" where there is none.
    pub default: &'static str,
    pub example: &'static str,
    pub doc: &'static str,
    /// Reads a value into the config.
    pub read: fn(&mut RunConfig, &Value) -> Result<(), Fault>,
    /// The value as YAML on one line, which `read` reads back.
    pub show: fn(&RunConfig) -> String,
    /// Takes the value over from another config.
    pub take: fn(&mut RunConfig, &RunConfig),
}

macro_rules! key {
    ($field:ident, $applies:ident, $default:literal, $example:literal, $doc:literal,
     $read:expr, $show:expr) => {
        Key {
            name: stringify!($field),
            applies: Applies::$applies,
            default: $default,
            example: $example,
            doc: $doc,
            read: |config, value| {
                let read: fn(&Value) -> Result<_, Fault> = $read;
                config.$field = read(value)?;
                Ok(())
            },
            show: |config| shown_by(&config.$field, $show),
            take: |config, other| config.$field = other.$field.clone(),
        }
    };
}

pub(super) use key;

/// Calls `show`; as a function so that the closures of the table know their argument's type.
pub(super) fn shown_by<T>(field: &T, show: impl Fn(&T) -> String) -> String {
    show(field)
}

/// Keys in the order of the documentation.
pub(super) const KEYS: &[Key] = &[
    key!(
        base_model,
        Restart,
        "required",
        "./models/my-base.gguf",
        "The base: a Hugging Face folder, a `.gguf` file, a GGML `.bin` file (ggjt v3) or `builtin:tiny-llama`; for images a Stable Diffusion checkpoint (`.safetensors`), a diffusers folder or `builtin:tiny-sd`",
        paths::base,
        |v| quoted(v)
    ),
    key!(
        task_type,
        Restart,
        "read off the base",
        "text-generation",
        "`text-generation` or `text-to-image`",
        |v| word(v, TASKS, OTHER_TASKS),
        |v| shown_word(TASKS, v)
    ),
    key!(
        train_data_dir,
        Restart,
        "required",
        "./data/my_data",
        "Training data: a `.jsonl`, `.json`, `.csv` or `.txt` file, or a folder of them",
        paths::existing,
        |v| paths::show(v)
    ),
    key!(
        output_dir,
        Restart,
        "./output/ and the config file's name",
        "./output/my_run",
        "The run folder",
        paths::output,
        |v| paths::show(v)
    ),
    key!(
        lora_rank,
        Restart,
        "8",
        "8",
        "Rank of the A/B pairs",
        |v| count(v, 1, 1024),
        |v| v.to_string()
    ),
    key!(
        lora_alpha,
        Restart,
        "lora_rank",
        "16",
        "The adapter's output is scaled by alpha / rank",
        |v| number(v, |x| x > 0.0 && x <= 1e5, "a number above 0, up to 100000"),
        |v| decimal(*v)
    ),
    key!(
        lora_dropout,
        Restart,
        "0",
        "0.05",
        "Share of the adapters' inputs dropped in training",
        |v| number(v, |x| (0.0..1.0).contains(&x), "a number from 0 to below 1"),
        |v| decimal(*v)
    ),
    key!(
        target_modules,
        Restart,
        "[q_proj, k_proj, v_proj, o_proj]",
        "[q_proj, v_proj]",
        "Modules that get adapters: names, suffixes, or `all-linear`",
        target_modules,
        show_targets
    ),
    key!(
        layers,
        Restart,
        "all",
        "0-15",
        "Range of layers that get adapters, from 0, both ends included",
        layers,
        |v| v.map_or("all".into(), |(a, b)| format!("{a}-{b}"))
    ),
    key!(
        use_rslora,
        Restart,
        "false",
        "true",
        "Scale by alpha / sqrt(rank) instead (rsLoRA)",
        boolean,
        |v| v.to_string()
    ),
    key!(
        use_dora,
        Restart,
        "false",
        "true",
        "Weight-decomposed LoRA (DoRA): a magnitude for each output, beside A and B",
        boolean,
        |v| v.to_string()
    ),
    key!(
        share_adapters,
        Restart,
        "none",
        "layers",
        "`layers`: one A/B for the same linear of all layers; `none`",
        |v| word(v, SHARING, OTHER_SHARING),
        |v| shown_word(SHARING, v)
    ),
    key!(
        loraplus_ratio,
        Restart,
        "1",
        "16",
        "Learning rate of B (and of DoRA's magnitude) over A's (LoRA+)",
        |v| number(
            v,
            |x| (1.0..=1000.0).contains(&x),
            "a number from 1 to 1000"
        ),
        |v| decimal(*v)
    ),
    key!(
        init_from,
        Restart,
        "none",
        "./adapters/first",
        "Continue this adapter (a PEFT folder, a checkpoint or a GGUF adapter) on new data; its rank may be raised",
        paths::adapter,
        |v| v.as_ref().map_or("none".into(), |p| paths::show(p))
    ),
    key!(
        epochs,
        Live,
        "3",
        "3",
        "Passes over the data; may be fractional",
        |v| number(v, |x| x > 0.0 && x <= 1e6, "a number above 0"),
        |v| decimal(*v)
    ),
    key!(
        max_steps,
        Live,
        "none",
        "1000",
        "Ends the run after so many steps, whatever `epochs` says",
        |v| optional(v, "none", |v| whole(v, 1, 1_000_000_000)),
        |v| show_optional(v, "none")
    ),
    key!(
        batch_size,
        Restart,
        "2 (text-to-image: 4)",
        "4",
        "Records (with `packing`: rows) of a micro-batch",
        |v| count(v, 1, 4096),
        |v| v.to_string()
    ),
    key!(
        gradient_accumulation_steps,
        Restart,
        "1",
        "4",
        "Micro-batches of a step",
        |v| count(v, 1, 65536),
        |v| v.to_string()
    ),
    key!(
        gradient_checkpointing,
        Restart,
        "auto",
        "true",
        "Compute activations again in backward to save memory; auto: on a GPU only",
        |v| optional(v, "auto", boolean),
        |v| show_optional(v, "auto")
    ),
    key!(
        max_grad_norm,
        Live,
        "1",
        "1",
        "Gradients are scaled down to this L2 norm; 0: never",
        |v| number(v, |x| x >= 0.0, "a number, 0 or more"),
        |v| decimal(*v)
    ),
    key!(
        learning_rate,
        Live,
        "2e-4",
        "2e-4",
        "Peak learning rate",
        |v| number(v, |x| x > 0.0 && x <= 1.0, "a number above 0, up to 1"),
        |v| decimal(*v)
    ),
    key!(
        lr_scheduler,
        Live,
        "cosine",
        "cosine",
        "`cosine`, `linear` (both end at 0) or `constant`",
        |v| word(v, SCHEDULERS, OTHER_SCHEDULERS),
        |v| shown_word(SCHEDULERS, v)
    ),
    key!(
        warmup_steps,
        Live,
        "0",
        "20",
        "Steps over which the learning rate rises from 0",
        |v| whole(v, 0, 1_000_000_000),
        |v| v.to_string()
    ),
    key!(
        weight_decay,
        Live,
        "0",
        "0.01",
        "AdamW's weight decay",
        |v| number(v, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1"),
        |v| decimal(*v)
    ),
    key!(
        optimizer,
        Restart,
        "adamw",
        "adamw",
        "`adamw`",
        |v| word(v, OPTIMIZERS, OTHER_OPTIMIZERS),
        |v| shown_word(OPTIMIZERS, v)
    ),
    key!(
        seed,
        Restart,
        "42",
        "42",
        "Seed of shuffling, split, initial weights and dropout",
        |v| whole(v, 0, u64::MAX),
        |v| v.to_string()
    ),
    key!(
        precision,
        Restart,
        "auto",
        "f32",
        "`f32`, `bf16`, `fp16` or `auto`: f32 on the CPU, bf16 on a GPU",
        |v| optional(v, "auto", |v| word(v, PRECISIONS, OTHER_PRECISIONS)),
        |v| v.map_or("auto".into(), |p| shown_word(PRECISIONS, &p))
    ),
    key!(
        quantize,
        Restart,
        "none",
        "q4_k",
        "Quantise the base's linears while loading: `q8_0`, `q6_k`, `q5_k`, `q5_1`, `q5_0`, `q4_k`, `q4_1`, `q4_0`, `q3_k`, `q2_k` or `none`",
        |v| optional(v, "none", |v| word(v, QUANTIZATIONS, OTHER_QUANTIZATIONS)),
        |v| v.map_or("none".into(), |q| shown_word(QUANTIZATIONS, &q))
    ),
    key!(
        device,
        Restart,
        "auto",
        "cpu",
        "`auto` (a GPU if there is one and loradeck was built for it), `cpu` or `cuda:0`",
        device,
        show_device
    ),
    key!(
        sequence_len,
        Restart,
        "1024",
        "2048",
        "Tokens of a record at most; longer ones are cut",
        |v| count(v, 8, 1 << 20),
        |v| v.to_string()
    ),
    key!(
        packing,
        Restart,
        "false",
        "true",
        "Fill rows of `sequence_len` tokens with several records, none of which sees another",
        boolean,
        |v| v.to_string()
    ),
    key!(
        group_by_length,
        Restart,
        "false",
        "true",
        "Put records of like length into the same step",
        boolean,
        |v| v.to_string()
    ),
    key!(
        train_on_inputs,
        Restart,
        "false",
        "true",
        "Count all tokens in the loss, not the assistant's only",
        boolean,
        |v| v.to_string()
    ),
    key!(
        chat_template,
        Restart,
        "the base's own",
        "./templates/chat.jinja",
        "A Jinja chat template: a file, or the text itself",
        paths::template,
        |v| v.as_ref().map_or("auto".into(), |t| quoted(t))
    ),
    key!(
        skip_bad_records,
        Restart,
        "false",
        "true",
        "Leave bad records out and count them, instead of ending",
        boolean,
        |v| v.to_string()
    ),
    key!(
        on_oom,
        Live,
        "shrink",
        "pause",
        "When memory runs out: `shrink` computes micro-batches in smaller pieces, with the same gradient; `pause` waits for you; `stop` ends the run after a checkpoint",
        |v| word(v, ON_OOM, OTHER_ON_OOM),
        |v| shown_word(ON_OOM, v)
    ),
    key!(
        eval_split,
        Restart,
        "0.05",
        "0.1",
        "Records held out for the eval loss: a share (below 1) or a number; 0: none",
        |v| number(
            v,
            |x| (0.0..1.0).contains(&x) || (x >= 1.0 && x.fract() == 0.0 && x < 1e9),
            "a share below 1, a whole number of records, or 0"
        ),
        |v| decimal(*v)
    ),
    key!(
        eval_steps,
        Live,
        "100",
        "50",
        "Steps between evals",
        |v| whole(v, 1, u64::MAX),
        |v| v.to_string()
    ),
    key!(
        sample_prompts,
        Live,
        "[]",
        "[\"How are you?\"]",
        "Prompts that are answered during the run",
        texts,
        |v| flow(v.iter().map(|p| quoted(p)))
    ),
    key!(
        sample_steps,
        Live,
        "100",
        "50",
        "Steps between samples",
        |v| whole(v, 1, u64::MAX),
        |v| v.to_string()
    ),
    key!(
        save_steps,
        Live,
        "100",
        "100",
        "Steps between checkpoints; besides, one is written every 5 minutes",
        |v| whole(v, 1, u64::MAX),
        |v| v.to_string()
    ),
    key!(
        keep_checkpoints,
        Checkpoint,
        "all",
        "3",
        "Newest checkpoints that are kept",
        |v| optional(v, "all", |v| count(v, 1, 1_000_000)),
        |v| show_optional(v, "all")
    ),
    key!(
        export_formats,
        Checkpoint,
        "[peft]",
        "[peft, gguf]",
        "Formats written at the end of the run: `peft`, `gguf` (llama.cpp)",
        export_formats,
        |v| flow(v.iter().map(|f| shown_word(FORMATS, f)))
    ),
    key!(
        notify_command,
        Live,
        "none",
        "notify-send loradeck \"$LORADECK_MESSAGE\"",
        "A shell command that is told of alerts and of the run's end: `$LORADECK_EVENT` (alert, done, failed, stopped), `$LORADECK_MESSAGE`, `$LORADECK_RUN`, `$LORADECK_RUN_DIR`",
        |v| optional(v, "none", text),
        |v| v.as_ref().map_or("none".into(), |c| quoted(c))
    ),
];

/// Names of all keys of the design, built or not.
pub(super) fn names() -> impl Iterator<Item = &'static str> + Clone {
    KEYS.iter().chain(IMAGE_KEYS).map(|k| k.name)
}

/// The key of that name that runs of this task use.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

/// The key of that name, of any task.
pub(super) fn find_any(name: &str) -> Option<&'static Key> {
    find(name).or_else(|| IMAGE_KEYS.iter().find(|k| k.name == name))
}
