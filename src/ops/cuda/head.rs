//! The language model's loss: logits exist for a chunk of tokens, in f32, and become their own
//! gradients in place; the losses are read once, after the last chunk.

use candle_core::{DType, Result, Tensor};

use super::super::head::tokens_at_once;
use super::super::weight::FrozenWeight;
use super::{Argument, Blocks, Factor, common_type, contiguous, int, launch, linear, new_tensor};

/// As [`super::super::cross_entropy`], of targets that were checked.
pub fn cross_entropy(
    hidden: &Tensor,
    weight: &FrozenWeight,
    targets: &[u32],
    gradient: bool,
) -> Result<(f64, Option<Tensor>)> {
    let hidden = contiguous(hidden)?;
    let (device, vocabulary) = (hidden.device(), weight.rows());
    let name = common_type(&[&hidden])?;
    let chunk = tokens_at_once(vocabulary);
    let all_targets = Tensor::new(targets, device)?;
    let losses = new_tensor(targets.len(), DType::F32, device)?;
    let mut parts = Vec::new();
    for first in (0..targets.len()).step_by(chunk) {
        let tokens = chunk.min(targets.len() - first);
        let logits = linear::forward(&hidden.narrow(0, first, tokens)?, weight, DType::F32)?;
        launch(
            device,
            "loss",
            &format!("cross_entropy_{name}"),
            Blocks {
                blocks: (tokens as u32, 1, 1),
                threads: (512, 1, 1),
                shared_bytes: 0,
            },
            &[
                Argument::Tensor(&logits),
                Argument::Tensor(&all_targets.narrow(0, first, tokens)?),
                Argument::Tensor(&losses.narrow(0, first, tokens)?),
                Argument::Int(int(vocabulary)?),
                Argument::Int(i32::from(gradient)),
            ],
        )?;
        if gradient {
            let d_logits = Factor::narrowed(&logits, hidden.dtype())?;
            parts.push(linear::backward(d_logits, tokens, weight)?);
        }
    }
    let d_hidden = match parts.is_empty() {
        true => None,
        false => Some(Tensor::cat(&parts, 0)?),
    };
    let losses: Vec<f32> = losses.to_vec1()?;
    Ok((losses.iter().map(|&x| f64::from(x)).sum(), d_hidden))
}
