//! Held-out loss.

use std::rc::Rc;
use std::time::Instant;

use super::checkpoint::BestEval;
use super::objective::Sums;
use super::shrink::{Work, watched};
use super::trainer::{Flow, Trainer};
use crate::model::Active;
use crate::protocol::{EventKind, Num, PhaseName};

impl Trainer<'_> {
    /// Evaluates the adapter, and the bare base where that was not done yet; returns the adapter's
    /// mean loss per token or picture. Controls are taken in between batches.
    pub fn evaluate(&mut self) -> Flow<f64> {
        self.settle()?;
        let clock = Instant::now();
        let left = self.stage.enter(PhaseName::Evaluating, "held-out loss");
        let outer = std::mem::replace(&mut self.occupied, true);
        if self.progress.base_loss.is_none() {
            let loss = self.held_out_loss(false)?;
            self.progress.base_loss = Some(Num(loss));
        }
        // A new adapter's B is zero: before the first update it is the bare base.
        let bare = self.optimizer.updates() == 0 && self.config.init_from.is_none();
        let loss = match self.progress.base_loss {
            Some(base) if bare => base.0,
            _ => self.held_out_loss(true)?,
        };
        self.occupied = outer;
        let step = self.progress.step;
        self.progress.evaluated_at = Some(step);
        if loss.is_finite() && self.progress.best_eval.is_none_or(|b| loss < b.loss.0) {
            self.progress.best_eval = Some(BestEval {
                step,
                loss: Num(loss),
            });
        }
        self.reporter.emit(EventKind::Eval {
            step,
            loss: Num(loss),
            base_loss: self.progress.base_loss,
            records: self.held_out,
            seconds: clock.elapsed().as_secs_f64(),
        });
        self.stage.back(left);
        Ok(loss)
    }

    fn held_out_loss(&mut self, with_adapter: bool) -> Flow<f64> {
        let objective = Rc::clone(&self.objective);
        let held_out = objective.held_out()?;
        let active = [Active {
            set: &self.set.clone(),
            strength: 1.0,
        }];
        let adapters = if with_adapter { &active[..] } else { &[] };
        let mut sums = Sums::default();
        let mut done = 0;
        while done < held_out.rows() {
            self.attend()?;
            let at_once = self.pieces.records.min(self.config.batch_size.max(1));
            let piece = held_out.piece(done, at_once);
            let records = piece.len();
            let computed = watched(held_out.momentary_bytes(&piece), || {
                held_out.loss(piece, adapters)
            });
            match computed {
                Ok(piece) => {
                    sums.add(piece)?;
                    done += records;
                }
                Err(e) => self.out_of_memory(e, records, Work::Eval)?,
            }
        }
        let loss = sums.loss.value().map_err(anyhow::Error::from)?;
        Ok(loss / sums.weight as f64)
    }
}
