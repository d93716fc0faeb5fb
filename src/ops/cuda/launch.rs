//! Starting kernels.

use candle_core::{DType, Device, Result, Shape, Tensor};

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Argument<'a> {
    /// The address of a contiguous tensor's first number. Kernels write to it as well.
    Tensor(&'a Tensor),
    /// A null address.
    Null,
    Int(i32),
    Word(u32),
    Long(i64),
    Float(f32),
    Double(f64),
}

impl Argument<'_> {
    /// The argument's bytes, from the first on; none for an address.
    pub(super) fn bits(&self) -> u64 {
        match *self {
            Argument::Tensor(_) | Argument::Null => 0,
            Argument::Int(x) => u64::from(x as u32),
            Argument::Word(x) => u64::from(x),
            Argument::Long(x) => x as u64,
            Argument::Float(x) => u64::from(x.to_bits()),
            Argument::Double(x) => x.to_bits(),
        }
    }
}

/// The blocks of a launch and their threads.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    pub blocks: (u32, u32, u32),
    pub threads: (u32, u32, u32),
    pub shared_bytes: u32,
}

/// Threads of blocks that go through numbers one by one.
const THREADS: u32 = 256;
/// Blocks at most of such a launch: enough to fill any GPU several times over.
const BLOCKS: u64 = 8192;

impl Blocks {
    /// For `count` numbers, each some thread's; a thread may take several.
    pub fn over(count: usize) -> Blocks {
        let blocks = (count as u64).div_ceil(u64::from(THREADS)).clamp(1, BLOCKS);
        Blocks {
            blocks: (blocks as u32, 1, 1),
            threads: (THREADS, 1, 1),
            shared_bytes: 0,
        }
    }

    /// For a sum that one block takes.
    pub fn one() -> Blocks {
        Blocks {
            blocks: (1, 1, 1),
            threads: (THREADS, 1, 1),
            shared_bytes: 0,
        }
    }

    /// For `rows` rows of `columns` numbers, each some threads of one block.
    pub fn rows(rows: usize, columns: usize) -> Blocks {
        let threads = (columns as u32).div_ceil(4).next_multiple_of(32).min(256);
        let at_once = if threads == 32 { 8 } else { 1 };
        Blocks {
            blocks: ((rows as u32).div_ceil(at_once).max(1), 1, 1),
            threads: (threads, at_once, 1),
            shared_bytes: 0,
        }
    }
}

/// Starts `kernel`, which lies in `module` (a `.cu` file, or a variant of one).
///
/// # Errors
/// The device refuses.
pub fn launch(
    device: &Device,
    module: &str,
    kernel: &str,
    grid: Blocks,
    arguments: &[Argument<'_>],
) -> Result<()> {
    #[cfg(test)]
    if super::emulated::is_on() {
        super::emulated::launch(kernel, grid, arguments);
        return Ok(());
    }
    #[cfg(feature = "cuda")]
    return super::driver::launch(device, module, kernel, grid, arguments);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (device, grid, arguments);
        candle_core::bail!("the kernel {module}/{kernel} was not built into this program")
    }
}

/// A tensor whose numbers a kernel is about to write: until then they are anything.
///
/// # Errors
/// The device has no memory left.
pub fn new_tensor(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    #[cfg(test)]
    if super::emulated::is_on() {
        return super::emulated::poisoned(shape, dtype);
    }
    // SAFETY: whoever asks gives it to a kernel that writes all of its numbers.
    unsafe { Tensor::empty(shape, dtype, device) }
}
