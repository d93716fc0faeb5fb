//! Writing the event log: complete, in order, and never torn for who opens it next.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::protocol::RunState;

use super::segments::{Gaps, fold, is_event, segment_name, segments};
use super::snapshot;

/// Size at which a new segment begins.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Lines not yet forced to disk are kept in memory for a rewrite; beyond this they are forced.
const UNSYNCED_BYTES: usize = 4 << 20;

/// The segment being written. Lines are never lost: what cannot be written stays in memory and is
/// written by a later `flush`.
pub struct EventLog {
    folder: PathBuf,
    file: File,
    number: u32,
    segment_bytes: u64,
    /// Bytes of the segment known to be on disk.
    synced: u64,
    /// Bytes written after those: on network file systems a full disk may show at fsync only, and
    /// then they have to be written again.
    unsynced: Vec<u8>,
    /// Bytes not written yet; starts inside a line when a write ended there.
    pending: Vec<u8>,
}

/// What opening a log found.
pub struct Opened {
    pub log: EventLog,
    /// The fold of every event so far.
    pub state: RunState,
    pub gaps: Gaps,
    /// Bytes of a torn last line that were cut.
    pub cut: u64,
}

impl EventLog {
    /// Opens (or begins) the log of a run folder for appending.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn open(folder: &Path, segment_bytes: u64) -> Result<Opened> {
        let last = segments(folder)?.pop();
        let number = last.as_ref().map_or(1, |(n, _)| *n);
        let path = folder.join(segment_name(number));
        let opening = || format!("cannot open {}", path.display());
        let mut file = open_segment(&path).with_context(opening)?;
        let cut = cut_torn_end(&mut file).with_context(opening)?;
        let synced = file.metadata().with_context(opening)?.len();
        let mut state = snapshot::start(folder);
        let gaps = fold(folder, &mut state)?;
        let log = EventLog {
            folder: folder.to_owned(),
            file,
            number,
            segment_bytes,
            synced,
            unsynced: Vec::new(),
            pending: Vec::new(),
        };
        Ok(Opened {
            log,
            state,
            gaps,
            cut,
        })
    }

    /// Adds a line (without its newline); it reaches the file with the next [`Self::flush`].
    pub fn append(&mut self, line: &[u8]) {
        self.pending.extend_from_slice(line);
        self.pending.push(b'\n');
    }

    /// Number of the segment being written.
    pub fn segment(&self) -> u32 {
        self.number
    }

    /// Keeps the fold of every line that was flushed. It is a cache: failing costs time only.
    pub fn keep_fold(&self, state: &RunState) {
        let _ = snapshot::write(&self.folder, state);
    }

    /// Bytes that wait for a flush.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Writes what is pending, so that other processes can read it.
    ///
    /// # Errors
    /// The disk is full, say. Nothing is lost; call again later.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            match self.file.write(&self.pending) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.unsynced.extend(self.pending.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if self.unsynced.len() > UNSYNCED_BYTES {
            self.sync_file()?;
        }
        if self.synced + self.unsynced.len() as u64 >= self.segment_bytes {
            self.sync_file()?;
            let file = open_segment(&self.folder.join(segment_name(self.number + 1)))?;
            File::open(&self.folder)?.sync_all()?;
            self.file = file;
            self.number += 1;
            self.synced = 0;
        }
        Ok(())
    }

    /// Writes what is pending and waits until it is on disk.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.sync_file()
    }

    fn sync_file(&mut self) -> io::Result<()> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        if let Err(e) = self.file.sync_data() {
            // The kernel may have thrown the bytes away: take them back and write them again.
            self.file.set_len(self.synced)?;
            self.file.seek(SeekFrom::Start(self.synced))?;
            let mut pending = std::mem::take(&mut self.unsynced);
            pending.append(&mut self.pending);
            self.pending = pending;
            return Err(e);
        }
        self.synced += self.unsynced.len() as u64;
        self.unsynced.clear();
        Ok(())
    }
}

fn open_segment(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

/// Cuts what a killed runner or a power loss has left behind the last whole event; returns the
/// number of bytes cut. The file stands at its end afterwards.
fn cut_torn_end(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let end = end_of_last_event(file, length)?;
    if end < length {
        file.set_len(end)?;
        file.sync_all()?;
    }
    file.seek(SeekFrom::Start(end))?;
    Ok(length - end)
}

fn end_of_last_event(file: &mut File, length: u64) -> io::Result<u64> {
    let mut window = 64 << 10;
    loop {
        let from = length.saturating_sub(window);
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        file.take(length - from).read_to_end(&mut text)?;
        let mut end = text.len();
        while let Some(newline) = text[..end].iter().rposition(|&b| b == b'\n') {
            let before = text[..newline].iter().rposition(|&b| b == b'\n');
            if before.is_none() && from > 0 {
                break; // the line starts before the window
            }
            if is_event(&text[before.map_or(0, |b| b + 1)..newline]) {
                return Ok(from + newline as u64 + 1);
            }
            end = newline;
        }
        if from == 0 {
            return Ok(0);
        }
        window *= 8;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::ops::ControlFlow;

    use super::super::segments::{for_each_line, parse_event};
    use super::*;
    use crate::protocol::{Event, EventKind, Level, Message};

    fn line(seq: u64) -> Vec<u8> {
        let event = Event {
            seq,
            time: seq as f64,
            kind: EventKind::Message(Message {
                level: Level::Info,
                text: format!("line {seq}"),
            }),
        };
        serde_json::to_vec(&event).unwrap()
    }

    fn write(folder: &Path, from: u64, to: u64, segment_bytes: u64) {
        let mut log = EventLog::open(folder, segment_bytes).unwrap().log;
        for seq in from..to {
            log.append(&line(seq));
            log.flush().unwrap();
        }
        log.sync().unwrap();
    }

    fn seqs(folder: &Path, from: u64) -> Vec<u64> {
        let mut seqs = Vec::new();
        for_each_line(folder, from, |seq, line| {
            assert_eq!(parse_event(line).unwrap().seq, seq);
            seqs.push(seq);
            ControlFlow::Continue(())
        })
        .unwrap();
        seqs
    }

    #[test]
    fn segments_rotate_by_size_and_read_as_one_log_from_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1, 5001, 100_000);
        assert!(segments(folder.path()).unwrap().len() > 3);
        assert_eq!(seqs(folder.path(), 1).len(), 5000);
        for from in [2, 1234, 4999, 5000] {
            let found = seqs(folder.path(), from);
            assert_eq!(found.first(), Some(&from));
            assert_eq!(found.len() as u64, 5001 - from);
        }
        assert!(seqs(folder.path(), 5001).is_empty());
        let opened = EventLog::open(folder.path(), 100_000).unwrap();
        assert_eq!((opened.state.seq, opened.cut), (5000, 0));
    }

    #[test]
    fn one_long_segment_is_bisected_to_the_right_line() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1, 20_001, SEGMENT_BYTES);
        for from in [1, 2, 777, 10_000, 19_999, 20_000] {
            assert_eq!(seqs(folder.path(), from).first(), Some(&from));
        }
    }

    #[test]
    fn whatever_follows_the_last_whole_event_is_cut_and_the_count_goes_on() {
        for torn in [
            &b"{\"seq\":4,\"time\":1.0,\"ty"[..],
            b"{\"seq\":4,\"time\":1.0}\n{\"se"[..].split_at(21).1,
            b"\0\0\0\0\0\0\0\0\0\0",
            b"\0\0\0\n",
            b"not json\n\n",
        ] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), 1, 4, SEGMENT_BYTES);
            let path = folder.path().join(segment_name(1));
            let mut bytes = fs::read(&path).unwrap();
            let whole = bytes.len();
            bytes.extend_from_slice(torn);
            fs::write(&path, &bytes).unwrap();
            let opened = EventLog::open(folder.path(), SEGMENT_BYTES).unwrap();
            assert_eq!(opened.cut, torn.len() as u64, "{torn:?}");
            assert_eq!(opened.state.seq, 3);
            drop(opened);
            assert_eq!(fs::metadata(&path).unwrap().len(), whole as u64);
            write(folder.path(), 4, 6, SEGMENT_BYTES);
            assert_eq!(seqs(folder.path(), 1), [1, 2, 3, 4, 5]);
        }
    }

    #[test]
    fn a_log_of_garbage_alone_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(segment_name(1)), b"garbage").unwrap();
        let opened = EventLog::open(folder.path(), SEGMENT_BYTES).unwrap();
        assert_eq!((opened.state.seq, opened.cut), (0, 7));
    }

    #[test]
    fn missing_lines_are_counted_and_lines_of_a_newer_version_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut text = line(1);
        text.extend_from_slice(b"\n{\"seq\":2,\"time\":2.0,\"type\":\"teleported\"}\n");
        text.extend_from_slice(&line(7));
        text.extend_from_slice(b"\n{\"seq\":8,\"time\":8.0,\"type\":\"teleported\"}\n");
        fs::write(folder.path().join(segment_name(1)), text).unwrap();
        let opened = EventLog::open(folder.path(), SEGMENT_BYTES).unwrap();
        assert_eq!((opened.state.seq, opened.cut), (8, 0));
        assert_eq!(
            opened.gaps,
            Gaps {
                missing: 4,
                unknown: 2
            }
        );
    }

    /// `/dev/full` refuses every byte, as a full disk does.
    #[test]
    fn a_full_disk_loses_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = EventLog::open(folder.path(), SEGMENT_BYTES).unwrap().log;
        log.append(&line(1));
        log.sync().unwrap();
        let disk = std::mem::replace(
            &mut log.file,
            OpenOptions::new().write(true).open("/dev/full").unwrap(),
        );
        log.append(&line(2));
        assert!(log.flush().is_err());
        log.append(&line(3));
        assert!(log.sync().is_err());
        assert!(log.waiting() > 0);
        log.file = disk;
        log.append(&line(4));
        log.sync().unwrap();
        assert_eq!(seqs(folder.path(), 1), [1, 2, 3, 4]);
    }
}
