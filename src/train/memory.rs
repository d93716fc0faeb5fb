//! The process's own peak memory.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

/// The highest value seen: the kernel counts per thread and its sum may fall a little.
static HIGHEST: AtomicU64 = AtomicU64::new(0);

/// Peak resident bytes of this process (`VmHWM`); 0 where the system does not tell.
pub fn peak_bytes() -> u64 {
    let now = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| parse_peak(&status))
        .unwrap_or(0);
    HIGHEST.fetch_max(now, Ordering::Relaxed).max(now)
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t    3456 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_peak(status), Some(3456 * 1024));
        assert_eq!(parse_peak("Name:\tx\n"), None);
    }
}
