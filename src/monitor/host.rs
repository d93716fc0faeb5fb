//! CPU, memory and disk of the machine, and the runner's share of them.

use std::path::{Path, PathBuf};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::protocol::HostReading;

/// Reads the host; usage is measured between two readings.
pub struct HostMonitor {
    /// `None` on a system that sysinfo does not know.
    system: Option<System>,
    pid: Pid,
    /// A folder on the disk that is watched.
    folder: PathBuf,
}

impl HostMonitor {
    pub fn new(folder: &Path) -> Self {
        let mut system = System::new().ok();
        if let Some(system) = &mut system {
            system.refresh_cpu_usage();
        }
        HostMonitor {
            system,
            pid: Pid::from_u32(std::process::id()),
            folder: folder.to_owned(),
        }
    }

    /// Reads now; what cannot be read is 0.
    pub fn read(&mut self) -> HostReading {
        let mut reading = HostReading::default();
        if let Ok(disk) = rustix::fs::statvfs(&self.folder) {
            reading.disk_free = disk.f_bavail * disk.f_frsize;
            reading.disk_total = disk.f_blocks * disk.f_frsize;
        }
        let Some(system) = &mut self.system else {
            return reading;
        };
        system.refresh_cpu_usage();
        system.refresh_memory();
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[self.pid]),
            false,
            ProcessRefreshKind::nothing().with_cpu().with_memory(),
        );
        reading.cpu = system.global_cpu_usage();
        reading.cores = system.cpus().len() as u32;
        if let Some(process) = system.process(self.pid) {
            reading.run_cpu = process.cpu_usage();
            reading.memory_run = process.memory();
        }
        reading.memory_total = system.total_memory();
        reading.memory_used = system.used_memory();
        // A container sees the machine's memory but may not have it.
        if let Some(limits) = system.cgroup_limits()
            && limits.total_memory < reading.memory_total
        {
            reading.memory_total = limits.total_memory;
            reading.memory_used = limits.total_memory.saturating_sub(limits.free_memory);
        }
        reading
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
