//! The yardstick of every backward: slopes measured by central differences.

use candle_core::{Device, Result, Tensor};

use super::{Tape, to_vec};
use crate::random::{Purpose, Stream};

/// Random numbers in [-1, 1), the same for the same seed.
pub fn numbers(seed: u64, shape: &[usize]) -> Tensor {
    let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
    let count = shape.iter().product();
    let data: Vec<f32> = (0..count).map(|_| stream.uniform() * 2.0 - 1.0).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

/// Holds the gradients of `f` with respect to every input against `(f(x + h) - f(x - h)) / 2h`,
/// summed in f64 over the outputs weighted at random.
pub fn check(name: &str, inputs: &[Tensor], f: impl Fn(&Tape, &[Tensor]) -> Result<Tensor>) {
    let tape = Tape::recording();
    for input in inputs {
        tape.want(input);
    }
    let y = f(&tape, inputs).unwrap();
    let dy = numbers(99, y.dims());
    let weights = to_vec(&dy).unwrap();
    let mut gradients = tape.pull(&y, dy).unwrap();
    let value = |inputs: &[Tensor]| -> f64 {
        let y = to_vec(&f(&Tape::off(), inputs).unwrap()).unwrap();
        y.iter()
            .zip(&weights)
            .map(|(&y, &w)| f64::from(y) * f64::from(w))
            .sum()
    };
    let h = 1e-2f32;
    for (index, input) in inputs.iter().enumerate() {
        let gradient = gradients
            .take(input)
            .unwrap_or_else(|| panic!("{name}: input {index} is detached"));
        let gradient = to_vec(&gradient).unwrap();
        let x = to_vec(input).unwrap();
        let largest = gradient.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        assert!(largest > 0.0, "{name}: the gradient of input {index} is 0");
        for i in 0..x.len() {
            let moved = |by: f32| {
                let mut x = x.clone();
                x[i] += by;
                let mut inputs = inputs.to_vec();
                inputs[index] = Tensor::from_vec(x, inputs[index].shape(), &Device::Cpu).unwrap();
                value(&inputs)
            };
            // Fourth order: the step can be large enough for f32 outputs.
            let near = (moved(h) - moved(-h)) / (2.0 * f64::from(h));
            let far = (moved(2.0 * h) - moved(-2.0 * h)) / (4.0 * f64::from(h));
            let slope = (4.0 * near - far) / 3.0;
            let error = (slope - f64::from(gradient[i])).abs();
            assert!(
                error < 1e-3 * f64::from(largest.max(0.1)),
                "{name}: input {index}, element {i}: gradient {}, slope {slope}",
                gradient[i]
            );
        }
    }
}
