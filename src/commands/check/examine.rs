//! Everything that can be said of a run before it begins.

use std::path::{Path, PathBuf};

use super::examine_images::image_memory;
use crate::commands::progress::Bar;
use crate::config::{self, LoadedConfig, Problem, RunConfig, TaskType};
use crate::data::{self, BadRecord, Batches, Dataset};
use crate::model::{self, Description, LoraSpec, MemoryEstimate, diffusion};
use crate::protocol::{DataStatistics, Finding};
use crate::train::{AdapterPlan, AdapterSize, Plan, Preflight, adapter_plan, preflight};

/// What `check` found. Parts that could not be looked at for problems before them are `None`.
#[derive(Default)]
pub(in crate::commands) struct Report {
    pub path: PathBuf,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    pub loaded: Option<LoadedConfig>,
    pub base: Option<Description>,
    /// In image runs.
    pub image_base: Option<diffusion::Description>,
    pub data: Option<Data>,
    pub adapter: Option<Adapter>,
    pub plan: Option<Plan>,
    pub memory: Option<Memory>,
    pub disk: Option<Preflight>,
    pub trial: Vec<super::trial::Step>,
}

pub(in crate::commands) struct Data {
    pub statistics: DataStatistics,
    pub bad: Vec<BadRecord>,
    /// Of images: where each has its caption from.
    pub captions: Vec<CaptionOf>,
}

/// Where an image has its caption from.
#[derive(serde::Serialize)]
pub(in crate::commands) struct CaptionOf {
    pub file: String,
    /// The convention that applied: `metadata.csv`, `.txt beside the image`.
    pub rule: String,
    /// The file, and the line in it; empty where there is no caption.
    pub place: String,
}

pub(in crate::commands) struct Adapter {
    pub spec: LoraSpec,
    pub modules: usize,
    /// Name, inputs and outputs of each.
    pub shapes: Vec<(String, usize, usize)>,
    /// Numbers that are trained.
    pub parameters: u64,
}

pub(in crate::commands) struct Memory {
    pub estimate: MemoryEstimate,
    /// The largest micro-batch is estimated for such rows.
    pub rows: Rows,
    /// What the device can still give; `None` where the system does not tell.
    pub available: Option<u64>,
}

/// How large a row of the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Rows {
    Tokens(usize),
    /// Width and height of a picture.
    Pixels(u32, u32),
}

/// How an estimate fits what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Fit {
    Safe,
    Tight,
    Exceeds,
}

impl Memory {
    pub fn fit(&self) -> Option<Fit> {
        let (needed, available) = (self.estimate.total() as f64, self.available? as f64);
        Some(if needed > available {
            Fit::Exceeds
        } else if needed > 0.8 * available {
            Fit::Tight
        } else {
            Fit::Safe
        })
    }
}

/// Looks at a config and all it names.
pub(in crate::commands) fn examine(path: &Path, sets: &[String]) -> Report {
    let mut report = Report {
        path: path.to_owned(),
        ..Report::default()
    };
    match config::load(path, sets) {
        Ok(loaded) => {
            report.warnings.extend(loaded.warnings.iter().cloned());
            report.loaded = Some(loaded);
        }
        Err(problems) => report.problems = problems,
    }
    if let Some(loaded) = report.loaded.take() {
        if report.problems.is_empty() {
            report.look_at_run(&loaded);
        }
        report.loaded = Some(loaded);
    }
    report.problems.sort_by_key(|p| (p.line == 0, p.line));
    report
}

impl Report {
    /// What was found in the data.
    pub fn findings(&self) -> &[Finding] {
        self.data
            .as_ref()
            .map_or(&[], |data| &data.statistics.findings)
    }

    fn look_at_run(&mut self, loaded: &LoadedConfig) {
        let config = &loaded.config;
        if config.task_type == TaskType::TextToImage {
            return self.look_at_images(loaded);
        }
        let quantization = config.quantize.and_then(model::Quantization::named);
        let described = model::describe_quantised(&config.base_model, quantization);
        self.base = self.keep(loaded, "base_model", described);
        let tokenizer = match &self.base {
            Some(_) => {
                let opened = model::open_tokenizer(&config.base_model);
                self.keep(loaded, "base_model", opened)
            }
            None => None,
        };
        if let Some(tokenizer) = tokenizer {
            let bar = Bar::new("reading the data");
            let read = data::load_with(config, &tokenizer, &|done, total| bar.update(done, total));
            drop(bar);
            if let Some(dataset) = self.keep(loaded, "train_data_dir", read) {
                self.look_at_data(loaded, dataset);
            }
        }
        self.look_at_adapter(loaded);
    }

    /// The value, or its error as a problem of `key`.
    pub(super) fn keep<T>(
        &mut self,
        loaded: &LoadedConfig,
        key: &str,
        result: anyhow::Result<T>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let text = format!("{error:#}");
                // A sentence may begin with the key it blames.
                let blamed = text
                    .split_once(": ")
                    .map(|(start, _)| start.to_owned())
                    .filter(|start| loaded.entries.iter().any(|e| e.key == *start));
                let key = blamed.as_deref().unwrap_or(key);
                self.problems.push(at_key(loaded, key, text, String::new()));
                None
            }
        }
    }

    fn look_at_data(&mut self, loaded: &LoadedConfig, dataset: Dataset) {
        let config = &loaded.config;
        let Dataset {
            train,
            statistics,
            bad,
            ..
        } = dataset;
        for warning in &statistics.warnings {
            self.warnings.push(at_key(
                loaded,
                "train_data_dir",
                warning.clone(),
                String::new(),
            ));
        }
        let batches = Batches::of(config, &train);
        let plan = Plan::new(config, batches.per_epoch());
        if config.warmup_steps >= plan.total_steps {
            self.warnings.push(at_key(
                loaded,
                "warmup_steps",
                format!(
                    "`warmup_steps: {}` is the whole run: it has {} steps",
                    config.warmup_steps, plan.total_steps
                ),
                "write a smaller number, or more `epochs`".into(),
            ));
        }
        self.plan = Some(plan);
        self.data = Some(Data {
            statistics,
            bad,
            captions: Vec::new(),
        });
    }

    fn look_at_adapter(&mut self, loaded: &LoadedConfig) {
        let config = &loaded.config;
        let Some(base) = self.base.clone() else {
            return;
        };
        let planned = adapter_plan(config, &base.config);
        let Some(AdapterPlan { modules, spec }) = self.keep(loaded, "target_modules", planned)
        else {
            return;
        };
        let size = AdapterSize {
            trained: spec.parameter_count(&modules),
            written: spec.written_count(&modules),
        };
        let narrowest = modules.iter().map(|(_, i, o)| *i.min(o)).min().unwrap_or(0);
        if config.lora_rank > narrowest {
            self.warnings.push(at_key(
                loaded,
                "lora_rank",
                format!(
                    "`lora_rank: {}` is more than the {narrowest} that the narrowest module can use",
                    config.lora_rank
                ),
                "write a smaller one".into(),
            ));
        }
        let context = base.config.max_position_embeddings;
        if config.sequence_len > context
            && self
                .data
                .as_ref()
                .is_some_and(|d| d.statistics.max_length > context as u64)
        {
            self.warnings.push(at_key(
                loaded,
                "sequence_len",
                format!("records are longer than the {context} tokens the base was made for"),
                format!("write `sequence_len: {context}`"),
            ));
        }
        self.adapter = Some(Adapter {
            modules: modules.len(),
            shapes: modules.clone(),
            parameters: size.trained,
            spec,
        });
        self.look_at_memory(loaded, &base, size.trained, &modules);
        if let Some(plan) = self.plan {
            let disk = preflight(config, size, plan);
            self.disk = self.keep(loaded, "output_dir", disk);
            for warning in self.disk.iter().flat_map(|d| d.warnings.clone()) {
                self.warnings
                    .push(at_key(loaded, "output_dir", warning, String::new()));
            }
        }
    }

    /// The memory with another `batch_size`; `None` where the run's own is not known.
    pub fn memory_with_batch(&self, batch_size: usize) -> Option<Memory> {
        let config = &self.loaded.as_ref()?.config;
        let (data, adapter) = (self.data.as_ref()?, self.adapter.as_ref()?);
        self.memory.as_ref()?;
        let data = &data.statistics;
        if let Some(base) = &self.image_base {
            return image_memory(config, base, data, adapter, batch_size);
        }
        let base = self.base.as_ref()?;
        Some(estimate(
            config,
            base,
            data,
            adapter.parameters,
            &adapter.shapes,
            batch_size,
        ))
    }

    fn look_at_memory(
        &mut self,
        loaded: &LoadedConfig,
        base: &Description,
        parameters: u64,
        modules: &[(String, usize, usize)],
    ) {
        let config = &loaded.config;
        let Some(data) = &self.data else { return };
        let memory = estimate(
            config,
            base,
            &data.statistics,
            parameters,
            modules,
            config.batch_size,
        );
        self.keep_memory(loaded, memory, "sequence_len");
    }

    /// Warns where it is tight. `size`: the key that makes rows smaller.
    pub(super) fn keep_memory(&mut self, loaded: &LoadedConfig, memory: Memory, size: &str) {
        let advice = if recomputes(&loaded.config) {
            format!(
                "write a smaller `batch_size` (and more `gradient_accumulation_steps`) or `{size}`"
            )
        } else {
            format!("write `gradient_checkpointing: true`, or a smaller `batch_size` or `{size}`")
        };
        let verdict = match memory.fit() {
            Some(Fit::Exceeds) => "will hardly fit",
            Some(Fit::Tight) => "is tight",
            _ => "",
        };
        if !verdict.is_empty() {
            self.warnings.push(at_key(
                loaded,
                "batch_size",
                format!("the run's memory {verdict}"),
                advice,
            ));
        }
        self.memory = Some(memory);
    }
}

/// The memory of micro-batches of `batch_size` of the data's longest rows.
fn estimate(
    config: &RunConfig,
    base: &Description,
    data: &DataStatistics,
    parameters: u64,
    modules: &[(String, usize, usize)],
    batch_size: usize,
) -> Memory {
    let (row_tokens, rows) = match data.packing {
        Some(packing) => (packing.row_tokens.min(packing.tokens), packing.rows),
        None => (
            data.max_length.min(config.sequence_len as u64),
            data.train_records,
        ),
    };
    let row_tokens = row_tokens as usize;
    let rows = batch_size.min(rows.max(1) as usize);
    let recompute = recomputes(config);
    Memory {
        estimate: model::memory_estimate(base, parameters, modules, rows, row_tokens, recompute),
        rows: Rows::Tokens(row_tokens),
        available: available_memory(),
    }
}

/// Whether blocks compute their activations again: as asked, else on a GPU.
pub(super) fn recomputes(config: &RunConfig) -> bool {
    config.gradient_checkpointing.unwrap_or(on_gpu(config))
}

pub(super) fn on_gpu(config: &RunConfig) -> bool {
    matches!(config.device, config::DeviceChoice::Cuda(_))
}

/// Bytes that the machine, or the container around this process, can still give.
pub(in crate::commands) fn available_memory() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let machine = Some(system.available_memory()).filter(|bytes| *bytes > 0);
    let container = system.cgroup_limits().map(|limits| limits.free_memory);
    machine.into_iter().chain(container).min()
}

/// A problem at the line of a key, or at none where the file does not give it.
pub(super) fn at_key(loaded: &LoadedConfig, key: &str, message: String, fix: String) -> Problem {
    let line = loaded
        .entries
        .iter()
        .find(|e| e.key == key)
        .and_then(|e| e.source.strip_prefix("line ")?.parse().ok())
        .unwrap_or(0);
    Problem {
        path: loaded.path.clone(),
        line,
        column: usize::from(line > 0),
        key: key.to_owned(),
        message,
        fix,
    }
}
