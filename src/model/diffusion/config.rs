//! The hyperparameters of a base's parts, as diffusers' `config.json` files have them.

use anyhow::Result;
use serde_json::Value;

use crate::error::input_error;
use crate::ops::Activation;

/// The versions of Stable Diffusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sd1,
    Sd2,
    Sdxl,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Sd1 => "Stable Diffusion 1",
            Kind::Sd2 => "Stable Diffusion 2",
            Kind::Sdxl => "Stable Diffusion XL",
        }
    }
}

/// What a UNet predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise (Ho et al., arXiv:2006.11239).
    Epsilon,
    /// The velocity `alpha noise - sigma latents` (Salimans and Ho, arXiv:2202.00512).
    V,
}

/// The noise that a base was trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseSchedule {
    pub train_steps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    /// Whether the square roots of the betas are evenly spaced, not the betas.
    pub scaled_linear: bool,
}

impl Default for NoiseSchedule {
    /// That of all three kinds.
    fn default() -> Self {
        NoiseSchedule {
            train_steps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            scaled_linear: true,
        }
    }
}

/// What SDXL's UNet is told besides timestep and text: sizes and crop, and the pooled text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addition {
    /// Features of each of the six numbers.
    pub time_features: usize,
    /// All features: those of the pooled text and of the six numbers.
    pub inputs: usize,
}

impl Addition {
    /// Features of the pooled text.
    pub fn pooled(&self) -> usize {
        self.inputs - TIME_IDS * self.time_features
    }
}

/// Original height and width, crop's top and left, target height and width.
pub(super) const TIME_IDS: usize = 6;

/// One of the blocks that go down; the one that goes up beside it is its mirror image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UNetBlock {
    pub channels: usize,
    /// Of each of its attentions: how many transformer blocks. 0: it has no attentions.
    pub depth: usize,
    pub heads: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    /// From the outside to the middle.
    pub blocks: Vec<UNetBlock>,
    /// Residual blocks of a block that goes down; one that goes up has one more.
    pub layers_per_block: usize,
    pub middle_depth: usize,
    /// Features of the text.
    pub context: usize,
    /// Whether the projections around transformer blocks are linears, not 1x1 convolutions.
    pub linear_projection: bool,
    pub groups: usize,
    pub eps: f64,
    pub addition: Option<Addition>,
}

/// One text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    pub vocab_size: usize,
    pub width: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub positions: usize,
    pub activation: Activation,
    pub eps: f64,
    /// Features of the projected text; `None`: it is not projected.
    pub projection: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    pub latent_channels: usize,
    /// Channels of its blocks, from the image to the latents.
    pub blocks: Vec<usize>,
    pub layers_per_block: usize,
    pub groups: usize,
    /// Latents are multiplied by it before the UNet sees them.
    pub scaling_factor: f64,
}

impl VaeConfig {
    /// Pixels of an image along one pixel of the latents.
    pub fn reduction(&self) -> usize {
        1 << (self.blocks.len() - 1)
    }
}

/// A `config.json` with its file's name for errors.
pub(super) struct Json<'a> {
    pub value: &'a Value,
    pub file: &'a str,
}

impl Json<'_> {
    fn missing(&self, key: &str) -> anyhow::Error {
        input_error(format!(
            "{}: `{key}` is missing or not understood",
            self.file
        ))
    }

    /// Refuses a variant that would be computed otherwise than here.
    fn must_be(&self, key: &str, allowed: &[&str]) -> Result<()> {
        let text = match self.value.get(key) {
            None | Some(Value::Null) | Some(Value::Bool(false)) => return Ok(()),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        match allowed.contains(&&text[..]) {
            true => Ok(()),
            false => Err(input_error(format!(
                "{}: `{key}` is {text}, which is not supported",
                self.file
            ))),
        }
    }

    /// A count, at least 1 and not absurd.
    fn size(&self, key: &str) -> Result<usize> {
        let number = self.value.get(key).and_then(Value::as_u64);
        self.sane(key, number)
    }

    fn sane(&self, key: &str, number: Option<u64>) -> Result<usize> {
        number
            .filter(|number| (1..=1 << 24).contains(number))
            .map(|number| number as usize)
            .ok_or_else(|| self.missing(key))
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.value.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(_) => self.size(key),
        }
    }

    fn number_or(&self, key: &str, default: f64) -> f64 {
        self.value
            .get(key)
            .and_then(Value::as_f64)
            .unwrap_or(default)
    }

    fn flag(&self, key: &str) -> bool {
        self.value.get(key).and_then(Value::as_bool) == Some(true)
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        let list = self.value.get(key).and_then(Value::as_array);
        let texts = list.and_then(|list| {
            let texts = list.iter().map(|text| text.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| self.missing(key))
    }

    fn sizes(&self, key: &str) -> Result<Vec<usize>> {
        let list = self.value.get(key).and_then(Value::as_array);
        let list = list.filter(|list| (1..=16).contains(&list.len()));
        let list = list.ok_or_else(|| self.missing(key))?;
        list.iter()
            .map(|number| self.sane(key, number.as_u64()))
            .collect()
    }

    /// One number for all of `count`, or one for each.
    fn each(&self, key: &str, count: usize, default: usize) -> Result<Vec<usize>> {
        match self.value.get(key) {
            None | Some(Value::Null) => Ok(vec![default; count]),
            Some(Value::Array(list)) if list.len() == count => self.sizes(key),
            Some(Value::Array(_)) => Err(self.missing(key)),
            Some(_) => Ok(vec![self.size(key)?; count]),
        }
    }
}

impl UNetConfig {
    /// # Errors
    /// A key that is missing, a variant that is not supported.
    pub(super) fn from_json(json: &Json<'_>) -> Result<Self> {
        for (key, allowed) in [
            ("act_fn", &["silu", "swish"][..]),
            ("addition_embed_type", &["text_time"]),
            ("attention_type", &["default"]),
            ("class_embed_type", &[]),
            ("dual_cross_attention", &[]),
            ("encoder_hid_dim_type", &[]),
            ("mid_block_type", &["UNetMidBlock2DCrossAttn"]),
            ("only_cross_attention", &[]),
            ("resnet_time_scale_shift", &["default"]),
            ("time_embedding_type", &["positional"]),
            ("timestep_post_act", &[]),
            ("center_input_sample", &[]),
        ] {
            json.must_be(key, allowed)?;
        }
        let channels = json.sizes("block_out_channels")?;
        let count = channels.len();
        let attends = |kind: &str| match kind {
            "CrossAttnDownBlock2D" | "CrossAttnUpBlock2D" => Ok(true),
            "DownBlock2D" | "UpBlock2D" => Ok(false),
            other => Err(input_error(format!(
                "{}: a block of the type {other} is not supported",
                json.file
            ))),
        };
        let kinds = |key: &str| -> Result<Vec<bool>> {
            json.texts(key)?.iter().map(|kind| attends(kind)).collect()
        };
        let (down, mut up) = (kinds("down_block_types")?, kinds("up_block_types")?);
        up.reverse();
        if down.len() != count || down != up {
            return Err(input_error(format!(
                "{}: blocks that go up must mirror those that go down",
                json.file
            )));
        }
        // diffusers' `attention_head_dim` is the number of heads wherever `num_attention_heads` is
        // not given.
        let heads = match json.value.get("num_attention_heads") {
            None | Some(Value::Null) => json.each("attention_head_dim", count, 8)?,
            Some(_) => json.each("num_attention_heads", count, 8)?,
        };
        let depths = json.each("transformer_layers_per_block", count, 1)?;
        let groups = json.size_or("norm_num_groups", 32)?;
        let blocks: Vec<UNetBlock> = (0..count)
            .map(|i| UNetBlock {
                channels: channels[i],
                depth: if down[i] { depths[i] } else { 0 },
                heads: heads[i],
            })
            .collect();
        for block in &blocks {
            let divides = |count| block.channels.is_multiple_of(count);
            if !divides(groups) || !divides(block.heads) {
                return Err(input_error(format!(
                    "{}: {} channels do not divide into {groups} groups and {} heads",
                    json.file, block.channels, block.heads
                )));
            }
        }
        let addition = match json.value.get("addition_embed_type") {
            None | Some(Value::Null) => None,
            Some(_) => {
                let addition = Addition {
                    time_features: json.size("addition_time_embed_dim")?,
                    inputs: json.size("projection_class_embeddings_input_dim")?,
                };
                if addition.inputs <= TIME_IDS * addition.time_features {
                    return Err(json.missing("projection_class_embeddings_input_dim"));
                }
                Some(addition)
            }
        };
        let config = UNetConfig {
            in_channels: json.size("in_channels")?,
            out_channels: json.size("out_channels")?,
            middle_depth: depths[count - 1],
            blocks,
            layers_per_block: json.sane(
                "layers_per_block",
                match json.value.get("layers_per_block") {
                    None => Some(2),
                    Some(number) => number.as_u64(),
                },
            )?,
            context: json.size("cross_attention_dim")?,
            linear_projection: json.flag("use_linear_projection"),
            groups,
            eps: json.number_or("norm_eps", 1e-5),
            addition,
        };
        config.check(json.file)?;
        Ok(config)
    }

    /// # Errors
    /// A UNet that takes more than latents.
    pub(super) fn check(&self, file: &str) -> Result<()> {
        let extra = self.in_channels != self.out_channels;
        if extra {
            return Err(input_error(format!(
                "{file}: the UNet takes {} channels and gives {}: bases for inpainting, depth or \
                 editing cannot be trained; name the plain base",
                self.in_channels, self.out_channels
            )));
        }
        let deep = self.blocks.iter().map(|block| block.depth).max();
        if self.layers_per_block > 16 || deep > Some(64) || self.middle_depth > 64 {
            return Err(input_error(format!("{file}: the UNet's sizes are absurd")));
        }
        Ok(())
    }

    /// Features of the embedded timestep.
    pub fn time_features(&self) -> usize {
        4 * self.blocks[0].channels
    }

    /// Pixels of the latents along one of the innermost block's: heights and widths must be
    /// multiples of it.
    pub fn reduction(&self) -> usize {
        1 << (self.blocks.len() - 1)
    }
}

impl ClipConfig {
    /// Of a text encoder's own `config.json`, or of a whole CLIP's.
    ///
    /// # Errors
    /// A key that is missing, an activation that is not supported.
    pub(super) fn from_json(json: &Json<'_>, projected: bool) -> Result<Self> {
        let part = json
            .value
            .get("text_config")
            .filter(|part| part.is_object());
        let text = Json {
            value: part.unwrap_or(json.value),
            file: json.file,
        };
        let activation = match text.value.get("hidden_act").and_then(Value::as_str) {
            None | Some("quick_gelu") => Activation::QuickGelu,
            Some("gelu") => Activation::Gelu,
            Some(other) => {
                return Err(input_error(format!(
                    "{}: `hidden_act` is {other}; quick_gelu and gelu are supported",
                    json.file
                )));
            }
        };
        let projection = json.value.get("projection_dim").and_then(Value::as_u64);
        let config = ClipConfig {
            vocab_size: text.size_or("vocab_size", 49408)?,
            width: text.size_or("hidden_size", 512)?,
            intermediate: text.size_or("intermediate_size", 2048)?,
            layers: text.size_or("num_hidden_layers", 12)?,
            heads: text.size_or("num_attention_heads", 8)?,
            positions: text.size_or("max_position_embeddings", 77)?,
            activation,
            eps: text.number_or("layer_norm_eps", 1e-5),
            projection: match projected {
                true => Some(json.sane("projection_dim", projection.or(Some(512)))?),
                false => None,
            },
        };
        if !config.width.is_multiple_of(config.heads) || config.layers > 256 {
            return Err(input_error(format!(
                "{}: {} features in {} layers do not divide into {} heads",
                json.file, config.width, config.layers, config.heads
            )));
        }
        Ok(config)
    }
}

impl VaeConfig {
    /// # Errors
    /// A key that is missing, a variant that is not supported.
    pub(super) fn from_json(json: &Json<'_>) -> Result<Self> {
        json.must_be("act_fn", &["silu", "swish"])?;
        for (key, kind) in [
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ] {
            if let Some(other) = json.texts(key)?.iter().find(|found| *found != kind) {
                return Err(input_error(format!(
                    "{}: a block of the type {other} is not supported",
                    json.file
                )));
            }
        }
        let config = VaeConfig {
            latent_channels: json.size_or("latent_channels", 4)?,
            blocks: json.sizes("block_out_channels")?,
            layers_per_block: json.size_or("layers_per_block", 1)?,
            groups: json.size_or("norm_num_groups", 32)?,
            scaling_factor: json.number_or("scaling_factor", 0.18215),
        };
        let divides = |channels: &usize| channels.is_multiple_of(config.groups);
        if config.layers_per_block > 16 || !config.blocks.iter().all(divides) {
            return Err(input_error(format!(
                "{}: channels {:?} do not divide into {} groups",
                json.file, config.blocks, config.groups
            )));
        }
        Ok(config)
    }
}

/// What a scheduler's `scheduler_config.json` says of training.
///
/// # Errors
/// A prediction or a schedule that is not supported.
pub(super) fn read_schedule(json: &Json<'_>) -> Result<(Prediction, NoiseSchedule)> {
    let prediction = match json.value.get("prediction_type").and_then(Value::as_str) {
        None | Some("epsilon") => Prediction::Epsilon,
        Some("v_prediction") => Prediction::V,
        Some(other) => {
            return Err(input_error(format!(
                "{}: `prediction_type` is {other}; epsilon and v_prediction are supported",
                json.file
            )));
        }
    };
    json.must_be("beta_schedule", &["linear", "scaled_linear"])?;
    let usual = NoiseSchedule::default();
    let scaled = json.value.get("beta_schedule").and_then(Value::as_str);
    let schedule = NoiseSchedule {
        train_steps: json.size_or("num_train_timesteps", usual.train_steps)?,
        beta_start: json.number_or("beta_start", usual.beta_start),
        beta_end: json.number_or("beta_end", usual.beta_end),
        scaled_linear: scaled != Some("linear"),
    };
    Ok((prediction, schedule))
}
