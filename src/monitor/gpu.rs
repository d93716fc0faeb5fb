//! What the GPUs do, whoever tells it.

use crate::protocol::{GpuReading, GpuStatus};

use super::nvml::NvmlSource;

/// Reads every GPU: NVML, or recorded readings in tests.
pub trait GpuSource: Send {
    /// # Errors
    /// A sentence why the driver no longer answers.
    fn read(&mut self) -> Result<Vec<GpuReading>, String>;
}

/// A source with what it has said before.
pub struct GpuMonitor {
    source: Result<Box<dyn GpuSource>, String>,
    /// Whether a device has answered.
    seen: bool,
    /// `CUDA_VISIBLE_DEVICES`, where it is set.
    visible: Option<String>,
}

impl GpuMonitor {
    /// Opens NVML.
    pub fn open() -> Self {
        let source = NvmlSource::open().map(|s| Box::new(s) as Box<dyn GpuSource>);
        GpuMonitor::new(source, std::env::var("CUDA_VISIBLE_DEVICES").ok())
    }

    /// `source` is an error where there is no NVML.
    pub fn new(source: Result<Box<dyn GpuSource>, String>, visible: Option<String>) -> Self {
        GpuMonitor {
            source,
            seen: false,
            visible,
        }
    }

    /// Reads now. `device` is the run's own: `cuda:0`, `cpu`, or empty while it is not known; `uuid`
    /// what CUDA says it is; `allocated` are the bytes of its tensors there, as far as the run's own allocator counts.
    pub fn read(&mut self, device: &str, uuid: Option<&str>, allocated: Option<u64>) -> GpuStatus {
        let source = match &mut self.source {
            Ok(source) => source,
            Err(reason) => {
                return GpuStatus::NoNvml {
                    reason: reason.clone(),
                };
            }
        };
        match source.read() {
            Ok(gpus) if gpus.is_empty() => GpuStatus::NoDevice,
            Ok(mut gpus) => {
                self.seen = true;
                mark_used(&mut gpus, device, uuid, self.visible.as_deref());
                // In a container NVML lists the processes by numbers of another name space, and none
                // of them is the run's.
                for gpu in gpus.iter_mut().filter(|gpu| gpu.in_use) {
                    gpu.memory_run = gpu.memory_run.or(allocated);
                }
                GpuStatus::Present { gpus }
            }
            Err(reason) if self.seen => GpuStatus::Lost { reason },
            Err(reason) => GpuStatus::NoNvml { reason },
        }
    }
}

/// Marks the device that the run trains on: the one that CUDA says it is, else where NVML sees its
/// process, else by number. CUDA counts among the visible devices, by default the fastest first; NVML
/// counts all, by their slots.
fn mark_used(gpus: &mut [GpuReading], device: &str, uuid: Option<&str>, visible: Option<&str>) {
    let Some(ordinal) = ordinal(device) else {
        return;
    };
    for gpu in gpus.iter_mut() {
        gpu.in_use = uuid == Some(&gpu.uuid);
    }
    if gpus.iter().any(|g| g.in_use) {
        return;
    }
    for gpu in gpus.iter_mut() {
        gpu.in_use = gpu.memory_run.is_some();
    }
    if gpus.iter().any(|g| g.in_use) {
        return;
    }
    let named = visible.map(|v| v.split(',').map(str::trim).nth(ordinal).unwrap_or(""));
    for gpu in gpus {
        gpu.in_use = match named {
            None => gpu.index as usize == ordinal,
            Some("") => false,
            Some(name) => match name.parse::<u32>() {
                Ok(index) => gpu.index == index,
                Err(_) => gpu.uuid.starts_with(name),
            },
        };
    }
}

/// The number of a CUDA device; `None` for the CPU.
fn ordinal(device: &str) -> Option<usize> {
    let rest = device.strip_prefix("cuda")?;
    let digits: String = rest.chars().filter(char::is_ascii_digit).collect();
    Some(digits.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what was recorded, then that the driver is gone.
    struct Recorded(Vec<Vec<GpuReading>>);

    impl GpuSource for Recorded {
        fn read(&mut self) -> Result<Vec<GpuReading>, String> {
            if self.0.is_empty() {
                return Err("GPU is lost".into());
            }
            Ok(self.0.remove(0))
        }
    }

    fn two_gpus() -> Vec<GpuReading> {
        let gpu = |index: u32, uuid: &str| GpuReading {
            index,
            uuid: uuid.into(),
            ..GpuReading::default()
        };
        vec![gpu(0, "GPU-aaaa-1"), gpu(1, "GPU-bbbb-2")]
    }

    fn monitor(readings: Vec<Vec<GpuReading>>, visible: Option<&str>) -> GpuMonitor {
        GpuMonitor::new(Ok(Box::new(Recorded(readings))), visible.map(str::to_owned))
    }

    #[test]
    fn where_nvml_does_not_see_the_process_the_allocator_tells_what_the_run_uses() {
        let memory = |status: GpuStatus| -> Vec<Option<u64>> {
            match status {
                GpuStatus::Present { gpus } => gpus.iter().map(|g| g.memory_run).collect(),
                other => panic!("{other:?}"),
            }
        };
        let status = monitor(vec![two_gpus()], None).read("cuda:1", None, Some(7));
        assert_eq!(memory(status), [None, Some(7)]);
        let mut seen = two_gpus();
        seen[0].memory_run = Some(9);
        let status = monitor(vec![seen], None).read("cuda:0", None, Some(7));
        assert_eq!(memory(status), [Some(9), None]);
    }

    fn used(status: GpuStatus) -> Vec<bool> {
        match status {
            GpuStatus::Present { gpus } => gpus.iter().map(|g| g.in_use).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_gpu_that_stops_answering_is_lost_and_one_that_never_did_is_absent() {
        let mut lost = monitor(vec![two_gpus()], None);
        assert!(matches!(
            lost.read("cpu", None, None),
            GpuStatus::Present { .. }
        ));
        assert!(matches!(
            lost.read("cpu", None, None),
            GpuStatus::Lost { .. }
        ));
        assert!(matches!(
            monitor(vec![], None).read("cpu", None, None),
            GpuStatus::NoNvml { .. }
        ));
        assert_eq!(
            monitor(vec![vec![]], None).read("", None, None),
            GpuStatus::NoDevice
        );
        let mut none = GpuMonitor::new(Err("no library".into()), None);
        assert!(
            matches!(none.read("cpu", None, None), GpuStatus::NoNvml { reason } if reason == "no library")
        );
    }

    #[test]
    fn the_device_in_use_follows_cuda_visible_devices() {
        for (device, visible, expected) in [
            ("cuda:0", None, [true, false]),
            ("cuda:1", None, [false, true]),
            ("cuda:0", Some("1"), [false, true]),
            ("cuda:0", Some("GPU-bbbb"), [false, true]),
            ("cuda:1", Some("1, 0"), [true, false]),
            ("cuda:0", Some(""), [false, false]),
            ("cpu", None, [false, false]),
        ] {
            let status = monitor(vec![two_gpus()], visible).read(device, None, None);
            assert_eq!(used(status), expected, "{device} {visible:?}");
        }
    }

    #[test]
    fn what_cuda_says_the_device_is_wins_over_everything_else() {
        let mut gpus = two_gpus();
        gpus[0].memory_run = Some(1 << 30);
        let uuid = Some("GPU-bbbb-2");
        let status = monitor(vec![gpus], Some("0")).read("cuda:0", uuid, None);
        assert_eq!(used(status), [false, true]);
        let unknown = Some("GPU-cccc-3");
        let status = monitor(vec![two_gpus()], None).read("cuda:1", unknown, None);
        assert_eq!(used(status), [false, true]);
    }

    #[test]
    fn the_device_that_holds_the_runs_process_wins_over_counting() {
        let mut gpus = two_gpus();
        gpus[1].memory_run = Some(1 << 30);
        let status = monitor(vec![gpus], None).read("cuda:0", None, None);
        assert_eq!(used(status), [false, true]);
    }
}
