//! The loss of denoising: weighted mean squared errors of pictures.

use candle_core::{DType, Result, Tensor, bail};

use super::cuda;
use super::loss_sum::LossSum;
use super::tensors::to_vec;

/// What one picture's answer should have been, and how much it counts.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub target: &'a [f32],
    pub weight: f64,
}

/// The sum over pictures of `weight * mean((predicted - target)^2)`, and its gradient with respect
/// to the prediction (f32, in its shape), in which the pictures lie one after another.
///
/// # Errors
/// Numbers that do not fit; the device fails.
pub fn squared_errors(prediction: &Tensor, pictures: &[Wanted<'_>]) -> Result<(LossSum, Tensor)> {
    let count: usize = pictures.iter().map(|picture| picture.target.len()).sum();
    if prediction.elem_count() != count {
        bail!(
            "a prediction of {} numbers for {count}",
            prediction.elem_count()
        );
    }
    if cuda::serves(prediction) {
        return cuda::head::squared_errors(prediction, pictures);
    }
    let predicted = to_vec(&prediction.to_dtype(DType::F32)?)?;
    let mut gradient = Vec::with_capacity(count);
    let (mut sum, mut rest) = (0.0, &predicted[..]);
    for picture in pictures {
        let (mine, after) = rest.split_at(picture.target.len());
        rest = after;
        let scale = picture.weight / picture.target.len() as f64;
        let mut squares = 0.0;
        for (&predicted, &target) in mine.iter().zip(picture.target) {
            let error = f64::from(predicted) - f64::from(target);
            squares += error * error;
            gradient.push((2.0 * scale * error) as f32);
        }
        sum += scale * squares;
    }
    let gradient = Tensor::from_vec(gradient, prediction.shape(), prediction.device())?;
    Ok((LossSum::Known(sum), gradient))
}

#[cfg(test)]
mod tests {
    use super::super::finite_differences::numbers;
    use super::*;

    #[test]
    fn each_picture_counts_by_its_weight_and_its_gradient_is_the_slope() {
        let (x, targets) = (numbers(1, &[6, 3]), to_vec(&numbers(2, &[18])).unwrap());
        let pictures = [(&targets[..12], 0.3), (&targets[12..], 2.0)];
        let pictures = pictures.map(|(target, weight)| Wanted { target, weight });
        let of = |x: &[f32]| {
            let x = Tensor::from_vec(x.to_vec(), (6, 3), x_device()).unwrap();
            let (loss, gradient) = squared_errors(&x, &pictures).unwrap();
            (loss.value().unwrap(), to_vec(&gradient).unwrap())
        };
        let x = to_vec(&x).unwrap();
        let (_, gradient) = of(&x);
        for i in 0..x.len() {
            let shifted = |by: f32| {
                let mut x = x.clone();
                x[i] += by;
                of(&x).0
            };
            let slope = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
            assert!((slope - f64::from(gradient[i])).abs() < 1e-4, "{i}");
        }
        assert!(squared_errors(&numbers(1, &[5, 3]), &pictures).is_err());
    }

    fn x_device() -> &'static candle_core::Device {
        &candle_core::Device::Cpu
    }
}
