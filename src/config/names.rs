//! Keys that are not ours: what other trainers call them, and near misses.

/// Other trainers' names for our keys (axolotl, LLaMA-Factory, PEFT and transformers, kohya,
/// diffusers, torchtune, unsloth).
const OTHER_NAMES: &[(&str, &str)] = &[
    ("lora_r", "lora_rank"),
    ("r", "lora_rank"),
    ("rank", "lora_rank"),
    ("network_dim", "lora_rank"),
    ("network_rank", "lora_rank"),
    ("lora_dim", "lora_rank"),
    ("network_alpha", "lora_alpha"),
    ("alpha", "lora_alpha"),
    ("dropout", "lora_dropout"),
    ("network_dropout", "lora_dropout"),
    ("lora_target_modules", "target_modules"),
    ("lora_target", "target_modules"),
    ("lora_modules", "target_modules"),
    ("lora_attn_modules", "target_modules"),
    ("lora_layers", "layers"),
    ("layers_to_transform", "layers"),
    ("peft_layers_to_transform", "layers"),
    ("num_layers", "layers"),
    ("rslora", "use_rslora"),
    ("peft_use_rslora", "use_rslora"),
    ("dora", "use_dora"),
    ("peft_use_dora", "use_dora"),
    ("lora_use_dora", "use_dora"),
    ("share_lora", "share_adapters"),
    ("tie_adapters", "share_adapters"),
    ("lora_plus_ratio", "loraplus_ratio"),
    ("lora_plus_lr_ratio", "loraplus_ratio"),
    ("loraplus_lr_ratio", "loraplus_ratio"),
    ("lora_model_dir", "init_from"),
    ("lora_weights", "init_from"),
    ("adapter_name_or_path", "init_from"),
    ("network_weights", "init_from"),
    ("resume_adapter_file", "init_from"),
    ("model", "base_model"),
    ("model_name", "base_model"),
    ("model_path", "base_model"),
    ("model_id", "base_model"),
    ("base", "base_model"),
    ("model_name_or_path", "base_model"),
    ("pretrained_model_name_or_path", "base_model"),
    ("base_model_name_or_path", "base_model"),
    ("model_type", "task_type"),
    ("task", "task_type"),
    ("dataset", "train_data_dir"),
    ("datasets", "train_data_dir"),
    ("data", "train_data_dir"),
    ("data_path", "train_data_dir"),
    ("data_dir", "train_data_dir"),
    ("dataset_dir", "train_data_dir"),
    ("dataset_name", "train_data_dir"),
    ("dataset_path", "train_data_dir"),
    ("train_file", "train_data_dir"),
    ("train_data", "train_data_dir"),
    ("train_dataset", "train_data_dir"),
    ("training_data", "train_data_dir"),
    ("instance_data_dir", "train_data_dir"),
    ("in_json", "metadata_path"),
    ("metadata", "metadata_path"),
    ("caption_file", "metadata_path"),
    ("output", "output_dir"),
    ("out_dir", "output_dir"),
    ("output_path", "output_dir"),
    ("adapter_path", "output_dir"),
    ("save_dir", "output_dir"),
    ("num_train_epochs", "epochs"),
    ("num_epochs", "epochs"),
    ("max_train_epochs", "epochs"),
    ("epoch", "epochs"),
    ("max_train_steps", "max_steps"),
    ("num_train_steps", "max_steps"),
    ("max_steps_per_epoch", "max_steps"),
    ("num_steps", "max_steps"),
    ("iters", "max_steps"),
    ("steps", "max_steps"),
    ("micro_batch_size", "batch_size"),
    ("per_device_train_batch_size", "batch_size"),
    ("per_gpu_train_batch_size", "batch_size"),
    ("train_batch_size", "batch_size"),
    ("grad_accumulation_steps", "gradient_accumulation_steps"),
    ("gradient_accumulation", "gradient_accumulation_steps"),
    ("grad_accum_steps", "gradient_accumulation_steps"),
    ("grad_checkpoint", "gradient_checkpointing"),
    ("use_gradient_checkpointing", "gradient_checkpointing"),
    ("activation_checkpointing", "gradient_checkpointing"),
    ("gradient_clipping", "max_grad_norm"),
    ("grad_clip", "max_grad_norm"),
    ("clip_grad_norm", "max_grad_norm"),
    ("lr", "learning_rate"),
    ("unet_lr", "learning_rate"),
    ("lr_scheduler_type", "lr_scheduler"),
    ("lr_schedule", "lr_scheduler"),
    ("scheduler", "lr_scheduler"),
    ("lr_warmup_steps", "warmup_steps"),
    ("num_warmup_steps", "warmup_steps"),
    ("warmup", "warmup_steps"),
    ("optim", "optimizer"),
    ("optimizer_type", "optimizer"),
    ("random_seed", "seed"),
    ("data_seed", "seed"),
    ("dtype", "precision"),
    ("torch_dtype", "precision"),
    ("mixed_precision", "precision"),
    ("cutoff_len", "sequence_len"),
    ("max_seq_length", "sequence_len"),
    ("max_seq_len", "sequence_len"),
    ("max_length", "sequence_len"),
    ("max_len", "sequence_len"),
    ("model_max_length", "sequence_len"),
    ("block_size", "sequence_len"),
    ("seq_len", "sequence_len"),
    ("sequence_length", "sequence_len"),
    ("context_length", "sequence_len"),
    ("train_on_input", "train_on_inputs"),
    ("train_on_prompt", "train_on_inputs"),
    ("template", "chat_template"),
    ("prompt_template", "chat_template"),
    ("chat_template_jinja", "chat_template"),
    ("val_set_size", "eval_split"),
    ("val_size", "eval_split"),
    ("test_size", "eval_split"),
    ("validation_split", "eval_split"),
    ("validation_split_percentage", "eval_split"),
    ("eval_size", "eval_split"),
    ("eval_ratio", "eval_split"),
    ("eval_every", "eval_steps"),
    ("steps_per_eval", "eval_steps"),
    ("validation_steps", "eval_steps"),
    ("validation_prompt", "sample_prompts"),
    ("validation_prompts", "sample_prompts"),
    ("sample_prompt", "sample_prompts"),
    ("prompts", "sample_prompts"),
    ("sample_every", "sample_steps"),
    ("sample_every_n_steps", "sample_steps"),
    ("checkpointing_steps", "save_steps"),
    ("save_every", "save_steps"),
    ("save_every_n_steps", "save_steps"),
    ("save_interval", "save_steps"),
    ("checkpoint_steps", "save_steps"),
    ("save_total_limit", "keep_checkpoints"),
    ("checkpoints_total_limit", "keep_checkpoints"),
    ("save_last_n_steps", "keep_checkpoints"),
    ("output_format", "export_formats"),
    ("save_format", "export_formats"),
    ("export_format", "export_formats"),
    ("sample_packing", "packing"),
    ("neat_packing", "packing"),
    ("multipack", "packing"),
    ("packed", "packing"),
    ("length_grouped", "group_by_length"),
    ("group_by_size", "group_by_length"),
    ("sort_by_length", "group_by_length"),
    ("length_column_name", "group_by_length"),
    ("load_in_4bit", "quantize"),
    ("load_in_8bit", "quantize"),
    ("quantization_bit", "quantize"),
    ("image_size", "resolution"),
    ("enable_bucket", "buckets"),
    ("bucket_step", "bucket_reso_steps"),
    ("min_bucket_size", "min_bucket_reso"),
    ("max_bucket_size", "max_bucket_reso"),
    ("random_flip", "flip_aug"),
    ("trigger", "trigger_word"),
    ("trigger_words", "trigger_word"),
    ("instance_prompt", "trigger_word"),
    ("shuffle_tokens", "shuffle_caption"),
    ("caption_dropout_rate", "caption_dropout"),
    ("cache_latents_to_disk", "cache_latents"),
    ("snr_gamma", "min_snr_gamma"),
    ("text_encoder_learning_rate", "text_encoder_lr"),
    ("class_data_dir", "reg_data_dir"),
];

/// Keys of other trainers that have no counterpart: what to do instead.
const NO_COUNTERPART: &[(&str, &str)] = &[
    ("lora_target_linear", "write `target_modules: all-linear`"),
    ("logging_steps", "remove the line: every step is logged"),
    (
        "resume_from_checkpoint",
        "remove the line: the same command resumes by itself, and `--resume` names a checkpoint",
    ),
    (
        "overwrite_output_dir",
        "remove the line; `--resume never` starts anew and keeps the old folder under another name",
    ),
    (
        "auto_resume_from_checkpoints",
        "remove the line: the same command resumes by itself",
    ),
    ("warmup_ratio", "write `warmup_steps`, a number of steps"),
    ("weight_decay_rate", "write `weight_decay`"),
    (
        "bf16",
        "write `precision: bf16`, or remove the line for the device's own",
    ),
    (
        "fp16",
        "write `precision: fp16`, or remove the line for the device's own",
    ),
    ("tf32", "remove the line"),
    (
        "save_strategy",
        "remove the line; `save_steps` says how often, and every 5 minutes a checkpoint is written besides",
    ),
    (
        "eval_strategy",
        "remove the line; `eval_steps` says how often",
    ),
    (
        "evaluation_strategy",
        "remove the line; `eval_steps` says how often",
    ),
    (
        "logging_dir",
        "remove the line: TensorBoard files lie in the run folder's `logs`",
    ),
    (
        "report_to",
        "remove the line: TensorBoard files are always written into the run folder's `logs`",
    ),
    (
        "log_with",
        "remove the line: TensorBoard files are always written into the run folder's `logs`",
    ),
    (
        "wandb_project",
        "remove the line: loradeck reports to no service",
    ),
    (
        "adapter",
        "remove the line: loradeck trains LoRA adapters only",
    ),
    (
        "peft_type",
        "remove the line: loradeck trains LoRA adapters only",
    ),
    (
        "finetuning_type",
        "remove the line: loradeck trains LoRA adapters only",
    ),
    (
        "stage",
        "remove the line: loradeck does supervised fine-tuning",
    ),
    ("do_train", "remove the line"),
    ("do_eval", "remove the line; `eval_split: 0` turns eval off"),
    ("bias", "remove the line: biases stay frozen"),
    (
        "modules_to_save",
        "remove the line: only A/B pairs are trained",
    ),
    (
        "lora_modules_to_save",
        "remove the line: only A/B pairs are trained",
    ),
    (
        "per_device_eval_batch_size",
        "remove the line: eval uses `batch_size`",
    ),
    ("eval_batch_size", "remove the line: eval uses `batch_size`"),
    (
        "pad_to_sequence_len",
        "remove the line: records are never padded",
    ),
    (
        "pad_to_multiple_of",
        "remove the line: records are never padded",
    ),
    (
        "eval_sample_packing",
        "remove the line: held-out records are never padded",
    ),
    (
        "packing_strategy",
        "remove the line: `packing: true` fills rows by best-fit decreasing",
    ),
    (
        "train_sampling_strategy",
        "write `group_by_length: true`, or remove the line: records are shuffled by `seed`",
    ),
    (
        "loraplus_lr_embedding",
        "remove the line: embeddings stay frozen",
    ),
    (
        "dataloader_prefetch_factor",
        "remove the line: batches are made ahead on a thread of their own",
    ),
    ("shuffle", "remove the line: records are shuffled by `seed`"),
    (
        "flash_attention",
        "remove the line: attention never needs memory of the square of the length",
    ),
    (
        "flash_attn",
        "remove the line: attention never needs memory of the square of the length",
    ),
    ("deepspeed", "remove the line: a run uses one device"),
    ("fsdp", "remove the line: a run uses one device"),
    (
        "trust_remote_code",
        "remove the line: no code is ever loaded with a base",
    ),
    (
        "preprocessing_num_workers",
        "remove the line: all cores are used",
    ),
    (
        "dataloader_num_workers",
        "remove the line: all cores are used",
    ),
    ("push_to_hub", "remove the line: loradeck uploads nothing"),
    ("hub_model_id", "remove the line: loradeck uploads nothing"),
];

/// What is to be said of an unknown key.
pub(super) enum Advice {
    /// Called so by another trainer, here so.
    Renamed(&'static str),
    /// Known elsewhere, without a counterpart here: the fix.
    Elsewhere(&'static str),
    /// Looks like one of ours.
    Misspelt(&'static str),
    None,
}

/// What an unknown key was probably meant to be, among `known`.
pub(super) fn advise(key: &str, known: impl Iterator<Item = &'static str> + Clone) -> Advice {
    let plain = snake(key);
    if let Some(same) = known.clone().find(|k| *k == plain) {
        return Advice::Misspelt(same);
    }
    if let Some((_, ours)) = OTHER_NAMES.iter().find(|(other, _)| *other == plain) {
        return Advice::Renamed(ours);
    }
    if let Some((_, fix)) = NO_COUNTERPART.iter().find(|(other, _)| *other == plain) {
        return Advice::Elsewhere(fix);
    }
    if let Some(near) = nearest(&plain, known) {
        return Advice::Misspelt(near);
    }
    match nearest(&plain, OTHER_NAMES.iter().map(|(other, _)| *other))
        .and_then(|near| OTHER_NAMES.iter().find(|(other, _)| *other == near))
    {
        Some((_, ours)) => Advice::Misspelt(ours),
        None => Advice::None,
    }
}

/// The candidate few edits away from `word`, if any.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|c| (strsim::damerau_levenshtein(word, c), c))
        .filter(|(distance, c)| *distance * 3 <= c.chars().count().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// `learningRate` and `learning-rate` as `learning_rate`.
fn snake(key: &str) -> String {
    let mut out = String::new();
    let mut previous_lower = false;
    for c in key.trim().trim_start_matches('-').chars() {
        if c.is_uppercase() && previous_lower {
            out.push('_');
        }
        previous_lower = c.is_lowercase();
        match c {
            '-' | ' ' | '.' => out.push('_'),
            c => out.extend(c.to_lowercase()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn names_of_other_trainers_lead_to_keys_that_exist() {
        for (other, ours) in OTHER_NAMES {
            assert!(keys::names().any(|k| k == *ours), "{other} -> {ours}");
        }
        for (other, _) in OTHER_NAMES.iter().chain(NO_COUNTERPART) {
            assert!(
                keys::names().all(|k| k != *other),
                "{other} is a key of ours"
            );
        }
    }

    #[test]
    fn every_spelling_of_a_key_finds_it() {
        for key in [
            "learningRate",
            "learning-rate",
            "LEARNING_RATE",
            "learning_rat",
            "lerning_rate",
        ] {
            let advice = advise(key, keys::names());
            assert!(matches!(advice, Advice::Misspelt("learning_rate")), "{key}");
        }
        assert!(matches!(advise("banana", keys::names()), Advice::None));
    }
}
