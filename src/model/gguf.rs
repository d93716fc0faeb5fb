//! The header of a GGUF file: metadata and where the tensors lie.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Every length is held
//! against what is left of the file before anything is allocated for it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::GgmlDType;

/// Metadata, folded into the few kinds that are asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Integer(i64),
    Number(f64),
    Boolean(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i64>),
    Numbers(Vec<f32>),
    /// Arrays of anything else.
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Row-major: the file's order reversed.
    pub shape: Vec<usize>,
    pub encoding: GgmlDType,
    /// From the start of the file.
    pub start: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Header {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The tensors' names in the file's order.
    pub order: Vec<String>,
    /// Where the list of tensors begins: right after the metadata.
    pub list_start: usize,
    /// What every tensor's start is a multiple of, counted from the start of the data.
    pub alignment: usize,
}

impl Header {
    /// Reads the header of a whole file's bytes.
    ///
    /// # Errors
    /// What is wrong with the file, without its name.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        ensure!(
            reader.take(4)? == b"GGUF",
            "it does not begin as a GGUF file"
        );
        let version = reader.u32()?;
        ensure!(
            (2..=3).contains(&version),
            "its GGUF version {version} is not supported (2 and 3 are)"
        );
        let tensor_count = reader.count(24)?;
        let metadata_count = reader.count(13)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..metadata_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader
                .value(kind)
                .with_context(|| format!("its metadata {key} is damaged"))?;
            metadata.insert(key, value);
        }
        let list_start = reader.at;
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            let name = reader.text()?;
            infos.push(
                reader
                    .tensor(&name)
                    .map(|(shape, encoding, offset)| (name, shape, encoding, offset))?,
            );
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Integer(n)) if *n > 0 && (*n as u64).is_power_of_two() => *n as usize,
            Some(other) => bail!("its alignment is {other:?}"),
        };
        let data_start = reader
            .at
            .checked_next_multiple_of(alignment)
            .context("its alignment is too large")?;
        let mut tensors = BTreeMap::new();
        let mut order = Vec::new();
        for (name, shape, encoding, offset) in infos {
            let start = data_start.checked_add(offset);
            let info = TensorInfo {
                start: start.context("a tensor lies beyond the end of the file")?,
                shape,
                encoding,
            };
            order.push(name.clone());
            tensors.insert(name, info);
        }
        Ok(Header {
            metadata,
            tensors,
            order,
            list_start,
            alignment,
        })
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.metadata.get(key)? {
            Value::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    pub fn integers(&self, key: &str) -> Option<&[i64]> {
        match self.metadata.get(key)? {
            Value::Integers(integers) => Some(integers),
            _ => None,
        }
    }

    pub fn numbers(&self, key: &str) -> Option<&[f32]> {
        match self.metadata.get(key)? {
            Value::Numbers(numbers) => Some(numbers),
            _ => None,
        }
    }

    /// A number that is not negative.
    pub fn size(&self, key: &str) -> Option<usize> {
        match self.metadata.get(key)? {
            Value::Integer(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    pub fn number(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            Value::Number(n) => Some(*n),
            Value::Integer(n) => Some(*n as f64),
            _ => None,
        }
    }

    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            Value::Boolean(yes) => Some(*yes),
            _ => None,
        }
    }
}

/// Reads a header piece by piece, and never beyond its end.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Goes on at the next multiple of `alignment` bytes.
    pub fn align(&mut self, alignment: usize) -> Result<()> {
        self.take(self.at.next_multiple_of(alignment) - self.at)?;
        Ok(())
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        ensure!(count <= rest.len(), "it ends in the middle of its header");
        self.at += count;
        Ok(&rest[..count])
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things that take at least `least` bytes each.
    fn count(&mut self, least: usize) -> Result<usize> {
        let count = self.u64()?;
        let left = (self.bytes.len() - self.at) as u64;
        ensure!(
            count.saturating_mul(least as u64) <= left,
            "its header declares {count} entries, more than the file can hold"
        );
        Ok(count as usize)
    }

    fn text(&mut self) -> Result<String> {
        let length = self.count(1)?;
        let bytes = self.take(length)?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn value(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(self.array::<1>()?[0].into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Number(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Boolean(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => self.list()?,
            10 => Value::Integer(i64::try_from(self.u64()?).unwrap_or(i64::MAX)),
            11 => Value::Integer(i64::from_le_bytes(self.array()?)),
            12 => Value::Number(f64::from_le_bytes(self.array()?)),
            other => bail!("values of kind {other} are unknown"),
        })
    }

    fn list(&mut self) -> Result<Value> {
        let kind = self.u32()?;
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            other => bail!("lists of kind {other} are not supported"),
        };
        let count = self.count(size)?;
        match kind {
            8 => (0..count)
                .map(|_| self.text())
                .collect::<Result<_>>()
                .map(Value::Texts),
            0..=5 | 10 | 11 => (0..count)
                .map(|_| match self.value(kind)? {
                    Value::Integer(n) => Ok(n),
                    other => bail!("{other:?} is no integer"),
                })
                .collect::<Result<_>>()
                .map(Value::Integers),
            6 => (0..count)
                .map(|_| Ok(f32::from_le_bytes(self.array()?)))
                .collect::<Result<_>>()
                .map(Value::Numbers),
            _ => {
                self.take(count * size)?;
                Ok(Value::Other)
            }
        }
    }

    /// Shape, encoding and offset from the start of the data.
    fn tensor(&mut self, name: &str) -> Result<(Vec<usize>, GgmlDType, usize)> {
        let dimensions = self.u32()?;
        ensure!(
            (1..=4).contains(&dimensions),
            "its tensor {name} has {dimensions} dimensions"
        );
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(usize::try_from(self.u64()?)?);
        }
        shape.reverse();
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        ensure!(
            elements.is_some_and(|n| n <= self.bytes.len().saturating_mul(16)),
            "its tensor {name} of shape {shape:?} is larger than the file"
        );
        let encoding = encoding(self.u32()?, name)?;
        Ok((shape, encoding, usize::try_from(self.u64()?)?))
    }
}

/// The number by which GGUF knows an encoding: the reverse of [`encoding`].
pub fn encoding_id(encoding: GgmlDType) -> u32 {
    match encoding {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q8_1 => 9,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        GgmlDType::Q8K => 15,
        GgmlDType::BF16 => 30,
    }
}

/// The encoding of a tensor by ggml's number for it.
pub(super) fn encoding(id: u32, name: &str) -> Result<GgmlDType> {
    Ok(match id {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => {
            let known = match other {
                16 => "IQ2_XXS",
                17 => "IQ2_XS",
                18 => "IQ3_XXS",
                19 => "IQ1_S",
                20 => "IQ4_NL",
                21 => "IQ3_S",
                22 => "IQ2_S",
                23 => "IQ4_XS",
                29 => "IQ1_M",
                34 => "TQ1_0",
                35 => "TQ2_0",
                39 => "MXFP4",
                _ => "unknown",
            };
            bail!(
                "its tensor {name} is quantised as {known} (type {other}), which is not \
                 supported; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are"
            )
        }
    })
}
