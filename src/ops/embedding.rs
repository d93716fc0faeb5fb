//! Rows of a frozen embedding.

use candle_core::{Device, Result, Tensor, bail};

use super::profile::{Part, timed};
use super::weight::FrozenWeight;

/// `[tokens, features]`: one row of the weight per id, without a graph.
///
/// # Errors
/// An id beyond the vocabulary; the device fails.
pub fn embedding(ids: &[u32], weight: &FrozenWeight, device: &Device) -> Result<Tensor> {
    if let Some(id) = ids.iter().find(|&&id| id as usize >= weight.rows()) {
        bail!(
            "token id {id} is beyond the base's vocabulary of {} tokens",
            weight.rows()
        );
    }
    let _time = timed(Part::Embedding);
    match weight.host() {
        Some(host) => Tensor::from_vec(
            host.gather(ids),
            (ids.len(), weight.columns()),
            &Device::Cpu,
        ),
        None => weight.gather(&Tensor::new(ids, device)?),
    }
}
