use candle_core::{Device, Tensor};

use super::denoise::{Denoising, loss};
use super::latents::Latent;
use crate::generate::image::NoiseLevels;
use crate::model::diffusion::Prediction;

fn denoising(prediction: Prediction) -> Denoising {
    Denoising {
        levels: NoiseLevels::new(1000, 0.00085, 0.012, true).unwrap(),
        prediction,
        scaling_factor: 0.18215,
        seed: 7,
        min_snr_gamma: Some(5.0),
        noise_offset: 0.1,
        prior_loss_weight: 0.5,
    }
}

fn latent() -> Latent {
    Latent {
        height: 2,
        width: 3,
        mean: (0..24).map(|i| i as f32 / 7.0 - 1.0).collect(),
        log_variance: vec![-3.0; 24],
    }
}

fn prediction() -> Vec<f32> {
    (0..24).map(|i| (i as f32 * 0.7).sin()).collect()
}

#[test]
fn the_gradient_of_the_loss_is_its_slope() {
    for kind in [Prediction::Epsilon, Prediction::V] {
        let noised = denoising(kind).trained(&latent(), 3, true);
        let at = |numbers: &[f32]| {
            let tensor = Tensor::from_slice(numbers, (6, 4), &Device::Cpu).unwrap();
            loss(&[&noised], &tensor).unwrap()
        };
        let (_, gradient) = at(&prediction());
        let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        for i in [0, 5, 23] {
            let moved = |by: f32| {
                let mut numbers = prediction();
                numbers[i] += by;
                at(&numbers).0.value().unwrap()
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let ours = f64::from(gradient[i]);
            assert!(
                (slope - ours).abs() < 1e-4 * slope.abs().max(1e-3),
                "{slope} {ours}"
            );
        }
    }
}

#[test]
fn what_is_noised_and_asked_for_gives_the_latent_back() {
    // Hold the two definitions against each other: from a noised latent and its target follow signal
    // and noise, as the papers solve for them.
    let (eps, v) = (denoising(Prediction::Epsilon), denoising(Prediction::V));
    let (a, b) = (
        eps.trained(&latent(), 11, false),
        v.trained(&latent(), 11, false),
    );
    assert_eq!(a.latent, b.latent, "the target does not change the noise");
    let alpha_bar = eps.levels.alpha_bar(a.timestep as usize);
    let (signal, spread) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
    let zeros = Tensor::zeros((6, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    // The gradient at 0 is -2 w target / n.
    let target = |noised: &super::denoise::Noised, weight: f64| -> Vec<f64> {
        let (_, gradient) = loss(&[noised], &zeros).unwrap();
        let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        gradient
            .iter()
            .map(|g| f64::from(*g) * 24.0 / (-2.0 * weight))
            .collect()
    };
    let snr = eps.levels.snr(a.timestep as usize);
    // Hang et al., arXiv:2303.09556, as kohya applies it to either target.
    let noise = target(&a, snr.min(5.0) / snr);
    let velocity = target(&b, snr.min(5.0) / (snr + 1.0));
    for ((x, noise), velocity) in a.latent.iter().zip(&noise).zip(&velocity) {
        let x0 = (f64::from(*x) - spread * noise) / signal;
        assert!((signal * noise - spread * x0 - velocity).abs() < 1e-3);
    }
}

#[test]
fn a_draw_alone_decides_what_is_drawn() {
    let of = |draw: u64| denoising(Prediction::Epsilon).trained(&latent(), draw, false);
    assert_eq!(of(5).latent, of(5).latent);
    assert_ne!(of(5).latent, of(6).latent);
    // Evaluation: always the same timesteps, evenly spread.
    let steps: Vec<f32> = (0..4)
        .map(|n| {
            denoising(Prediction::V)
                .evaluated(&latent(), 2, n, 4)
                .timestep
        })
        .collect();
    assert_eq!(steps, [125.0, 375.0, 625.0, 875.0]);
}
