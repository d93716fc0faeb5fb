//! Adapted linears against finite differences.

use candle_core::{DType, Device};

use super::super::finite_differences::{check, numbers};
use super::super::to_vec;
use super::super::weight::HostWeight;
use super::*;

const DROPOUT: Dropout = Dropout {
    seed: 1,
    step: 2,
    item: 3,
    before: 0,
    probability: 0.4,
};

fn weight(rows: usize, columns: usize) -> FrozenWeight {
    let numbers = to_vec(&numbers(7, &[rows, columns])).unwrap();
    let host = HostWeight::from_floats(&numbers, rows, columns).unwrap();
    FrozenWeight::new(host, &Device::Cpu, DType::F32).unwrap()
}

fn term(a: &Tensor, b: &Tensor, dropout: Option<Dropout>) -> LoraTerm {
    LoraTerm {
        a: a.clone(),
        b: b.clone(),
        scale: 1.5,
        strength: 1.0,
        dropout,
        dora: None,
    }
}

#[test]
fn gradients_of_a_linear_with_lora_are_its_slopes() {
    let weight = weight(9, 6);
    let inputs = [
        numbers(1, &[4, 6]),
        numbers(2, &[2, 6]),
        numbers(3, &[9, 2]),
        numbers(4, &[4, 9]),
    ];
    for dropout in [None, Some(DROPOUT)] {
        check("lora_linear", &inputs, |tape, t| {
            let terms = [term(&t[1], &t[2], dropout), term(&t[1], &t[2], None)];
            lora_linear(tape, &t[0], &weight, &terms, Residual::Add(&t[3]))
        });
    }
}

#[test]
fn a_bias_is_added_and_gradients_pass_it() {
    let (weight, bias) = (weight(9, 6), numbers(5, &[9]));
    let inputs = [
        numbers(1, &[4, 6]),
        numbers(2, &[2, 6]),
        numbers(3, &[9, 2]),
    ];
    let run = |tape: &Tape, t: &[Tensor], bias| {
        let terms = [term(&t[1], &t[2], None)];
        lora_linear_with_bias(tape, &t[0], &weight, bias, &terms, Residual::None)
    };
    check("lora_linear_with_bias", &inputs, |tape, t| {
        run(tape, t, Some(&bias))
    });
    let with = run(&Tape::off(), &inputs, Some(&bias)).unwrap();
    let without = run(&Tape::off(), &inputs, None).unwrap();
    let expected = without.broadcast_add(&bias).unwrap();
    for (a, b) in to_vec(&with)
        .unwrap()
        .iter()
        .zip(to_vec(&expected).unwrap())
    {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn gradient_of_a_frozen_linear_is_its_slope() {
    let weight = weight(300, 40);
    check("frozen_linear", &[numbers(1, &[2, 40])], |tape, t| {
        frozen_linear(tape, &t[0], &weight)
    });
    check("lora_linear", &[numbers(1, &[2, 40])], |tape, t| {
        lora_linear(tape, &t[0], &weight, &[], Residual::None)
    });
}

#[test]
fn a_replay_gives_the_gradients_without_the_output() {
    let weight = weight(9, 6);
    let (x, residual) = (numbers(1, &[4, 6]), numbers(4, &[4, 9]));
    let (a, b) = (numbers(2, &[2, 6]), numbers(3, &[9, 2]));
    let gradients = |residual_of: fn(&Tensor) -> Residual<'_>| {
        let tape = Tape::recording();
        for leaf in [&x, &a, &b, &residual] {
            tape.want(leaf);
        }
        let terms = [term(&a, &b, None)];
        let y = lora_linear(&tape, &x, &weight, &terms, residual_of(&residual)).unwrap();
        let mut gradients = tape.pull(&y, numbers(8, &[4, 9])).unwrap();
        [&x, &a, &b, &residual].map(|t| to_vec(&gradients.take(t).unwrap()).unwrap())
    };
    assert_eq!(
        gradients(|r| Residual::Replay(r)),
        gradients(|r| Residual::Add(r))
    );
}

#[test]
fn an_input_that_nobody_asks_about_costs_no_gradient() {
    let weight = weight(9, 6);
    let (x, a, b) = (
        numbers(1, &[4, 6]),
        numbers(2, &[2, 6]),
        numbers(3, &[9, 2]),
    );
    let tape = Tape::recording();
    tape.want(&a);
    tape.want(&b);
    let y = lora_linear(&tape, &x, &weight, &[term(&a, &b, None)], Residual::None).unwrap();
    let mut gradients = tape.pull(&y, y.clone()).unwrap();
    assert!(gradients.take(&x).is_none());
    assert!(gradients.take(&a).is_some() && gradients.take(&b).is_some());
}
