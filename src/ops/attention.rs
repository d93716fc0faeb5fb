//! Attention with grouped key/value heads: causal, or of all queries to all keys of their row.
//!
//! Scores exist for one chunk of queries at a time, and the backward computes them anew: nothing
//! of size O(tokens^2) is kept. Key/value heads are never repeated in memory.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cuda;
use super::matrix::{Matrix, Target, Write, product};
use super::profile::{Part, timed};
use super::tape::Tape;
use super::tensors::with_floats;
use super::wide::{dot, exp, exp_in_place, largest, wide};

/// Queries whose scores exist at once.
const CHUNK: usize = 64;

/// How the features of q, k and v divide into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub queries: usize,
    /// Divides `queries`.
    pub keys: usize,
    pub size: usize,
}

/// One row of a batch: which tokens ask and which they may look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub queries: Range<usize>,
    pub keys: Range<usize>,
}

/// Which of its row's keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    All,
    /// The last query sees all keys, the one before it all but the last, and so on. With a window of
    /// `w` (Mistral's sliding window, counted as transformers does) a query sees itself and the
    /// `w - 1` keys before it.
    Causal {
        window: Option<usize>,
    },
}

impl Span {
    /// Which of the row's keys its query `i` sees.
    fn seen(&self, i: usize, sight: Sight) -> Range<usize> {
        let Sight::Causal { window } = sight else {
            return 0..self.keys.len();
        };
        let end = self.keys.len() - self.queries.len() + i + 1;
        window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Which of the row's keys any of a range of its queries sees.
    fn seen_by(&self, queries: &Range<usize>, sight: Sight) -> Range<usize> {
        self.seen(queries.start, sight).start..self.seen(queries.end - 1, sight).end
    }
}

/// Softmax attention, scaled by `1 / sqrt(head size)`: `q` `[tokens, heads.queries * size]`, `k`
/// and `v` `[keys, heads.keys * size]`, rows as the spans tell; the result is shaped like `q`.
///
/// # Errors
/// Shapes that do not fit, a window of 0; the device fails.
pub fn attention(
    tape: &Tape,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &Arc<Vec<Span>>,
    heads: Heads,
    sight: Sight,
) -> Result<Tensor> {
    let ((queries, q_features), (keys, k_features)) = (q.dims2()?, k.dims2()?);
    let fits = q_features == heads.queries * heads.size
        && k_features == heads.keys * heads.size
        && k.dims() == v.dims()
        && spans.iter().all(|s| {
            s.queries.end <= queries
                && s.keys.end <= keys
                && !s.keys.is_empty()
                && (sight == Sight::All || s.queries.len() <= s.keys.len())
        })
        && sight != Sight::Causal { window: Some(0) };
    if !fits {
        bail!(
            "attention of {heads:?} with sight {sight:?} got q {:?}, k {:?}, v {:?}",
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    if cuda::serves(q) {
        return cuda::attention::attention(tape, q, k, v, spans, heads, sight);
    }
    let time = timed(Part::Attention);
    let (y, normalisers) = with_inputs(q, k, v, heads, sight, |inputs| forward(inputs, spans))?;
    let y = Tensor::from_vec(y, q.shape(), &Device::Cpu)?;
    drop(time);
    let (q, k, v) = (q.clone(), k.clone(), v.clone());
    let (output, spans) = (y.clone(), spans.clone());
    tape.record(
        &y,
        &[&q.clone(), &k.clone(), &v.clone()],
        move |dy, gradients| {
            let time = timed(Part::Attention);
            let (dq, dk, dv) = with_inputs(&q, &k, &v, heads, sight, |inputs| {
                with_floats(&output, |y| {
                    with_floats(&dy, |dy| backward(inputs, &spans, y, dy, &normalisers))
                })
            })???;
            drop(time);
            let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), &Device::Cpu);
            gradients.add(q.id(), tensor(dq, &q)?)?;
            gradients.add(k.id(), tensor(dk, &k)?)?;
            gradients.add(v.id(), tensor(dv, &v)?)
        },
    );
    Ok(y)
}

fn with_inputs<R>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    sight: Sight,
    f: impl FnOnce(Inputs<'_>) -> R,
) -> Result<R> {
    with_floats(q, |q| {
        with_floats(k, |k| {
            with_floats(v, |v| {
                f(Inputs {
                    q,
                    k,
                    v,
                    heads,
                    sight,
                })
            })
        })
    })??
}

/// Slices of q, k, v, and how they are to be read.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    heads: Heads,
    sight: Sight,
}

impl<'a> Inputs<'a> {
    fn q_row(&self) -> usize {
        self.heads.queries * self.heads.size
    }

    fn k_row(&self) -> usize {
        self.heads.keys * self.heads.size
    }

    /// The queries of one head from token `first` on.
    fn queries(&self, numbers: &'a [f32], first: usize, head: usize) -> Matrix<'a> {
        Matrix::new(numbers, self.q_row()).from(first, head * self.heads.size)
    }

    /// The keys (or values) of one key head from token `first` on.
    fn keys(&self, numbers: &'a [f32], first: usize, head: usize) -> Matrix<'a> {
        Matrix::new(numbers, self.k_row()).from(first, head * self.heads.size)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.heads.size as f32).sqrt()
    }

    /// Scores (before the softmax) of the row's queries `chunk` under `head`, and which of the row's
    /// keys they are for: `[chunk, keys]`.
    fn scores(
        &self,
        span: &Span,
        head: usize,
        chunk: &Range<usize>,
        out: &mut Vec<f32>,
    ) -> Range<usize> {
        let keys = span.seen_by(chunk, self.sight);
        let width = keys.len();
        out.resize(chunk.len() * width, 0.0);
        // SAFETY: `out` is this task's own.
        unsafe {
            product(
                Target::new(out, width),
                self.queries(self.q, span.queries.start + chunk.start, head),
                self.keys(self.k, span.keys.start + keys.start, self.key_head(head))
                    .transposed(),
                (chunk.len(), width, self.heads.size),
                self.scale(),
                Write::Replace,
            );
        }
        keys
    }

    /// The key head that `head` looks at.
    fn key_head(&self, head: usize) -> usize {
        head * self.heads.keys / self.heads.queries
    }
}

wide! {
    /// Turns the scores that a query sees into weights that still have to be divided by their sum;
    /// the largest score and that sum.
    fn unnormalised(row: &mut [f32], seen: Range<usize>) -> (f32, f32) {
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        let seen = &mut row[seen];
        let most = largest(seen);
        (most, exp_in_place(seen, most))
    }
}

wide! {
    /// Turns scores into weights, given the logarithm of the sum of their exponentials.
    fn normalised(row: &mut [f32], seen: Range<usize>, normaliser: f32) {
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        for x in &mut row[seen] {
            *x = exp(*x - normaliser);
        }
    }
}

wide! {
    fn divide(row: &mut [f32], by: f32) {
        for x in row {
            *x /= by;
        }
    }
}

wide! {
    /// The softmax's backward: gradients of weights to gradients of scores. The mean of a row's
    /// gradients under its weights is `y dy`.
    fn softmax_backward(d_row: &mut [f32], weights: &[f32], y: &[f32], dy: &[f32]) {
        let mean = dot(y, dy);
        for (d, weight) in d_row.iter_mut().zip(weights) {
            *d = weight * (*d - mean);
        }
    }
}

fn chunks(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count)
        .step_by(CHUNK)
        .map(move |first| first..(first + CHUNK).min(count))
}

/// The attended values, and per token and head the logarithm of the sum of the exponentials of its
/// scores, from which the backward gets the weights again.
fn forward(inputs: Inputs<'_>, spans: &[Span]) -> (Vec<f32>, Vec<f32>) {
    let heads = inputs.heads;
    let mut tasks = Vec::new();
    for span in spans {
        for head in 0..heads.queries {
            tasks.extend(chunks(span.queries.len()).map(|chunk| (span, head, chunk)));
        }
    }
    let mut y = vec![0.0; inputs.q.len()];
    let mut normalisers = vec![0.0; inputs.q.len() / heads.size];
    let target = Target::new(&mut y, inputs.q_row());
    let normaliser = Target::new(&mut normalisers, heads.queries);
    tasks.into_par_iter().for_each_init(
        || (Vec::new(), Vec::new()),
        |(weights, sums), (span, head, chunk)| {
            let keys = inputs.scores(span, head, &chunk, weights);
            let first = span.queries.start + chunk.start;
            sums.clear();
            for (row, i) in weights.chunks_exact_mut(keys.len()).zip(chunk.clone()) {
                let seen = span.seen(i, inputs.sight);
                let (most, sum) = unnormalised(row, seen.start - keys.start..seen.end - keys.start);
                // SAFETY: each task writes its own queries of its own head.
                unsafe {
                    normaliser.from(first + sums.len(), head).slice(1)[0] = most + sum.ln();
                }
                sums.push(sum);
            }
            // SAFETY: as above.
            unsafe {
                product(
                    target.from(first, head * heads.size),
                    Matrix::new(weights, keys.len()),
                    inputs.keys(
                        inputs.v,
                        span.keys.start + keys.start,
                        inputs.key_head(head),
                    ),
                    (chunk.len(), heads.size, keys.len()),
                    1.0,
                    Write::Replace,
                );
                for (i, &sum) in sums.iter().enumerate() {
                    divide(
                        target.from(first + i, head * heads.size).slice(heads.size),
                        sum,
                    );
                }
            }
        },
    );
    (y, normalisers)
}

/// Gradients of q, k and v. One task per row and key head walks that head's queries in order, so
/// that the sums of dk and dv do not depend on scheduling.
fn backward(
    inputs: Inputs<'_>,
    spans: &[Span],
    y: &[f32],
    dy: &[f32],
    normalisers: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let heads = inputs.heads;
    let mut dq = vec![0.0; inputs.q.len()];
    let mut dk = vec![0.0; inputs.k.len()];
    let mut dv = vec![0.0; inputs.v.len()];
    let dq_target = Target::new(&mut dq, inputs.q_row());
    let dk_target = Target::new(&mut dk, inputs.k_row());
    let dv_target = Target::new(&mut dv, inputs.k_row());
    let tasks: Vec<(&Span, usize)> = spans
        .iter()
        .flat_map(|span| (0..heads.keys).map(move |key_head| (span, key_head)))
        .collect();
    tasks.into_par_iter().for_each_init(
        || (Vec::new(), Vec::new()),
        |(weights, d_scores), (span, key_head)| {
            let group = heads.queries / heads.keys;
            for head in key_head * group..(key_head + 1) * group {
                for chunk in chunks(span.queries.len()) {
                    let keys = inputs.scores(span, head, &chunk, weights);
                    let width = keys.len();
                    let first = span.queries.start + chunk.start;
                    for (row, i) in weights.chunks_exact_mut(width).zip(chunk.clone()) {
                        let seen = span.seen(i, inputs.sight);
                        normalised(
                            row,
                            seen.start - keys.start..seen.end - keys.start,
                            normalisers[(span.queries.start + i) * heads.queries + head],
                        );
                    }
                    let dy_chunk = inputs.queries(dy, first, head);
                    let at = (span.keys.start + keys.start, key_head * heads.size);
                    let key_dims = (width, heads.size, chunk.len());
                    // SAFETY: each task writes its own row's keys of its own key head and the
                    // queries that look at them; the scratch is its own.
                    unsafe {
                        product(
                            dv_target.from(at.0, at.1),
                            Matrix::new(weights, width).transposed(),
                            dy_chunk,
                            key_dims,
                            1.0,
                            Write::Add,
                        );
                        d_scores.resize(weights.len(), 0.0);
                        product(
                            Target::new(d_scores, width),
                            dy_chunk,
                            inputs.keys(inputs.v, at.0, key_head).transposed(),
                            (chunk.len(), width, heads.size),
                            1.0,
                            Write::Replace,
                        );
                    }
                    for (i, (d_scores, weights)) in d_scores
                        .chunks_exact_mut(width)
                        .zip(weights.chunks_exact(width))
                        .enumerate()
                    {
                        let start = (first + i) * inputs.q_row() + head * heads.size;
                        let features = start..start + heads.size;
                        softmax_backward(d_scores, weights, &y[features.clone()], &dy[features]);
                    }
                    // SAFETY: as above.
                    unsafe {
                        product(
                            dq_target.from(first, head * heads.size),
                            Matrix::new(d_scores, width),
                            inputs.keys(inputs.k, at.0, key_head),
                            (chunk.len(), heads.size, width),
                            inputs.scale(),
                            Write::Replace,
                        );
                        product(
                            dk_target.from(at.0, at.1),
                            Matrix::new(d_scores, width).transposed(),
                            inputs.queries(inputs.q, first, head),
                            key_dims,
                            inputs.scale(),
                            Write::Add,
                        );
                    }
                }
            }
        },
    );
    (dq, dk, dv)
}

#[cfg(test)]
mod tests;
