//! A CLIP text encoder: OpenAI's and OpenCLIP's, in transformers' names.

use std::sync::Arc;

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};

use super::config::ClipConfig;
use super::layers::{LayerNorm, Linear, Pass, Reader};
use super::modules::{Adaptable, Module, embedding, linear, norm};
use super::tensors::Tensors;
use crate::error::input_error;
use crate::ops::{self, FrozenWeight, Heads, Sight, Span, Tape, activate, attention, select_rows};

/// A frozen text encoder; all state of a pass is local to the call.
pub struct ClipText {
    pub(super) config: ClipConfig,
    pub(super) adaptable: Adaptable,
    device: Device,
    tokens: FrozenWeight,
    positions: FrozenWeight,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    projection: Option<Linear>,
}

struct Layer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
}

/// The tensors of a text encoder, in the order of use.
pub(super) fn modules(config: &ClipConfig) -> Vec<Module> {
    let width = config.width;
    let text = |part: &str| format!("text_model.{part}");
    let mut all = vec![
        embedding(
            &text("embeddings.token_embedding"),
            config.vocab_size,
            width,
        ),
        embedding(
            &text("embeddings.position_embedding"),
            config.positions,
            width,
        ),
    ];
    for layer in 0..config.layers {
        let part = |part: &str| text(&format!("encoder.layers.{layer}.{part}"));
        all.push(norm(&part("layer_norm1"), width));
        for leaf in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            all.push(linear(
                &part(&format!("self_attn.{leaf}")),
                width,
                width,
                true,
            ));
        }
        all.push(norm(&part("layer_norm2"), width));
        all.push(linear(&part("mlp.fc1"), width, config.intermediate, true));
        all.push(linear(&part("mlp.fc2"), config.intermediate, width, true));
    }
    all.push(norm(&text("final_layer_norm"), width));
    if let Some(outputs) = config.projection {
        all.push(linear("text_projection", width, outputs, false));
    }
    all
}

/// A tensor's name with the `text_model.` that some versions of transformers leave out.
pub(super) fn full_name(name: &str) -> String {
    let whole = ["text_model.", "text_projection.", "vision", "visual"];
    match whole.iter().any(|start| name.starts_with(start)) {
        true => name.to_owned(),
        false => format!("text_model.{name}"),
    }
}

impl ClipText {
    /// # Errors
    /// It does not fit on the device.
    pub(super) fn read(
        tensors: &Tensors,
        config: ClipConfig,
        component: &'static str,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let mut modules = modules(&config);
        // Adapters are of the layers, as in all trainers.
        modules.retain(|module| module.name != "text_projection");
        let adaptable = Adaptable::new(component, modules);
        let reader = Reader {
            tensors,
            component,
            device,
            dtype,
            adaptable: Some(&adaptable),
        };
        let layers = (0..config.layers).map(|layer| {
            let part = |part: &str| format!("text_model.encoder.layers.{layer}.{part}");
            let linear = |leaf: &str| reader.linear(&part(leaf));
            let norm = |leaf: &str| reader.layer_norm(&part(leaf), config.eps);
            Ok(Layer {
                norm1: norm("layer_norm1")?,
                q: linear("self_attn.q_proj")?,
                k: linear("self_attn.k_proj")?,
                v: linear("self_attn.v_proj")?,
                out: linear("self_attn.out_proj")?,
                norm2: norm("layer_norm2")?,
                up: linear("mlp.fc1")?,
                down: linear("mlp.fc2")?,
            })
        });
        Ok(ClipText {
            layers: layers.collect::<Result<_>>()?,
            tokens: reader.weight("text_model.embeddings.token_embedding")?,
            positions: reader.weight("text_model.embeddings.position_embedding")?,
            final_norm: reader.layer_norm("text_model.final_layer_norm", config.eps)?,
            projection: match config.projection {
                Some(_) => Some(reader.linear("text_projection")?),
                None => None,
            },
            device: device.clone(),
            adaptable,
            config,
        })
    }

    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// The text of each sequence of token ids as one row, at its end-of-text token, projected where
    /// the encoder has a projection: `[sequences, features]`, f32, not normalised.
    ///
    /// # Errors
    /// A sequence that is empty or too long, a token beyond the vocabulary; the device fails.
    pub fn pooled(&self, sequences: &[Vec<u32>]) -> Result<Tensor> {
        let tape = Tape::off();
        let pass = Pass {
            tape: &tape,
            terms: None,
            images: sequences.len(),
        };
        let (_, last) = self.states(pass, sequences, 0)?;
        let every: Vec<usize> = (0..sequences.len()).collect();
        Ok(self
            .pool(pass, &last, sequences, &every)?
            .to_dtype(DType::F32)?)
    }

    /// Hidden states after all layers but the last `skip`, and after all, `[tokens, width]` each.
    pub(super) fn states(
        &self,
        pass: Pass<'_>,
        sequences: &[Vec<u32>],
        skip: usize,
    ) -> Result<(Tensor, Tensor)> {
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        if sequences.iter().any(Vec::is_empty) || longest > self.config.positions {
            bail!(
                "a text encoder of {} positions got sequences of up to {longest} tokens",
                self.config.positions
            );
        }
        if skip > self.config.layers {
            return Err(input_error(format!(
                "clip_skip leaves out {skip} layers of a text encoder of {}",
                self.config.layers
            )));
        }
        let (mut ids, mut positions, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            let range = ids.len()..ids.len() + sequence.len();
            ids.extend_from_slice(sequence);
            positions.extend(0..sequence.len() as u32);
            spans.push(Span {
                queries: range.clone(),
                keys: range,
            });
        }
        let spans = Arc::new(spans);
        let tokens = ops::embedding(&ids, &self.tokens, &self.device)
            .map_err(|e| input_error(format!("{e}; the tokenizer is another model's")))?;
        let mut x = (tokens + ops::embedding(&positions, &self.positions, &self.device)?)?;
        let heads = Heads {
            queries: self.config.heads,
            keys: self.config.heads,
            size: self.config.width / self.config.heads,
        };
        let mut skipped = None;
        for (index, layer) in self.layers.iter().enumerate() {
            if index + skip == self.layers.len() {
                skipped = Some(x.clone());
            }
            x = layer.forward(pass, &x, &spans, heads, self.config.activation)?;
        }
        Ok((skipped.unwrap_or_else(|| x.clone()), x))
    }

    /// The last norm, of hidden states.
    pub(super) fn normed(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        self.final_norm.forward(tape, x)
    }

    /// The rows at the end-of-text tokens of the `chosen` sequences (rising), normed and projected.
    pub(super) fn pool(
        &self,
        pass: Pass<'_>,
        last: &Tensor,
        sequences: &[Vec<u32>],
        chosen: &[usize],
    ) -> Result<Tensor> {
        let mut starts = vec![0];
        for sequence in sequences {
            starts.push(starts[starts.len() - 1] + sequence.len());
        }
        let rows: Vec<u32> = chosen
            .iter()
            .map(|&index| (starts[index] + end_of_text(&sequences[index])) as u32)
            .collect();
        let ends = select_rows(pass.tape, last, &rows)?;
        let normed = self.normed(pass.tape, &ends)?;
        match &self.projection {
            Some(projection) => projection.forward(pass, &normed, None),
            None => Ok(normed),
        }
    }
}

/// Where a sequence's text ends: at its first end-of-text token, which has the vocabulary's highest
/// id.
pub(super) fn end_of_text(sequence: &[u32]) -> usize {
    let highest = sequence.iter().max();
    let first = sequence.iter().position(|id| Some(id) == highest);
    first.unwrap_or(0)
}

impl Layer {
    fn forward(
        &self,
        pass: Pass<'_>,
        x: &Tensor,
        spans: &Arc<Vec<Span>>,
        heads: Heads,
        activation: ops::Activation,
    ) -> Result<Tensor> {
        let tape = pass.tape;
        let normed = self.norm1.forward(tape, x)?;
        let q = self.q.forward(pass, &normed, None)?;
        let k = self.k.forward(pass, &normed, None)?;
        let v = self.v.forward(pass, &normed, None)?;
        let causal = Sight::Causal { window: None };
        let attended = attention(tape, &q, &k, &v, spans, heads, causal)?;
        let x = self.out.forward(pass, &attended, Some(x))?;
        let normed = self.norm2.forward(tape, &x)?;
        let up = self.up.forward(pass, &normed, None)?;
        let up = activate(tape, &up, activation)?;
        self.down.forward(pass, &up, Some(&x))
    }
}
