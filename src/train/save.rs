//! Checkpoints of a run: when, and what if they cannot be written.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::checkpoint::{self, STATE_VERSION, State};
use super::plan;
use super::shrink::{admitted, is_out_of_memory};
use super::trainer::{Flow, Trainer};
use crate::config;
use crate::protocol::{CheckpointReason, EventKind, Level, PhaseName};

/// Besides `save_steps`, a checkpoint is written this often.
pub(super) const SAVE_EVERY: Duration = Duration::from_secs(5 * 60);

impl Trainer<'_> {
    /// Saves; where that fails, pauses and tries again on every resume.
    pub fn save_or_pause(&mut self, reason: CheckpointReason) -> Flow<()> {
        while let Err(e) = self.try_save(reason) {
            self.pause_for_save(&e)?;
        }
        Ok(())
    }

    pub fn pause_for_save(&mut self, error: &anyhow::Error) -> Flow<()> {
        let how = match is_out_of_memory(error) {
            true => "free some memory or raise its limit",
            false => "free some space or mend the folder",
        };
        self.pause_for(&format!(
            "{error:#}; what was saved before is untouched: {how}, then resume to try again"
        ))
    }

    /// Saves when five minutes have passed since the last checkpoint.
    pub fn save_by_time(&mut self) -> Flow<()> {
        let step = self.progress.step;
        if step == 0 || self.saved_at == Some(step) || self.last_save.elapsed() < SAVE_EVERY {
            return Ok(());
        }
        self.settle()?;
        if !self.paused {
            return self.save_or_pause(CheckpointReason::Time);
        }
        if let Err(e) = self.try_save(CheckpointReason::Time) {
            self.message(Level::Error, format!("{e:#}"));
            self.last_save = Instant::now();
        }
        Ok(())
    }

    /// Writes the checkpoint of the present step, unless it is there already, and deletes those that
    /// `keep_checkpoints` no longer keeps.
    pub fn try_save(&mut self, reason: CheckpointReason) -> Result<()> {
        if self.saved_at == Some(self.progress.step) {
            return Ok(());
        }
        let left = self.stage.enter(PhaseName::Saving, "checkpoint");
        let clock = Instant::now();
        // Adapter and moments as bytes, then each file read back for its checksum.
        let bytes = 6 * 4 * self.set.parameter_count();
        let written = admitted(bytes, || {
            checkpoint::write(
                &self.folders.checkpoints,
                &self.set,
                self.optimizer.state()?.as_ref(),
                &self.state(),
                self.objective
                    .checkpoint_files(&self.set, &self.config, self.progress.step)?,
                &mut || self.reporter.sync(),
            )
        });
        if let Ok(written) = &written {
            self.saved_at = Some(self.progress.step);
            self.last_save = Instant::now();
            self.reporter.emit(EventKind::Checkpoint {
                step: self.progress.step,
                path: written.path.display().to_string(),
                bytes: written.bytes,
                reason,
                seconds: clock.elapsed().as_secs_f64(),
            });
            self.delete_old();
        }
        self.stage.back(left);
        written.map(|_| ())
    }

    /// Deletes the oldest beyond `keep_checkpoints`. The new one is safe on disk, so a failure here
    /// costs space only.
    fn delete_old(&self) {
        let Some(keep) = self.config.keep_checkpoints else {
            return;
        };
        let deleted = checkpoint::list(&self.folders.checkpoints).and_then(|all| {
            let beyond = all.len().saturating_sub(keep.max(1));
            for (_, path) in &all[..beyond] {
                checkpoint::delete(path)?;
                self.reporter.emit(EventKind::CheckpointDeleted {
                    path: path.display().to_string(),
                });
            }
            Ok(())
        });
        if let Err(e) = deleted {
            self.message(Level::Warning, format!("{e:#}"));
        }
    }

    /// The run between two steps; files and checksum are filled in when it is written.
    fn state(&self) -> State {
        let progress = &self.progress;
        State {
            version: STATE_VERSION,
            step: progress.step,
            total_steps: self.plan.total_steps,
            epoch: plan::epoch(self.objective.per_epoch(), progress.cursor),
            cursor: progress.cursor,
            updates: self.optimizer.updates(),
            total_tokens: progress.total_tokens,
            non_finite_in_a_row: progress.non_finite_in_a_row,
            base_loss: progress.base_loss,
            best_eval: progress.best_eval,
            evaluated_at: progress.evaluated_at,
            sampled_at: progress.sampled_at,
            pieces: self.pieces_to_keep(),
            data: self.fingerprint.clone(),
            config: config::to_yaml(&self.config),
            files: Default::default(),
            checksum: String::new(),
        }
    }

    /// `checkpoints/step-000100` of the present step.
    pub fn checkpoint_name(&self) -> String {
        in_run(&self.folders.checkpoints)
            .join(checkpoint::name(self.progress.step))
            .display()
            .to_string()
    }
}

/// A folder of the run as seen from the run's folder: `checkpoints`.
pub(super) fn in_run(folder: &Path) -> PathBuf {
    folder
        .file_name()
        .map_or_else(|| folder.to_owned(), PathBuf::from)
}
