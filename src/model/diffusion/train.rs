//! Training passes through the UNet and, where it is trained too, the text encoder: step by step,
//! with the gradients of skips, timestep and text carried along.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};
use candle_core::{DType, Tensor, TensorId};

use super::adapters::{TEXT_ENCODERS, Terms};
use super::layers::Pass;
use super::text::{TextCondition, TextEncoders};
use super::unet::{Shared, UNet, UNetInput};
use crate::model::{Active, DropoutKey, LoraSet, Parameter};
use crate::ops::{Grid, LossSum, Tape};

/// Where the text of a training pass comes from.
pub enum Text<'a> {
    /// Encoded before: the text encoder is not trained.
    Encoded(&'a TextCondition),
    /// The chunks of each image's caption, for text encoders that are trained too.
    Trained {
        encoders: &'a TextEncoders,
        captions: &'a [Vec<Vec<u32>>],
        /// As in [`TextEncoders::encode`].
        clip_skip: usize,
    },
}

/// What a training pass gives.
pub struct ImagePass {
    pub loss: LossSum,
    /// Of the loss for every parameter of the set, in its order, f32.
    pub gradients: Vec<Tensor>,
}

/// What the backward of a step starts from.
struct Kept {
    input: Tensor,
    taken: Option<Tensor>,
    grid: Grid,
    /// Without recomputation: the step's tape and output.
    done: Option<(Tape, Tensor)>,
}

/// Gradients that reach parameters, by their index.
struct Found(Vec<Option<Tensor>>);

impl Found {
    fn add(&mut self, index: usize, gradient: Tensor) -> Result<()> {
        add(&mut self.0[index], gradient)
    }
}

fn add(sum: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + gradient)?,
        None => gradient,
    });
    Ok(())
}

impl UNet {
    /// Forward and backward. `loss` gets the prediction, `[grid.rows(), channels]` f32, and returns
    /// the loss and its gradient with respect to the prediction. With `recompute` only the inputs of
    /// steps are kept between the two passes.
    ///
    /// # Errors
    /// As [`UNet::forward`], and those of `loss`.
    pub fn loss_and_gradients(
        &self,
        input: &UNetInput<'_>,
        text: Text<'_>,
        set: &LoraSet,
        dropout: Option<DropoutKey>,
        recompute: bool,
        loss: impl FnOnce(&Tensor) -> Result<(LossSum, Tensor)>,
    ) -> Result<ImagePass> {
        let parameters = set.parameters();
        let mut found = Found(vec![None; parameters.len()]);
        let adapters = [Active { set, strength: 1.0 }];
        let condition = match &text {
            Text::Encoded(condition) => (*condition).clone(),
            Text::Trained {
                encoders,
                captions,
                clip_skip,
            } => encoders.encode_dropped(captions, *clip_skip, &adapters, dropout)?,
        };
        let trained = matches!(text, Text::Trained { .. })
            && set.pairs.iter().any(|pair| {
                TEXT_ENCODERS
                    .iter()
                    .any(|name| pair.module.starts_with(name))
            });
        self.check(input, &condition)?;
        let terms = Terms::of(&self.adaptable, &adapters, dropout)?;
        let backward = Backward {
            unet: self,
            input,
            terms: &terms,
            parameters: &parameters,
            of_step: self.parameters_by_step(set, &parameters),
            trained,
        };
        let (loss, d_text) = backward.run(&condition, recompute, loss, &mut found)?;
        if let (
            true,
            Text::Trained {
                encoders,
                captions,
                clip_skip,
            },
        ) = (trained, text)
        {
            let wanted: Vec<&Tensor> = set
                .pairs
                .iter()
                .filter(|pair| !pair.module.starts_with(super::adapters::UNET))
                .flat_map(|pair| pair.parts().map(|(_, var)| var.as_tensor()))
                .collect();
            let mut gradients =
                encoders.gradients(captions, clip_skip, &adapters, dropout, &wanted, d_text)?;
            for (index, parameter) in parameters.iter().enumerate() {
                if let Some(gradient) = gradients.take(parameter.var) {
                    found.add(index, gradient)?;
                }
            }
        }
        // What the loss does not depend on (SDXL reads no last layer of its first text encoder).
        let gradients = found.0.into_iter().zip(&parameters);
        let gradients = gradients.map(|(gradient, parameter)| match gradient {
            Some(gradient) => Ok(gradient),
            None => Ok(parameter.var.zeros_like()?),
        });
        Ok(ImagePass {
            loss,
            gradients: gradients.collect::<Result<_>>()?,
        })
    }

    /// The parameters of each step's adapters, as indices into `parameters`; last those of the
    /// embedding of the timestep.
    fn parameters_by_step(
        &self,
        set: &LoraSet,
        parameters: &[Parameter<'_>],
    ) -> Vec<BTreeSet<usize>> {
        let indices: HashMap<TensorId, usize> = parameters
            .iter()
            .enumerate()
            .map(|(index, parameter)| (parameter.var.id(), index))
            .collect();
        let mut steps = BTreeMap::new();
        for (index, (step, _)) in self.steps.iter().enumerate() {
            for module in super::plan::step_modules(&self.config, step) {
                steps.insert(module.name, index);
            }
        }
        let mut of_step = vec![BTreeSet::new(); self.steps.len() + 1];
        for pair in &set.pairs {
            if let Some(name) = pair.module.strip_prefix(super::adapters::UNET) {
                let step = steps.get(name).copied().unwrap_or(self.steps.len());
                let of = pair.parts().map(|(_, var)| indices[&var.id()]);
                of_step[step].extend(of);
            }
        }
        of_step
    }
}

/// Gradients of what the text encoders gave.
#[derive(Default)]
pub(super) struct TextGradients {
    pub context: Option<Tensor>,
    pub pooled: Option<Tensor>,
}

struct Backward<'a> {
    unet: &'a UNet,
    input: &'a UNetInput<'a>,
    terms: &'a Terms,
    parameters: &'a [Parameter<'a>],
    of_step: Vec<BTreeSet<usize>>,
    /// Whether gradients must reach the text.
    trained: bool,
}

impl<'a> Backward<'a> {
    fn pass<'b>(&'b self, tape: &'b Tape) -> Pass<'b> {
        Pass {
            tape,
            terms: Some(self.terms),
            images: self.input.grid.images,
        }
    }

    fn want_parameters(&self, tape: &Tape, step: usize) {
        for &index in &self.of_step[step] {
            tape.want(self.parameters[index].var);
        }
    }

    fn take_parameters(
        &self,
        gradients: &mut crate::ops::Gradients,
        step: usize,
        found: &mut Found,
    ) -> Result<()> {
        for &index in &self.of_step[step] {
            let parameter = &self.parameters[index];
            let gradient = gradients
                .take(parameter.var)
                .with_context(|| format!("no gradient reached {}", parameter.module))?;
            found.add(index, gradient)?;
        }
        Ok(())
    }

    fn run(
        &self,
        text: &TextCondition,
        recompute: bool,
        loss: impl FnOnce(&Tensor) -> Result<(LossSum, Tensor)>,
        found: &mut Found,
    ) -> Result<(LossSum, TextGradients)> {
        let unet = self.unet;
        let steps = &unet.steps;
        let wants_context = self.trained;
        let wants_pooled = self.trained && text.pooled.is_some();
        let wants_time = wants_pooled || !self.of_step[steps.len()].is_empty();
        // The first step with anything to learn of.
        let learns = |index: usize| {
            let (time, context) = steps[index].1.reads();
            !self.of_step[index].is_empty() || wants_time && time || wants_context && context
        };
        let first = (0..steps.len()).find(|&index| learns(index));
        let first = first.unwrap_or(steps.len());
        let time_tape = match wants_time {
            true => Tape::recording(),
            false => Tape::off(),
        };
        self.want_parameters(&time_tape, steps.len());
        let pooled = match &text.pooled {
            Some(pooled) => Some(pooled.to_device(&unet.device)?.to_dtype(unet.dtype)?),
            None => None,
        };
        if let (true, Some(pooled)) = (wants_pooled, &pooled) {
            time_tape.want(pooled);
        }
        let time = unet.embed_time(self.pass(&time_tape), self.input, pooled.as_ref())?;
        let context = text.context.to_device(&unet.device)?.to_dtype(unet.dtype)?;
        let shared = Shared {
            time: &time,
            context: &context,
            lengths: &text.lengths,
        };
        // The tape of a step: value 0 is the input, value i + 1 what step i gave.
        let start = |index: usize, input: &Tensor, taken: Option<(usize, &Tensor)>| {
            let tape = Tape::recording();
            self.want_parameters(&tape, index);
            if index > first {
                tape.want(input);
            }
            if let Some((value, taken)) = taken
                && value > first
            {
                tape.want(taken);
            }
            if wants_time {
                tape.want(&time);
            }
            if wants_context {
                tape.want(&context);
            }
            tape
        };
        let mut x = unet.input(self.input)?;
        let mut grid = self.input.grid;
        let mut stack: Vec<(usize, Tensor)> = Vec::new();
        // Which value each step took.
        let mut took = Vec::new();
        let mut kept = Vec::new();
        for (index, (step, layers)) in steps.iter().enumerate() {
            if step.keeps_input {
                stack.push((index, x.clone()));
            }
            let taken = if step.takes { stack.pop() } else { None };
            let of_stack = taken.as_ref().map(|(value, tensor)| (*value, tensor));
            let tape = match index < first || recompute {
                true => Tape::off(),
                false => start(index, &x, of_stack),
            };
            let taken_tensor = taken.as_ref().map(|(_, tensor)| tensor);
            let (y, y_grid) = layers.forward(self.pass(&tape), &x, taken_tensor, grid, &shared)?;
            took.push(taken.as_ref().map(|(value, _)| *value));
            if index >= first {
                kept.push(Kept {
                    input: x,
                    taken: taken.map(|(_, tensor)| tensor),
                    grid,
                    done: (!recompute).then(|| (tape, y.clone())),
                });
            }
            (x, grid) = (y, y_grid);
            if step.keeps_output {
                stack.push((index + 1, x.clone()));
            }
        }
        let (loss, d_prediction) = loss(&x.to_dtype(DType::F32)?)?;
        drop(x);
        let mut d_text = TextGradients::default();
        let mut d_time = None;
        let mut d_values: Vec<Option<Tensor>> = vec![None; steps.len() + 1];
        d_values[steps.len()] = Some(d_prediction.to_dtype(unet.dtype)?);
        for index in (first..steps.len()).rev() {
            let kept = kept.pop().context("a step's input is missing")?;
            let dy = d_values[index + 1].take();
            let dy = dy.context("no gradient reached a step")?;
            let (tape, output) = match kept.done {
                Some(done) => done,
                None => {
                    let of_stack = took[index].zip(kept.taken.as_ref());
                    let tape = start(index, &kept.input, of_stack);
                    let taken = kept.taken.as_ref();
                    let (pass, layers) = (self.pass(&tape), &steps[index].1);
                    let (output, _) =
                        layers.forward(pass, &kept.input, taken, kept.grid, &shared)?;
                    (tape, output)
                }
            };
            let mut gradients = tape.pull(&output, dy)?;
            self.take_parameters(&mut gradients, index, found)?;
            if let Some(gradient) = gradients.take(&time) {
                add(&mut d_time, gradient)?;
            }
            if let Some(gradient) = gradients.take(&context) {
                add(&mut d_text.context, gradient)?;
            }
            if let (Some(value), Some(taken)) = (took[index], &kept.taken)
                && let Some(gradient) = gradients.take(taken)
            {
                add(&mut d_values[value], gradient)?;
            }
            if let Some(gradient) = gradients.take(&kept.input) {
                add(&mut d_values[index], gradient)?;
            }
        }
        if let Some(d_time) = d_time.filter(|_| wants_time) {
            let mut gradients = time_tape.pull(&time, d_time)?;
            self.take_parameters(&mut gradients, steps.len(), found)?;
            d_text.pooled = pooled.and_then(|pooled| gradients.take(&pooled));
        }
        Ok((loss, d_text))
    }
}
