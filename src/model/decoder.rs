//! The decoder: forward passes, and training passes block by block.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, TensorId};

use super::batch::{Packed, TokenBatch};
use super::block::{Block, BlockTerms, Goal, Pass, no_terms};
use super::cache::{KvCache, LayerCache};
use super::config::DecoderConfig;
use super::lora::{Active, LoraSet, Parameter};
use super::source::Source;
use crate::error::input_error;
use crate::ops::{
    DoraTerm, Dropout, FrozenWeight, Heads, LoraTerm, LossSum, RopeTable, Tape, Variable,
    adapted_row_norms, cross_entropy, embedding, emulating, frozen_linear, rms_norm, select_rows,
};

/// Key of a micro-batch's dropout masks: equal keys give equal masks.
#[derive(Clone, Copy, Debug)]
pub struct DropoutKey {
    pub seed: u64,
    pub step: u64,
    pub micro_batch: u32,
    /// Tokens computed of the micro-batch before these: its masks do not depend on the pieces it is
    /// computed in.
    pub tokens_before: u64,
}

/// What a training pass gives: sums, so that micro-batches add up to the full batch.
pub struct LossAndGradients {
    /// Sum over trained tokens of the negative log-likelihood.
    pub loss_sum: LossSum,
    pub trained_tokens: u64,
    /// Tokens that were computed: those behind a row's last trained one are not.
    pub computed_tokens: u64,
    /// Gradients of `loss_sum` for every parameter of the set, in its order, f32.
    pub gradients: Vec<Tensor>,
}

/// Frozen decoder; all state of a pass is local to the call.
pub struct Decoder {
    config: DecoderConfig,
    device: Device,
    dtype: DType,
    embedding: FrozenWeight,
    blocks: Vec<Block>,
    norm: Tensor,
    head: FrozenWeight,
    /// Module -> (layer, index into [`DecoderConfig::block_linears`]).
    modules: BTreeMap<String, (usize, usize)>,
}

impl Decoder {
    pub(super) fn new(source: &Source, device: &Device, dtype: DType) -> Result<Self> {
        if matches!(device, Device::Cpu) && dtype != DType::F32 && !emulating() {
            return Err(input_error(
                "on the CPU loradeck computes in f32; set `precision: f32` or leave it out",
            ));
        }
        let config = source.config.clone();
        let linears = config.block_linears();
        let mut blocks = Vec::new();
        let mut modules = BTreeMap::new();
        for layer in 0..config.layers {
            blocks.push(Block::read(source, layer, device, dtype)?);
            for (kind, linear) in linears.iter().enumerate() {
                let name = format!("model.layers.{layer}.{}", linear.name);
                modules.insert(name, (layer, kind));
            }
        }
        let embedding = source.frozen("model.embed_tokens.weight", device, dtype)?;
        let head = match config.tie_word_embeddings {
            true => embedding.clone(),
            false => source.frozen("lm_head.weight", device, dtype)?,
        };
        Ok(Decoder {
            norm: source.vector("model.norm.weight", device)?,
            device: device.clone(),
            dtype,
            embedding,
            blocks,
            head,
            modules,
            config,
        })
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Logits `[B, T, V]` f32 of whole sequences; T is the longest row's length, and what lies
    /// after the end of a shorter one is 0.
    ///
    /// # Errors
    /// A token beyond the vocabulary, a row beyond the base's context, an adapter of another base;
    /// the device fails.
    pub fn logits(&self, input_ids: &[Vec<u32>], adapters: &[Active<'_>]) -> Result<Tensor> {
        let packed = Packed::whole(input_ids);
        let hidden = self.hidden(&packed, adapters, |_| ())?;
        let tape = Tape::off();
        let hidden = rms_norm(&tape, &hidden, &self.norm, self.config.rms_norm_eps)?;
        let logits = frozen_linear(&tape, &hidden, &self.head)?.to_dtype(DType::F32)?;
        packed.rows(&logits)
    }

    /// Hidden states `[B, T, hidden]` of whole sequences: the embeddings, then what each block
    /// gives, before the last norm. Rows as in [`Decoder::logits`].
    ///
    /// # Errors
    /// As [`Decoder::logits`].
    pub fn hidden_states(
        &self,
        input_ids: &[Vec<u32>],
        adapters: &[Active<'_>],
    ) -> Result<Vec<Tensor>> {
        let packed = Packed::whole(input_ids);
        let mut all = Vec::new();
        self.hidden(&packed, adapters, |x| all.push(x.clone()))?;
        all.iter().map(|x| packed.rows(x)).collect()
    }

    /// Sum of losses and number of trained tokens; logits are never whole in memory.
    ///
    /// # Errors
    /// As [`Decoder::logits`].
    pub fn loss(&self, batch: &TokenBatch, adapters: &[Active<'_>]) -> Result<(LossSum, u64)> {
        let packed = Packed::trained(batch)?;
        if packed.targets.is_empty() {
            return Ok((LossSum::default(), 0));
        }
        let hidden = self.hidden(&packed, adapters, |_| ())?;
        let (loss, _) = self.head_loss(&hidden, &packed, false)?;
        Ok((loss, packed.targets.len() as u64))
    }

    /// Forward and backward. With `recompute` only block inputs are kept between the two.
    ///
    /// # Errors
    /// As [`Decoder::logits`].
    pub fn loss_and_gradients(
        &self,
        batch: &TokenBatch,
        set: &LoraSet,
        dropout: Option<DropoutKey>,
        recompute: bool,
    ) -> Result<LossAndGradients> {
        let packed = Packed::trained(batch)?;
        let adapters = [Active { set, strength: 1.0 }];
        let terms = self.terms(&adapters, dropout)?;
        let first_adapted = terms.iter().position(|t| t.iter().any(|t| !t.is_empty()));
        let (Some(first_adapted), false) = (first_adapted, packed.targets.is_empty()) else {
            let (loss_sum, trained_tokens) = self.loss(batch, &adapters)?;
            return Ok(LossAndGradients {
                loss_sum,
                trained_tokens,
                computed_tokens: packed.ids.len() as u64,
                gradients: zero_gradients(set)?,
            });
        };
        let pass = self.pass(&packed, 0)?;
        let mut x = self.embed(&packed.ids)?;
        let parameters = set.parameters();
        let of_layer = self.parameters_by_layer(set, &parameters);
        // The tape of a block's pass: gradients are wanted of its parameters and, above the first
        // adapted block, of its input.
        let start = |layer: usize, input: &Tensor| {
            let tape = Tape::recording();
            for &index in &of_layer[layer] {
                tape.want(parameters[index].var);
            }
            if layer > first_adapted {
                tape.want(input);
            }
            tape
        };
        // What the backward starts each block from: its input and, without recomputation, its
        // output and the tape in between.
        let mut kept: Vec<(Tensor, Option<(Tape, Tensor)>)> = Vec::new();
        for (layer, (block, terms)) in self.blocks.iter().zip(&terms).enumerate() {
            let tape = match layer < first_adapted || recompute {
                true => Tape::off(),
                false => start(layer, &x),
            };
            let y = block.forward(&tape, &x, terms, &pass, None, Goal::Output)?;
            if layer >= first_adapted {
                kept.push((x, (!recompute).then(|| (tape, y.clone()))));
            }
            x = y;
        }
        let (loss_sum, d_hidden) = self.head_loss(&x, &packed, true)?;
        drop(x);
        let mut dx = d_hidden.context("the head gave no gradient")?;
        let mut gradients: Vec<Option<Tensor>> = vec![None; parameters.len()];
        for layer in (first_adapted..self.blocks.len()).rev() {
            let (input, done) = kept.pop().context("a block's input is missing")?;
            let (tape, output) = match done {
                Some(done) => done,
                None => {
                    let (tape, terms) = (start(layer, &input), &terms[layer]);
                    let replay = Goal::Replay;
                    let output =
                        self.blocks[layer].forward(&tape, &input, terms, &pass, None, replay)?;
                    (tape, output)
                }
            };
            let mut found = tape.pull(&output, dx)?;
            for &index in &of_layer[layer] {
                let parameter = &parameters[index];
                let gradient = found
                    .take(parameter.var)
                    .with_context(|| format!("no gradient reached {}", parameter.module))?;
                // What layers share gets a gradient from each.
                gradients[index] = Some(match gradients[index].take() {
                    Some(sum) => (sum + gradient)?,
                    None => gradient,
                });
            }
            if layer == first_adapted {
                break;
            }
            dx = found
                .take(&input)
                .context("no gradient reached a block's input")?;
        }
        let gradients = gradients.into_iter().collect::<Option<_>>();
        Ok(LossAndGradients {
            loss_sum,
            trained_tokens: packed.targets.len() as u64,
            computed_tokens: packed.ids.len() as u64,
            gradients: gradients.context("an adapter got no gradient")?,
        })
    }

    /// The parameters of each layer's adapters, as indices into `parameters`.
    fn parameters_by_layer(
        &self,
        set: &LoraSet,
        parameters: &[Parameter<'_>],
    ) -> Vec<BTreeSet<usize>> {
        let indices: HashMap<TensorId, usize> = parameters
            .iter()
            .enumerate()
            .map(|(index, parameter)| (parameter.var.id(), index))
            .collect();
        let mut of_layer = vec![BTreeSet::new(); self.blocks.len()];
        for pair in &set.pairs {
            if let Some(&(layer, _)) = self.modules.get(&pair.module) {
                of_layer[layer].extend(pair.parts().map(|(_, var)| indices[&var.id()]));
            }
        }
        of_layer
    }

    /// Gives every module of a DoRA adapter the magnitude that changes nothing: the norm of each
    /// row of the weight as adapted so far, as PEFT does.
    ///
    /// # Errors
    /// An adapter of another base; the device fails.
    pub fn add_magnitudes(&self, set: &mut LoraSet) -> Result<()> {
        self.check_modules(set)?;
        for pair in &mut set.pairs {
            let (layer, kind) = self.modules[&pair.module];
            let weight = self.blocks[layer].weight(kind);
            let norms = adapted_row_norms(weight, &pair.a, &pair.b, pair.scale)?;
            pair.magnitude = Some(Variable::from_tensor(&norms)?);
        }
        Ok(())
    }

    /// A fresh key/value cache for step-by-step generation of one sequence with these adapters.
    ///
    /// # Errors
    /// An adapter of another base; the device fails.
    pub fn cache(&self, adapters: &[Active<'_>]) -> Result<KvCache> {
        let terms = self.terms(adapters, None)?;
        Ok(KvCache {
            layers: terms
                .into_iter()
                .map(|terms| (terms, LayerCache::default()))
                .collect(),
            len: 0,
        })
    }

    /// Feeds `ids` after what the cache holds; logits `[V]` f32 after the last of them.
    ///
    /// # Errors
    /// No ids, a token beyond the vocabulary; the device fails.
    pub fn next_logits(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        if ids.is_empty() {
            return Err(input_error(
                "there is nothing to continue: the prompt is empty",
            ));
        }
        let packed = Packed::continued(ids, cache.len);
        let pass = self.pass(&packed, cache.len)?;
        let tape = Tape::off();
        let mut x = self.embed(ids)?;
        for (block, (terms, cache)) in self.blocks.iter().zip(&mut cache.layers) {
            x = block.forward(&tape, &x, terms, &pass, Some(cache), Goal::Output)?;
        }
        cache.len += ids.len();
        let last = x.narrow(0, ids.len() - 1, 1)?;
        let last = rms_norm(&tape, &last, &self.norm, self.config.rms_norm_eps)?;
        Ok(frozen_linear(&tape, &last, &self.head)?
            .to_dtype(DType::F32)?
            .squeeze(0)?)
    }

    /// Hidden states after the last block, without a graph; `seen` gets those before every block
    /// as well.
    fn hidden(
        &self,
        packed: &Packed,
        adapters: &[Active<'_>],
        mut seen: impl FnMut(&Tensor),
    ) -> Result<Tensor> {
        let terms = self.terms(adapters, None)?;
        let pass = self.pass(packed, 0)?;
        let tape = Tape::off();
        let mut x = self.embed(&packed.ids)?;
        seen(&x);
        for (block, terms) in self.blocks.iter().zip(&terms) {
            x = block.forward(&tape, &x, terms, &pass, None, Goal::Output)?;
            seen(&x);
        }
        Ok(x)
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        Ok(embedding(ids, &self.embedding, &self.device)
            .map_err(|e| input_error(format!("{e}; the data and the base do not belong together")))?
            .to_dtype(self.dtype)?)
    }

    /// The loss after the last block, and its gradient with respect to `hidden`.
    fn head_loss(
        &self,
        hidden: &Tensor,
        packed: &Packed,
        gradient: bool,
    ) -> Result<(LossSum, Option<Tensor>)> {
        let tape = match gradient {
            true => Tape::recording(),
            false => Tape::off(),
        };
        tape.want(hidden);
        // Only tokens with a target cost a row of logits.
        let chosen = select_rows(&tape, hidden, &packed.trained)?;
        let normed = rms_norm(&tape, &chosen, &self.norm, self.config.rms_norm_eps)?;
        let (loss, d_normed) = cross_entropy(&normed, &self.head, &packed.targets, gradient)?;
        let d_hidden = match d_normed {
            Some(d_normed) => tape.pull(&normed, d_normed)?.take(hidden),
            None => None,
        };
        Ok((loss, d_hidden))
    }

    fn pass(&self, packed: &Packed, cached: usize) -> Result<Pass> {
        let longest = packed.spans.iter().map(|s| s.keys.len()).max().unwrap_or(0);
        let context = self.config.max_position_embeddings;
        // A generation may go on beyond the context, worse and worse; training may not.
        if longest > context && cached == 0 {
            return Err(input_error(format!(
                "a sequence of {longest} tokens is longer than the base's context of {context}; \
                 lower sequence_len"
            )));
        }
        let rotation = self.config.rotation(longest);
        Ok(Pass {
            table: RopeTable::new(
                &packed.positions,
                &rotation.frequencies,
                rotation.factor,
                self.config.head_dim,
                &self.device,
            )?,
            spans: Arc::new(packed.spans.clone()),
            heads: Heads {
                queries: self.config.heads,
                keys: self.config.kv_heads,
                size: self.config.head_dim,
            },
            eps: self.config.rms_norm_eps,
        })
    }

    /// Whether the adapter's modules are this base's, in names and shapes.
    fn check_modules(&self, set: &LoraSet) -> Result<()> {
        let linears = self.config.block_linears();
        for pair in &set.pairs {
            let Some(&(_, kind)) = self.modules.get(&pair.module) else {
                return Err(input_error(format!(
                    "the adapter is of another base: this one has no module {}",
                    pair.module
                )));
            };
            let (inputs, outputs) = (linears[kind].inputs, linears[kind].outputs);
            let magnitude = pair.magnitude.as_ref();
            if pair.a.dims()[1..] != [inputs]
                || pair.b.dims()[..1] != [outputs]
                || magnitude.is_some_and(|m| m.dims() != [outputs])
            {
                return Err(input_error(format!(
                    "the adapter is of another base: its {} is {:?} and {:?}, this base's has \
                     {inputs} inputs and {outputs} outputs",
                    pair.module,
                    pair.a.dims(),
                    pair.b.dims()
                )));
            }
        }
        Ok(())
    }

    /// The adapters of every block's linears.
    fn terms(
        &self,
        adapters: &[Active<'_>],
        dropout: Option<DropoutKey>,
    ) -> Result<Vec<BlockTerms>> {
        let linears = self.config.block_linears();
        let mut terms = vec![no_terms(&self.config); self.blocks.len()];
        for active in adapters {
            let probability = active.set.spec.dropout;
            self.check_modules(active.set)?;
            for pair in &active.set.pairs {
                let (layer, kind) = self.modules[&pair.module];
                let tensor = |var: &Variable| var.as_tensor().clone();
                let dropout = dropout.filter(|_| probability > 0.0).map(|key| Dropout {
                    seed: key.seed,
                    step: key.step,
                    item: (key.micro_batch << 12) ^ (layer * linears.len() + kind) as u32,
                    before: key.tokens_before * linears[kind].inputs as u64,
                    probability,
                });
                let dora = pair.magnitude.as_ref().map(|magnitude| {
                    let weight = self.blocks[layer].weight(kind);
                    Ok::<_, candle_core::Error>(DoraTerm {
                        magnitude: tensor(magnitude),
                        norms: adapted_row_norms(weight, &pair.a, &pair.b, pair.scale)?,
                    })
                });
                terms[layer][kind].push(LoraTerm {
                    a: tensor(&pair.a),
                    b: tensor(&pair.b),
                    scale: pair.scale,
                    strength: active.strength,
                    dropout,
                    dora: dora.transpose()?,
                });
            }
        }
        Ok(terms)
    }
}

fn zero_gradients(set: &LoraSet) -> Result<Vec<Tensor>> {
    let zeros = |p: Parameter<'_>| Ok(p.var.zeros_like()?);
    set.parameters().into_iter().map(zeros).collect()
}

#[cfg(test)]
mod tests;
