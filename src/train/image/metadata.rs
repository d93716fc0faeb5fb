//! What kohya's files tell of a training: the `ss_*` metadata that AUTOMATIC1111 shows, from config
//! and data alone.
//!
//! Source: kohya-ss/sd-scripts, `train_network.py`, and of the hashes `library/train_util.py`
//! (`model_hash`, `calculate_sha256`). Left out is what depends on when and where a run was made:
//! session, times, paths. The output is named by its trigger word, not by the run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Image;
use crate::config::{LrScheduler, Precision, RunConfig};
use crate::data::images::{ImageDataset, ImageItem};
use crate::model::diffusion::{Kind, Prediction};
use crate::train::export::portable_name;
use crate::train::plan::Plan;

/// Python's spelling.
fn boolean(value: bool) -> String {
    if value { "True" } else { "False" }.to_owned()
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "None".to_owned(), |value| value.to_string())
}

/// Hashes of a base's single file, by which AUTOMATIC1111 and sites for sharing know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BaseHashes {
    /// The first eight digits of SHA-256 over 64 KiB at 1 MiB.
    pub old: String,
    /// SHA-256 of the whole.
    pub new: String,
}

impl BaseHashes {
    fn of(file: &Path) -> io::Result<BaseHashes> {
        let mut file = File::open(file)?;
        let mut new = Sha256::new();
        io::copy(&mut file, &mut new)?;
        file.seek(SeekFrom::Start(0x10_0000))?;
        let mut part = Vec::new();
        file.take(0x1_0000).read_to_end(&mut part)?;
        let hex =
            |digest: &[u8]| -> String { digest.iter().map(|byte| format!("{byte:02x}")).collect() };
        let mut old = hex(&Sha256::digest(&part));
        old.truncate(8);
        Ok(BaseHashes {
            old,
            new: hex(&new.finalize()),
        })
    }
}

/// The hashes of the base, where it is a single file that can be read.
fn base_hashes(image: &Image) -> Option<&BaseHashes> {
    let described = image.described();
    let found = image
        .base_hashes
        .get_or_init(|| match &described.files[..] {
            [file] if described.format == "safetensors" => BaseHashes::of(file).ok(),
            _ => None,
        });
    found.as_ref()
}

/// The metadata of a run's adapter files, `step` steps into the training.
pub(super) fn of(config: &RunConfig, image: &Image, step: u64) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::new();
    let mut put = |key: &str, value: String| metadata.insert(key.to_owned(), value);
    let described = image.described();
    let data = &image.data;
    let resolution = config.resolution;
    put("ss_sd_model_name", portable_name(&described.name));
    if let Some(hashes) = base_hashes(image) {
        put("ss_sd_model_hash", hashes.old.clone());
        put("ss_new_sd_model_hash", hashes.new.clone());
    }
    let title = config.trigger_word.as_deref().unwrap_or("LoRA");
    put("ss_output_name", title.to_owned());
    put("ss_steps", step.to_string());
    put("ss_v2", boolean(described.kind == Kind::Sd2));
    let version = match (described.kind, described.prediction) {
        (Kind::Sd1, _) => "sd_v1",
        (Kind::Sd2, Prediction::Epsilon) => "sd_v2",
        (Kind::Sd2, Prediction::V) => "sd_v2_v",
        (Kind::Sdxl, _) => "sdxl_base_v1-0",
    };
    put("ss_base_model_version", version.to_owned());
    put("ss_network_module", "networks.lora".to_owned());
    put("ss_network_dim", config.lora_rank.to_string());
    put("ss_network_alpha", config.lora_alpha.to_string());
    put(
        "ss_network_dropout",
        match config.lora_dropout {
            0.0 => "None".to_owned(),
            dropout => dropout.to_string(),
        },
    );
    put("ss_network_args", "{}".to_owned());
    let text_rate = config.text_encoder_lr.unwrap_or(config.learning_rate);
    put("ss_learning_rate", config.learning_rate.to_string());
    put("ss_unet_lr", config.learning_rate.to_string());
    put(
        "ss_text_encoder_lr",
        optional(config.train_text_encoder.then_some(text_rate)),
    );
    put("ss_optimizer", "torch.optim.adamw.AdamW".to_owned());
    put("ss_lr_scheduler", scheduler(config.lr_scheduler).to_owned());
    put("ss_lr_warmup_steps", config.warmup_steps.to_string());
    put("ss_max_grad_norm", config.max_grad_norm.to_string());
    put("ss_seed", config.seed.to_string());
    put("ss_num_epochs", (config.epochs.ceil() as u64).to_string());
    put(
        "ss_max_train_steps",
        Plan::new(config, image.batches.per_epoch())
            .total_steps
            .to_string(),
    );
    put(
        "ss_num_batches_per_epoch",
        image.batches.per_epoch().to_string(),
    );
    put("ss_batch_size_per_device", config.batch_size.to_string());
    put(
        "ss_total_batch_size",
        (config.batch_size * config.gradient_accumulation_steps).to_string(),
    );
    put(
        "ss_gradient_accumulation_steps",
        config.gradient_accumulation_steps.to_string(),
    );
    put(
        "ss_gradient_checkpointing",
        boolean(config.gradient_checkpointing == Some(true)),
    );
    put(
        "ss_mixed_precision",
        match config.precision {
            Some(Precision::Bf16) => "bf16".to_owned(),
            Some(Precision::Fp16) => "fp16".to_owned(),
            Some(Precision::F32) | None => "no".to_owned(),
        },
    );
    put("ss_full_fp16", boolean(false));
    put("ss_cache_latents", boolean(config.cache_latents));
    put(
        "ss_clip_skip",
        match config.clip_skip {
            0 => "None".to_owned(),
            skip => skip.to_string(),
        },
    );
    put("ss_max_token_length", config.max_token_length.to_string());
    put(
        "ss_noise_offset",
        match config.noise_offset {
            0.0 => "None".to_owned(),
            offset => offset.to_string(),
        },
    );
    put("ss_min_snr_gamma", optional(config.min_snr_gamma));
    put("ss_prior_loss_weight", config.prior_loss_weight.to_string());
    put(
        "ss_caption_dropout_rate",
        config.caption_dropout.to_string(),
    );
    put("ss_shuffle_caption", boolean(config.shuffle_caption));
    put("ss_keep_tokens", config.keep_tokens.to_string());
    put("ss_flip_aug", boolean(config.flip_aug));
    put("ss_color_aug", boolean(false));
    put("ss_random_crop", boolean(false));
    put("ss_resolution", format!("({resolution}, {resolution})"));
    put("ss_enable_bucket", boolean(config.buckets));
    put("ss_bucket_no_upscale", boolean(config.bucket_no_upscale));
    put(
        "ss_min_bucket_reso",
        optional(
            config
                .buckets
                .then(|| config.min_bucket_reso.unwrap_or(resolution as u32 / 2)),
        ),
    );
    put(
        "ss_max_bucket_reso",
        optional(
            config
                .buckets
                .then(|| config.max_bucket_reso.unwrap_or(resolution as u32 * 2)),
        ),
    );
    let turns = |regularization: bool| -> u64 {
        trained(data)
            .filter(|(_, item)| item.regularization == regularization)
            .map(|(_, item)| u64::from(item.repeats))
            .sum()
    };
    put("ss_num_train_images", turns(false).to_string());
    put("ss_num_reg_images", turns(true).to_string());
    put("ss_bucket_info", buckets(data).to_string());
    put("ss_dataset_dirs", folders(config, data, false).to_string());
    put(
        "ss_reg_dataset_dirs",
        folders(config, data, true).to_string(),
    );
    put("ss_tag_frequency", tags(config, data).to_string());
    put("modelspec.title", title.to_owned());
    put("modelspec.resolution", format!("{resolution}x{resolution}"));
    put(
        "modelspec.prediction_type",
        match described.prediction {
            Prediction::Epsilon => "epsilon".to_owned(),
            Prediction::V => "v".to_owned(),
        },
    );
    if config.clip_skip > 0 {
        put("modelspec.encoder_layer", config.clip_skip.to_string());
    }
    metadata
}

fn scheduler(scheduler: LrScheduler) -> &'static str {
    match scheduler {
        LrScheduler::Constant => "constant",
        LrScheduler::Linear => "linear",
        LrScheduler::Cosine => "cosine",
    }
}

/// The items that are trained on, with their index.
fn trained(data: &ImageDataset) -> impl Iterator<Item = (usize, &ImageItem)> {
    let each = data.items.iter().enumerate();
    each.filter(|(index, _)| !data.held_out.contains(index))
}

/// Buckets with the turns they have in an epoch.
fn buckets(data: &ImageDataset) -> Value {
    let mut counts: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    let (mut error, mut turns) = (0.0, 0u64);
    for (_, item) in trained(data) {
        let (width, height) = item.placement.bucket;
        *counts.entry((width, height)).or_default() += u64::from(item.repeats);
        let ratio = |w: u32, h: u32| f64::from(w) / f64::from(h.max(1));
        let (w, h) = item.size();
        error += (ratio(width, height) - ratio(w, h)).abs() * f64::from(item.repeats);
        turns += u64::from(item.repeats);
    }
    let each = counts.iter().enumerate().map(|(number, ((w, h), count))| {
        let bucket = json!({"resolution": [w, h], "count": count});
        (number.to_string(), bucket)
    });
    let buckets: serde_json::Map<String, Value> = each.collect();
    json!({"buckets": buckets, "mean_img_ar_error": error / turns.max(1) as f64})
}

/// The folder of a picture as kohya names it: the one with its repeats, else the data's own.
fn folder(config: &RunConfig, item: &ImageItem) -> String {
    if let Some((folder, _)) = item.name.rsplit_once('/') {
        return folder.to_owned();
    }
    let root = match &config.reg_data_dir {
        Some(path) if item.regularization => path,
        _ => &config.train_data_dir,
    };
    portable_name(&root.display().to_string())
}

fn folders(config: &RunConfig, data: &ImageDataset, regularization: bool) -> Value {
    let mut found: BTreeMap<String, (u32, u64)> = BTreeMap::new();
    for (_, item) in trained(data).filter(|(_, i)| i.regularization == regularization) {
        let entry = found.entry(folder(config, item)).or_default();
        *entry = (entry.0.max(item.repeats), entry.1 + 1);
    }
    let each = found
        .into_iter()
        .map(|(name, (repeats, count))| (name, json!({"n_repeats": repeats, "img_count": count})));
    Value::Object(each.collect())
}

/// How many pictures have each part of a caption, by folder.
fn tags(config: &RunConfig, data: &ImageDataset) -> Value {
    let mut found: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for (index, item) in trained(data) {
        let caption = data.plain_caption(index);
        let counts = found.entry(folder(config, item)).or_default();
        for tag in caption.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            *counts.entry(tag.to_owned()).or_default() += 1;
        }
    }
    json!(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 1.5 MiB of the bytes 0, 1, ... 250, again and again, as Python's hashlib has them:
    /// `d = bytes(i % 251 for i in range(3 << 19))`, `sha256(d)`, `sha256(d[1 << 20:][:1 << 16])`.
    #[test]
    fn a_base_s_hashes_are_those_of_kohya_s_trainer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..3usize << 19).map(|i| (i % 251) as u8).collect();
        std::fs::write(file.path(), bytes).unwrap();
        let hashes = BaseHashes::of(file.path()).unwrap();
        assert_eq!(hashes.old, "15ffd73b");
        assert_eq!(
            hashes.new,
            "4ef208d95d55b7431e25910c9d38496994c931af47f4e448fb894611eb1c69ae"
        );
    }
}
