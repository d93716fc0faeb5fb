//! Keys and values kept between the steps of a generation.

use anyhow::Result;
use candle_core::Tensor;

use super::block::BlockTerms;

/// Keys and values of the tokens fed so far, and the adapters they were computed with.
pub struct KvCache {
    pub(super) layers: Vec<(BlockTerms, LayerCache)>,
    pub(super) len: usize,
}

impl KvCache {
    /// Tokens fed so far.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all tokens but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        for (_, layer) in &mut self.layers {
            layer.len = layer.len.min(len);
        }
    }
}

/// Keys and values of one layer, in buffers that double when full.
#[derive(Default)]
pub(super) struct LayerCache {
    buffers: Option<(Tensor, Tensor)>,
    len: usize,
}

impl LayerCache {
    /// Adds `[tokens, features]` and returns all so far.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let added = k.dim(0)?;
        let len = self.len + added;
        let grown = |old: Option<&Tensor>, new: &Tensor| -> Result<Tensor> {
            let capacity = old.map_or(0, |old| old.dims()[0]);
            let buffer = match old {
                Some(old) if len <= capacity => old.clone(),
                old => {
                    let rows = len.next_power_of_two().max(64);
                    let buffer = Tensor::zeros((rows, new.dim(1)?), new.dtype(), new.device())?;
                    if let Some(old) = old {
                        buffer.slice_set(&old.narrow(0, 0, self.len)?, 0, 0)?;
                    }
                    buffer
                }
            };
            buffer.slice_set(&new.contiguous()?, 0, self.len)?;
            Ok(buffer)
        };
        let old = self.buffers.as_ref();
        let buffers = (
            grown(old.map(|(k, _)| k), k)?,
            grown(old.map(|(_, v)| v), v)?,
        );
        let all = (buffers.0.narrow(0, 0, len)?, buffers.1.narrow(0, 0, len)?);
        self.buffers = Some(buffers);
        self.len = len;
        Ok(all)
    }
}
