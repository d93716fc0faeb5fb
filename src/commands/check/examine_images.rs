//! What can be said of an image run before it begins.

use super::examine::{Adapter, CaptionOf, Data, Report, at_key};
use crate::commands::progress::Bar;
use crate::config::LoadedConfig;
use crate::data::images::{self, ImageBatches, ImageDataset};
use crate::generate::image::Drawing;
use crate::model::diffusion;
use crate::train::{
    AdapterSize, Plan, image_adapter_plan, image_statistics, open_device, preflight,
};

impl Report {
    pub(super) fn look_at_images(&mut self, loaded: &LoadedConfig) {
        let config = &loaded.config;
        let described = diffusion::describe(&config.base_model);
        self.image_base = self.keep(loaded, "base_model", described);
        let bar = Bar::new("reading the images");
        let read = images::load(config, &|done, total| bar.update(done, total));
        drop(bar);
        if let Some(mut dataset) = self.keep(loaded, "train_data_dir", read) {
            if let Some(folder) = &config.clip_model {
                let bar = Bar::new("looking at the images with CLIP");
                let looked = open_device(config.device).and_then(|device| {
                    let progress = |done, total| bar.update(done, total);
                    dataset.look_with_clip(folder, &device, &progress)
                });
                drop(bar);
                self.keep(loaded, "clip_model", looked);
            }
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
        self.data = Some(Data {
            statistics: image_statistics(config, &dataset),
            // The findings list them.
            bad: Vec::new(),
            captions: dataset
                .items
                .iter()
                .filter(|item| !item.regularization)
                .map(|item| CaptionOf {
                    file: item.name.clone(),
                    rule: item.source.rule(),
                    place: item.source.place(),
                })
                .collect(),
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
        self.adapter = Some(Adapter {
            modules: modules.len(),
            shapes: modules,
            parameters: size.trained,
            spec,
        });
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
