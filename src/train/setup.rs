//! Everything that is opened before the first step.

use std::path::Path;
use std::rc::Rc;

use anyhow::Result;

use super::checkpoint::{self, DataFingerprint, State};
use super::objective::Objective;
use super::optimizer::{AdamW, Optimizer};
use super::plan::Plan;
use super::preflight::AdapterSize;
use super::stage::Stage;
use super::{Folders, Reporter, adapter, image, preflight, text};
use crate::config::{RunConfig, TaskType};
use crate::error::input_error;
use crate::model::LoraSet;
use crate::protocol::{
    AdapterInfo, DataStatistics, EventKind, Level, Message, PhaseName, Severity,
};

/// What the trainer works with.
pub(super) struct Setup {
    pub objective: Rc<dyn Objective>,
    pub fingerprint: DataFingerprint,
    pub plan: Plan,
    pub set: LoraSet,
    pub optimizer: Optimizer,
    pub recompute: bool,
    /// Of the checkpoint the run goes on from.
    pub state: Option<State>,
    /// The step of that checkpoint, when it lies among this run's own.
    pub saved_at: Option<u64>,
}

/// Base and data of a run.
pub(super) struct Opened {
    pub objective: Rc<dyn Objective>,
    pub fingerprint: DataFingerprint,
    pub statistics: DataStatistics,
    pub on_gpu: bool,
}

/// How opening says what it does.
pub(super) struct Telling<'a> {
    reporter: &'a dyn Reporter,
    stage: &'a Stage<'a>,
}

impl Telling<'_> {
    pub fn loading(&self, detail: &str) {
        self.stage.enter(PhaseName::Loading, detail);
    }

    pub fn info(&self, text: String) {
        self.message(Level::Info, text);
    }

    pub fn warn(&self, text: String) {
        self.message(Level::Warning, text);
    }

    fn message(&self, level: Level, text: String) {
        self.reporter
            .emit(EventKind::Message(Message { level, text }));
    }
}

/// Opens base, data and adapter and proves that the result can be saved.
pub(super) fn open(
    config: &RunConfig,
    resume: Option<&Path>,
    folders: &Folders,
    reporter: &dyn Reporter,
    stage: &Stage<'_>,
) -> Result<Setup> {
    let telling = Telling { reporter, stage };
    preflight::formats(config)?;
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

    let Opened {
        objective,
        fingerprint,
        statistics,
        on_gpu,
    } = match config.task_type {
        TaskType::TextGeneration => text::open(config, &telling)?,
        TaskType::TextToImage => image::open(config, &telling)?,
    };
    if let (Some(state), Some(path)) = (&state, resume)
        && let Some(difference) = fingerprint.difference(&state.data)
    {
        return Err(input_error(format!(
            "train_data_dir: the data is no longer what {} was trained on ({difference}): put it back, start anew with `--resume never`, or name the checkpoint in init_from to go on from its adapter with the new data",
            path.display()
        )));
    }
    reporter.emit(EventKind::Data {
        statistics: statistics.clone().told(),
    });
    for warning in &statistics.warnings {
        telling.warn(warning.clone());
    }
    for finding in &statistics.findings {
        let text = format!("{} ({})", finding.line(), finding.remedy);
        match finding.severity {
            Severity::Note => telling.info(text),
            _ => telling.warn(text),
        }
    }

    telling.loading("making the adapter");
    let mut set = match resume {
        Some(checkpoint) => adapter::resumed(config, checkpoint, objective.as_ref())?,
        None => {
            let (set, notes) = adapter::fresh(config, objective.as_ref())?;
            notes.into_iter().for_each(|note| telling.info(note));
            set
        }
    };
    let moments = match (resume, &state) {
        (Some(checkpoint), Some(state)) => {
            checkpoint::read_moments(checkpoint, &set, state.updates)?
        }
        _ => AdamW::new(&set),
    };
    let optimizer = Optimizer::new(&mut set, moments)?;
    let plan = Plan::new(config, objective.per_epoch());
    reporter.emit(objective.model_event(&set));
    reporter.emit(plan.event());

    let size = AdapterSize {
        trained: set.parameter_count(),
        written: set.written_count(),
    };
    for warning in preflight::check(config, size, plan, folders)? {
        telling.warn(warning);
    }
    if let Some(state) = &state {
        for path in checkpoint::set_aside_after(&folders.checkpoints, state.step)? {
            telling.warn(format!(
                "a later checkpoint was set aside as {}, as the run goes on from step {}",
                path.display(),
                state.step
            ));
        }
    }
    Ok(Setup {
        recompute: config.gradient_checkpointing.unwrap_or(on_gpu),
        objective,
        fingerprint,
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

/// What is told of an adapter.
pub(super) fn adapter_info(set: &LoraSet) -> AdapterInfo {
    AdapterInfo {
        rank: set.spec.rank as u64,
        alpha: set.spec.alpha,
        target_modules: set.spec.target_modules.clone(),
        modules: set.pairs.len() as u64,
        parameters: set.parameter_count(),
    }
}
