//! The losses. Those of language models: logits exist for a chunk of tokens, in f32, and become
//! their own gradients in place. Sums of losses stay on the device.

use candle_core::{DType, Result, Tensor};

use super::super::loss_sum::LossSum;
use super::super::matrix::Write;
use super::super::squares::Wanted;
use super::super::weight::FrozenWeight;
use super::{
    Argument, Blocks, Factor, common_type, contiguous, count, int, launch, like, multiply,
    new_tensor,
};

/// Logits held at once: 128 MiB in f32, so that the products of a chunk keep a GPU busy.
const LOGITS: usize = 32 * 1024 * 1024;

/// The sum of losses in f32 or f64.
fn total(losses: &Tensor) -> Result<LossSum> {
    let sum = new_tensor(1, DType::F64, losses.device())?;
    let kernel = match losses.dtype() {
        DType::F64 => "total_f64",
        _ => "total_f32",
    };
    let arguments = [
        Argument::Tensor(losses),
        Argument::Tensor(&sum),
        Argument::Long(count(losses.shape())),
    ];
    launch(losses.device(), "loss", kernel, Blocks::one(), &arguments)?;
    Ok(LossSum::OnDevice(sum))
}

/// As [`super::super::cross_entropy`], of targets that were checked.
pub fn cross_entropy(
    hidden: &Tensor,
    weight: &FrozenWeight,
    targets: &[u32],
    gradient: bool,
) -> Result<(LossSum, Option<Tensor>)> {
    if targets.is_empty() {
        let none = gradient.then(|| hidden.zeros_like()).transpose()?;
        return Ok((LossSum::default(), none));
    }
    let hidden = contiguous(hidden)?;
    let (device, vocabulary, features) = (hidden.device(), weight.rows(), weight.columns());
    let name = common_type(&[&hidden])?;
    // Decoded once for all chunks.
    let weight = weight.dense()?;
    let chunk = (LOGITS / vocabulary.max(1)).max(16);
    let all_targets = Tensor::new(targets, device)?;
    let losses = new_tensor(targets.len(), DType::F32, device)?;
    let d_hidden = match gradient {
        true => Some(like(&hidden)?),
        false => None,
    };
    for first in (0..targets.len()).step_by(chunk) {
        let tokens = chunk.min(targets.len() - first);
        let logits = new_tensor((tokens, vocabulary), DType::F32, device)?;
        let part = hidden.narrow(0, first, tokens)?;
        multiply(
            &logits,
            Factor::new(&part)?,
            Factor::new(&weight)?.transposed(),
            (tokens, vocabulary, features),
            1.0,
            Write::Replace,
        )?;
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
        if let Some(d_hidden) = &d_hidden {
            multiply(
                &d_hidden.narrow(0, first, tokens)?,
                Factor::narrowed(&logits, hidden.dtype())?,
                Factor::new(&weight)?,
                (tokens, features, vocabulary),
                1.0,
                Write::Replace,
            )?;
        }
    }
    Ok((total(&losses)?, d_hidden))
}

/// As [`super::super::squared_errors`], of pictures of one size.
pub fn squared_errors(prediction: &Tensor, pictures: &[Wanted<'_>]) -> Result<(LossSum, Tensor)> {
    let device = prediction.device();
    let predicted = contiguous(&prediction.to_dtype(DType::F32)?)?;
    let each = predicted.elem_count() / pictures.len().max(1);
    if let Some(other) = pictures.iter().find(|p| p.target.len() != each) {
        candle_core::bail!(
            "pictures of {each} and {} numbers together",
            other.target.len()
        );
    }
    let targets: Vec<f32> = pictures.iter().flat_map(|p| p.target).copied().collect();
    let targets = Tensor::from_vec(targets, predicted.shape(), device)?;
    let scales = pictures.iter().map(|p| p.weight / each as f64);
    let scales = Tensor::from_vec(scales.collect::<Vec<f64>>(), pictures.len(), device)?;
    let gradient = like(&predicted)?;
    let losses = new_tensor(pictures.len(), DType::F64, device)?;
    let arguments = [
        Argument::Tensor(&predicted),
        Argument::Tensor(&targets),
        Argument::Tensor(&scales),
        Argument::Tensor(&gradient),
        Argument::Tensor(&losses),
        Argument::Long(each as i64),
    ];
    let blocks = Blocks {
        blocks: (pictures.len() as u32, 1, 1),
        ..Blocks::one()
    };
    launch(device, "loss", "squared_errors", blocks, &arguments)?;
    Ok((total(&losses)?, gradient))
}
