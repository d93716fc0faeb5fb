use candle_core::Device;

use super::*;
use crate::model::{LoraPair, LoraSpec, Variable};
use crate::ops::emulated;

/// One pair: A of two numbers, B of one.
fn set() -> LoraSet {
    let var =
        |numbers: &[f32], shape| Variable::from_vec(numbers.to_vec(), shape, &Device::Cpu).unwrap();
    let pair = LoraPair {
        module: "m".into(),
        a: var(&[1.0, -2.0], (1, 2)),
        b: var(&[0.5], (1, 1)),
        magnitude: None,
        scale: 1.0,
    };
    LoraSet::from_pairs(vec![pair], LoraSpec::lora(1))
}

fn gradients() -> Values {
    Values(vec![vec![3.0, 0.0], vec![-4.0]])
}

#[test]
fn clipping_scales_the_norm_of_all_gradients_together() {
    // |(3, 0, -4)| = 5.
    let mut clipped = gradients();
    assert_eq!(clip(&mut clipped, 1.0), 5.0);
    assert!((clipped.norm() - 1.0).abs() < 1e-6);
    let mut untouched = gradients();
    assert_eq!(clip(&mut untouched, 10.0), 5.0);
    assert_eq!(untouched, gradients());
    // `max_grad_norm: 0` means never.
    assert_eq!(clip(&mut untouched, 0.0), 5.0);
    assert_eq!(untouched, gradients());
}

#[test]
fn the_first_update_moves_each_number_by_its_rate_against_the_gradients_sign() {
    // At the first step m / sqrt(v) is the gradient's sign, whatever its size.
    let set = set();
    let rates = Rates {
        learning_rate: 0.01,
        text_encoder: 0.01,
        loraplus_ratio: 16.0,
        weight_decay: 0.1,
    };
    AdamW::new(&set).update(&set, &gradients(), rates).unwrap();
    let Values(values) = Values::of(&set).unwrap();
    let (a, b) = (&values[0], &values[1]);
    for (ours, expected) in [
        // Decay is of the weight by rate * decay, before the step.
        (a[0], 1.0 * (1.0 - 0.01 * 0.1) - 0.01),
        (a[1], -2.0 * (1.0 - 0.01 * 0.1)),
        // LoRA+: B's rate is 16 times A's, for decay as well.
        (b[0], 0.5 * (1.0 - 0.16 * 0.1) + 0.16),
    ] {
        assert!(
            (f64::from(ours) - expected).abs() < 1e-6,
            "{ours} {expected}"
        );
    }
}

/// Pairs of a text encoder and of a UNet, one with a magnitude, and two modules that share theirs; of
/// odd sizes.
fn larger_set() -> LoraSet {
    let var = |seed: usize, rows: usize, columns: usize| {
        let numbers = (0..rows * columns).map(|i| ((i * 37 + seed * 11) as f32 * 0.7).sin());
        let numbers: Vec<f32> = numbers.collect();
        Variable::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap()
    };
    let pair = |module: &str, seed: usize, magnitude: bool| LoraPair {
        module: module.into(),
        a: var(seed, 3, 7 + seed),
        b: var(seed + 1, 5 + seed, 3),
        magnitude: magnitude.then(|| {
            let numbers: Vec<f32> = (0..5 + seed).map(|i| 1.0 + i as f32).collect();
            Variable::from_vec(numbers, 5 + seed, &Device::Cpu).unwrap()
        }),
        scale: 1.0,
    };
    let shared = pair("unet.x", 4, false);
    let pairs = vec![
        pair("unet.w", 1, true),
        pair("text_encoder.v", 2, false),
        shared.clone(),
        LoraPair {
            module: "unet.y".into(),
            ..shared
        },
    ];
    LoraSet::from_pairs(pairs, LoraSpec::lora(3))
}

/// Some steps: gradients of two passes each, one step of which is not finite.
fn steps(
    set: &mut LoraSet,
    from: AdamW,
    numbers: std::ops::Range<u64>,
) -> (Optimizer, Vec<StepOutcome>) {
    let mut optimizer = Optimizer::new(set, from).unwrap();
    let outcomes = numbers.map(|step| {
        optimizer.begin(set).unwrap();
        let mut loss = LossSum::default();
        for pass in 0..2 {
            let gradients = set.parameters().into_iter().map(|p| {
                let count = p.var.elem_count();
                let of = |i: usize| ((i as u64 * 13 + step * 7 + pass) as f32 * 0.3).sin() * 9.0;
                let mut numbers: Vec<f32> = (0..count).map(of).collect();
                if step == 3 {
                    numbers[count / 2] = f32::INFINITY;
                }
                Tensor::from_vec(numbers, p.var.shape(), &Device::Cpu).unwrap()
            });
            let gradients: Vec<Tensor> = gradients.collect();
            optimizer.add(&gradients).unwrap();
            let of_pass = Tensor::new(&[step as f64 + 0.5], &Device::Cpu).unwrap();
            loss.add(LossSum::OnDevice(of_pass)).unwrap();
        }
        let sums = StepSums { loss, weight: 5 };
        let rates = Rates {
            learning_rate: 1e-2,
            text_encoder: 3e-3,
            loraplus_ratio: if step < 3 { 16.0 } else { 1.0 },
            weight_decay: 0.1,
        };
        let max_norm = if step.is_multiple_of(2) { 0.5 } else { 0.0 };
        optimizer.update(set, &sums, max_norm, rates).unwrap();
        optimizer.outcome().unwrap()
    });
    let outcomes = outcomes.collect();
    (optimizer, outcomes)
}

#[test]
fn a_gpus_optimizer_is_the_cpus() {
    let mut on_cpu = larger_set();
    let fresh = AdamW::new(&on_cpu);
    let (host, expected) = steps(&mut on_cpu, fresh.clone(), 1..7);
    let mut on_device = larger_set();
    let (device, outcomes) = emulated(|| {
        let (device, outcomes) = steps(&mut on_device, fresh, 1..7);
        (device.state().unwrap().into_owned(), outcomes)
    });
    assert!(matches!(host, Optimizer::Host(_)) && device.updates == 5);
    for (got, expected) in outcomes.iter().zip(&expected) {
        assert_eq!(got.loss, expected.loss);
        assert_eq!(got.is_finite(), expected.is_finite());
        let apart = (got.norm - expected.norm).abs();
        assert!(!got.is_finite() || apart <= 1e-12 * expected.norm);
    }
    // The same bits but for the clipping factor, whose sum has another order.
    let same = |a: &Values, b: &Values| {
        for (a, b) in a.0.iter().flatten().zip(b.0.iter().flatten()) {
            assert!((a - b).abs() <= 1e-6 * b.abs().max(1e-3), "{a} {b}");
        }
    };
    let host = host.state().unwrap();
    assert_eq!(host.updates, device.updates);
    same(&device.exp_avg, &host.exp_avg);
    same(&device.exp_avg_sq, &host.exp_avg_sq);
    same(
        &Values::of(&on_device).unwrap(),
        &Values::of(&on_cpu).unwrap(),
    );
    // What modules share they still share.
    let [x, y] = [2, 3].map(|i| on_device.pairs[i].a.id());
    assert_eq!(x, y);
}

#[test]
fn a_gpus_optimizer_goes_on_from_its_moments_bit_for_bit() {
    emulated(|| {
        let mut whole = larger_set();
        let fresh = AdamW::new(&whole);
        let (expected, _) = steps(&mut whole, fresh.clone(), 1..7);
        let mut set = larger_set();
        let (first, _) = steps(&mut set, fresh, 1..4);
        let moments = first.state().unwrap().into_owned();
        // As a checkpoint's reader finds the adapter: in memory of its own.
        let mut again = larger_set();
        for (to, from) in again.parameters().iter().zip(set.parameters()) {
            to.var.set(from.var).unwrap();
        }
        let (resumed, _) = steps(&mut again, moments, 4..7);
        assert_eq!(resumed.state().unwrap(), expected.state().unwrap());
        assert_eq!(Values::of(&again).unwrap(), Values::of(&whole).unwrap());
    });
}

#[test]
fn an_outcome_is_read_once_and_before_the_next_update() {
    emulated(|| {
        let mut set = larger_set();
        let fresh = AdamW::new(&set);
        let (mut optimizer, _) = steps(&mut set, fresh, 1..2);
        assert!(optimizer.is_late() && optimizer.outcome().is_err());
        let sums = StepSums {
            loss: LossSum::default(),
            weight: 1,
        };
        let rates = Rates {
            learning_rate: 0.0,
            text_encoder: 0.0,
            loraplus_ratio: 1.0,
            weight_decay: 0.0,
        };
        optimizer.update(&set, &sums, 1.0, rates).unwrap();
        assert!(optimizer.state().is_err());
        assert!(optimizer.update(&set, &sums, 1.0, rates).is_err());
        optimizer.outcome().unwrap();
        assert!(optimizer.state().is_ok());
    });
}
