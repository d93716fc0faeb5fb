//! The process's own peak memory, and what it may still take of the host's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, getrlimit};

use crate::ops::{self, heap};

/// Kept free: other threads, and what the counts of the kernel are late by.
const MARGIN: u64 = 16 << 20;
/// A limit of loradeck's own on what it computes with, in bytes; for machines that are shared.
const LIMIT_VARIABLE: &str = "LORADECK_MEMORY_LIMIT";

/// The highest value seen: the kernel counts per thread and its sum may fall a little.
static HIGHEST: AtomicU64 = AtomicU64::new(0);

/// Peak bytes of this process: those of its tensors where it computes on a GPU, else resident ones
/// (`VmHWM`); 0 where the system does not tell.
pub fn peak_bytes() -> u64 {
    if let Some((_, peak)) = ops::memory_in_use() {
        return peak;
    }
    let now = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| parse_kib(&status, "VmHWM:"))
        .unwrap_or(0);
    HIGHEST.fetch_max(now, Ordering::Relaxed).max(now)
}

/// Bytes of this process's tensors on its GPU now; `None` without one. From any thread.
pub fn device_memory() -> Option<u64> {
    Some(ops::memory_in_use()?.0)
}

/// The UUID of the GPU that this process computes on, as NVML has it; `None` without one. From any
/// thread.
pub fn device_uuid() -> Option<String> {
    ops::device_uuid()
}

/// What the process may still take, and what sets the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub bytes: u64,
    /// For a person: "the control group's limit of 2.0 GiB".
    pub limit: String,
}

/// The tightest of the limits that this process is under; without any, no limit.
pub(super) fn room() -> Room {
    [own_limit(), resource_limits(), control_group(), machine()]
        .into_iter()
        .flatten()
        .min_by_key(|room| room.bytes)
        .map_or(
            Room {
                bytes: u64::MAX,
                limit: "no limit that loradeck knows of".into(),
            },
            |room| Room {
                bytes: room.bytes.saturating_sub(MARGIN),
                ..room
            },
        )
}

fn own_limit() -> Option<Room> {
    let limit: u64 = std::env::var(LIMIT_VARIABLE).ok()?.parse().ok()?;
    Some(Room {
        // Counted exactly, unlike the others: the margin is taken off again.
        bytes: limit.saturating_sub(heap::live_bytes() as u64) + MARGIN,
        limit: format!("{LIMIT_VARIABLE} of {}", bytes_text(limit)),
    })
}

/// `ulimit -v` and `ulimit -d`.
fn resource_limits() -> Option<Room> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let of = |resource, used: &str, name: &str| {
        let limit = getrlimit(resource).current?;
        let used = parse_kib(&status, used)?;
        Some(Room {
            bytes: limit.saturating_sub(used),
            limit: format!("the limit of {} ({name})", bytes_text(limit)),
        })
    };
    [
        of(Resource::As, "VmSize:", "ulimit -v"),
        of(Resource::Data, "VmData:", "ulimit -d"),
    ]
    .into_iter()
    .flatten()
    .min_by_key(|room| room.bytes)
}

/// Memory that programs can be given without others being pushed out, swap included.
fn machine() -> Option<Room> {
    let told = fs::read_to_string("/proc/meminfo").ok()?;
    let available = parse_kib(&told, "MemAvailable:")?;
    let total = parse_kib(&told, "MemTotal:")?;
    Some(Room {
        bytes: available + parse_kib(&told, "SwapFree:").unwrap_or(0),
        limit: format!("the machine's memory of {}", bytes_text(total)),
    })
}

fn control_group() -> Option<Room> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    control_group_in(Path::new("/sys/fs/cgroup"), &groups)
}

/// The tightest limit of the control group and those around it; versions 1 and 2 differ in names
/// only.
fn control_group_in(root: &Path, groups: &str) -> Option<Room> {
    let mut tightest: Option<Room> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (top, limit_file, usage_file, cache_names) = if controllers.is_empty() {
            let names = ["inactive_file ", "active_file "];
            (root.to_owned(), "memory.max", "memory.current", names)
        } else if controllers.split(',').any(|c| c == "memory") {
            let names = ["total_inactive_file ", "total_active_file "];
            let (limit, usage) = ("memory.limit_in_bytes", "memory.usage_in_bytes");
            (root.join("memory"), limit, usage, names)
        } else {
            continue;
        };
        for folder in folders_up_to(&top, path) {
            let Some(limit) = read_number(&folder.join(limit_file)) else {
                continue;
            };
            // Version 1 writes a number near 2^63 where there is no limit.
            let Some(used) = read_number(&folder.join(usage_file)).filter(|_| limit < 1 << 60)
            else {
                continue;
            };
            let cache = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let reclaimable: u64 = cache_names
                .iter()
                .filter_map(|name| cache.lines().find_map(|l| l.strip_prefix(name)))
                .filter_map(|n| n.trim().parse::<u64>().ok())
                .sum();
            let bytes = limit.saturating_sub(used.saturating_sub(reclaimable));
            if tightest.as_ref().is_none_or(|t| bytes < t.bytes) {
                tightest = Some(Room {
                    bytes,
                    limit: format!("the control group's limit of {}", bytes_text(limit)),
                });
            }
        }
    }
    tightest
}

/// The group's folder and those around it. In a container the path may be one of outside; then what
/// is mounted is the container's own group.
fn folders_up_to(top: &Path, path: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut at = Path::new(path.trim_start_matches('/'));
    loop {
        folders.push(top.join(at));
        match at.parent() {
            Some(parent) => at = parent,
            None => return folders,
        }
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn parse_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn bytes_text(bytes: u64) -> String {
    let mebibytes = bytes as f64 / (1 << 20) as f64;
    match mebibytes < 1024.0 {
        true => format!("{mebibytes:.0} MiB"),
        false => format!("{:.1} GiB", mebibytes / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t    3456 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_kib(status, "VmHWM:"), Some(3456 * 1024));
        assert_eq!(parse_kib("Name:\tx\n", "VmHWM:"), None);
    }

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn the_tightest_control_group_counts_and_cache_is_room_in_both_versions() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("a/memory.max", "1000\n"),
                ("a/memory.current", "900\n"),
                (
                    "a/memory.stat",
                    "anon 1\ninactive_file 50\nactive_file 30\n",
                ),
                ("a/b/memory.max", "max\n"),
                ("a/b/memory.current", "10\n"),
            ],
        );
        let room = control_group_in(root.path(), "4:cpu:/\n0::/a/b\n").unwrap();
        assert_eq!(room.bytes, 180);
        assert!(room.limit.contains("control group"), "{}", room.limit);

        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/memory.usage_in_bytes", "5\n"),
                ("memory/x/memory.limit_in_bytes", "5000\n"),
                ("memory/x/memory.usage_in_bytes", "4000\n"),
                ("memory/x/memory.stat", "total_inactive_file 200\n"),
            ],
        );
        let room = control_group_in(root.path(), "9:memory:/x\n0::/\n").unwrap();
        assert_eq!(room.bytes, 1200);
        assert_eq!(control_group_in(root.path(), "9:memory:/\n"), None);
    }

    #[test]
    fn every_process_has_some_room() {
        assert!(room().bytes > 0);
    }
}
