//! Everything that is opened before the first step.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;

use super::checkpoint::{self, DataFingerprint, State};
use super::device::{device_name, dtype, open_device};
use super::optimizer::AdamW;
use super::plan::Plan;
use super::preflight::AdapterSize;
use super::stage::Stage;
use super::{Folders, Reporter, adapter, preflight};
use crate::config::RunConfig;
use crate::data::{self, Batches, Dataset};
use crate::error::input_error;
use crate::model::{self, Base, LoraSet, Quantization};
use crate::protocol::{AdapterInfo, BaseInfo, EventKind, Level, Message, PhaseName, Severity};
use candle_core::Device;

/// What the trainer works with.
pub(super) struct Setup {
    pub base: Rc<Base>,
    pub data: Arc<Dataset>,
    pub fingerprint: DataFingerprint,
    pub batches: Arc<Batches>,
    pub plan: Plan,
    pub set: LoraSet,
    pub optimizer: AdamW,
    pub recompute: bool,
    /// Of the checkpoint the run goes on from.
    pub state: Option<State>,
    /// The step of that checkpoint, when it lies among this run's own.
    pub saved_at: Option<u64>,
}

/// Opens base, data and adapter and proves that the result can be saved.
pub(super) fn open(
    config: &RunConfig,
    resume: Option<&Path>,
    folders: &Folders,
    reporter: &dyn Reporter,
    stage: &Stage<'_>,
) -> Result<Setup> {
    let warn = |text: String| {
        reporter.emit(EventKind::Message(Message {
            level: Level::Warning,
            text,
        }));
    };
    let info = |text: String| {
        reporter.emit(EventKind::Message(Message {
            level: Level::Info,
            text,
        }));
    };
    preflight::formats(&config.export_formats, config.use_dora)?;
    checkpoint::remove_leftovers(&folders.checkpoints)?;
    checkpoint::remove_leftovers(&folders.exports)?;
    let state = resume.map(checkpoint::verify).transpose()?;
    if let (Some(state), Some(path)) = (&state, resume) {
        reporter.emit(EventKind::Resumed {
            step: state.step,
            epoch: state.epoch,
            total_tokens: state.total_tokens,
            checkpoint: path.display().to_string(),
        });
    }

    stage.enter(PhaseName::Loading, "reading the base");
    let device = open_device(config.device)?;
    let base = model::open_quantised(
        &config.base_model,
        config.quantize.and_then(Quantization::named),
        &device,
        dtype(config.precision, &device)?,
    )?;

    for note in &base.description.notes {
        reporter.emit(EventKind::Message(Message {
            level: Level::Info,
            text: format!("base: {note}"),
        }));
    }

    stage.enter(PhaseName::Loading, "reading the data");
    let data = data::load(config, &base.tokenizer)?;
    refuse_bad_records(config, &data)?;
    let fingerprint = DataFingerprint::of(&data);
    if let (Some(state), Some(path)) = (&state, resume)
        && let Some(difference) = fingerprint.difference(&state.data)
    {
        return Err(input_error(format!(
            "train_data_dir: the data is no longer what {} was trained on ({difference}): put it back, start anew with `--resume never`, or name the checkpoint in init_from to go on from its adapter with the new data",
            path.display()
        )));
    }
    reporter.emit(EventKind::Data {
        statistics: data.statistics.clone().told(),
    });
    for warning in &data.statistics.warnings {
        warn(warning.clone());
    }
    for finding in &data.statistics.findings {
        let text = format!("{} ({})", finding.line(), finding.remedy);
        match finding.severity {
            Severity::Note => info(text),
            _ => warn(text),
        }
    }

    stage.enter(PhaseName::Loading, "making the adapter");
    let set = match resume {
        Some(checkpoint) => adapter::resumed(config, checkpoint, &base)?,
        None => {
            let (set, notes) = adapter::fresh(config, &base)?;
            notes.into_iter().for_each(info);
            set
        }
    };
    let optimizer = match (resume, &state) {
        (Some(checkpoint), Some(state)) => {
            checkpoint::read_moments(checkpoint, &set, state.updates)?
        }
        _ => AdamW::new(&set),
    };
    let batches = Batches::of(config, &data.train);
    let plan = Plan::new(config, &batches);
    reporter.emit(model_event(&base, &set, &device));
    reporter.emit(plan.event());

    let size = AdapterSize {
        trained: set.parameter_count(),
        written: set.written_count(),
    };
    for warning in preflight::check(config, size, plan, folders)? {
        warn(warning);
    }
    if let Some(state) = &state {
        for path in checkpoint::set_aside_after(&folders.checkpoints, state.step)? {
            warn(format!(
                "a later checkpoint was set aside as {}, as the run goes on from step {}",
                path.display(),
                state.step
            ));
        }
    }
    Ok(Setup {
        recompute: config
            .gradient_checkpointing
            .unwrap_or_else(|| device.is_cuda()),
        base: Rc::new(base),
        data: Arc::new(data),
        fingerprint,
        batches: Arc::new(batches),
        plan,
        set,
        optimizer,
        saved_at: state
            .as_ref()
            .map(|s| s.step)
            .filter(|&step| resume.is_some_and(|path| is_own(path, step, folders))),
        state,
    })
}

/// Whether a checkpoint is this run's own of `step`: one of another run has to be saved here too.
fn is_own(checkpoint: &Path, step: u64, folders: &Folders) -> bool {
    let own = folders.checkpoints.join(checkpoint::name(step));
    matches!((checkpoint.canonicalize(), own.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn refuse_bad_records(config: &RunConfig, data: &Dataset) -> Result<()> {
    if !config.skip_bad_records
        && let Some(first) = data.bad.first()
    {
        let more = match data.bad.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more; `loradeck check` lists them all)"),
        };
        return Err(input_error(format!(
            "{}:{}: {}{more}: mend the data, or leave bad records out with `skip_bad_records: true`",
            first.file, first.line, first.reason
        )));
    }
    if data.train.is_empty() {
        return Err(input_error(format!(
            "train_data_dir: {} leaves no record to train on",
            config.train_data_dir.display()
        )));
    }
    Ok(())
}

fn model_event(base: &Base, set: &LoraSet, device: &Device) -> EventKind {
    let described = &base.description;
    let shape = &described.config;
    EventKind::Model {
        device: device_name(device),
        base: BaseInfo {
            name: described.name.clone(),
            architecture: shape.architecture.clone(),
            format: described.format.clone(),
            dtype: described.dtype.clone(),
            parameters: described.parameters,
            layers: shape.layers as u64,
            hidden_size: shape.hidden_size as u64,
            vocabulary: shape.vocab_size as u64,
            bytes: described.bytes,
        },
        adapter: AdapterInfo {
            rank: set.spec.rank as u64,
            alpha: set.spec.alpha,
            target_modules: set.spec.target_modules.clone(),
            modules: set.pairs.len() as u64,
            parameters: set.parameter_count(),
        },
    }
}
