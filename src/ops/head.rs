//! The language model's head and its loss, without ever holding all logits.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::loss_sum::LossSum;
use super::profile::{Part, timed};
use super::tensors::with_floats;
use super::weight::{FrozenWeight, HostWeight, Products};
use super::wide::{exp_in_place, largest, wide};

/// Logits held at once: 64 MiB in f32.
const LOGITS: usize = 16 * 1024 * 1024;

/// Tokens whose logits are held at once.
pub(crate) fn tokens_at_once(vocab_size: usize) -> usize {
    (LOGITS / vocab_size.max(1)).max(16)
}

/// Sum over tokens of the cross-entropy of `hidden W^T` against `targets`, and, when asked for,
/// its gradient with respect to `hidden` (`[tokens, features]`). The weight gets none.
///
/// # Errors
/// A target beyond the vocabulary; the device fails.
pub fn cross_entropy(
    hidden: &Tensor,
    weight: &FrozenWeight,
    targets: &[u32],
    gradient: bool,
) -> Result<(LossSum, Option<Tensor>)> {
    let (tokens, features) = hidden.dims2()?;
    if tokens != targets.len() || features != weight.columns() {
        bail!("a loss over {} targets got {tokens} tokens", targets.len());
    }
    if let Some(id) = targets.iter().find(|&&id| id as usize >= weight.rows()) {
        bail!(
            "token id {id} is beyond the base's vocabulary of {} tokens",
            weight.rows()
        );
    }
    let _time = timed(Part::Head);
    if cuda::serves(hidden) {
        return cuda::head::cross_entropy(hidden, weight, targets, gradient);
    }
    let weight = weight.on_host()?;
    with_floats(hidden, |hidden| {
        on_host(hidden, features, weight, targets, gradient)
    })?
}

fn on_host(
    hidden: &[f32],
    features: usize,
    weight: &HostWeight,
    targets: &[u32],
    gradient: bool,
) -> Result<(LossSum, Option<Tensor>)> {
    let vocab_size = weight.rows();
    let chunk = tokens_at_once(vocab_size);
    let mut logits = vec![0.0; chunk.min(targets.len()) * vocab_size];
    let mut d_hidden = vec![0.0; if gradient { hidden.len() } else { 0 }];
    let mut loss = 0.0;
    for (index, targets) in targets.chunks(chunk).enumerate() {
        let logits = &mut logits[..targets.len() * vocab_size];
        let part = index * chunk * features..(index * chunk + targets.len()) * features;
        weight.times_transposed(
            &hidden[part.clone()],
            targets.len(),
            logits,
            &Products::alone(),
        );
        let losses: Vec<f64> = logits
            .par_chunks_mut(vocab_size)
            .zip(targets)
            .map(|(logits, &target)| token_loss(logits, target as usize))
            .collect();
        loss += losses.iter().sum::<f64>();
        if gradient {
            weight.times(
                logits,
                targets.len(),
                &mut d_hidden[part],
                &Products::alone(),
            );
        }
    }
    let d_hidden = if gradient {
        Some(Tensor::from_vec(
            d_hidden,
            (targets.len(), features),
            &Device::Cpu,
        )?)
    } else {
        None
    };
    Ok((LossSum::Known(loss), d_hidden))
}

wide! {
    /// The loss of one token; turns its logits into their gradients.
    fn token_loss(logits: &mut [f32], target: usize) -> f64 {
        let most = largest(logits);
        let of_target = logits[target];
        let mut sum = 0.0f64;
        // In parts, so that a long sum of f32 stays exact.
        for part in logits.chunks_mut(1024) {
            sum += f64::from(exp_in_place(part, most));
        }
        let inverse = (1.0 / sum) as f32;
        for x in logits.iter_mut() {
            *x *= inverse;
        }
        logits[target] -= 1.0;
        sum.ln() + f64::from(most) - f64::from(of_target)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, DType};

    use super::super::finite_differences::numbers;
    use super::super::linear::{linear_backward, linear_forward};
    use super::super::to_vec;
    use super::*;

    /// The loss out of candle's operations.
    fn composed(
        hidden: &Tensor,
        weight: &FrozenWeight,
        targets: &[u32],
        gradient: bool,
    ) -> Result<(LossSum, Option<Tensor>)> {
        let chunk = tokens_at_once(weight.rows());
        let mut loss = 0.0;
        let mut parts = Vec::new();
        for (index, targets) in targets.chunks(chunk).enumerate() {
            let hidden = hidden.narrow(0, index * chunk, targets.len())?;
            let logits = linear_forward(&hidden, weight)?.to_dtype(DType::F32)?;
            let ids = Tensor::new(targets, hidden.device())?.unsqueeze(1)?;
            let log_p = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
            let losses: Vec<f32> = log_p.gather(&ids, 1)?.flatten_all()?.to_vec1()?;
            loss -= losses.iter().map(|&x| f64::from(x)).sum::<f64>();
            if gradient {
                let minus_one = (ids.ones_like()?.to_dtype(DType::F32)? * -1.0)?;
                let d_logits = log_p.exp()?.scatter_add(&ids, &minus_one, 1)?;
                parts.push(linear_backward(
                    &d_logits.to_dtype(hidden.dtype())?,
                    weight,
                )?);
            }
        }
        let d_hidden = match parts.is_empty() {
            true => None,
            false => Some(Tensor::cat(&parts, 0)?),
        };
        Ok((LossSum::Known(loss), d_hidden))
    }

    fn weight(rows: usize, columns: usize) -> FrozenWeight {
        let numbers = to_vec(&numbers(7, &[rows, columns])).unwrap();
        let host = HostWeight::from_floats(&numbers, rows, columns).unwrap();
        FrozenWeight::new(host, &Device::Cpu, DType::F32).unwrap()
    }

    #[test]
    fn gradient_of_the_loss_is_its_slope() {
        let weight = weight(11, 5);
        let targets = [3u32, 0, 10];
        let hidden = to_vec(&numbers(1, &[3, 5])).unwrap();
        let loss = |hidden: &[f32]| {
            let hidden = Tensor::from_slice(hidden, (3, 5), &Device::Cpu).unwrap();
            cross_entropy(&hidden, &weight, &targets, true).unwrap()
        };
        let gradient = to_vec(&loss(&hidden).1.unwrap()).unwrap();
        for i in 0..hidden.len() {
            let moved = |by: f32| {
                let mut hidden = hidden.clone();
                hidden[i] += by;
                loss(&hidden).0.value().unwrap()
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((slope - f64::from(gradient[i])).abs() < 2e-4, "{i}");
        }
    }

    #[test]
    fn chunks_add_up_to_the_composed_loss() {
        // A vocabulary so large that 40 tokens need three chunks.
        let weight = weight(1_100_000, 2);
        assert!(tokens_at_once(1_100_000) < 20);
        let hidden = numbers(1, &[40, 2]);
        let targets: Vec<u32> = (0..40).map(|i| i * 27_001).collect();
        let (loss, gradient) = cross_entropy(&hidden, &weight, &targets, true).unwrap();
        let (plain, plain_gradient) = composed(&hidden, &weight, &targets, true).unwrap();
        let (loss, plain) = (loss.value().unwrap(), plain.value().unwrap());
        assert!((loss - plain).abs() < 1e-5 * plain, "{loss} {plain}");
        let (a, b) = (gradient.unwrap(), plain_gradient.unwrap());
        for (a, b) in to_vec(&a).unwrap().iter().zip(to_vec(&b).unwrap()) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn a_target_beyond_the_vocabulary_is_an_error() {
        let error = cross_entropy(&numbers(1, &[1, 5]), &weight(11, 5), &[11], false).unwrap_err();
        assert!(error.to_string().contains("token id 11"), "{error}");
    }
}
