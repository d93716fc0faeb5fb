//! Pictures by denoising: a UNet learns what noise was added to a latent.

mod batch;
mod denoise;
mod latents;
mod metadata;
mod sample;
#[cfg(test)]
mod tests;
mod texts;

use std::cell::OnceCell;
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;
use candle_core::Device;

use self::batch::{Captioned, ImageBatch, Prepared};
use self::denoise::Denoising;
use self::latents::Latents;
use self::texts::{Settings, Texts};
use super::device::{device_name, dtype, open_device};
use super::export::portable_name;
use super::image_memory;
use super::objective::{Batch, Made, Objective, Taken, and_more};
use super::preflight::adapter_format;
use super::setup::{Opened, Telling, adapter_info};
use crate::adapter::{self, Adapter, ExportOptions, Family, Written};
use crate::config::{ExportFormat, RunConfig, TargetModules};
use crate::data::Cursor;
use crate::data::images::{self, Cache, ImageBatches, ImageDataset, Row};
use crate::error::input_error;
use crate::generate::image::NoiseLevels;
use crate::model::diffusion::{
    Description, ImageTarget, Kind, Source, UNet, adaptable_modules, match_image_targets,
};
use crate::model::{Active, LoraSet, LoraSpec};
use crate::protocol::{BaseInfo, DataStatistics, EventKind};
use crate::train::checkpoint::DataFingerprint;

/// Timesteps at which each held-out picture is evaluated.
const EVAL_TIMESTEPS: usize = 8;

/// An image base and the pictures it is trained on.
pub(super) struct Image {
    source: Source,
    unet: UNet,
    texts: Texts,
    trains_text: bool,
    /// Captions change from epoch to epoch: encoding them ahead is of no use.
    captions_vary: bool,
    latents: Latents,
    denoising: Denoising,
    data: ImageDataset,
    batches: ImageBatches,
    /// All modules that adapters may have.
    modules: Vec<ImageTarget>,
    /// Of the base's file, once it has been asked for; `None`: it is no single file.
    base_hashes: OnceCell<Option<metadata::BaseHashes>>,
    device: Device,
}

/// The objective: shared with the batches it hands out.
struct Denoise(Rc<Image>);

/// Opens base and pictures; latents and texts are made where they are not on disk yet.
///
/// # Errors
/// Either cannot be used.
pub(super) fn open(config: &RunConfig, telling: &Telling<'_>) -> Result<Opened> {
    telling.loading("reading the base");
    let device = open_device(config.device)?;
    let dtype = dtype(config.precision, &device)?;
    let source = Source::open(&config.base_model)?;
    let described = source.description().clone();
    for note in &described.notes {
        telling.info(format!("base: {note}"));
    }
    let noise = &described.noise;
    let levels = NoiseLevels::new(
        noise.train_steps,
        noise.beta_start,
        noise.beta_end,
        noise.scaled_linear,
    )?;

    telling.loading("reading the pictures");
    let mut data = images::load(config, &|done, total| {
        if (done as usize).is_multiple_of(100) {
            telling.loading(&format!("reading the pictures: {done} of {total}"));
        }
    })?;
    refuse_bad(config, &data)?;
    if let Some(folder) = &config.clip_model {
        data.look_with_clip(folder, &device, &|done, total| {
            telling.loading(&format!(
                "looking at the pictures with CLIP: {done} of {total}"
            ));
        })?;
    }
    let fingerprint = fingerprint(&data);

    let cache = Rc::new(match config.cache_latents {
        true => Cache::open(),
        false => Cache::none(),
    });
    let latents = Latents::new(Rc::clone(&cache), source.fingerprint("vae"), &device);
    latents.prepare(&data, config.flip_aug, &source, &mut |done, total| {
        telling.loading(&format!("encoding the pictures: {done} of {total}"));
        Ok(())
    })?;
    telling.loading("encoding the captions");
    let settings = Settings {
        max_token_length: config.max_token_length,
        clip_skip: config.clip_skip,
        cache: Rc::clone(&cache),
        weights: source.fingerprint("text_encoder"),
    };
    let texts = Texts::new(&source, settings, &device, dtype)?;
    let tokenizer = texts.tokenizer();
    let statistics = data.statistics(Some(&|caption| {
        tokenizer.ids(caption).map_or(0, |ids| ids.len())
    }));
    let captions_vary = config.shuffle_caption;
    if !config.train_text_encoder && !captions_vary {
        for item in 0..data.items.len() {
            texts.encode(&source, &data.plain_caption(item))?;
        }
        texts.encode(&source, "")?;
        texts.close();
    }

    if let Some(trouble) = cache.trouble() {
        telling.warn(trouble);
    }
    telling.loading("reading the UNet");
    let unet = source.unet(&device, dtype)?;
    let image = Image {
        modules: adaptable_modules(&described),
        base_hashes: OnceCell::new(),
        batches: ImageBatches::of(config, &data),
        denoising: Denoising {
            levels,
            prediction: described.prediction,
            scaling_factor: described.vae.scaling_factor,
            seed: config.seed,
            min_snr_gamma: config.min_snr_gamma,
            noise_offset: config.noise_offset,
            prior_loss_weight: config.prior_loss_weight,
        },
        trains_text: config.train_text_encoder,
        captions_vary,
        source,
        unet,
        texts,
        latents,
        data,
        device: device.clone(),
    };
    Ok(Opened {
        objective: Rc::new(Denoise(Rc::new(image))),
        fingerprint,
        statistics,
        on_gpu: device.is_cuda(),
    })
}

/// What the images hold, with the lengths of captions where the base's tokenizer can be read.
pub fn image_statistics(config: &RunConfig, data: &ImageDataset) -> DataStatistics {
    let source = Source::open(&config.base_model);
    match source.and_then(|source| source.tokenizer()) {
        Ok(tokenizer) => data.statistics(Some(&|caption| {
            tokenizer.ids(caption).map_or(0, |ids| ids.len())
        })),
        Err(_) => data.statistics(None),
    }
}

fn refuse_bad(config: &RunConfig, data: &ImageDataset) -> Result<()> {
    if !config.skip_bad_records
        && let Some(first) = data.bad.first()
    {
        let more = and_more(data.bad.len() - 1);
        return Err(input_error(format!(
            "{}: {}{more}: mend the picture, or leave bad ones out with `skip_bad_records: true`",
            first.file, first.reason
        )));
    }
    Ok(())
}

/// Of pictures, captions and places, so that another crop counts as other data.
fn fingerprint(data: &ImageDataset) -> DataFingerprint {
    let mut hasher = blake3::Hasher::new();
    for item in &data.items {
        hasher.update(item.content.as_bytes());
        for text in [&item.name, &item.caption, &format!("{:?}", item.placement)] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&item.repeats.to_le_bytes());
        hasher.update(&[u8::from(item.regularization)]);
    }
    for held_out in &data.held_out {
        hasher.update(&(*held_out as u64).to_le_bytes());
    }
    DataFingerprint {
        train_records: (data.items.len() - data.held_out.len()) as u64,
        eval_records: data.held_out.len() as u64,
        blake3: hasher.finalize().to_hex().to_string(),
    }
}

/// The modules and the kind of adapter that a config asks for on an image base.
///
/// # Errors
/// Targets that the base does not have.
pub fn image_adapter_plan(
    config: &RunConfig,
    base: &Description,
) -> Result<(Vec<ImageTarget>, LoraSpec)> {
    let (all_linear, names) = match &config.target_modules {
        TargetModules::AllLinear => (true, &[][..]),
        TargetModules::Names(names) => (false, &names[..]),
    };
    let targets = match_image_targets(base, all_linear, names, config.train_text_encoder)?;
    let spec = LoraSpec {
        alpha: config.lora_alpha,
        use_rslora: config.use_rslora,
        dropout: config.lora_dropout,
        target_modules: match all_linear {
            true => vec!["all-linear".to_owned()],
            false => names.to_vec(),
        },
        ..LoraSpec::lora(config.lora_rank)
    };
    Ok((targets, spec))
}

impl Image {
    fn device(&self) -> &Device {
        &self.device
    }

    fn described(&self) -> &Description {
        self.source.description()
    }

    fn is_sdxl(&self) -> bool {
        self.described().kind == Kind::Sdxl
    }

    fn family(&self) -> Family {
        adapter::image_family(self.described().kind)
    }

    fn momentary_bytes(&self, images: usize, (height, width): (usize, usize)) -> u64 {
        image_memory::momentary_bytes(&self.described().unet, images, height, width)
    }

    /// A caption as a pass needs it.
    fn captioned(&self, caption: &str) -> Result<Captioned> {
        Ok(if self.trains_text {
            Captioned::Ids(self.texts.chunks(caption)?)
        } else if self.captions_vary {
            Captioned::Encoded(self.texts.encode_once(&self.source, caption)?)
        } else {
            Captioned::Encoded(self.texts.encode(&self.source, caption)?)
        })
    }

    /// SDXL's sizes: original height and width, the crop's top and left, the bucket's height and
    /// width.
    fn time_ids(&self, item: usize) -> [f32; 6] {
        let item = &self.data.items[item];
        let ((width, height), placement) = (item.size(), item.placement);
        let (left, top) = placement.crop;
        let (to_width, to_height) = placement.bucket;
        [height, width, top, left, to_height, to_width].map(|n| n as f32)
    }

    /// A row of training.
    fn trained(&self, row: Row) -> Result<Prepared> {
        let item = &self.data.items[row.item];
        let flip = self.data.flipped(row);
        let latent = self.latents.get(&self.data, row.item, flip, &self.source)?;
        let noised = self
            .denoising
            .trained(&latent, row.draw, item.regularization);
        Ok(Prepared {
            noised,
            height: latent.height,
            width: latent.width,
            text: self.captioned(&self.data.caption(row))?,
            time_ids: self.time_ids(row.item),
        })
    }
}

impl Denoise {
    /// The adapter with what its files tell of the training.
    fn trained(&self, set: &LoraSet, config: &RunConfig, step: u64) -> Result<Adapter> {
        let image = &self.0;
        let name = portable_name(&image.described().name);
        let mut adapter = adapter::from_image_set(set, image.family(), &image.modules, &name)?;
        adapter.metadata = metadata::of(config, image, step);
        Ok(adapter)
    }
}

impl Objective for Denoise {
    fn base_name(&self) -> &str {
        &self.0.described().name
    }

    fn model_event(&self, set: &LoraSet) -> EventKind {
        let described = self.0.described();
        EventKind::Model {
            device: device_name(&self.0.device),
            base: BaseInfo {
                name: described.name.clone(),
                architecture: self.0.family().name().to_owned(),
                format: described.format.clone(),
                dtype: described.dtype.clone(),
                parameters: described.parameters,
                bytes: described.bytes,
                ..BaseInfo::default()
            },
            adapter: adapter_info(set),
        }
    }

    fn per_epoch(&self) -> u64 {
        self.0.batches.per_epoch()
    }

    fn take(&self, cursor: Cursor) -> Result<Taken> {
        let (rows, after) = self.0.batches.at(cursor);
        let rows: Result<Vec<Prepared>> = rows.into_iter().map(|row| self.0.trained(row)).collect();
        Ok(Taken {
            batch: Box::new(ImageBatch {
                image: Rc::clone(&self.0),
                rows: rows?,
            }),
            after,
        })
    }

    fn held_out_count(&self) -> u64 {
        self.0.data.held_out.len() as u64
    }

    fn held_out(&self) -> Result<Box<dyn Batch>> {
        let image = &self.0;
        let mut rows = Vec::new();
        for &item in &image.data.held_out {
            let latent = image.latents.get(&image.data, item, false, &image.source)?;
            for number in 0..EVAL_TIMESTEPS {
                rows.push(Prepared {
                    noised: image
                        .denoising
                        .evaluated(&latent, item as u64, number, EVAL_TIMESTEPS),
                    height: latent.height,
                    width: latent.width,
                    text: image.captioned(&image.data.items[item].caption)?,
                    time_ids: image.time_ids(item),
                });
            }
        }
        // Pictures of one size together; the order within them stays.
        rows.sort_by_key(|row| (row.height, row.width));
        Ok(Box::new(ImageBatch {
            image: Rc::clone(image),
            rows,
        }))
    }

    fn untrained(&self, config: &RunConfig) -> Result<LoraSet> {
        let (targets, spec) = image_adapter_plan(config, self.0.described())?;
        let modules: Vec<(String, usize, usize)> = targets
            .into_iter()
            .map(|target| (target.module, target.inputs, target.outputs))
            .collect();
        LoraSet::new(&modules, spec, config.seed, &self.0.device)
    }

    fn read_adapter(&self, path: &Path) -> Result<LoraSet> {
        let (family, device) = (self.0.family(), &self.0.device);
        adapter::read_image_set(path, family, &self.0.modules, device)
    }

    fn add_magnitudes(&self, _set: &mut LoraSet) -> Result<()> {
        Err(input_error(
            "use_dora: image bases are trained with LoRA only; remove the line",
        ))
    }

    fn checkpoint_files(
        &self,
        set: &LoraSet,
        config: &RunConfig,
        step: u64,
    ) -> Result<Vec<(&'static str, Vec<u8>)>> {
        // kohya's format in f32, so that any tool reads a checkpoint.
        let bytes = adapter::kohya_file(self.trained(set, config, step)?)?;
        Ok(vec![(adapter::IMAGE_FILE, bytes)])
    }

    fn export(
        &self,
        set: &LoraSet,
        config: &RunConfig,
        step: u64,
        format: ExportFormat,
        folder: &Path,
    ) -> Result<Written> {
        let (trained, format) = (self.trained(set, config, step)?, adapter_format(format));
        adapter::write(trained, format, folder, &ExportOptions::default())
    }

    fn sample(
        &self,
        prompt: &str,
        config: &RunConfig,
        adapters: &[Active<'_>],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Made> {
        sample::draw(&self.0, prompt, config, adapters, go_on)
    }

    fn sample_bytes(&self, prompt: &str, config: &RunConfig) -> Result<u64> {
        let drawing = sample::drawing(prompt, config)?;
        let reduction = self.0.described().vae.reduction();
        let side = (drawing.height / reduction, drawing.width / reduction);
        Ok(self.0.momentary_bytes(1, side))
    }

    fn smaller_record(&self) -> &'static str {
        "Lower resolution or lora_rank, or train where there is more memory"
    }
}
