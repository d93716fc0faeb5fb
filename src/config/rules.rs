//! What a run is by default, and what no run can be.

use std::path::PathBuf;

use super::values::Fault;
use super::{
    DeviceChoice, ExportFormat, LrScheduler, OnOom, Optimizer, Precision, RunConfig, ShareAdapters,
    TargetModules, TaskType,
};

/// Values that are right each by itself and impossible together, by the key to blame.
pub(super) fn impossible(config: &RunConfig) -> Vec<(&'static str, Fault)> {
    let mut faults = Vec::new();
    if let Some(steps) = config.max_steps.filter(|s| config.warmup_steps >= *s) {
        faults.push((
            "warmup_steps",
            Fault::new(
                format!("never ends: the run has {steps} steps (`max_steps`)"),
                format!("write a number below {steps}"),
            ),
        ));
    }
    let on_cpu = match config.device {
        DeviceChoice::Cpu => true,
        DeviceChoice::Auto => !cfg!(feature = "cuda"),
        DeviceChoice::Cuda(_) => false,
    };
    if on_cpu && config.precision.is_some_and(|p| p != Precision::F32) {
        faults.push((
            "precision",
            Fault::new(
                "needs a GPU: the CPU computes in f32 only in this version",
                "write `precision: f32`, or remove the line",
            ),
        ));
    }
    for format in &config.export_formats {
        let verdict = match (config.task_type, format) {
            (TaskType::TextGeneration, ExportFormat::Diffusers | ExportFormat::Kohya) => {
                "holds a format of image models"
            }
            (TaskType::TextGeneration, ExportFormat::Gguf) if config.use_dora => {
                "holds `gguf`, which has no place for DoRA's magnitudes"
            }
            (TaskType::TextToImage, ExportFormat::Peft | ExportFormat::Gguf) => {
                "holds a format of language models"
            }
            _ => continue,
        };
        let fix = match config.task_type {
            TaskType::TextGeneration if config.use_dora => {
                "write `export_formats: [peft]`; `loradeck merge` makes a base of it"
            }
            TaskType::TextGeneration => "write `export_formats: [peft, gguf]`, or one of them",
            TaskType::TextToImage => "write `export_formats: [diffusers, kohya]`",
        };
        faults.push(("export_formats", Fault::new(verdict, fix)));
        break;
    }
    faults.extend(impossible_buckets(config));
    if config.output_dir.starts_with(&config.train_data_dir) {
        faults.push((
            "output_dir",
            Fault::new(
                format!(
                    "lies inside the training data ({}), which would then hold the run's own files",
                    config.train_data_dir.display()
                ),
                "write a folder outside `train_data_dir`",
            ),
        ));
    }
    faults
}

/// Buckets that could hold no image.
fn impossible_buckets(config: &RunConfig) -> Option<(&'static str, Fault)> {
    if config.task_type != TaskType::TextToImage || !config.buckets {
        return None;
    }
    let (resolution, steps) = (config.resolution as u64, config.bucket_reso_steps);
    if u64::from(steps) > resolution {
        return Some((
            "bucket_reso_steps",
            Fault::new(
                format!("is more than `resolution: {resolution}`: no bucket would be left"),
                "write a smaller one",
            ),
        ));
    }
    let (min, max) = (config.min_bucket_reso, config.max_bucket_reso);
    if min.is_some_and(|min| u64::from(min) > resolution) {
        return Some((
            "min_bucket_reso",
            Fault::new(
                format!("is more than `resolution: {resolution}`"),
                "write a smaller one",
            ),
        ));
    }
    if max.is_some_and(|max| u64::from(max) < resolution) {
        return Some((
            "max_bucket_reso",
            Fault::new(
                format!("is less than `resolution: {resolution}`"),
                "write a larger one",
            ),
        ));
    }
    None
}

/// A text run's defaults; what must be given is empty.
pub(super) fn text_defaults() -> RunConfig {
    RunConfig {
        base_model: String::new(),
        task_type: TaskType::TextGeneration,
        train_data_dir: PathBuf::new(),
        metadata_path: None,
        output_dir: PathBuf::new(),
        lora_rank: 8,
        lora_alpha: 8.0,
        lora_dropout: 0.0,
        target_modules: TargetModules::Names(
            ["q_proj", "k_proj", "v_proj", "o_proj"]
                .map(str::to_owned)
                .to_vec(),
        ),
        layers: None,
        use_rslora: false,
        use_dora: false,
        share_adapters: ShareAdapters::None,
        loraplus_ratio: 1.0,
        init_from: None,
        epochs: 3.0,
        max_steps: None,
        batch_size: 2,
        gradient_accumulation_steps: 1,
        gradient_checkpointing: None,
        max_grad_norm: 1.0,
        learning_rate: 2e-4,
        lr_scheduler: LrScheduler::Cosine,
        warmup_steps: 0,
        weight_decay: 0.0,
        optimizer: Optimizer::AdamW,
        seed: 42,
        precision: None,
        quantize: None,
        device: DeviceChoice::Auto,
        sequence_len: 1024,
        packing: false,
        group_by_length: false,
        train_on_inputs: false,
        chat_template: None,
        skip_bad_records: false,
        on_oom: OnOom::Shrink,
        eval_split: 0.05,
        eval_steps: 100,
        sample_prompts: Vec::new(),
        sample_steps: 100,
        save_steps: 100,
        keep_checkpoints: None,
        export_formats: vec![ExportFormat::Peft],
        notify_command: None,
        resolution: 512,
        buckets: true,
        bucket_reso_steps: 64,
        min_bucket_reso: None,
        max_bucket_reso: None,
        bucket_no_upscale: false,
        flip_aug: false,
        trigger_word: None,
        shuffle_caption: false,
        keep_tokens: 0,
        caption_dropout: 0.0,
        max_token_length: 75,
        cache_latents: true,
        reg_data_dir: None,
        clip_model: None,
        prior_loss_weight: 1.0,
        min_snr_gamma: None,
        noise_offset: 0.0,
        train_text_encoder: false,
        text_encoder_lr: None,
        clip_skip: 0,
    }
}
