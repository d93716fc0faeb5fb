//! Frozen weights that stay in their file's blocks on the device.

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Result, Tensor, bail};

use super::{Argument, Blocks, int, launch, new_tensor, type_name};

/// Numbers that a thread decodes; no encoding has blocks of no multiple of it.
const AT_ONCE: usize = 8;

/// A `[rows, columns]` matrix in blocks, decoded when used.
#[derive(Clone)]
pub struct BlockWeight {
    bytes: Tensor,
    encoding: GgmlDType,
    rows: usize,
    columns: usize,
    /// Heads whose rows lie in the order of interleaved rotary pairs; 0: none.
    interleaved_heads: usize,
    /// What it is decoded to.
    pub dtype: DType,
}

/// The kernels' name of an encoding, where they have it.
fn encoding_name(encoding: GgmlDType) -> Option<&'static str> {
    Some(match encoding {
        GgmlDType::Q4_0 => "Q4_0",
        GgmlDType::Q4_1 => "Q4_1",
        GgmlDType::Q5_0 => "Q5_0",
        GgmlDType::Q5_1 => "Q5_1",
        GgmlDType::Q8_0 => "Q8_0",
        GgmlDType::Q2K => "Q2K",
        GgmlDType::Q3K => "Q3K",
        GgmlDType::Q4K => "Q4K",
        GgmlDType::Q5K => "Q5K",
        GgmlDType::Q6K => "Q6K",
        _ => return None,
    })
}

/// Whether weights of this encoding stay in their blocks.
pub fn stays_in_blocks(encoding: GgmlDType) -> bool {
    encoding_name(encoding).is_some()
}

impl BlockWeight {
    /// The file's bytes of the matrix, as they are.
    pub fn new(
        bytes: &[u8],
        encoding: GgmlDType,
        (rows, columns): (usize, usize),
        interleaved_heads: usize,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        Ok(BlockWeight {
            bytes: Tensor::from_slice(bytes, bytes.len(), device)?,
            encoding,
            rows,
            columns,
            interleaved_heads,
            dtype,
        })
    }

    /// All of it, `[rows, columns]`.
    pub fn dense(&self) -> Result<Tensor> {
        self.decode(None, self.rows)
    }

    /// The rows `indices`, one after another.
    pub fn gather(&self, indices: &Tensor) -> Result<Tensor> {
        self.decode(Some(indices), indices.elem_count())
    }

    fn decode(&self, indices: Option<&Tensor>, count: usize) -> Result<Tensor> {
        let device = self.bytes.device();
        let out = new_tensor((count, self.columns), self.dtype, device)?;
        let Some(encoding) = encoding_name(self.encoding) else {
            bail!("no kernel decodes {:?}", self.encoding);
        };
        launch(
            device,
            "dequantize",
            &format!("dequantize_{encoding}_{}", type_name(self.dtype)?),
            Blocks::over(count * self.columns / AT_ONCE),
            &[
                Argument::Tensor(&self.bytes),
                indices.map_or(Argument::Null, Argument::Tensor),
                Argument::Tensor(&out),
                Argument::Long(count as i64),
                Argument::Int(int(self.columns)?),
                Argument::Int(int(self.rows)?),
                Argument::Int(int(self.interleaved_heads)?),
            ],
        )?;
        Ok(out)
    }
}
