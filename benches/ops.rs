//! Each operation alone, forward and backward, in the sizes of SmolLM2-135M with 1024 tokens:
//! `cargo bench --bench ops`, or one of them: `cargo bench --bench ops -- attention`.

use std::sync::Arc;
use std::time::Duration;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use loradeck::ops::{
    DoraTerm, FrozenWeight, Heads, HostWeight, LoraTerm, Residual, RopeTable, Sight, Span, Tape,
    adapted_row_norms, add_bias, attention, cross_entropy, embedding, lora_linear, rms_norm, rope,
    select_columns, select_rows, swiglu,
};
use loradeck::random::{Purpose, Stream};

const TOKENS: usize = 1024;
const ROW: usize = 256;
const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const VOCABULARY: usize = 49152;
const RANK: usize = 8;
const HEADS: Heads = Heads {
    queries: 9,
    keys: 3,
    size: 64,
};

fn numbers(seed: u64, rows: usize, columns: usize) -> Tensor {
    let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
    let data: Vec<f32> = (0..rows * columns)
        .map(|_| stream.uniform() - 0.5)
        .collect();
    Tensor::from_vec(data, (rows, columns), &Device::Cpu).expect("a tensor of its own numbers")
}

fn weight(encoding: GgmlDType, rows: usize, columns: usize) -> FrozenWeight {
    let made = || {
        let quantised = QTensor::quantize(&numbers(3, rows, columns), encoding)?;
        let bytes = quantised.data()?.into_owned();
        let host = HostWeight::new(Arc::new(bytes), 0, encoding, rows, columns)?;
        FrozenWeight::new(host, &Device::Cpu, DType::F32)
    };
    made().expect("rows of whole blocks")
}

/// Times `f` without a backward, and together with it.
fn both(
    criterion: &mut Criterion,
    name: &str,
    inputs: &[Tensor],
    f: impl Fn(&Tape, &[Tensor]) -> Result<Tensor>,
) {
    let mut group = criterion.benchmark_group(name);
    group.bench_function("forward", |bench| {
        bench.iter(|| f(&Tape::off(), inputs).expect("the shapes fit"));
    });
    let dy = f(&Tape::off(), inputs).expect("the shapes fit");
    group.bench_function("forward and backward", |bench| {
        bench.iter(|| {
            let tape = Tape::recording();
            for input in inputs {
                tape.want(input);
            }
            let y = f(&tape, inputs).expect("the shapes fit");
            tape.pull(&y, dy.clone()).expect("the shapes fit")
        });
    });
    group.finish();
}

fn elementwise(criterion: &mut Criterion) {
    let x = numbers(1, TOKENS, HIDDEN);
    let norm = numbers(2, 1, HIDDEN);
    both(
        criterion,
        "rms_norm",
        std::slice::from_ref(&x),
        |tape, t| rms_norm(tape, &t[0], &norm, 1e-5),
    );
    let positions: Vec<usize> = (0..TOKENS).map(|i| i % ROW).collect();
    let frequencies: Vec<f32> = (0..HEADS.size / 2).map(|i| 0.9f32.powi(i as i32)).collect();
    let table =
        RopeTable::new(&positions, &frequencies, 1.0, HEADS.size, &Device::Cpu).expect("a table");
    both(criterion, "rope", std::slice::from_ref(&x), |tape, t| {
        rope(tape, &t[0], &table)
    });
    let gate = [
        numbers(1, TOKENS, INTERMEDIATE),
        numbers(2, TOKENS, INTERMEDIATE),
    ];
    both(criterion, "swiglu", &gate, |tape, t| {
        swiglu(tape, &t[0], &t[1])
    });
    let every_other: Vec<u32> = (0..TOKENS as u32).step_by(2).collect();
    both(
        criterion,
        "select_rows",
        std::slice::from_ref(&x),
        |tape, t| select_rows(tape, &t[0], &every_other),
    );
    let half = 0..HIDDEN / 2;
    both(
        criterion,
        "select_columns",
        std::slice::from_ref(&x),
        |tape, t| select_columns(tape, &t[0], half.clone()),
    );
    both(criterion, "add_bias", &[x], |tape, t| {
        add_bias(tape, &t[0], &norm)
    });
}

fn linears(criterion: &mut Criterion) {
    let x = numbers(1, TOKENS, HIDDEN);
    for (name, encoding) in [
        ("linear/f32", GgmlDType::F32),
        ("linear/q4_0", GgmlDType::Q4_0),
        ("linear/q4_1", GgmlDType::Q4_1),
        ("linear/q8_0", GgmlDType::Q8_0),
    ] {
        let weight = weight(encoding, INTERMEDIATE, HIDDEN);
        both(criterion, name, std::slice::from_ref(&x), |tape, t| {
            lora_linear(tape, &t[0], &weight, &[], Residual::None)
        });
    }
    let weight = weight(GgmlDType::Q4_1, INTERMEDIATE, HIDDEN);
    let inputs = [x, numbers(4, RANK, HIDDEN), numbers(5, INTERMEDIATE, RANK)];
    both(criterion, "linear with lora/q4_1", &inputs, |tape, t| {
        let term = LoraTerm {
            a: t[1].clone(),
            b: t[2].clone(),
            scale: 1.0,
            strength: 1.0,
            dropout: None,
            dora: None,
        };
        lora_linear(tape, &t[0], &weight, &[term], Residual::None)
    });
    let norms = adapted_row_norms(&weight, &inputs[1], &inputs[2], 1.0).expect("the shapes fit");
    let [x, a, b] = inputs;
    let inputs = [x, a, b, norms.clone()];
    both(criterion, "linear with dora/q4_1", &inputs, |tape, t| {
        let term = LoraTerm {
            a: t[1].clone(),
            b: t[2].clone(),
            scale: 1.0,
            strength: 1.0,
            dropout: None,
            dora: Some(DoraTerm {
                magnitude: t[3].clone(),
                norms: norms.clone(),
            }),
        };
        lora_linear(tape, &t[0], &weight, &[term], Residual::None)
    });
}

fn attentions(criterion: &mut Criterion) {
    for (name, row, window) in [
        ("attention/4 x 256", 256, None),
        ("attention/1 x 1024", 1024, None),
        ("attention/1 x 1024, window 256", 1024, Some(256)),
    ] {
        let span = |start| Span {
            queries: start..start + row,
            keys: start..start + row,
        };
        let sight = Sight::Causal { window };
        let spans = Arc::new((0..TOKENS).step_by(row).map(span).collect::<Vec<_>>());
        let inputs = [
            numbers(1, TOKENS, HEADS.queries * HEADS.size),
            numbers(2, TOKENS, HEADS.keys * HEADS.size),
            numbers(3, TOKENS, HEADS.keys * HEADS.size),
        ];
        both(criterion, name, &inputs, |tape, t| {
            attention(tape, &t[0], &t[1], &t[2], &spans, HEADS, sight)
        });
    }
}

fn ends(criterion: &mut Criterion) {
    let weight = weight(GgmlDType::Q8_0, VOCABULARY, HIDDEN);
    let ids: Vec<u32> = (0..TOKENS as u32)
        .map(|i| i * 47 % VOCABULARY as u32)
        .collect();
    criterion.bench_function("embedding", |bench| {
        bench.iter(|| embedding(&ids, &weight, &Device::Cpu).expect("ids of the vocabulary"));
    });
    let hidden = numbers(1, TOKENS, HIDDEN);
    for (name, gradient) in [("forward", false), ("forward and backward", true)] {
        criterion.bench_function(&format!("head and loss/{name}"), |bench| {
            bench.iter(|| cross_entropy(&hidden, &weight, &ids, gradient).expect("the shapes fit"));
        });
    }
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = operations;
    config = short();
    targets = elementwise, linears, attentions, ends
}
criterion_main!(operations);
