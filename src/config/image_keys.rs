//! Keys that only image training knows; a text run refuses them.

use serde_yaml::Value;

use super::keys::{Applies, Key, key, shown_by};
use super::kinds::{optional, show_optional};
use super::paths;
use super::values::{Fault, boolean, count, decimal, number, quoted, text, whole};

pub(super) const IMAGE_KEYS: &[Key] = &[
    key!(
        metadata_path,
        Restart,
        "none",
        "./data/metadata.csv",
        "Captions of the images: a `.csv` or `.jsonl` file with `file_name` and `text` (or `filename`, `file`; `prompt`, `caption`)",
        |v| optional(v, "none", paths::existing),
        |v| v.as_ref().map_or("none".into(), |p| paths::show(p))
    ),
    key!(
        resolution,
        Restart,
        "512",
        "512",
        "Pixels of an image's side; with `buckets` its square is the area of every bucket",
        |v| count(v, 64, 8192),
        |v| v.to_string()
    ),
    key!(
        buckets,
        Restart,
        "true",
        "false",
        "Train images of like aspect ratio together; `false`: squares, cut from the middle",
        boolean,
        |v| v.to_string()
    ),
    key!(
        bucket_reso_steps,
        Restart,
        "64",
        "64",
        "Pixels by which the sides of buckets differ",
        |v| whole(v, 8, 1024).and_then(|n| match n % 8 {
            0 => Ok(n as u32),
            _ => Err(Fault::is_not("a multiple of 8, the pixels of a latent")),
        }),
        |v| v.to_string()
    ),
    key!(
        min_bucket_reso,
        Restart,
        "half of resolution",
        "256",
        "Shortest side of a bucket",
        |v| optional(v, "auto", |v| whole(v, 8, 16384).map(|n| n as u32)),
        |v| show_optional(v, "auto")
    ),
    key!(
        max_bucket_reso,
        Restart,
        "twice resolution",
        "1024",
        "Longest side of a bucket",
        |v| optional(v, "auto", |v| whole(v, 8, 16384).map(|n| n as u32)),
        |v| show_optional(v, "auto")
    ),
    key!(
        bucket_no_upscale,
        Restart,
        "false",
        "true",
        "Leave small images as small as they are, in buckets of their own",
        boolean,
        |v| v.to_string()
    ),
    key!(
        flip_aug,
        Restart,
        "false",
        "true",
        "Mirror half of the images; not for what has a left and a right",
        boolean,
        |v| v.to_string()
    ),
    key!(
        trigger_word,
        Restart,
        "none",
        "\"sks style\"",
        "The words that call the adapter: put first in every caption that lacks them",
        |v| optional(v, "none", text),
        |v| v.as_ref().map_or("none".into(), |t| quoted(t))
    ),
    key!(
        shuffle_caption,
        Restart,
        "false",
        "true",
        "Shuffle the parts of captions between commas, anew each epoch",
        boolean,
        |v| v.to_string()
    ),
    key!(
        keep_tokens,
        Restart,
        "0",
        "1",
        "Parts at a caption's beginning that `shuffle_caption` leaves in place",
        |v| count(v, 0, 1000),
        |v| v.to_string()
    ),
    key!(
        caption_dropout,
        Restart,
        "0",
        "0.1",
        "Share of captions that are trained on as empty ones",
        |v| number(v, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1"),
        |v| decimal(*v)
    ),
    key!(
        max_token_length,
        Restart,
        "75",
        "225",
        "Tokens of a caption at most: 75, 150 or 225; longer ones are cut",
        |v| match count(v, 1, 1000) {
            Ok(n @ (75 | 150 | 225)) => Ok(n),
            _ => Err(Fault::is_not(
                "75, 150 or 225: chunks of the text encoder's 75"
            )),
        },
        |v| v.to_string()
    ),
    key!(
        cache_latents,
        Restart,
        "true",
        "false",
        "Keep latents and text embeddings on disk, where other runs find them (`$LORADECK_CACHE`, else `~/.cache/loradeck`)",
        boolean,
        |v| v.to_string()
    ),
    key!(
        reg_data_dir,
        Restart,
        "none",
        "./data/person",
        "Images of the class in general, which keep the adapter from changing all of it (prior preservation)",
        |v| optional(v, "none", paths::existing),
        |v| v.as_ref().map_or("none".into(), |p| paths::show(p))
    ),
    key!(
        clip_model,
        Restart,
        "none",
        "openai/clip-vit-large-patch14",
        "A CLIP that looks the images over for the report (strays, views that a character's set lacks, clutter, off-centre subjects): a Hugging Face folder, or `owner/name[@revision]` on the hub",
        |v| optional(v, "none", paths::clip),
        |v| v.as_ref().map_or("none".into(), |p| paths::show(p))
    ),
    key!(
        prior_loss_weight,
        Restart,
        "1",
        "0.5",
        "Weight of `reg_data_dir`'s images in the loss",
        |v| number(v, |x| x >= 0.0, "a number, 0 or more"),
        |v| decimal(*v)
    ),
    key!(
        min_snr_gamma,
        Restart,
        "none",
        "5",
        "Weigh timesteps by their signal-to-noise ratio up to this (min-SNR); 5 is usual",
        |v| optional(v, "none", |v| number(
            v,
            |x| x > 0.0,
            "a number above 0, or none"
        )),
        |v| v.map_or("none".into(), decimal)
    ),
    key!(
        noise_offset,
        Restart,
        "0",
        "0.05",
        "Noise of whole channels besides each pixel's, for very dark and very bright images",
        |v| number(v, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1"),
        |v| decimal(*v)
    ),
    key!(
        train_text_encoder,
        Restart,
        "false",
        "true",
        "Train adapters of the text encoders too",
        boolean,
        |v| v.to_string()
    ),
    key!(
        text_encoder_lr,
        Live,
        "learning_rate",
        "5e-5",
        "Learning rate of the text encoders' adapters",
        |v| optional(v, "learning_rate", |v| number(
            v,
            |x| x > 0.0 && x <= 1.0,
            "a number above 0, at most 1"
        )),
        |v| v.map_or("learning_rate".into(), decimal)
    ),
    key!(
        clip_skip,
        Restart,
        "0",
        "2",
        "Read the text encoder's layer so many from its end, as kohya counts them; 0: as the base was trained",
        |v| count(v, 0, 12),
        |v| v.to_string()
    ),
];

/// Keys that only text training knows; an image run refuses them.
pub(super) const TEXT_KEYS: &[&str] = &[
    "sequence_len",
    "packing",
    "group_by_length",
    "train_on_inputs",
    "chat_template",
    "quantize",
    "layers",
    "share_adapters",
    "use_dora",
];
