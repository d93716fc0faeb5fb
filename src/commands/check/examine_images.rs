//! What can be said of an image run before it begins.

use std::collections::BTreeSet;

use super::examine::{
    Adapter, Data, Memory, Report, Rows, at_key, available_memory, on_gpu, recomputes,
};
use crate::commands::progress::Bar;
use crate::config::{DeviceChoice, LoadedConfig, Precision, RunConfig};
use crate::data::images::{self, ImageBatches, ImageDataset};
use crate::generate::image::Drawing;
use crate::model::diffusion::{self, Description, Training};
use crate::monitor::GpuMonitor;
use crate::protocol::{DataStatistics, GpuStatus};
use crate::train::{AdapterSize, Plan, image_adapter_plan, preflight};

impl Report {
    pub(super) fn look_at_images(&mut self, loaded: &LoadedConfig) {
        let config = &loaded.config;
        let described = diffusion::describe(&config.base_model);
        self.image_base = self.keep(loaded, "base_model", described);
        let bar = Bar::new("reading the images");
        let read = images::load(config, &|done, total| bar.update(done, total));
        drop(bar);
        if let Some(dataset) = self.keep(loaded, "train_data_dir", read) {
            self.look_at_pictures(loaded, dataset);
        }
        for line in &config.sample_prompts {
            let drawing = Drawing::new(config.resolution / 8 * 8, config.seed).with_line(line);
            self.keep(loaded, "sample_prompts", drawing);
        }
        self.look_at_image_adapter(loaded);
    }

    fn look_at_pictures(&mut self, loaded: &LoadedConfig, dataset: ImageDataset) {
        let config = &loaded.config;
        let plan = Plan::new(config, ImageBatches::of(config, &dataset).per_epoch());
        if config.warmup_steps >= plan.total_steps {
            let message = format!(
                "`warmup_steps: {}` is the whole run: it has {} steps",
                config.warmup_steps, plan.total_steps
            );
            let fix = "write a smaller number, or more `epochs`".into();
            self.warnings
                .push(at_key(loaded, "warmup_steps", message, fix));
        }
        self.plan = Some(plan);
        let tokens = diffusion::Source::open(&config.base_model)
            .and_then(|source| source.tokenizer())
            .ok();
        self.data = Some(Data {
            statistics: match &tokens {
                Some(tokenizer) => dataset.statistics(Some(&|caption| {
                    tokenizer.ids(caption).map_or(0, |i| i.len())
                })),
                None => dataset.statistics(None),
            },
            // The findings list them.
            bad: Vec::new(),
        });
    }

    fn look_at_image_adapter(&mut self, loaded: &LoadedConfig) {
        let config = &loaded.config;
        let Some(base) = self.image_base.clone() else {
            return;
        };
        let planned = image_adapter_plan(config, &base);
        let Some((targets, spec)) = self.keep(loaded, "target_modules", planned) else {
            return;
        };
        let modules: Vec<(String, usize, usize)> = targets
            .into_iter()
            .map(|target| (target.module, target.inputs, target.outputs))
            .collect();
        let size = AdapterSize {
            trained: spec.parameter_count(&modules),
            written: spec.written_count(&modules),
        };
        let adapter = Adapter {
            modules: modules.len(),
            shapes: modules,
            parameters: size.trained,
            spec,
        };
        let data = self.data.as_ref().map(|data| &data.statistics);
        let batch_size = config.batch_size;
        let memory = data.and_then(|data| image_memory(config, &base, data, &adapter, batch_size));
        if let Some(memory) = memory {
            self.keep_memory(loaded, memory, "resolution");
        }
        self.adapter = Some(adapter);
        if let Some(plan) = self.plan {
            let disk = preflight(config, size, plan);
            self.disk = self.keep(loaded, "output_dir", disk);
            for warning in self.disk.iter().flat_map(|d| d.warnings.clone()) {
                self.warnings
                    .push(at_key(loaded, "output_dir", warning, String::new()));
            }
        }
    }
}

/// The memory of micro-batches of `batch_size` pictures of the largest bucket.
pub(super) fn image_memory(
    config: &RunConfig,
    base: &Description,
    data: &DataStatistics,
    adapter: &Adapter,
    batch_size: usize,
) -> Option<Memory> {
    let buckets = &data.images.as_ref()?.buckets;
    let area = |width: u32, height: u32| u64::from(width) * u64::from(height);
    let largest = buckets.iter().max_by_key(|b| area(b.width, b.height))?;
    // A picture more than there are in any bucket is in no micro-batch.
    let fullest = buckets.iter().map(|b| b.rows).max().unwrap_or(1);
    let modules: BTreeSet<String> = adapter
        .shapes
        .iter()
        .map(|(name, ..)| name.clone())
        .collect();
    let drawn = Drawing::new(config.resolution / 8 * 8, config.seed);
    let samples = config.sample_prompts.iter();
    let samples = samples.filter_map(|line| drawn.with_line(line).ok());
    let sample = samples
        .map(|drawing| (drawing.width as u32, drawing.height as u32))
        .max_by_key(|&(width, height)| area(width, height));
    let training = Training {
        modules: &modules,
        parameters: adapter.parameters,
        images: batch_size.min(fullest.max(1) as usize),
        bucket: (largest.width, largest.height),
        sample,
        recompute: recomputes(config),
        train_text_encoder: config.train_text_encoder,
        device_bytes: on_gpu(config).then_some(match config.precision {
            Some(Precision::F32) => 4,
            _ => 2,
        }),
    };
    Some(Memory {
        estimate: diffusion::memory_estimate(base, &training),
        rows: Rows::Pixels(largest.width, largest.height),
        available: match config.device {
            DeviceChoice::Cuda(index) => free_on_gpu(index),
            _ => available_memory(),
        },
    })
}

/// Free bytes of a GPU, as NVML tells.
fn free_on_gpu(index: usize) -> Option<u64> {
    match GpuMonitor::open().read(&format!("cuda:{index}"), None, None) {
        GpuStatus::Present { gpus } => {
            let gpu = gpus.into_iter().find(|gpu| gpu.in_use)?;
            Some(gpu.memory_total.saturating_sub(gpu.memory_used))
        }
        _ => None,
    }
}
