//! Merging into a GGUF file: metadata and all other tensors stay byte for byte; the merged ones are
//! written anew, in a type that does not throw the update away.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use candle_core::quantized::GgmlDType;
use memmap2::Mmap;

use super::stream::{Matrix, Stream};
use super::update::Slot;
use super::{Job, Updates};
use crate::adapter::model::{Adapter, Rows};
use crate::error::input_error;
use crate::model::gguf::{Header, encoding_id};
use crate::model::{gguf_module, interleaves_heads};

/// The header of a base.
///
/// # Errors
/// The file cannot be read, is damaged or is no base.
pub(super) fn header(path: &Path) -> Result<(Header, Vec<u8>)> {
    let file = path.display().to_string();
    let open = || {
        let file = File::open(path)?;
        // SAFETY: as with every mapped file, another process that truncates it meanwhile can break
        // this one; only its first pages are looked at.
        unsafe { Mmap::map(&file) }
    };
    let mapped = open().map_err(|e| input_error(format!("{file} cannot be read: {e}")))?;
    let header =
        Header::parse(&mapped).map_err(|e| input_error(format!("{file} cannot be used: {e:#}")))?;
    if header.text("general.type") == Some("adapter") {
        return Err(input_error(format!("{file} is an adapter, not a base")));
    }
    let start = mapped[..header.list_start].to_vec();
    Ok((header, start))
}

/// Where a module lies in the file.
///
/// # Errors
/// The adapter is of another architecture, or the file does not say what its rows' order asks for.
pub(super) fn slot(header: &Header, adapter: &Adapter, module: &str, file: &str) -> Result<Slot> {
    let architecture = header.text("general.architecture").unwrap_or("unknown");
    if let Some(theirs) = &adapter.architecture
        && theirs != architecture
    {
        return Err(input_error(format!(
            "the adapter is of the architecture {theirs}, {file} of {architecture}"
        )));
    }
    let name = gguf_module(module)
        .ok_or_else(|| input_error(format!("llama.cpp has no name for {module} that is known")))?;
    let reordered = interleaves_heads(architecture) && adapter.rows == Rows::HuggingFace;
    let heads_key = match () {
        () if !reordered => None,
        () if module.ends_with("self_attn.q_proj") => Some("attention.head_count"),
        () if module.ends_with("self_attn.k_proj") => Some("attention.head_count_kv"),
        () => None,
    };
    let heads = match heads_key {
        None => None,
        Some(key) => {
            let get = |key: &str| header.size(&format!("{architecture}.{key}"));
            let heads = get(key).or_else(|| get("attention.head_count"));
            Some(heads.filter(|&n| n > 0).ok_or_else(|| {
                input_error(format!("{file} has no metadata {architecture}.{key}"))
            })?)
        }
    };
    Ok(Slot {
        tensor: format!("{name}.weight"),
        index: 0,
        heads,
    })
}

/// The encoding that a merged tensor gets: the one asked for; otherwise dense ones stay as they are
/// and quantised ones become Q8_0.
fn target(matrix: &Matrix, asked: Option<GgmlDType>) -> GgmlDType {
    let wanted = asked.unwrap_or(match matrix.encoding.block_size() {
        1 => matrix.encoding,
        _ => GgmlDType::Q8_0,
    });
    match matrix.columns.is_multiple_of(wanted.block_size()) {
        true => wanted,
        false => GgmlDType::F16,
    }
}

/// Writes the base with the updates of its tensors.
///
/// # Errors
/// Damaged files, tensors of another shape; the disk fails.
pub(super) fn merge(
    job: &mut Job<'_, '_>,
    header: &Header,
    start: &[u8],
    updates: &Updates,
    asked: Option<GgmlDType>,
) -> Result<()> {
    let file = job.base.display().to_string();
    let mut plan = Vec::new();
    for name in &header.order {
        let info = &header.tensors[name];
        let matrix = Matrix {
            name: name.clone(),
            start: info.start as u64,
            rows: info.shape.iter().rev().skip(1).product(),
            columns: info.shape.last().copied().unwrap_or(0),
            encoding: info.encoding,
        };
        let encoding = match updates.get(name) {
            None => info.encoding,
            Some(updates) => {
                super::check_shape(&matrix, updates, &file)?;
                target(&matrix, asked)
            }
        };
        plan.push((matrix, encoding));
    }
    let alignment = header.alignment as u64;
    let mut list = Vec::new();
    let mut offset = 0u64;
    for (matrix, encoding) in &plan {
        let shape = &header.tensors[&matrix.name].shape;
        list.extend((matrix.name.len() as u64).to_le_bytes());
        list.extend(matrix.name.as_bytes());
        list.extend((shape.len() as u32).to_le_bytes());
        for &size in shape.iter().rev() {
            list.extend((size as u64).to_le_bytes());
        }
        list.extend(encoding_id(*encoding).to_le_bytes());
        list.extend(offset.to_le_bytes());
        offset = (offset + matrix.bytes(*encoding)).next_multiple_of(alignment);
    }
    let mut stream = Stream::open(job.base, job.output, &mut *job.progress)?;
    stream.put(start)?;
    stream.put(&list)?;
    let mut at = (start.len() + list.len()) as u64;
    for (matrix, encoding) in &plan {
        let padding = at.next_multiple_of(alignment) - at;
        stream.put(&vec![0; padding as usize])?;
        match updates.get(&matrix.name) {
            None => stream.copy(matrix.start, matrix.bytes(matrix.encoding))?,
            Some(updates) => {
                stream.merge(matrix, updates, *encoding, &mut job.loss)?;
                job.found.insert(matrix.name.clone());
            }
        }
        at += padding + matrix.bytes(*encoding);
    }
    // llama.cpp's own files end on the alignment.
    let padding = at.next_multiple_of(alignment) - at;
    stream.put(&vec![0; padding as usize])?;
    stream.finish()
}
