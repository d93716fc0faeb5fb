//! Attention against finite differences and its composed form.

use candle_core::{D, DType};

use super::super::finite_differences::{check, numbers};
use super::super::to_vec;
use super::*;

const HEADS: Heads = Heads {
    queries: 4,
    keys: 2,
    size: 6,
};

const CAUSAL: Sight = Sight::Causal { window: None };

fn within(window: usize) -> Sight {
    Sight::Causal {
        window: Some(window),
    }
}

fn span(queries: Range<usize>, keys: Range<usize>) -> Span {
    Span { queries, keys }
}

/// Out of candle's operations.
fn composed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &[Span],
    heads: Heads,
    sight: Sight,
) -> Result<Tensor> {
    let group = heads.queries / heads.keys;
    let scale = 1.0 / (heads.size as f64).sqrt();
    let by_head = |x: &Tensor, range: &Range<usize>, count: usize| {
        x.narrow(0, range.start, range.len())?
            .reshape((range.len(), count, heads.size))?
            .transpose(0, 1)?
            .contiguous()
    };
    let mut rows = Vec::new();
    for span in spans {
        // [keys, group * queries, size]: a key head's queries share one product.
        let (k, v) = (
            by_head(k, &span.keys, heads.keys)?,
            by_head(v, &span.keys, heads.keys)?,
        );
        for first in (0..span.queries.len()).step_by(4 * CHUNK) {
            let count = (4 * CHUNK).min(span.queries.len() - first);
            let start = span.queries.start + first;
            let keys = span.seen_by(&(first..first + count), sight);
            let q = by_head(q, &(start..start + count), heads.queries)?.reshape((
                heads.keys,
                group * count,
                heads.size,
            ))?;
            let k = k.narrow(1, keys.start, keys.len())?;
            let scores = (q.matmul(&k.transpose(1, 2)?)?.to_dtype(DType::F32)? * scale)?;
            let mask: Vec<f32> = (0..group * count)
                .flat_map(|i| {
                    let seen = span.seen(first + i % count, sight);
                    keys.clone().map(move |j| match seen.contains(&j) {
                        true => 0.0,
                        false => f32::NEG_INFINITY,
                    })
                })
                .collect();
            let mask = Tensor::from_vec(mask, (1, group * count, keys.len()), q.device())?;
            let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?
                .to_dtype(v.dtype())?;
            let out = weights
                .matmul(&v.narrow(1, keys.start, keys.len())?.contiguous()?)?
                .reshape((heads.queries, count, heads.size))?
                .transpose(0, 1)?
                .reshape((count, heads.queries * heads.size))?;
            rows.push(out);
        }
    }
    Tensor::cat(&rows, 0)
}

#[test]
fn gradients_of_attention_are_its_slopes_for_rows_of_other_lengths() {
    let spans = Arc::new(vec![span(0..3, 0..3), span(3..8, 3..8)]);
    let inputs = [
        numbers(1, &[8, 24]),
        numbers(2, &[8, 12]),
        numbers(3, &[8, 12]),
    ];
    check("attention", &inputs, |tape, t| {
        attention(tape, &t[0], &t[1], &t[2], &spans, HEADS, CAUSAL)
    });
}

#[test]
fn gradients_hold_across_query_chunks() {
    let heads = Heads {
        queries: 2,
        keys: 1,
        size: 2,
    };
    let count = CHUNK + 3;
    let spans = Arc::new(vec![span(0..count, 0..count)]);
    let inputs = [
        numbers(1, &[count, 4]),
        numbers(2, &[count, 2]),
        numbers(3, &[count, 2]),
    ];
    check("attention", &inputs, |tape, t| {
        attention(tape, &t[0], &t[1], &t[2], &spans, heads, CAUSAL)
    });
}

#[test]
fn fused_attention_is_the_composed_one() {
    let count = 5 * CHUNK + 7;
    let spans = Arc::new(vec![span(0..2, 0..2), span(2..count, 2..count)]);
    let inputs = [
        numbers(1, &[count, 24]),
        numbers(2, &[count, 12]),
        numbers(3, &[count, 12]),
    ];
    let [q, k, v] = &inputs;
    let fused = to_vec(&attention(&Tape::off(), q, k, v, &spans, HEADS, CAUSAL).unwrap()).unwrap();
    let plain = to_vec(&composed(q, k, v, &spans, HEADS, CAUSAL).unwrap()).unwrap();
    for (a, b) in fused.iter().zip(&plain) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn queries_after_a_cache_see_what_they_would_see_in_one_pass() {
    let (q, k, v) = (
        numbers(1, &[7, 24]),
        numbers(2, &[7, 12]),
        numbers(3, &[7, 12]),
    );
    let whole = attention(
        &Tape::off(),
        &q,
        &k,
        &v,
        &Arc::new(vec![span(0..7, 0..7)]),
        HEADS,
        CAUSAL,
    )
    .unwrap();
    let last = q.narrow(0, 5, 2).unwrap();
    let step = attention(
        &Tape::off(),
        &last,
        &k,
        &v,
        &Arc::new(vec![span(0..2, 0..7)]),
        HEADS,
        CAUSAL,
    )
    .unwrap();
    assert_eq!(
        to_vec(&whole.narrow(0, 5, 2).unwrap()).unwrap(),
        to_vec(&step).unwrap()
    );
}

#[test]
fn gradients_of_windowed_attention_are_its_slopes_also_across_chunks() {
    let heads = Heads {
        queries: 2,
        keys: 1,
        size: 2,
    };
    let count = CHUNK + 5;
    let spans = Arc::new(vec![span(0..3, 0..3), span(3..count, 3..count)]);
    let inputs = [
        numbers(1, &[count, 4]),
        numbers(2, &[count, 2]),
        numbers(3, &[count, 2]),
    ];
    for window in [2, 4, CHUNK + 1] {
        check("attention", &inputs, |tape, t| {
            attention(tape, &t[0], &t[1], &t[2], &spans, heads, within(window))
        });
    }
}

/// A query of a window of w gives what it gives when it is the last of w tokens.
#[test]
fn a_window_hides_all_but_the_tokens_in_it() {
    let (count, window) = (3 * CHUNK, 7);
    let (q, k, v) = (
        numbers(1, &[count, 24]),
        numbers(2, &[count, 12]),
        numbers(3, &[count, 12]),
    );
    let spans = Arc::new(vec![span(0..count, 0..count)]);
    let y = attention(&Tape::off(), &q, &k, &v, &spans, HEADS, within(window)).unwrap();
    let plain = composed(&q, &k, &v, &spans, HEADS, within(window)).unwrap();
    for i in [0, 3, 6, 7, CHUNK - 1, CHUNK, CHUNK + 6, count - 1] {
        let first = (i + 1usize).saturating_sub(window);
        let part = |t: &Tensor| t.narrow(0, first, i + 1 - first).unwrap();
        let alone = attention(
            &Tape::off(),
            &q.narrow(0, i, 1).unwrap(),
            &part(&k),
            &part(&v),
            &Arc::new(vec![span(0..1, 0..i + 1 - first)]),
            HEADS,
            CAUSAL,
        )
        .unwrap();
        let alone = to_vec(&alone).unwrap();
        for whole in [&y, &plain] {
            let row = to_vec(&whole.narrow(0, i, 1).unwrap()).unwrap();
            for (a, b) in row.iter().zip(&alone) {
                assert!((a - b).abs() < 1e-5, "query {i}: {a} {b}");
            }
        }
    }
}

#[test]
fn windowed_queries_after_a_cache_see_what_they_would_see_in_one_pass() {
    let (q, k, v) = (
        numbers(1, &[9, 24]),
        numbers(2, &[9, 12]),
        numbers(3, &[9, 12]),
    );
    let off = Tape::off();
    let run = |q: &Tensor, spans| attention(&off, q, &k, &v, &Arc::new(spans), HEADS, within(3));
    let whole = run(&q, vec![span(0..9, 0..9)]).unwrap();
    let step = run(&q.narrow(0, 7, 2).unwrap(), vec![span(0..2, 0..9)]).unwrap();
    let expected = to_vec(&whole.narrow(0, 7, 2).unwrap()).unwrap();
    for (a, b) in to_vec(&step).unwrap().iter().zip(&expected) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

/// Cross-attention: more or fewer keys than queries, ragged rows.
#[test]
fn gradients_of_attention_to_all_keys_are_its_slopes() {
    let spans = Arc::new(vec![
        span(0..CHUNK + 3, 0..3),
        span(CHUNK + 3..CHUNK + 5, 3..8),
    ]);
    let heads = Heads {
        queries: 2,
        keys: 2,
        size: 3,
    };
    let inputs = [
        numbers(1, &[CHUNK + 5, 6]),
        numbers(2, &[8, 6]),
        numbers(3, &[8, 6]),
    ];
    check("attention to all", &inputs, |tape, t| {
        attention(tape, &t[0], &t[1], &t[2], &spans, heads, Sight::All)
    });
}

#[test]
fn fused_attention_to_all_keys_is_the_composed_one_for_the_head_sizes_of_image_models() {
    for size in [40, 64, 80, 160] {
        let heads = Heads {
            queries: 2,
            keys: 2,
            size,
        };
        let spans = Arc::new(vec![
            span(0..CHUNK + 9, 0..77),
            span(CHUNK + 9..90, 77..154),
        ]);
        let (q, k, v) = (
            numbers(1, &[90, 2 * size]),
            numbers(2, &[154, 2 * size]),
            numbers(3, &[154, 2 * size]),
        );
        let fused = attention(&Tape::off(), &q, &k, &v, &spans, heads, Sight::All).unwrap();
        let plain = composed(&q, &k, &v, &spans, heads, Sight::All).unwrap();
        for (a, b) in to_vec(&fused).unwrap().iter().zip(to_vec(&plain).unwrap()) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}
