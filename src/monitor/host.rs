//! CPU, memory and disk of the machine, and the runner's share of them.

use std::path::{Path, PathBuf};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::protocol::HostReading;

/// Reads the host; usage is measured between two readings.
pub struct HostMonitor {
    system: System,
    pid: Pid,
    /// A folder on the disk that is watched.
    folder: PathBuf,
}

impl HostMonitor {
    pub fn new(folder: &Path) -> Self {
        let mut system = System::new();
        system.refresh_cpu_usage();
        HostMonitor {
            system,
            pid: Pid::from_u32(std::process::id()),
            folder: folder.to_owned(),
        }
    }

    /// Reads now.
    pub fn read(&mut self) -> HostReading {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[self.pid]),
            false,
            ProcessRefreshKind::nothing().with_cpu().with_memory(),
        );
        let process = self.system.process(self.pid);
        let (memory_total, memory_used) = match self.system.cgroup_limits() {
            // A container sees the machine's memory but may not have it.
            Some(limits) if limits.total_memory < self.system.total_memory() => (
                limits.total_memory,
                limits.total_memory.saturating_sub(limits.free_memory),
            ),
            _ => (self.system.total_memory(), self.system.used_memory()),
        };
        let disk = rustix::fs::statvfs(&self.folder).ok();
        HostReading {
            cpu: self.system.global_cpu_usage(),
            cores: self.system.cpus().len() as u32,
            run_cpu: process.map_or(0.0, |p| p.cpu_usage()),
            memory_total,
            memory_used,
            memory_run: process.map_or(0, |p| p.memory()),
            disk_free: disk.as_ref().map_or(0, |d| d.f_bavail * d.f_frsize),
            disk_total: disk.as_ref().map_or(0, |d| d.f_blocks * d.f_frsize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_reading_tells_of_this_process_and_its_disk() {
        let mut host = HostMonitor::new(&std::env::temp_dir());
        let reading = host.read();
        assert!(reading.cores > 0);
        assert!(reading.memory_used > 0 && reading.memory_used <= reading.memory_total);
        assert!(reading.memory_run > 1 << 20 && reading.memory_run < reading.memory_total);
        assert!(reading.disk_free <= reading.disk_total && reading.disk_total > 0);
        assert!(reading.cpu.is_finite() && reading.run_cpu.is_finite());
    }
}
