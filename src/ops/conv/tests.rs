//! Convolutions against finite differences and candle's own.

use candle_core::DType;

use super::super::dropout::Dropout;
use super::super::finite_differences::{check, numbers};
use super::super::to_vec;
use super::super::weight::HostWeight;
use super::*;

/// UNet, stride 2 with zeros on both sides, the VAE's with zeros on one, 1x1, patches of 2x2.
const KERNELS: [Kernel; 5] = [
    Kernel::same(3),
    Kernel {
        size: 3,
        stride: 2,
        before: 1,
        after: 1,
    },
    Kernel {
        size: 3,
        stride: 2,
        before: 0,
        after: 1,
    },
    Kernel::same(1),
    Kernel {
        size: 2,
        stride: 2,
        before: 0,
        after: 0,
    },
];

const GRID: Grid = Grid {
    images: 2,
    height: 5,
    width: 4,
};

/// A convolution, and its weight in PyTorch's order.
fn conv(kernel: Kernel, inputs: usize, outputs: usize) -> (FrozenConv, Tensor) {
    let columns = inputs * kernel.taps();
    let weight = numbers(7, &[outputs, columns]);
    let host = HostWeight::from_floats(&to_vec(&weight).unwrap(), outputs, columns).unwrap();
    let host = host.channels_last(kernel.taps()).unwrap();
    let conv = FrozenConv {
        weight: FrozenWeight::new(host, &Device::Cpu, DType::F32).unwrap(),
        bias: Some(numbers(8, &[outputs])),
        kernel,
    };
    let shape = (outputs, inputs, kernel.size, kernel.size);
    (conv, weight.reshape(shape).unwrap())
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

const DROPOUT: Dropout = Dropout {
    seed: 1,
    step: 2,
    item: 3,
    before: 0,
    probability: 0.4,
};

fn close(got: &Tensor, expected: &Tensor) {
    assert_eq!(got.dims(), expected.dims());
    for (a, b) in to_vec(got).unwrap().iter().zip(to_vec(expected).unwrap()) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn gradients_of_a_convolution_with_lora_are_its_slopes_for_odd_and_even_sizes() {
    for kernel in KERNELS {
        for grid in [GRID, Grid { height: 4, ..GRID }] {
            let (conv, _) = conv(kernel, 3, 4);
            let out = kernel.output(grid).unwrap();
            let inputs = [
                numbers(1, &[grid.rows(), 3]),
                numbers(2, &[2, 3 * kernel.taps()]),
                numbers(3, &[4, 2]),
                numbers(4, &[out.rows(), 4]),
            ];
            for dropout in [None, Some(DROPOUT)] {
                check("conv2d", &inputs, |tape, t| {
                    let terms = [term(&t[1], &t[2], dropout), term(&t[1], &t[2], None)];
                    Ok(conv2d(tape, &t[0], grid, &conv, &terms, Some(&t[3]))?.0)
                });
            }
        }
    }
}

#[test]
fn gradient_of_a_bare_convolution_is_its_slope() {
    let (conv, _) = conv(KERNELS[1], 2, 3);
    check("conv2d", &[numbers(1, &[GRID.rows(), 2])], |tape, t| {
        Ok(conv2d(tape, &t[0], GRID, &conv, &[], None)?.0)
    });
}

/// Of images as `[images, channels, height, width]`.
fn channels_first(x: &Tensor, grid: Grid) -> Tensor {
    let shape = (grid.images, grid.height, grid.width, x.dim(1).unwrap());
    let x = x.reshape(shape).unwrap();
    x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

#[test]
fn a_convolution_and_its_adapter_are_candles() {
    let off = Tape::off();
    for kernel in [KERNELS[0], KERNELS[1]] {
        let (conv, weight) = conv(kernel, 3, 4);
        let x = numbers(1, &[GRID.rows(), 3]);
        let (a, b) = (numbers(2, &[2, 27]), numbers(3, &[4, 2]));
        let (y, out) = conv2d(&off, &x, GRID, &conv, &[term(&a, &b, None)], None).unwrap();
        let x = channels_first(&x, GRID);
        let plain = |x: &Tensor, w: &Tensor| x.conv2d(w, kernel.before, kernel.stride, 1, 1);
        let low = plain(&x, &a.reshape((2, 3, 3, 3)).unwrap()).unwrap();
        let up = low.conv2d(&b.reshape((4, 2, 1, 1)).unwrap(), 0, 1, 1, 1);
        let bias = conv.bias.as_ref().unwrap().reshape((1, 4, 1, 1)).unwrap();
        let expected = plain(&x, &weight).unwrap().broadcast_add(&bias).unwrap();
        let expected = (expected + (up.unwrap() * 1.5).unwrap()).unwrap();
        close(&channels_first(&y, out), &expected);
    }
}

/// More pixels than patches exist for at once.
#[test]
fn pieces_of_a_large_image_fit_together() {
    let kernel = Kernel::same(3);
    let channels = PATCHES / 9 / 16;
    let grid = Grid {
        images: 2,
        height: 3,
        width: 7,
    };
    let (conv, weight) = conv(kernel, channels, 2);
    let x = numbers(1, &[grid.rows(), channels]);
    let tape = Tape::recording();
    tape.want(&x);
    let (y, out) = conv2d(&tape, &x, grid, &conv, &[], None).unwrap();
    let bias = conv.bias.as_ref().unwrap().reshape((1, 2, 1, 1)).unwrap();
    let plain = channels_first(&x, grid)
        .conv2d(&weight, 1, 1, 1, 1)
        .unwrap();
    let expected = plain.broadcast_add(&bias).unwrap();
    let apart = (channels_first(&y, out) - expected).unwrap().abs().unwrap();
    assert!(to_vec(&apart).unwrap().iter().all(|x| *x < 1e-2));
    let dy = numbers(2, &[out.rows(), 2]);
    let dx = tape.pull(&y, dy.clone()).unwrap().take(&x).unwrap();
    // With stride 1 it is the convolution of dy with the flipped kernel.
    let flipped = weight.transpose(0, 1).unwrap().contiguous().unwrap();
    let flipped = flipped.flip(&[2, 3]).unwrap();
    let expected = channels_first(&dy, out).conv2d(&flipped, 1, 1, 1, 1);
    close(&channels_first(&dx, grid), &expected.unwrap());
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let (conv, _) = conv(Kernel::same(3), 3, 4);
    let off = Tape::off();
    let x = numbers(1, &[GRID.rows(), 3]);
    let narrow = numbers(1, &[GRID.rows(), 2]);
    let wrong = term(&numbers(2, &[2, 3]), &numbers(3, &[4, 2]), None);
    assert!(conv2d(&off, &narrow, GRID, &conv, &[], None).is_err());
    assert!(conv2d(&off, &x, GRID, &conv, &[wrong], None).is_err());
    assert!(conv2d(&off, &x, GRID, &conv, &[], Some(&narrow)).is_err());
    let tiny = Grid {
        images: 1,
        height: 1,
        width: 1,
    };
    assert!(KERNELS[4].output(tiny).is_err());
}
