use candle_core::quantized::GgmlDType;
use candle_core::quantized::QTensor;

use super::super::finite_differences::numbers;
use super::super::to_vec;
use super::products::PANEL_ROWS;
use super::*;

/// A quantised weight and candle's own dequantisation of it.
fn quantised(encoding: GgmlDType, rows: usize, columns: usize) -> (HostWeight, Vec<f32>) {
    let tensor = QTensor::quantize(&numbers(5, &[rows, columns]), encoding).unwrap();
    let bytes = tensor.data().unwrap().into_owned();
    let plain = to_vec(&tensor.dequantize(&Device::Cpu).unwrap()).unwrap();
    let weight = HostWeight::new(Arc::new(bytes), 0, encoding, rows, columns).unwrap();
    (weight, plain)
}

fn close(got: &[f32], expected: &[f32]) {
    for (a, b) in got.iter().zip(expected) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn products_with_every_encoding_match_the_dequantised_weight() {
    use GgmlDType::*;
    for (encoding, columns) in [
        (F32, 70),
        (F16, 70),
        (BF16, 70),
        (Q4_0, 96),
        (Q4_1, 96),
        (Q5_0, 96),
        (Q5_1, 96),
        (Q8_0, 96),
        (Q2K, 512),
        (Q3K, 512),
        (Q4K, 512),
        (Q5K, 512),
        (Q6K, 512),
    ] {
        let (rows, m) = (PANEL_ROWS + 9, 3);
        let (weight, plain) = quantised(encoding, rows, columns);
        let dense = HostWeight::from_floats(&plain, rows, columns).unwrap();
        let x = to_vec(&numbers(1, &[m, columns])).unwrap();
        let dy = to_vec(&numbers(2, &[m, rows])).unwrap();
        let (mut y, mut y_dense) = (vec![0.0; m * rows], vec![0.0; m * rows]);
        weight.times_transposed(&x, m, &mut y, &Products::alone());
        dense.times_transposed(&x, m, &mut y_dense, &Products::alone());
        close(&y, &y_dense);
        let (mut dx, mut dx_dense) = (vec![0.0; m * columns], vec![0.0; m * columns]);
        weight.times(&dy, m, &mut dx, &Products::alone());
        dense.times(&dy, m, &mut dx_dense, &Products::alone());
        close(&dx, &dx_dense);
        let by_hand: f32 = (0..rows).map(|i| dy[i] * plain[i * columns + 5]).sum();
        assert!((dx[5] - by_hand).abs() < 1e-3);
    }
}

#[test]
fn quantising_gives_the_bytes_that_candle_gives() {
    use GgmlDType::*;
    let numbers = numbers(5, &[6, 512]);
    let dense = HostWeight::from_floats(&to_vec(&numbers).unwrap(), 6, 512).unwrap();
    for encoding in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
        let expected = QTensor::quantize(&numbers, encoding).unwrap();
        let got = dense.quantised(encoding).unwrap();
        assert_eq!(got.bytes(), &*expected.data().unwrap(), "{encoding:?}");
    }
    assert!(dense.quantised(F16).is_err());
}

#[test]
fn interleaved_heads_are_put_into_hugging_faces_order() {
    // Two heads of four rows; llama.cpp's order of a head's rows 0 1 2 3 is 0 2 1 3.
    let file: Vec<f32> = vec![0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
    let weight = HostWeight::from_floats(&file, 8, 1).unwrap();
    let weight = weight.with_interleaved_heads(2).unwrap();
    assert_eq!(
        weight.gather(&[0, 1, 2, 3, 4, 5, 6, 7]),
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    );
}

#[test]
fn unaligned_numbers_are_read_right_and_missing_ones_refused() {
    let mut bytes = vec![0u8];
    bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_ne_bytes()));
    let bytes: Bytes = Arc::new(bytes);
    let weight = HostWeight::new(bytes.clone(), 1, GgmlDType::F32, 1, 2).unwrap();
    assert_eq!(weight.gather(&[0]), [1.5, -2.0]);
    for (start, rows) in [(1, 2), (usize::MAX, 1), (1, usize::MAX)] {
        assert!(HostWeight::new(bytes.clone(), start, GgmlDType::F32, rows, 2).is_err());
    }
}
