//! Reading the event log: `events.000001.jsonl`, ... as one list of lines in order of `seq`.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::protocol::{Event, EventKind, Num, RunState, StepMetrics};

/// Below this many bytes a segment is read through rather than bisected.
const LINEAR: u64 = 64 << 10;

/// File name of a segment; numbers count from 1.
pub fn segment_name(number: u32) -> String {
    format!("events.{number:06}.jsonl")
}

/// Numbers and paths of the segments of a run folder, oldest first.
///
/// # Errors
/// The folder cannot be listed; one that does not exist has no segments.
pub fn segments(folder: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot list {}", folder.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| {
            let digits = n.strip_prefix("events.")?.strip_suffix(".jsonl")?;
            digits.parse::<u32>().ok()
        });
        if let Some(number) = number {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// What every line has, also one of a type that only a newer version knows.
#[derive(Deserialize)]
struct Head {
    seq: u64,
}

/// `seq` of a line; `None` when it is no event.
pub fn line_seq(line: &[u8]) -> Option<u64> {
    // Lines start with it; the slow way is for lines that some other program has rewritten.
    if let Some(rest) = line.strip_prefix(b"{\"seq\":")
        && line.last() == Some(&b'}')
    {
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 0 && digits < 20 && rest.get(digits) == Some(&b',') {
            return std::str::from_utf8(&rest[..digits]).ok()?.parse().ok();
        }
    }
    serde_json::from_slice::<Head>(line).ok().map(|h| h.seq)
}

/// Whether a line is whole and valid, of whatever type.
pub fn is_event(line: &[u8]) -> bool {
    serde_json::from_slice::<Head>(line).is_ok()
}

/// Most lines of a log are steps: reading them field by field takes a third of the time that the
/// tagged enum takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepLine {
    seq: u64,
    time: f64,
    #[serde(rename = "type")]
    _type: StepTag,
    step: u64,
    epoch: f64,
    loss: Num,
    learning_rate: f64,
    grad_norm: Num,
    tokens: u64,
    total_tokens: u64,
    #[serde(default)]
    images: u64,
    seconds: f64,
    peak_memory_bytes: u64,
}

#[derive(Deserialize)]
enum StepTag {
    #[serde(rename = "step")]
    Step,
}

/// An event from its line; `None` when it is torn, or of a type unknown to this version.
pub fn parse_event(line: &[u8]) -> Option<Event> {
    if let Ok(s) = serde_json::from_slice::<StepLine>(line) {
        return Some(Event {
            seq: s.seq,
            time: s.time,
            kind: EventKind::Step(StepMetrics {
                step: s.step,
                epoch: s.epoch,
                loss: s.loss,
                learning_rate: s.learning_rate,
                grad_norm: s.grad_norm,
                tokens: s.tokens,
                total_tokens: s.total_tokens,
                images: s.images,
                seconds: s.seconds,
                peak_memory_bytes: s.peak_memory_bytes,
            }),
        });
    }
    serde_json::from_slice(line).ok()
}

/// Calls `each` with every whole line whose `seq` is at least `from`, in order, until it breaks.
///
/// # Errors
/// A segment cannot be read.
pub fn for_each_line(
    folder: &Path,
    from: u64,
    mut each: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> Result<()> {
    let segments = segments(folder)?;
    // The last segment that starts at or before `from` is the first to be read.
    let mut first = 0;
    for (i, (_, path)) in segments.iter().enumerate().skip(1) {
        match first_seq(path)? {
            Some(seq) if seq <= from => first = i,
            Some(_) => break,
            None => {}
        }
    }
    for (_, path) in &segments[first.min(segments.len())..] {
        let reading = || format!("cannot read {}", path.display());
        let mut file = File::open(path).with_context(reading)?;
        let start = if from > 1 {
            find(&mut file, from).with_context(reading)?
        } else {
            0
        };
        file.seek(SeekFrom::Start(start)).with_context(reading)?;
        let mut reader = BufReader::with_capacity(256 << 10, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).with_context(reading)? == 0 {
                break;
            }
            if line.pop() != Some(b'\n') {
                break; // torn, or still being written
            }
            if let Some(seq) = line_seq(&line).filter(|&seq| seq >= from)
                && each(seq, &line).is_break()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn first_seq(path: &Path) -> Result<Option<u64>> {
    let reading = || format!("cannot read {}", path.display());
    let mut line = Vec::new();
    BufReader::new(File::open(path).with_context(reading)?)
        .read_until(b'\n', &mut line)
        .with_context(reading)?;
    line.pop();
    Ok(line_seq(&line))
}

/// A line start at or before the first line with `seq >= from`, found by bisecting the bytes.
fn find(file: &mut File, from: u64) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > LINEAR {
        let middle = low + (high - low) / 2;
        match line_after(file, middle, high)? {
            Some((start, seq)) if seq < from => low = start,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Start and `seq` of the first whole event line that starts after `at` and before `end`.
fn line_after(file: &mut File, at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    file.seek(SeekFrom::Start(at))?;
    let mut reader = BufReader::new(&mut *file).take(end - at);
    let mut line = Vec::new();
    let mut start = at + reader.read_until(b'\n', &mut line)? as u64;
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line)? as u64;
        if n == 0 || line.pop() != Some(b'\n') {
            return Ok(None);
        }
        if let Some(seq) = line_seq(&line) {
            return Ok(Some((start, seq)));
        }
        start += n;
    }
}

/// What folding a log found besides the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Events missing between two lines.
    pub missing: u64,
    /// Lines of types unknown to this version.
    pub unknown: u64,
}

/// Folds every event after `state.seq` into it.
///
/// # Errors
/// The log cannot be read.
pub fn fold(folder: &Path, state: &mut RunState) -> Result<Gaps> {
    let mut gaps = Gaps::default();
    for_each_line(folder, state.seq + 1, |seq, line| {
        if seq > state.seq + 1 {
            gaps.missing += seq - state.seq - 1;
        }
        match parse_event(line) {
            Some(event) => state.apply(&event),
            None if seq > state.seq => {
                gaps.unknown += 1;
                state.seq = seq;
            }
            None => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok(gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_way_to_read_a_step_equals_the_slow_one() {
        let event = Event {
            seq: 12,
            time: 3.25,
            kind: EventKind::Step(StepMetrics {
                step: 7,
                epoch: 0.5,
                loss: Num(f64::NAN),
                learning_rate: 1e-4,
                grad_norm: Num(f64::NEG_INFINITY),
                tokens: 1,
                total_tokens: 2,
                images: 0,
                seconds: 0.25,
                peak_memory_bytes: 3,
            }),
        };
        let line = serde_json::to_vec(&event).unwrap();
        assert!(serde_json::from_slice::<StepLine>(&line).is_ok());
        assert_eq!(parse_event(&line).unwrap(), event);
        assert_eq!(serde_json::from_slice::<Event>(&line).unwrap(), event);
        assert_eq!(line_seq(&line), Some(12));
    }

    #[test]
    fn a_sequence_number_is_found_wherever_a_line_has_it() {
        assert_eq!(line_seq(b"{\"time\":1.0, \"seq\": 5}"), Some(5));
        assert_eq!(line_seq(b"{\"seq\":5,\"time\":1.0"), None);
        assert_eq!(line_seq(b"{\"seq\":-5,\"time\":1.0}"), None);
        assert_eq!(line_seq(b""), None);
    }
}
