//! Where the time of a step goes, and how many multiplications it makes: for `loradeck bench`.
//! Switched off, it costs one read of a flag per operation.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A part of a step that is timed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Embedding,
    Norm,
    /// Frozen linears of the blocks.
    Linear,
    /// Frozen convolutions with the adapters beside them.
    Convolution,
    /// The low-rank products beside them.
    Adapter,
    Rope,
    Attention,
    SwiGlu,
    /// Other activations, and those with a gate.
    Activation,
    /// The head's logits and the loss.
    Head,
    /// Sums of gradients that several operations contribute to.
    Sums,
}

impl Part {
    pub const ALL: [Part; 11] = [
        Part::Embedding,
        Part::Norm,
        Part::Linear,
        Part::Convolution,
        Part::Adapter,
        Part::Rope,
        Part::Attention,
        Part::SwiGlu,
        Part::Activation,
        Part::Head,
        Part::Sums,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Part::Embedding => "embedding",
            Part::Norm => "norm",
            Part::Linear => "linear",
            Part::Convolution => "convolution",
            Part::Adapter => "adapter",
            Part::Rope => "rope",
            Part::Attention => "attention",
            Part::SwiGlu => "swiglu",
            Part::Activation => "activation",
            Part::Head => "head and loss",
            Part::Sums => "gradient sums",
        }
    }
}

static ON: AtomicBool = AtomicBool::new(false);
static NANOSECONDS: [AtomicU64; Part::ALL.len()] = [const { AtomicU64::new(0) }; Part::ALL.len()];
static FLOPS: AtomicU64 = AtomicU64::new(0);

/// What was measured since [`start`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Profile {
    /// Seconds by part, in the order of [`Part::ALL`].
    pub seconds: [f64; Part::ALL.len()],
    /// Floating-point operations of all matrix products on the CPU.
    pub flops: u64,
}

/// Begins to measure, from zero. One measurement at a time per process.
pub fn start() {
    for sum in &NANOSECONDS {
        sum.store(0, Relaxed);
    }
    FLOPS.store(0, Relaxed);
    ON.store(true, Relaxed);
}

/// Ends the measurement.
pub fn stop() -> Profile {
    ON.store(false, Relaxed);
    Profile {
        seconds: std::array::from_fn(|i| NANOSECONDS[i].load(Relaxed) as f64 * 1e-9),
        flops: FLOPS.load(Relaxed),
    }
}

/// Times until it is dropped. Parts must not lie within one another.
#[must_use]
pub(super) struct Timer(Option<(Part, Instant)>);

pub(super) fn timed(part: Part) -> Timer {
    Timer(ON.load(Relaxed).then(|| (part, Instant::now())))
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some((part, started)) = self.0 {
            let nanoseconds = started.elapsed().as_nanos() as u64;
            NANOSECONDS[part as usize].fetch_add(nanoseconds, Relaxed);
        }
    }
}

/// Counts a product of `m x k` with `k x n`.
pub(super) fn count(m: usize, n: usize, k: usize) {
    if ON.load(Relaxed) {
        FLOPS.fetch_add(2 * (m * n * k) as u64, Relaxed);
    }
}
