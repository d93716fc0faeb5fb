//! The text encoders of a base: what the UNet reads of captions.

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};

use super::adapters::{TEXT_ENCODERS, Terms};
use super::clip::{ClipText, end_of_text};
use super::config::Kind;
use super::layers::Pass;
use super::source::Source;
use super::train::TextGradients;
use crate::model::{Active, DropoutKey};
use crate::ops::{Gradients, Tape, join_channels};

/// Encoded texts, one image's after another's.
#[derive(Clone, Debug)]
pub struct TextCondition {
    /// `[sum of lengths, features]`.
    pub context: Tensor,
    /// Tokens of each image's text.
    pub lengths: Vec<usize>,
    /// SDXL: `[images, features]`.
    pub pooled: Option<Tensor>,
}

impl TextCondition {
    /// Images one after another.
    ///
    /// # Errors
    /// None, or texts of other bases; the device fails.
    pub fn cat(parts: &[TextCondition]) -> Result<Self> {
        let contexts: Vec<&Tensor> = parts.iter().map(|part| &part.context).collect();
        let pooled: Vec<&Tensor> = parts.iter().filter_map(|p| p.pooled.as_ref()).collect();
        if pooled.len() != parts.len() && !pooled.is_empty() {
            bail!("texts with and without pooled features cannot be joined");
        }
        Ok(TextCondition {
            context: Tensor::cat(&contexts, 0)?,
            lengths: parts.iter().flat_map(|p| p.lengths.clone()).collect(),
            pooled: match pooled.is_empty() {
                true => None,
                false => Some(Tensor::cat(&pooled, 0)?),
            },
        })
    }
}

/// One text encoder, or SDXL's two.
pub struct TextEncoders {
    kind: Kind,
    encoders: Vec<ClipText>,
}

impl TextEncoders {
    pub(super) fn read(source: &Source, device: &Device, dtype: DType) -> Result<Self> {
        let description = source.description();
        let configs = description.text.iter().zip(TEXT_ENCODERS);
        let encoders = configs.map(|(config, component)| {
            ClipText::read(source.tensors(), config.clone(), component, device, dtype)
        });
        Ok(TextEncoders {
            kind: description.kind,
            encoders: encoders.collect::<Result<_>>()?,
        })
    }

    /// Encodes captions, each the chunks of token ids that [`super::ClipTokenizer::chunks`] makes of
    /// it; a caption's chunks follow one another in its context. `clip_skip` as kohya counts: 0 for
    /// the base's own, 1 for the last layer, 2 for the one before it, ... ; SDXL reads the layer
    /// before the last, or an earlier one.
    ///
    /// # Errors
    /// A caption without chunks, a token beyond the vocabulary, an adapter of another base; the
    /// device fails.
    pub fn encode(
        &self,
        captions: &[Vec<Vec<u32>>],
        clip_skip: usize,
        adapters: &[Active<'_>],
    ) -> Result<TextCondition> {
        self.encode_dropped(captions, clip_skip, adapters, None)
    }

    /// As [`TextEncoders::encode`], with the adapters' dropout.
    pub(super) fn encode_dropped(
        &self,
        captions: &[Vec<Vec<u32>>],
        clip_skip: usize,
        adapters: &[Active<'_>],
        dropout: Option<DropoutKey>,
    ) -> Result<TextCondition> {
        let terms = self.terms(adapters, dropout)?;
        let text = self.pass(&Tape::off(), captions, clip_skip, &terms)?;
        Ok(TextCondition {
            context: text.context.to_dtype(DType::F32)?,
            pooled: match text.pooled {
                Some(pooled) => Some(pooled.to_dtype(DType::F32)?),
                None => None,
            },
            ..text
        })
    }

    /// The gradients of the `wanted` tensors, given those of what [`TextEncoders::encode_dropped`]
    /// gives.
    pub(super) fn gradients(
        &self,
        captions: &[Vec<Vec<u32>>],
        clip_skip: usize,
        adapters: &[Active<'_>],
        dropout: Option<DropoutKey>,
        wanted: &[&Tensor],
        of: TextGradients,
    ) -> Result<Gradients> {
        let terms = self.terms(adapters, dropout)?;
        let tape = Tape::recording();
        for tensor in wanted {
            tape.want(tensor);
        }
        let text = self.pass(&tape, captions, clip_skip, &terms)?;
        let mut results = Vec::new();
        for (result, gradient) in [
            (Some(&text.context), of.context),
            (text.pooled.as_ref(), of.pooled),
        ] {
            if let (Some(result), Some(gradient)) = (result, gradient) {
                let gradient = gradient.to_device(result.device())?;
                results.push((result, gradient.to_dtype(result.dtype())?));
            }
        }
        Ok(tape.pull_all(results)?)
    }

    fn terms(&self, adapters: &[Active<'_>], dropout: Option<DropoutKey>) -> Result<Vec<Terms>> {
        let terms = |encoder: &ClipText| Terms::of(&encoder.adaptable, adapters, dropout);
        self.encoders.iter().map(terms).collect()
    }

    fn pass(
        &self,
        tape: &Tape,
        captions: &[Vec<Vec<u32>>],
        clip_skip: usize,
        terms: &[Terms],
    ) -> Result<TextCondition> {
        if captions.iter().any(Vec::is_empty) {
            bail!("a caption has no chunk of tokens");
        }
        let sdxl = self.kind == Kind::Sdxl;
        let skip = clip_skip.max(if sdxl { 2 } else { 1 }) - 1;
        let (mut context, mut pooled): (Option<Tensor>, _) = (None, None);
        for (index, (encoder, terms)) in self.encoders.iter().zip(terms).enumerate() {
            let pass = Pass {
                tape,
                terms: Some(terms),
                images: captions.len(),
            };
            let zeros = self.kind == Kind::Sd2 || index == 1;
            let sequences: Vec<Vec<u32>> = captions
                .iter()
                .flatten()
                .map(|chunk| {
                    if zeros {
                        padded_with_zeros(chunk)
                    } else {
                        chunk.clone()
                    }
                })
                .collect();
            let (states, last) = encoder.states(pass, &sequences, skip)?;
            let states = match sdxl {
                true => states,
                false => encoder.normed(tape, &states)?,
            };
            if index == 1 {
                // Of a long caption the first chunk, as kohya does.
                let mut first = Vec::new();
                let mut chunks = 0;
                for caption in captions {
                    first.push(chunks);
                    chunks += caption.len();
                }
                pooled = Some(encoder.pool(pass, &last, &sequences, &first)?);
            }
            context = Some(match context {
                Some(before) => join_channels(tape, &before, &states)?,
                None => states,
            });
        }
        let Some(context) = context else {
            bail!("a base without a text encoder");
        };
        let length = |caption: &Vec<Vec<u32>>| caption.iter().map(Vec::len).sum();
        Ok(TextCondition {
            context,
            lengths: captions.iter().map(length).collect(),
            pooled,
        })
    }
}

/// What OpenCLIP's tokenizer puts behind the end of a text.
fn padded_with_zeros(chunk: &[u32]) -> Vec<u32> {
    let end = end_of_text(chunk);
    let id = |(at, &id): (usize, &u32)| if at > end { 0 } else { id };
    chunk.iter().enumerate().map(id).collect()
}
