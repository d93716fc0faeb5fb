//! Every kernel, emulated, against the operation of the same name on the CPU: forward and backward,
//! odd sizes, numbers of all three types.
//!
//! The CPU computes in f32 with inputs that were rounded to the kernel's type first, so that what is
//! held against the tolerance is the kernel's own rounding. With `LORADECK_TEST_DEVICE=cuda:0`, in a
//! program that was built with CUDA, the same tests run on that GPU.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{D, DType, Device, Result, Tensor};

use super::super::finite_differences::numbers;
use super::super::squares::{Wanted, squared_errors};
use super::super::{
    Activation, Bytes, DoraTerm, Dropout, FrozenConv, FrozenWeight, Grid, GroupNorm, Heads,
    HostWeight, Kernel, LoraTerm, Residual, RopeTable, Sight, Span, Tape, activate,
    adapted_row_norms, add_bias, add_to_images, attention, conv2d, cross_entropy, embedding, geglu,
    group_norm, join_channels, layer_norm, lora_linear, lora_linear_with_bias, rms_norm, rope,
    select_columns, select_rows, swiglu, to_vec, upsample,
};
use super::emulated::emulated;
use super::optimizer::{AdamWScalars, accumulate, adamw, clear, conclude};

const TYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// What a kernel's result may be away from the CPU's, in parts of the result's own size.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 1e-4,
        DType::F16 => 1e-2,
        _ => 6e-2,
    }
}

fn rounded(x: &Tensor, dtype: DType) -> Tensor {
    x.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap()
}

fn close(what: &str, got: &Tensor, expected: &Tensor, dtype: DType) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (got, expected) = (to_vec(got).unwrap(), to_vec(expected).unwrap());
    let squares: f64 = expected.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let size = (squares / expected.len().max(1) as f64).sqrt() as f32;
    for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
        let allowed = tolerance(dtype) * (b.abs() + size) + 1e-6;
        assert!(
            (a - b).abs() <= allowed,
            "{what} in {dtype:?}: number {i} is {a}, on the CPU {b}"
        );
    }
}

/// Where an operation is computed, and in which type.
struct Place {
    device: Device,
    dtype: DType,
}

impl Place {
    fn cpu() -> Place {
        Place {
            device: Device::Cpu,
            dtype: DType::F32,
        }
    }

    /// What stays as precise as it is: weights of norms, biases, tables.
    fn put(&self, x: &Tensor) -> Tensor {
        x.to_device(&self.device).unwrap()
    }

    fn weight(&self, weight: &HostWeight) -> FrozenWeight {
        FrozenWeight::new(weight.clone(), &self.device, self.dtype).unwrap()
    }
}

/// Computes with the kernels: emulated, or on the GPU that the environment names.
fn on_kernels<R>(dtype: DType, work: impl FnOnce(&Place) -> R) -> R {
    let Ok(name) = std::env::var("LORADECK_TEST_DEVICE") else {
        let device = Device::Cpu;
        return emulated(|| work(&Place { device, dtype }));
    };
    let number = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
    let number = number.unwrap_or_else(|| panic!("LORADECK_TEST_DEVICE={name} is no cuda:N"));
    let device = Device::new_cuda(number).unwrap();
    super::prepare(&device).unwrap();
    work(&Place { device, dtype })
}

/// The operation's result and the gradients of its inputs.
fn pass(
    inputs: &[Tensor],
    d_result: Option<&Tensor>,
    operation: &dyn Fn(&Tape, &[Tensor]) -> Result<Tensor>,
) -> (Tensor, Vec<Tensor>) {
    let tape = Tape::recording();
    inputs.iter().for_each(|input| tape.want(input));
    let result = operation(&tape, inputs).unwrap();
    let d_result = match d_result {
        Some(given) => given.clone(),
        None => result.ones_like().unwrap(),
    };
    let mut gradients = tape.pull(&result, d_result).unwrap();
    let found = inputs
        .iter()
        .map(|input| gradients.take(input).expect("no gradient"))
        .collect();
    (result, found)
}

/// Holds an operation's kernels against the CPU. Inputs from `narrow` on stay f32 (adapters).
fn check_beside(
    what: &str,
    inputs: &[Tensor],
    narrow: usize,
    dtype: DType,
    operation: impl Fn(&Tape, &[Tensor], &Place) -> Result<Tensor>,
) {
    let on_cpu: Vec<Tensor> = inputs
        .iter()
        .enumerate()
        .map(|(i, x)| match i < narrow {
            true => rounded(x, dtype),
            false => x.clone(),
        })
        .collect();
    let plain = |tape: &Tape, inputs: &[Tensor]| operation(tape, inputs, &Place::cpu());
    let shape = plain(&Tape::off(), &on_cpu).unwrap();
    let d_result = rounded(&numbers(99, shape.dims()), dtype);
    let (expected, expected_gradients) = pass(&on_cpu, Some(&d_result), &plain);
    let (got, got_gradients) = on_kernels(dtype, |place| {
        let on_device: Vec<Tensor> = on_cpu
            .iter()
            .enumerate()
            .map(|(i, x)| match i < narrow {
                true => place.put(&x.to_dtype(dtype).unwrap()),
                false => place.put(x),
            })
            .collect();
        let d_result = place.put(&d_result.to_dtype(dtype).unwrap());
        pass(&on_device, Some(&d_result), &|tape, inputs| {
            operation(tape, inputs, place)
        })
    });
    close(what, &got, &expected, dtype);
    for (i, (got, expected)) in got_gradients.iter().zip(&expected_gradients).enumerate() {
        close(&format!("{what}, gradient {i}"), got, expected, dtype);
    }
}

fn check(
    what: &str,
    inputs: &[Tensor],
    operation: impl Fn(&Tape, &[Tensor], &Place) -> Result<Tensor>,
) {
    for dtype in TYPES {
        check_beside(what, inputs, inputs.len(), dtype, &operation);
    }
}

#[test]
fn norms_of_rows() {
    for (rows, columns, of) in [(5, 41, 41), (9, 96, 16), (3, 1031, 1031), (2, 256, 256)] {
        let x = ((numbers(1, &[rows, columns]) * 2.0).unwrap() + 0.5).unwrap();
        let (weight, bias) = (numbers(2, &[of]), numbers(3, &[of]));
        check("rms_norm", std::slice::from_ref(&x), |tape, t, place| {
            rms_norm(tape, &t[0], &place.put(&weight), 1e-5)
        });
        if of == columns {
            check("layer_norm", &[x], |tape, t, place| {
                layer_norm(tape, &t[0], &place.put(&weight), &place.put(&bias), 1e-5)
            });
        }
    }
}

#[test]
fn norms_of_groups() {
    for (height, width, channels, groups, silu) in [
        (3, 5, 12, 4, true),
        (9, 7, 40, 8, false),
        (1, 1, 6, 2, true),
    ] {
        let grid = Grid {
            images: 2,
            height,
            width,
        };
        let norm = GroupNorm {
            weight: numbers(2, &[channels]),
            bias: numbers(3, &[channels]),
            groups,
            eps: 1e-5,
            silu,
        };
        let x = (numbers(1, &[grid.rows(), channels]) + 1.5).unwrap();
        check("group_norm", &[x], |tape, t, place| {
            let norm = GroupNorm {
                weight: place.put(&norm.weight),
                bias: place.put(&norm.bias),
                ..norm
            };
            group_norm(tape, &t[0], grid, &norm)
        });
    }
}

#[test]
fn activations() {
    // Some lengths fill whole packs, some do not.
    for shape in [[3, 7], [4, 64]] {
        let x = (numbers(1, &shape) * 3.0).unwrap();
        let up = numbers(2, &shape);
        check("swiglu", &[x.clone(), up], |tape, t, _| {
            swiglu(tape, &t[0], &t[1])
        });
        for kind in [Activation::Gelu, Activation::QuickGelu, Activation::Silu] {
            check("activate", std::slice::from_ref(&x), |tape, t, _| {
                activate(tape, &t[0], kind)
            });
        }
        let both = Tensor::cat(&[&x, &numbers(4, &shape)], D::Minus1).unwrap();
        check("geglu", &[both], |tape, t, _| geglu(tape, &t[0]));
    }
}

#[test]
fn rotation_of_whole_and_partial_heads() {
    for (head_dim, pairs) in [(6, 3), (10, 3), (16, 8)] {
        let frequencies: Vec<f32> = (0..pairs).map(|j| 0.7f32.powi(j)).collect();
        let positions = [0, 3, 11, 500];
        check(
            "rope",
            &[numbers(1, &[4, 3 * head_dim])],
            |tape, t, place| {
                let device = &place.device;
                let table = RopeTable::new(&positions, &frequencies, 1.2, head_dim, device)?;
                rope(tape, &t[0], &table)
            },
        );
    }
}

#[test]
fn bias_and_gradients_that_add_up() {
    let bias = numbers(2, &[7]);
    check("add_bias", &[numbers(1, &[5, 7])], |tape, t, place| {
        let x = add_bias(tape, &t[0], &place.put(&bias))?;
        // Three uses: gradients are added in place.
        let gated = swiglu(tape, &x, &t[0])?;
        swiglu(tape, &gated, &t[0])
    });
}

#[test]
fn chosen_rows() {
    check("select_rows", &[numbers(1, &[6, 5])], |tape, t, _| {
        select_rows(tape, &t[0], &[0, 2, 5])
    });
}

#[test]
fn columns_taken_apart_and_joined() {
    let x = numbers(1, &[5, 13]);
    check("select_columns", std::slice::from_ref(&x), |tape, t, _| {
        let first = select_columns(tape, &t[0], 0..4)?;
        let second = select_columns(tape, &t[0], 9..13)?;
        swiglu(tape, &first, &second)
    });
    check("join_channels", &[x, numbers(2, &[5, 3])], |tape, t, _| {
        join_channels(tape, &t[0], &t[1])
    });
}

#[test]
fn linears_with_dora_and_dropout() {
    let (tokens, inputs, outputs, rank) = (21, 64, 37, 3);
    for dtype in TYPES {
        let weight = host(3, outputs, inputs, dtype);
        // A column of magnitude 0 has a gradient like any other.
        let mut magnitude =
            to_vec(&(numbers(4, &[outputs]).abs().unwrap() + 0.5).unwrap()).unwrap();
        magnitude[5] = 0.0;
        let tensors = [
            numbers(1, &[tokens, inputs]),
            numbers(5, &[rank, inputs]),
            numbers(6, &[outputs, rank]),
            Tensor::from_vec(magnitude, outputs, &Device::Cpu).unwrap(),
        ];
        for dropout in [None, Some(dropout(5))] {
            let what = format!("dora, dropout {dropout:?}");
            check_beside(&what, &tensors, 1, dtype, |tape, t, place| {
                let weight = place.weight(&weight);
                let dora = DoraTerm {
                    magnitude: t[3].clone(),
                    norms: adapted_row_norms(&weight, &t[1], &t[2], 1.5)?,
                };
                let terms = [LoraTerm {
                    dora: Some(dora),
                    ..term(&t[1], &t[2], dropout)
                }];
                lora_linear(tape, &t[0], &weight, &terms, Residual::None)
            });
        }
    }
}

#[test]
fn images_grow_and_get_what_is_added() {
    let grid = Grid {
        images: 2,
        height: 3,
        width: 5,
    };
    check(
        "upsample",
        &[numbers(1, &[grid.rows(), 3])],
        |tape, t, _| Ok(upsample(tape, &t[0], grid)?.0),
    );
    let inputs = [numbers(1, &[grid.rows(), 35]), numbers(2, &[2, 35])];
    check("add_to_images", &inputs, |tape, t, _| {
        add_to_images(tape, &t[0], &t[1], grid)
    });
}

fn host(seed: u64, rows: usize, columns: usize, dtype: DType) -> HostWeight {
    let plain = to_vec(&rounded(&numbers(seed, &[rows, columns]), dtype)).unwrap();
    HostWeight::from_floats(&plain, rows, columns).unwrap()
}

fn quantised(encoding: GgmlDType, rows: usize, columns: usize) -> HostWeight {
    let tensor = QTensor::quantize(&numbers(5, &[rows, columns]), encoding).unwrap();
    let bytes: Bytes = Arc::new(tensor.data().unwrap().into_owned());
    HostWeight::new(bytes, 0, encoding, rows, columns).unwrap()
}

#[test]
fn every_encoding_is_decoded_as_on_the_host_also_with_interleaved_heads() {
    use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    for encoding in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
        for heads in [None, Some(3)] {
            let mut weight = quantised(encoding, 12, 512);
            if let Some(heads) = heads {
                weight = weight.with_interleaved_heads(heads).unwrap();
            }
            let all: Vec<u32> = (0..12).collect();
            let expected = Tensor::from_vec(weight.gather(&all), (12, 512), &Device::Cpu).unwrap();
            for dtype in TYPES {
                on_kernels(dtype, |place| {
                    let weight = place.weight(&weight);
                    let got = weight.dense().unwrap();
                    assert_eq!(got.dtype(), dtype);
                    let exact = expected.to_dtype(dtype).unwrap();
                    let what = format!("{encoding:?} {heads:?} {dtype:?}");
                    // Sums of a product and a minimum may be fused on either side.
                    let (got, exact) = (to_vec(&got).unwrap(), to_vec(&exact).unwrap());
                    for (a, b) in got.iter().zip(&exact) {
                        let step = tolerance(dtype) * b.abs().max(1e-3);
                        assert!((a - b).abs() <= step, "{what}: {a} {b}");
                    }
                    let some = embedding(&[7, 0, 7, 11], &weight, &place.device).unwrap();
                    let chosen = Tensor::new(&[7u32, 0, 7, 11], &Device::Cpu).unwrap();
                    let rows = expected.index_select(&chosen, 0).unwrap();
                    close(&what, &some, &rows, dtype);
                });
            }
        }
    }
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

fn dropout(before: u64) -> Dropout {
    Dropout {
        seed: 7,
        step: 3,
        item: 11,
        before,
        probability: 0.3,
    }
}

#[test]
fn linears_with_adapters_dropout_bias_and_residual() {
    let (tokens, inputs, outputs, rank) = (7, 64, 13, 3);
    for dtype in TYPES {
        let weight = host(3, outputs, inputs, dtype);
        let bias = numbers(4, &[outputs]);
        let tensors = [
            numbers(1, &[tokens, inputs]),
            numbers(2, &[tokens, outputs]),
            numbers(5, &[rank, inputs]),
            numbers(6, &[outputs, rank]),
            numbers(7, &[2, inputs]),
            numbers(8, &[outputs, 2]),
        ];
        check_beside("lora_linear", &tensors, 2, dtype, |tape, t, place| {
            let (weight, bias) = (place.weight(&weight), place.put(&bias));
            let terms = [
                term(&t[2], &t[3], None),
                term(&t[4], &t[5], Some(dropout(5))),
            ];
            let residual = Residual::Add(&t[1]);
            lora_linear_with_bias(tape, &t[0], &weight, Some(&bias), &terms, residual)
        });
    }
    let weight = quantised(GgmlDType::Q4K, 9, 256);
    let tensors = [
        numbers(1, &[5, 256]),
        numbers(5, &[rank, 256]),
        numbers(6, &[9, rank]),
    ];
    for dtype in TYPES {
        check_beside("over Q4_K", &tensors, 1, dtype, |tape, t, place| {
            let weight = place.weight(&weight);
            let terms = [term(&t[1], &t[2], None)];
            lora_linear_with_bias(tape, &t[0], &weight, None, &terms, Residual::None)
        });
    }
}

#[test]
fn the_loss_and_its_gradient_in_place() {
    for (vocabulary, tokens, features) in [(1003, 5, 8), (37, 3, 4), (1_100_000, 33, 2)] {
        let targets: Vec<u32> = (0..tokens)
            .map(|i| (i * 7919 % vocabulary) as u32)
            .collect();
        for dtype in TYPES {
            if vocabulary > 10_000 && dtype != DType::BF16 {
                continue;
            }
            let weight = host(3, vocabulary, features, dtype);
            let hidden = rounded(&numbers(1, &[tokens, features]), dtype);
            let run = |place: &Place| {
                let hidden = place.put(&hidden.to_dtype(place.dtype).unwrap());
                let weight = place.weight(&weight);
                let (loss, gradient) = cross_entropy(&hidden, &weight, &targets, true).unwrap();
                let (alone, none) = cross_entropy(&hidden, &weight, &targets, false).unwrap();
                let loss = loss.value().unwrap();
                assert!(none.is_none() && alone.value().unwrap() == loss);
                (loss, gradient)
            };
            let (expected, expected_gradient) = run(&Place::cpu());
            let (got, got_gradient) = on_kernels(dtype, run);
            assert!((got - expected).abs() < 1e-5 * expected, "{got} {expected}");
            let (got, expected) = (got_gradient.unwrap(), expected_gradient.unwrap());
            close("cross_entropy", &got, &expected, dtype);
        }
    }
}

#[test]
fn convolutions_with_adapters() {
    let grid = Grid {
        images: 3,
        height: 5,
        width: 4,
    };
    let down = Kernel {
        size: 3,
        stride: 2,
        before: 0,
        after: 1,
    };
    for kernel in [Kernel::same(3), down, Kernel::same(1)] {
        let (channels, outputs) = (6, 5);
        let columns = channels * kernel.size * kernel.size;
        let out = kernel.output(grid).unwrap();
        let tensors = [
            numbers(1, &[grid.rows(), channels]),
            numbers(2, &[out.rows(), outputs]),
            numbers(5, &[2, columns]),
            numbers(6, &[outputs, 2]),
            numbers(7, &[3, columns]),
            numbers(8, &[outputs, 3]),
        ];
        for dtype in TYPES {
            let weight = host(3, outputs, columns, dtype);
            check_beside("conv2d", &tensors, 2, dtype, |tape, t, place| {
                let conv = FrozenConv {
                    weight: place.weight(&weight),
                    bias: Some(place.put(&numbers(9, &[outputs]))),
                    kernel,
                };
                let terms = [
                    term(&t[2], &t[3], None),
                    term(&t[4], &t[5], Some(dropout(0))),
                ];
                Ok(conv2d(tape, &t[0], grid, &conv, &terms, Some(&t[1]))?.0)
            });
        }
    }
}

fn spans(rows: &[(std::ops::Range<usize>, std::ops::Range<usize>)]) -> Arc<Vec<Span>> {
    let span = |(queries, keys): &(std::ops::Range<usize>, std::ops::Range<usize>)| Span {
        queries: queries.clone(),
        keys: keys.clone(),
    };
    Arc::new(rows.iter().map(span).collect())
}

fn check_attention(heads: Heads, rows: &Arc<Vec<Span>>, sight: Sight, dtype: DType) {
    let queries = rows.iter().map(|s| s.queries.end).max().unwrap();
    let keys = rows.iter().map(|s| s.keys.end).max().unwrap();
    let inputs = [
        numbers(1, &[queries, heads.queries * heads.size]),
        numbers(2, &[keys, heads.keys * heads.size]),
        numbers(3, &[keys, heads.keys * heads.size]),
    ];
    let what = format!("attention of {heads:?} {sight:?}");
    check_beside(&what, &inputs, 3, dtype, |tape, t, _| {
        attention(tape, &t[0], &t[1], &t[2], rows, heads, sight)
    });
}

const CAUSAL: Sight = Sight::Causal { window: None };

#[test]
fn attention_of_packed_rows_with_grouped_heads_and_windows() {
    let heads = Heads {
        queries: 4,
        keys: 2,
        size: 24,
    };
    // Rows that end within a tile, begin within one, and reach over several.
    let packed = spans(&[(0..70, 0..70), (70..75, 70..75), (75..146, 75..146)]);
    for window in [None, Some(1), Some(9), Some(64), Some(500)] {
        for dtype in TYPES {
            check_attention(heads, &packed, Sight::Causal { window }, dtype);
        }
    }
    // Queries behind keys of a cache.
    let continued = spans(&[(0..3, 0..90), (3..68, 90..220)]);
    for window in [None, Some(40)] {
        for dtype in TYPES {
            check_attention(heads, &continued, Sight::Causal { window }, dtype);
        }
    }
}

#[test]
fn attention_to_all_keys_of_other_rows() {
    let heads = Heads {
        queries: 2,
        keys: 2,
        size: 40,
    };
    // A text of 77 tokens beside images of more pixels.
    let crossed = spans(&[(0..130, 0..77), (130..135, 77..150)]);
    for dtype in TYPES {
        check_attention(heads, &crossed, Sight::All, dtype);
    }
}

#[test]
fn attention_of_every_head_size_that_kernels_were_built_for_and_of_others() {
    let rows = spans(&[(0..67, 0..67)]);
    for size in [7, 32, 48, 64, 80, 96, 128, 160, 176, 264] {
        let heads = Heads {
            queries: 2,
            keys: 1,
            size,
        };
        for dtype in [DType::BF16, DType::F16] {
            check_attention(heads, &rows, CAUSAL, dtype);
        }
    }
    for size in [7, 130, 264, 520] {
        let heads = Heads {
            queries: 2,
            keys: 1,
            size,
        };
        check_attention(heads, &spans(&[(0..19, 0..19)]), CAUSAL, DType::F32);
    }
}

#[test]
fn keys_that_nobody_looks_at_get_no_gradient() {
    let heads = Heads {
        queries: 1,
        keys: 1,
        size: 8,
    };
    // Key 3 and query 3 lie in no row.
    let rows = spans(&[(0..3, 0..3), (4..6, 4..6)]);
    for dtype in TYPES {
        check_attention(heads, &rows, CAUSAL, dtype);
    }
}

#[test]
fn squared_errors_of_pictures() {
    // Fewer numbers than threads, and more.
    for (pictures, pixels) in [(1, 3), (3, 211)] {
        let (count, shape) = (pixels * 5, [pictures * pixels, 5]);
        let target = to_vec(&numbers(2, &shape)).unwrap();
        let wanted: Vec<Wanted<'_>> = target
            .chunks(count)
            .enumerate()
            .map(|(i, target)| Wanted {
                target,
                weight: 0.5 + i as f64,
            })
            .collect();
        let run = |place: &Place| {
            let prediction = place.put(&numbers(1, &shape));
            let (loss, gradient) = squared_errors(&prediction, &wanted).unwrap();
            (loss.value().unwrap(), to_vec(&gradient).unwrap())
        };
        let (expected, expected_gradient) = run(&Place::cpu());
        let (got, gradient) = on_kernels(DType::F32, run);
        assert!(
            (got - expected).abs() < 1e-12 * expected,
            "{got} {expected}"
        );
        assert_eq!(gradient, expected_gradient);
    }
}

#[test]
fn adamw_gives_the_hosts_bits_and_makes_no_update_of_what_is_not_finite() {
    // Fewer numbers than a block has threads, and more than one pass of all blocks.
    for count in [3, 1000, 200_003] {
        let [x, gradient, m, v] = [1, 2, 3, 4].map(|seed| numbers(seed, &[count]));
        let v = v.abs().unwrap();
        let s = AdamWScalars {
            decay: 0.999,
            step_size: 2e-3,
            bias_correction2_sqrt: 0.1,
            one_minus_beta1: (1.0 - 0.9f64) as f32,
            beta2: 0.999,
            one_minus_beta2: (1.0 - 0.999f64) as f32,
            epsilon: 1e-8,
        };
        let [x0, g0, m0, v0] = [&x, &gradient, &m, &v].map(|t| to_vec(t).unwrap());
        let run = |loss: f64, spoil: Option<f32>, max_norm: f64| {
            on_kernels(DType::F32, |place| {
                let [x, addend, m, v] =
                    [&x, &gradient, &m, &v].map(|t| place.put(t).copy().unwrap());
                let gradient = numbers(9, &[count]);
                let gradient = place.put(&gradient).copy().unwrap();
                clear(&gradient).unwrap();
                accumulate(&gradient, &addend).unwrap();
                if let Some(spoil) = spoil {
                    let mut numbers = vec![0.0; count];
                    numbers[count - 1] = spoil;
                    let numbers = Tensor::from_vec(numbers, count, &Device::Cpu).unwrap();
                    accumulate(&gradient, &place.put(&numbers)).unwrap();
                }
                let loss = place.put(&Tensor::new(&[loss], &Device::Cpu).unwrap());
                let outcome = conclude(&gradient, &loss, 3, max_norm).unwrap();
                adamw(&x, &gradient, (&m, &v), &outcome, s).unwrap();
                let outcome: Vec<f64> = outcome.to_vec1().unwrap();
                ([x, m, v].map(|t| to_vec(&t).unwrap()), outcome)
            })
        };
        let third = (1.0 / 3.0f64) as f32;
        let squares = g0.iter().map(|&g| f64::from(g * third).powi(2));
        let norm = squares.sum::<f64>().sqrt();
        for max_norm in [0.0, norm / 2.0, norm * 2.0] {
            let ([x, m, v], outcome) = run(6.0, None, max_norm);
            assert_eq!(outcome[0], 2.0);
            assert!((outcome[1] - norm).abs() < 1e-12 * norm);
            let clips = max_norm > 0.0 && max_norm < norm;
            let expected = if clips { max_norm / (norm + 1e-6) } else { 1.0 };
            assert!((outcome[2] - expected).abs() < 1e-12);
            let coefficient = outcome[2] as f32;
            for i in 0..count {
                let g = g0[i] * third * coefficient;
                let m1 = m0[i] + (g - m0[i]) * s.one_minus_beta1;
                let v1 = v0[i] * s.beta2 + g * g * s.one_minus_beta2;
                let denominator = v1.sqrt() / s.bias_correction2_sqrt + s.epsilon;
                let x1 = x0[i] * s.decay - s.step_size * (m1 / denominator);
                assert_eq!([x[i], m[i], v[i]], [x1, m1, v1], "{i}");
            }
        }
        for (loss, spoil) in [
            (f64::NAN, None),
            (f64::INFINITY, None),
            (6.0, Some(f32::NAN)),
            (6.0, Some(f32::NEG_INFINITY)),
        ] {
            let ([x, m, v], outcome) = run(loss, spoil, 1.0);
            assert!(outcome[2].is_nan());
            assert_eq!((x, m, v), (x0.clone(), m0.clone(), v0.clone()));
            assert_eq!(outcome[0].is_finite(), loss.is_finite());
            assert_eq!(outcome[1].is_finite(), spoil.is_none());
        }
    }
}
