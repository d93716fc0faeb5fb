//! NVML as a source of readings.

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

use crate::protocol::GpuReading;

use super::gpu::GpuSource;

/// An open NVML.
pub struct NvmlSource {
    nvml: Nvml,
    pid: u32,
}

impl NvmlSource {
    /// # Errors
    /// A sentence why there is none: no driver, say.
    pub fn open() -> Result<Self, String> {
        let nvml = Nvml::init().map_err(|e| match e {
            NvmlError::LibloadingError(_) => {
                "the NVIDIA driver's library (libnvidia-ml.so.1) is not installed".to_owned()
            }
            e => e.to_string(),
        })?;
        Ok(NvmlSource {
            nvml,
            pid: std::process::id(),
        })
    }

    fn device(&self, index: u32) -> Result<GpuReading, NvmlError> {
        let device = self.nvml.device_by_index(index)?;
        let memory = device.memory_info()?;
        // Whatever else a device does not tell (laptops, vGPUs, MIG) is left out.
        let memory_run = device.running_compute_processes().ok().and_then(|list| {
            list.iter()
                .find(|p| p.pid == self.pid)
                .and_then(|p| match p.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Some(bytes),
                    UsedGpuMemory::Unavailable => None,
                })
        });
        let watts = |milliwatts: u32| f64::from(milliwatts) / 1000.0;
        Ok(GpuReading {
            index,
            name: device.name().unwrap_or_default(),
            uuid: device.uuid().unwrap_or_default(),
            memory_total: memory.total,
            memory_used: memory.used,
            memory_run,
            utilization: device.utilization_rates().ok().map(|u| u.gpu),
            temperature: device.temperature(TemperatureSensor::Gpu).ok(),
            power: device.power_usage().ok().map(watts),
            power_limit: device.enforced_power_limit().ok().map(watts),
            clock: device.clock_info(Clock::SM).ok(),
            memory_clock: device.clock_info(Clock::Memory).ok(),
            throttling: device
                .current_throttle_reasons()
                .map(throttling)
                .unwrap_or_default(),
            in_use: false,
        })
    }
}

impl GpuSource for NvmlSource {
    fn read(&mut self) -> Result<Vec<GpuReading>, String> {
        let count = self.nvml.device_count().map_err(|e| e.to_string())?;
        (0..count)
            .map(|index| self.device(index).map_err(|e| e.to_string()))
            .collect()
    }
}

/// The reasons that a person can do something about; an idle clock is none.
fn throttling(reasons: ThrottleReasons) -> Vec<String> {
    [
        (ThrottleReasons::SW_POWER_CAP, "power cap"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "thermal"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "thermal (hardware)"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
        (ThrottleReasons::SYNC_BOOST, "sync boost"),
    ]
    .into_iter()
    .filter(|(reason, _)| reasons.contains(*reason))
    .map(|(_, name)| name.to_owned())
    .collect()
}
