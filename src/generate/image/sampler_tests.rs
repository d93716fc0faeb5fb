//! Samplers against diffusers' schedulers: tests/tools/make_sampler_fixtures.py.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::noise::NoiseLevels;
use super::sampler::{Sampler, SamplerKind};
use crate::model::diffusion::Prediction;

#[derive(Deserialize)]
struct Fixture {
    alpha_bar: BTreeMap<usize, f64>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    sampler: String,
    prediction: String,
    steps: usize,
    noise: Vec<f32>,
    trace: Vec<Step>,
    latent: Vec<f32>,
}

#[derive(Deserialize)]
struct Step {
    timestep: f64,
    input: Vec<f32>,
    output: Vec<f32>,
    added: Vec<f32>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../../tests/fixtures/samplers.json")).unwrap()
}

fn levels() -> NoiseLevels {
    NoiseLevels::new(1000, 0.00085, 0.012, true).unwrap()
}

fn close(what: &str, ours: &[f32], theirs: &[f32]) {
    let scale = theirs.iter().fold(1.0f32, |most, x| most.max(x.abs()));
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() < 2e-5 * scale, "{what}: {ours:?} {theirs:?}");
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn the_noise_levels_are_diffusers() {
    for (timestep, expected) in fixture().alpha_bar {
        let ours = levels().alpha_bar(timestep);
        assert!(
            (ours / expected - 1.0).abs() < 1e-5,
            "{timestep}: {ours} {expected}"
        );
    }
}

#[test]
fn every_step_of_every_sampler_is_that_of_diffusers_scheduler() {
    let cases = fixture().cases;
    assert_eq!(cases.len(), 18);
    for case in cases {
        let name = format!("{} {} {}", case.sampler, case.prediction, case.steps);
        let kind = SamplerKind::named(&case.sampler).unwrap();
        let prediction = match case.prediction.as_str() {
            "epsilon" => Prediction::Epsilon,
            _ => Prediction::V,
        };
        let mut sampler = Sampler::new(kind, prediction, &levels(), case.steps, &case.noise, 0);
        for step in &case.trace {
            let timestep = sampler.timestep().unwrap();
            assert!(
                (timestep - step.timestep).abs() < 1e-3,
                "{name}: {timestep}"
            );
            close(&name, &sampler.model_input(), &step.input);
            sampler.step_with(&step.output, &step.added).unwrap();
        }
        assert_eq!(sampler.timestep(), None);
        close(&name, &sampler.latent(), &case.latent);
    }
}
