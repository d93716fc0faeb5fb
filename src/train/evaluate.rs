//! Held-out loss.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::checkpoint::BestEval;
use super::shrink::{Work, watched};
use super::trainer::{Flow, Trainer};
use crate::data::{Record, collate};
use crate::model::Active;
use crate::protocol::{EventKind, Num, PhaseName};

impl Trainer<'_> {
    /// Evaluates the adapter, and the bare base where that was not done yet; returns the adapter's
    /// mean loss per token. Controls are taken in between batches.
    pub fn evaluate(&mut self) -> Flow<f64> {
        let clock = Instant::now();
        let left = self.stage.enter(PhaseName::Evaluating, "held-out loss");
        let outer = std::mem::replace(&mut self.occupied, true);
        if self.progress.base_loss.is_none() {
            let loss = self.held_out_loss(false)?;
            self.progress.base_loss = Some(Num(loss));
        }
        // A new adapter's B is zero: before the first update it is the bare base.
        let bare = self.optimizer.updates == 0 && self.config.init_from.is_none();
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
            records: self.data.eval.len() as u64,
            seconds: clock.elapsed().as_secs_f64(),
        });
        self.stage.back(left);
        Ok(loss)
    }

    fn held_out_loss(&mut self, with_adapter: bool) -> Flow<f64> {
        let (base, data) = (Rc::clone(&self.base), Arc::clone(&self.data));
        let active = [Active {
            set: &self.set.clone(),
            strength: 1.0,
        }];
        let adapters = if with_adapter { &active[..] } else { &[] };
        // Records of like length together: less padding, the same sums.
        let mut records: Vec<&Record> = data.eval.iter().collect();
        records.sort_by_key(|r| r.ids.len());
        let (mut sum, mut tokens) = (0.0, 0);
        let mut rest = &records[..];
        while !rest.is_empty() {
            self.attend()?;
            let at_once = self.pieces.records.min(self.config.batch_size.max(1));
            let (batch, after) = rest.split_at(rest.len().min(at_once));
            let length = batch.iter().map(|r| r.ids.len() as u64).sum();
            let computed = watched(self.momentary_bytes(length), || {
                base.decoder.loss(&collate(batch), adapters)
            });
            match computed {
                Ok((loss, trained)) => {
                    sum += loss;
                    tokens += trained;
                    rest = after;
                }
                Err(e) => self.out_of_memory(e, batch.len(), Work::Eval)?,
            }
        }
        Ok(sum / tokens as f64)
    }
}
