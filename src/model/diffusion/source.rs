//! What the files of an image base hold, found by reading headers only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{DType, Device};
use safetensors::SafeTensors;
use serde_json::Value;

use super::adapters::TEXT_ENCODERS;
use super::clip::{self, ClipText};
use super::config::{
    ClipConfig, Json, Kind, NoiseSchedule, Prediction, UNetConfig, VaeConfig, read_schedule,
};
use super::modules::Module;
use super::tensors::Tensors;
use super::text::TextEncoders;
use super::tokenizer::{self, ClipTokenizer};
use super::unet::UNet;
use super::vae::{self, VaeDecoder, VaeEncoder};
use super::{ldm, names, plan};
use crate::error::input_error;
use crate::model::builtin;
use crate::model::hugging_face::weight_files;
use crate::model::source::{is_parameter, map, read_safetensors, read_text};
use crate::ops::Bytes;

/// What the headers of an image base's files tell.
#[derive(Clone, Debug)]
pub struct Description {
    /// As written in the config.
    pub name: String,
    /// "safetensors" (a single-file checkpoint), "diffusers" (a folder) or "builtin".
    pub format: String,
    /// "F32", "F16", ...: of most weights.
    pub dtype: String,
    pub kind: Kind,
    pub prediction: Prediction,
    pub noise: NoiseSchedule,
    pub parameters: u64,
    /// Bytes of the weights as they lie in memory on the CPU.
    pub bytes: u64,
    /// The files read, for hashing; empty for a built-in base.
    pub files: Vec<PathBuf>,
    /// What the files do not say and had to be assumed, a sentence each.
    pub notes: Vec<String>,
    pub unet: UNetConfig,
    /// One, or SDXL's two.
    pub text: Vec<ClipConfig>,
    pub vae: VaeConfig,
    /// Pixels of a square's side that the base was made for.
    pub side: usize,
}

/// An opened image base. Its parts are put into memory one by one, each when it is needed.
pub struct Source {
    description: Description,
    tensors: Tensors,
    tokenizer: Vocabulary,
}

/// Where the tokenizer is read from.
enum Vocabulary {
    /// A diffusers folder's own.
    Folder(PathBuf),
    /// A checkpoint carries none: beside this file, and in the usual places.
    Beside(PathBuf),
    /// The texts of `vocab.json` and `merges.txt`.
    Texts(&'static str, &'static str),
}

/// The files of a base in diffusers' layout, wherever they come from.
pub struct Parts<'a> {
    pub name: String,
    pub format: &'static str,
    /// `scheduler_config.json`.
    pub scheduler: &'a str,
    /// `config.json` and safetensors of `unet`, `vae`, `text_encoder` and `text_encoder_2`.
    pub components: Vec<Component<'a>>,
    /// The texts of `vocab.json` and `merges.txt`.
    pub vocabulary: (&'static str, &'static str),
}

/// One part of a base: its `config.json` and its safetensors files with their names.
pub struct Component<'a> {
    pub name: &'a str,
    pub config: &'a str,
    pub weights: Vec<(Bytes, String)>,
}

/// Whether `base_model` names an image base: a diffusers folder, or a single-file checkpoint. Only
/// headers are read; what cannot be read is none.
pub fn is_image_base(base_model: &str) -> bool {
    if let Some(name) = base_model.strip_prefix("builtin:") {
        return builtin::is_image(name);
    }
    let path = Path::new(base_model);
    if path.is_dir() {
        return path.join("model_index.json").exists() || path.join("unet").is_dir();
    }
    let is_checkpoint = || {
        let bytes = map(path).ok()?;
        let whole: &[u8] = (*bytes).as_ref();
        let (_, header) = SafeTensors::read_metadata(whole).ok()?;
        let tensors = header.tensors();
        Some(ldm::is_checkpoint(tensors.keys().map(String::as_str)))
    };
    base_model.ends_with(".safetensors") && is_checkpoint() == Some(true)
}

/// Reads the headers of an image base.
///
/// # Errors
/// As [`Source::open`].
pub fn describe(base_model: &str) -> Result<Description> {
    Ok(Source::open(base_model)?.description)
}

impl Source {
    /// Opens a diffusers folder or a single-file checkpoint (`.safetensors`).
    ///
    /// # Errors
    /// Nothing there, a kind of file or of model that is not supported, damaged headers, tensors
    /// missing or of other shapes than the hyperparameters say: one sentence.
    pub fn open(base_model: &str) -> Result<Self> {
        if let Some(name) = base_model.strip_prefix("builtin:") {
            return builtin::open_image(name);
        }
        let path = Path::new(base_model);
        let metadata = std::fs::metadata(path).map_err(|e| {
            input_error(format!(
                "the base {base_model} cannot be read: {e}; name a diffusers folder or a \
                 .safetensors checkpoint of Stable Diffusion"
            ))
        })?;
        let source = match metadata.is_dir() {
            true => open_folder(path)?,
            false => open_checkpoint(path)?,
        };
        source.finished()
    }

    /// As [`Source::open`], of files that are in memory.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn from_parts(parts: Parts<'_>) -> Result<Self> {
        let vocabulary = Vocabulary::Texts(parts.vocabulary.0, parts.vocabulary.1);
        assemble(
            parts.name,
            parts.format,
            parts.scheduler,
            "scheduler_config.json",
            &parts.components,
            vocabulary,
        )?
        .finished()
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    /// # Errors
    /// It does not fit on the device.
    pub fn unet(&self, device: &Device, dtype: DType) -> Result<UNet> {
        UNet::read(self, device, dtype)
    }

    /// # Errors
    /// They do not fit on the device.
    pub fn text_encoders(&self, device: &Device, dtype: DType) -> Result<TextEncoders> {
        TextEncoders::read(self, device, dtype)
    }

    /// The half of the VAE that makes latents of images, in f32.
    ///
    /// # Errors
    /// It does not fit on the device.
    pub fn vae_encoder(&self, device: &Device) -> Result<VaeEncoder> {
        VaeEncoder::read(self, device)
    }

    /// The half of the VAE that makes images of latents, in f32.
    ///
    /// # Errors
    /// It does not fit on the device.
    pub fn vae_decoder(&self, device: &Device) -> Result<VaeDecoder> {
        VaeDecoder::read(self, device)
    }

    /// # Errors
    /// None is found; it is damaged.
    pub fn tokenizer(&self) -> Result<ClipTokenizer> {
        match &self.tokenizer {
            Vocabulary::Folder(folder) => tokenizer::open_clip_tokenizer(folder),
            Vocabulary::Beside(file) => tokenizer::find(file),
            Vocabulary::Texts(vocabulary, merges) => {
                ClipTokenizer::from_texts(vocabulary, merges, "the built-in tokenizer")
            }
        }
    }

    /// A hash of the names and numbers of a part's tensors (`unet`, `vae` or `text_encoder`, which
    /// means both of SDXL's): the same for the same weights in another file.
    pub fn fingerprint(&self, part: &str) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let of_part = |name: &str| match part {
            "text_encoder" => name.starts_with("text_encoder"),
            _ => name.split('.').next() == Some(part),
        };
        for (name, _) in self.expected().iter().filter(|(name, _)| of_part(name)) {
            let stored = &self.tensors.stored[name];
            let whole: &[u8] = (*stored.bytes).as_ref();
            let numbers: usize = stored.shape.iter().product();
            let bytes = numbers * stored.encoding.type_size();
            hasher.update(name.as_bytes());
            hasher.update(format!("{:?}", stored.encoding).as_bytes());
            let bytes = &whole[stored.start..stored.start + bytes];
            hasher.update_rayon(bytes);
            let start = bytes.as_ptr() as usize;
            self.tensors.forget(start..start + bytes.len());
        }
        hasher.finalize()
    }

    pub(super) fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// The names (with the component) and shapes of every tensor.
    fn expected(&self) -> Vec<(String, Vec<usize>)> {
        let description = &self.description;
        let mut all = Vec::new();
        let mut add = |component: &str, modules: Vec<Module>| {
            for module in modules {
                let tensors = module.tensors().into_iter();
                all.extend(tensors.map(|(name, shape)| (format!("{component}.{name}"), shape)));
            }
        };
        add("unet", plan::modules(&description.unet));
        add("vae", vae::modules(&description.vae));
        for (config, component) in description
            .text
            .iter()
            .zip(["text_encoder", "text_encoder_2"])
        {
            add(component, clip::modules(config));
        }
        all
    }

    /// Checks the shapes and counts the weights.
    fn finished(mut self) -> Result<Self> {
        let expected = self.expected();
        self.tensors.check(&expected)?;
        let (mut parameters, mut bytes) = (0, 0);
        let mut by_encoding: BTreeMap<String, u64> = BTreeMap::new();
        for (name, shape) in expected {
            let encoding = self.tensors.stored[&name].encoding;
            let count = shape.iter().map(|&n| n as u64).product::<u64>();
            parameters += count;
            bytes += count * encoding.type_size() as u64;
            *by_encoding.entry(format!("{encoding:?}")).or_default() += count;
        }
        let most = by_encoding.into_iter().max_by_key(|(_, count)| *count);
        self.description.parameters = parameters;
        self.description.bytes = bytes;
        self.description.dtype = most.map(|(encoding, _)| encoding).unwrap_or_default();
        let (description, text) = (&self.description, &self.description.text);
        let context: usize = text.iter().map(|config| config.width).sum();
        let pooled = text.last().and_then(|config| config.projection);
        let wanted = description.unet.addition.map(|addition| addition.pooled());
        if context != description.unet.context || (wanted.is_some() && wanted != pooled) {
            return Err(input_error(format!(
                "{}: the text encoders give {context} features, the UNet reads {}; they do not \
                 belong together",
                description.name, description.unet.context
            )));
        }
        if description.vae.latent_channels != description.unet.in_channels {
            return Err(input_error(format!(
                "{}: the VAE's latents have {} channels, the UNet reads {}; they do not belong \
                 together",
                description.name, description.vae.latent_channels, description.unet.in_channels
            )));
        }
        Ok(self)
    }
}

/// A diffusers folder.
fn open_folder(folder: &Path) -> Result<Source> {
    let file = |part: &str, name: &str| folder.join(part).join(name);
    let mut files = Vec::new();
    let mut texts = Vec::new();
    let names = ["unet", "vae", "text_encoder", "text_encoder_2"];
    for name in names {
        let config = file(name, "config.json");
        if !config.exists() {
            if name == "text_encoder_2" {
                continue;
            }
            return Err(input_error(format!(
                "{} is no base: it has no {name}/config.json (a diffusers folder needs unet, vae, \
                 text_encoder, tokenizer and scheduler)",
                folder.display()
            )));
        }
        texts.push((name, read_text(&config)?));
        files.push(config);
    }
    let mut mapped = Vec::new();
    let mut components = Vec::new();
    for (name, config) in &texts {
        let stem = match name.starts_with("text") {
            true => "model",
            false => "diffusion_pytorch_model",
        };
        let mut weights = Vec::new();
        for weight in weight_files(&folder.join(name), stem)? {
            let path = file(name, &weight);
            let bytes = map(&path)?;
            mapped.push(bytes.clone());
            weights.push((bytes as Bytes, path.display().to_string()));
            files.push(path);
        }
        components.push(Component {
            name,
            config,
            weights,
        });
    }
    let scheduler = file("scheduler", "scheduler_config.json");
    let schedule = match scheduler.exists() {
        true => read_text(&scheduler)?,
        false => "{}".to_owned(),
    };
    let mut source = assemble(
        folder.display().to_string(),
        "diffusers",
        &schedule,
        &scheduler.display().to_string(),
        &components,
        Vocabulary::Folder(folder.join("tokenizer")),
    )?;
    if !scheduler.exists() {
        source.description.notes.push(format!(
            "{} is missing: the base is taken to predict noise",
            scheduler.display()
        ));
    }
    source.description.files = files;
    source.tensors.mapped = mapped;
    Ok(source)
}

/// Puts the parts of diffusers' layout together.
fn assemble(
    name: String,
    format: &str,
    scheduler: &str,
    scheduler_file: &str,
    components: &[Component<'_>],
    tokenizer: Vocabulary,
) -> Result<Source> {
    let parse = |text: &str, file: &str| -> Result<Value> {
        serde_json::from_str(text)
            .map_err(|e| input_error(format!("{file} is not valid JSON: {e}")))
    };
    let mut tensors = BTreeMap::new();
    let (mut unet, mut vae, mut text) = (None, None, Vec::new());
    let mut latent_side = None;
    for component in components {
        let file = format!("{name}/{}/config.json", component.name);
        let value = parse(component.config, &file)?;
        let json = Json {
            value: &value,
            file: &file,
        };
        let mut own = BTreeMap::new();
        for (bytes, file) in &component.weights {
            read_safetensors(bytes.clone(), file, is_parameter, &mut own)?;
        }
        match component.name {
            "unet" => {
                latent_side = value.get("sample_size").and_then(Value::as_u64);
                unet = Some(UNetConfig::from_json(&json)?);
            }
            "vae" => vae = Some(VaeConfig::from_json(&json)?),
            _ => {
                let projected = own.contains_key("text_projection.weight");
                text.push(ClipConfig::from_json(&json, projected)?);
            }
        }
        for (own, stored) in own {
            let own = match component.name {
                "vae" => names::vae_today(&own),
                "unet" => own,
                _ => clip::full_name(&own),
            };
            tensors.insert(format!("{}.{own}", component.name), stored);
        }
    }
    let (Some(unet), Some(vae)) = (unet, vae) else {
        return Err(input_error(format!("{name} lacks its unet or its vae")));
    };
    let value = parse(scheduler, scheduler_file)?;
    let (prediction, noise) = read_schedule(&Json {
        value: &value,
        file: scheduler_file,
    })?;
    let kind = match (&unet.addition, unet.linear_projection) {
        (Some(_), _) => Kind::Sdxl,
        (None, true) => Kind::Sd2,
        (None, false) => Kind::Sd1,
    };
    let texts = if kind == Kind::Sdxl { 2 } else { 1 };
    if text.len() != texts {
        return Err(input_error(format!(
            "{name}: {} has {texts} text encoders, not {}",
            kind.name(),
            text.len()
        )));
    }
    Ok(Source {
        tensors: Tensors {
            name: name.clone(),
            stored: tensors,
            mapped: Vec::new(),
        },
        description: Description {
            name,
            format: format.to_owned(),
            dtype: String::new(),
            kind,
            prediction,
            noise,
            parameters: 0,
            bytes: 0,
            files: Vec::new(),
            notes: Vec::new(),
            unet,
            text,
            side: match latent_side {
                Some(side @ 1..=1024) => side as usize * vae.reduction(),
                _ => usual_side(kind, prediction),
            },
            vae,
        },
        tokenizer,
    })
}

/// What the published bases of a kind were made for.
fn usual_side(kind: Kind, prediction: Prediction) -> usize {
    match (kind, prediction) {
        (Kind::Sdxl, _) => 1024,
        (Kind::Sd2, Prediction::V) => 768,
        _ => 512,
    }
}

/// A single-file checkpoint.
fn open_checkpoint(path: &Path) -> Result<Source> {
    let file = path.display().to_string();
    let ends = |end: &str| path.extension().is_some_and(|e| e == end);
    if ends("ckpt") || ends("pt") || ends("pth") {
        return Err(input_error(format!(
            "{file} is a pickle, which can run programs when it is opened; name the .safetensors \
             file of the same base, or convert it"
        )));
    }
    let mapped = map(path)?;
    let bytes: Bytes = mapped.clone();
    let whole: &[u8] = (*bytes).as_ref();
    let damaged = |e| input_error(format!("{file} is damaged or incomplete: {e}"));
    let (_, header) = SafeTensors::read_metadata(whole).map_err(damaged)?;
    let names = header.tensors();
    if !ldm::is_checkpoint(names.keys().map(String::as_str)) {
        return Err(input_error(format!(
            "{file} is no checkpoint of Stable Diffusion: it has no model.diffusion_model; name a \
             single-file checkpoint or a diffusers folder"
        )));
    }
    let v_tensor = names.contains_key("v_pred");
    let metadata = header.metadata().clone().unwrap_or_default();
    let mut all = BTreeMap::new();
    read_safetensors(bytes.clone(), &file, ldm::wanted, &mut all)?;
    let checkpoint = ldm::read(&file, all)?;
    let mut notes = Vec::new();
    let said = metadata.get("modelspec.prediction_type");
    let prediction = match said.map(String::as_str) {
        Some("v" | "v_prediction") => Prediction::V,
        Some("epsilon") => Prediction::Epsilon,
        _ if v_tensor => Prediction::V,
        _ if checkpoint.kind == Kind::Sd2 => {
            // The two kinds of SD2 have the same tensors.
            let plain = file.contains("base") || file.contains("512");
            let (prediction, words) = match plain {
                true => (
                    Prediction::Epsilon,
                    "noise, as its name says 'base' or '512'",
                ),
                false => (Prediction::V, "velocity, as SD 2 for 768 pixels does"),
            };
            notes.push(format!(
                "the checkpoint does not tell what its UNet predicts: {words}"
            ));
            prediction
        }
        _ => Prediction::Epsilon,
    };
    Ok(Source {
        tensors: Tensors {
            name: file.clone(),
            stored: checkpoint.tensors,
            mapped: vec![mapped],
        },
        description: Description {
            name: file,
            format: "safetensors".to_owned(),
            dtype: String::new(),
            kind: checkpoint.kind,
            prediction,
            noise: NoiseSchedule::default(),
            parameters: 0,
            bytes: 0,
            files: vec![path.to_owned()],
            notes,
            unet: checkpoint.unet,
            text: checkpoint.text,
            vae: checkpoint.vae,
            side: usual_side(checkpoint.kind, prediction),
        },
        tokenizer: Vocabulary::Beside(path.to_owned()),
    })
}

impl ClipText {
    /// A text encoder by itself: a folder with `config.json` and safetensors, of a CLIP's text half
    /// or of a whole CLIP.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let config = folder.join("config.json");
        let file = config.display().to_string();
        let text = read_text(&config)?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|e| input_error(format!("{file} is not valid JSON: {e}")))?;
        let mut own = BTreeMap::new();
        for name in weight_files(folder, "model")? {
            let path = folder.join(name);
            read_safetensors(
                map(&path)?,
                &path.display().to_string(),
                is_parameter,
                &mut own,
            )?;
        }
        let projected = own.contains_key("text_projection.weight");
        let json = Json {
            value: &value,
            file: &file,
        };
        let config = ClipConfig::from_json(&json, projected)?;
        let text = own
            .into_iter()
            .filter(|(name, _)| !name.starts_with("vision"));
        let component = TEXT_ENCODERS[0];
        let tensors = Tensors {
            name: folder.display().to_string(),
            stored: text
                .map(|(name, stored)| (format!("{component}{}", clip::full_name(&name)), stored))
                .collect(),
            mapped: Vec::new(),
        };
        let expected = clip::modules(&config)
            .into_iter()
            .flat_map(|module| module.tensors());
        let expected = expected.map(|(name, shape)| (format!("{component}{name}"), shape));
        tensors.check(&expected.collect::<Vec<_>>())?;
        ClipText::read(&tensors, config, component, device, DType::F32)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
