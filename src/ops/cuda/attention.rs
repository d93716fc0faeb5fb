//! Attention: on tensor cores for half precision, without them for f32 and very wide heads.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::super::attention::{Heads, Sight, Span};
use super::super::tape::Tape;
use super::{Argument, Blocks, common_type, contiguous, int, launch, new_tensor};

/// Padded head sizes that `attention.cu` was built for (see build.rs).
const HEADS: [usize; 7] = [32, 48, 64, 80, 96, 128, 160];
/// Rows of its tiles, and threads of a block.
const TILE: usize = 64;
const THREADS: u32 = 128;
/// Rows of the other side that `attention_plain.cu` holds at once.
const AT_ONCE: usize = 16;

/// What all kernels of one attention are told.
#[derive(Clone)]
struct Call {
    heads: Heads,
    window: i32,
    causal: bool,
    name: &'static str,
    /// The padded head size; `None`: the plain kernels.
    padded: Option<usize>,
    spans: Arc<Vec<Span>>,
}

impl Call {
    fn rows(&self) -> usize {
        match self.padded {
            Some(_) => TILE,
            None => match self.heads.size {
                0..=128 => 16,
                129..=256 => 8,
                257..=512 => 4,
                _ => 2,
            },
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.heads.size as f32).sqrt()
    }

    /// Tiles of queries, six numbers each as `attention.cu` tells.
    fn query_tiles(&self) -> Vec<u32> {
        let mut tiles = Vec::new();
        for Span { queries, keys } in self.spans.iter() {
            for first in (0..queries.len()).step_by(self.rows()) {
                // Without causality there may be more queries than keys.
                let offset = (keys.len() + first).saturating_sub(queries.len());
                let count = self.rows().min(queries.len() - first);
                let place = (queries.start + first, count, keys.start, keys.len(), offset);
                let (a, b, c, d, e) = place;
                tiles.extend([a, b, c, d, e, 0].map(|n| n as u32));
            }
        }
        tiles
    }

    fn key_tiles(&self) -> Vec<u32> {
        let mut tiles = Vec::new();
        for Span { queries, keys } in self.spans.iter() {
            let offset = keys.len().saturating_sub(queries.len());
            for first in (0..keys.len()).step_by(self.rows()) {
                let count = self.rows().min(keys.len() - first);
                let place = (keys.start + first, count, queries.start, queries.len());
                let (a, b, c, d) = place;
                tiles.extend([a, b, c, d, offset, first].map(|n| n as u32));
            }
        }
        tiles
    }

    /// Starts a kernel for every tile and each of `heads` heads. `shared` are the numbers it holds:
    /// `(rows of a tile, other rows)` of a head each.
    fn launch(
        &self,
        kernel: &str,
        tiles: &[u32],
        heads: usize,
        other_heads: usize,
        tensors: &[&Tensor],
        shared: Shared,
    ) -> Result<()> {
        if tiles.is_empty() {
            return Ok(());
        }
        let device = tensors[0].device();
        let table = Tensor::new(tiles, device)?;
        let mut arguments: Vec<Argument<'_>> =
            tensors.iter().map(|t| Argument::Tensor(t)).collect();
        arguments.extend([
            Argument::Tensor(&table),
            Argument::Int(int(other_heads)?),
            Argument::Int(int(self.heads.size)?),
            Argument::Int(self.window),
            Argument::Int(i32::from(self.causal)),
            Argument::Float(self.scale()),
        ]);
        let (module, kernel) = match self.padded {
            Some(head) => (
                format!("attention_{head}_{}", self.name),
                format!("{kernel}_{head}_{}", self.name),
            ),
            None => {
                arguments.push(Argument::Int(int(self.rows())?));
                let kernel = format!("{kernel}_plain_{}", self.name);
                ("attention_plain".to_owned(), kernel)
            }
        };
        let grid = Blocks {
            blocks: ((tiles.len() / 6) as u32, heads as u32, 1),
            threads: (THREADS, 1, 1),
            shared_bytes: self.shared_bytes(shared),
        };
        launch(device, &module, &kernel, grid, &arguments)
    }

    fn shared_bytes(&self, shared: Shared) -> u32 {
        let (size, rows) = (self.heads.size, self.rows());
        let bytes = match self.padded {
            Some(head) => {
                // Rows are eight numbers longer, so that no two of a column share a bank.
                let rows = |count: usize| 2 * count * (head + 8);
                let at_once = if head > 96 { 16 } else { 32 };
                match shared {
                    Shared::Forward | Shared::Queries => rows(2 * TILE),
                    Shared::Keys => rows(2 * TILE + 2 * at_once) + 2 * 4 * at_once,
                }
            }
            None => {
                let other = AT_ONCE * (size + 1);
                let scores = rows * AT_ONCE;
                4 * match shared {
                    Shared::Forward => 2 * rows * size + other + scores + 3 * rows,
                    Shared::Queries => 3 * rows * size + 2 * other + scores,
                    Shared::Keys => 4 * rows * size + 2 * other + 2 * scores,
                }
            }
        };
        bytes as u32
    }
}

/// Which kernel's shared memory.
#[derive(Clone, Copy)]
enum Shared {
    Forward,
    Queries,
    Keys,
}

/// A tensor whose rows all lie in spans, or zeros for those that do not.
fn output(rows: usize, covered: usize, columns: usize, like: &Tensor) -> Result<Tensor> {
    let (shape, dtype, device) = ((rows, columns), like.dtype(), like.device());
    match covered == rows {
        true => new_tensor(shape, dtype, device),
        false => Tensor::zeros(shape, dtype, device),
    }
}

/// As [`super::super::attention()`], of shapes that were checked.
pub fn attention(
    tape: &Tape,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &Arc<Vec<Span>>,
    heads: Heads,
    sight: Sight,
) -> Result<Tensor> {
    let (causal, window) = match sight {
        Sight::All => (false, None),
        Sight::Causal { window } => (true, window),
    };
    let ids = (q.id(), k.id(), v.id());
    let inputs = [q, k, v];
    let (q, k, v) = (contiguous(q)?, contiguous(k)?, contiguous(v)?);
    let name = common_type(&[&q, &k, &v])?;
    let padded = HEADS.into_iter().find(|&head| head >= heads.size);
    let call = Call {
        heads,
        window: int(window.unwrap_or(0))?,
        causal,
        name,
        padded: padded.filter(|_| q.dtype() != DType::F32),
        spans: spans.clone(),
    };
    let ((tokens, features), (keys, key_features)) = (q.dims2()?, k.dims2()?);
    let covered: usize = spans.iter().map(|s| s.queries.len()).sum();
    let covered_keys: usize = spans.iter().map(|s| s.keys.len()).sum();
    let y = output(tokens, covered, features, &q)?;
    let device: &Device = q.device();
    let normalisers = new_tensor((tokens, heads.queries), DType::F32, device)?;
    let tiles = call.query_tiles();
    let tensors = [&q, &k, &v, &y, &normalisers];
    let (own, other) = (heads.queries, heads.keys);
    let kernel = "attention_forward";
    call.launch(kernel, &tiles, own, other, &tensors, Shared::Forward)?;
    let output_numbers = y.clone();
    tape.record(&y, &inputs, move |dy, gradients| {
        let dy = contiguous(&dy)?;
        common_type(&[&q, &dy])?;
        let means = new_tensor((tokens, heads.queries), DType::F32, q.device())?;
        let rows = tokens * heads.queries;
        let grid = Blocks {
            blocks: ((rows as u32).div_ceil(8).max(1), 1, 1),
            threads: (32, 8, 1),
            shared_bytes: 0,
        };
        launch(
            q.device(),
            "attention_plain",
            &format!("attention_means_{name}"),
            grid,
            &[
                Argument::Tensor(&output_numbers),
                Argument::Tensor(&dy),
                Argument::Tensor(&means),
                Argument::Long(rows as i64),
                Argument::Int(int(heads.size)?),
            ],
        )?;
        let dq = output(tokens, covered, features, &q)?;
        let dk = output(keys, covered_keys, key_features, &k)?;
        let dv = output(keys, covered_keys, key_features, &k)?;
        let of_queries = [&q, &k, &v, &dy, &normalisers, &means, &dq];
        let of_keys = [&q, &k, &v, &dy, &normalisers, &means, &dk, &dv];
        let (own, other) = (heads.queries, heads.keys);
        let kernel = "attention_backward_queries";
        call.launch(kernel, &tiles, own, other, &of_queries, Shared::Queries)?;
        let kernel = "attention_backward_keys";
        let tiles = call.key_tiles();
        call.launch(kernel, &tiles, other, own, &of_keys, Shared::Keys)?;
        gradients.add(ids.0, dq)?;
        gradients.add(ids.1, dk)?;
        gradients.add(ids.2, dv)
    });
    Ok(y)
}
