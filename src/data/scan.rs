//! From raw records to tokenised ones with their fingerprints: in parallel, told of as it goes, and
//! kept by content, so that data that was read before is not tokenised again.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use rayon::prelude::*;

use super::duplicates::{Common, Fingerprint};
use super::files::{Raw, RawRecord};
use super::scan_cache::ScanCache;
use super::tokens::{self, Encoder};
use super::{BadRecord, Record};

/// Records of a chunk: what one thread takes at a time, and what is kept together.
const CHUNK: usize = 4096;

/// Bytes of data from which on keeping results is worth their place on the disk.
const WORTH_KEEPING: usize = 8 << 20;

/// What became of a chunk of raw records.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scanned {
    pub records: Vec<Record>,
    /// One for each record.
    pub prints: Vec<Fingerprint>,
    pub bad: Vec<BadRecord>,
}

/// Scans the records of all files. `progress` is told how many raw records are done, of how many.
///
/// # Errors
/// The tokenizer cannot be written down, which the cache needs.
pub(super) fn scan(
    files: Vec<Vec<RawRecord>>,
    encoder: &Encoder<'_>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Scanned> {
    let total: usize = files.iter().map(Vec::len).sum();
    let bytes: usize = files.iter().flatten().map(size).sum();
    let flat: Vec<&RawRecord> = files.iter().flatten().collect();
    let common = Common::of(total, |at| tokens::words(&flat[at].raw));
    drop(flat);
    let cache = match bytes >= WORTH_KEEPING {
        true => ScanCache::open(encoder, &common)?,
        false => None,
    };
    // A file's chunks are its own, so that what is added to one leaves those of others as they are.
    let mut chunks: Vec<Vec<RawRecord>> = Vec::new();
    for file in files {
        // Not `split_off`, whose first part keeps the room of the whole.
        let mut rest = file.into_iter();
        loop {
            let chunk: Vec<RawRecord> = rest.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            chunks.push(chunk);
        }
    }
    let done = AtomicU64::new(0);
    progress(0, total as u64);
    let scanned: Vec<Scanned> = chunks
        .into_par_iter()
        .map(|chunk| {
            let count = chunk.len() as u64;
            let result = match &cache {
                Some(cache) => cache.get_or(&chunk, || one(&chunk, encoder, &common)),
                None => one(&chunk, encoder, &common),
            };
            let before = done.fetch_add(count, Ordering::Relaxed);
            progress(before + count, total as u64);
            result
        })
        .collect();
    let mut all = Scanned::default();
    all.records
        .reserve_exact(scanned.iter().map(|s| s.records.len()).sum());
    all.prints.reserve_exact(all.records.capacity());
    for part in scanned {
        all.records.extend(part.records);
        all.prints.extend(part.prints);
        all.bad.extend(part.bad);
    }
    Ok(all)
}

fn one(chunk: &[RawRecord], encoder: &Encoder<'_>, common: &Common) -> Scanned {
    let mut scanned = Scanned::default();
    let results: Vec<_> = chunk
        .par_iter()
        .map(|raw| {
            let records = encoder.records(raw)?.into_iter();
            let printed = records.map(|(record, words)| (Fingerprint::of(&words, common), record));
            Ok(printed.collect::<Vec<_>>())
        })
        .collect();
    for result in results {
        match result {
            Ok(records) => {
                for (print, record) in records {
                    scanned.prints.push(print);
                    scanned.records.push(record);
                }
            }
            Err(bad) => scanned.bad.push(bad),
        }
    }
    scanned
}

/// Bytes of a raw record, about.
fn size(raw: &RawRecord) -> usize {
    match &raw.raw {
        Raw::Json(text) | Raw::Document(text) | Raw::Bad(text) => text.len(),
        Raw::Row(map) => map
            .iter()
            .map(|(k, v)| k.len() + v.as_str().map_or(8, str::len))
            .sum(),
    }
}
