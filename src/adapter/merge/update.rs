//! What adapters add to the rows of one tensor of a base, in f32.

use rayon::prelude::*;

use crate::adapter::model::{Adapter, Part};
use crate::model::hugging_face_row;

/// One adapter's update of a module, which is all of a tensor or some of its rows.
pub(super) struct Update {
    /// `[r, columns]`.
    a: Vec<f32>,
    /// `[rows, r]`.
    b: Vec<f32>,
    rank: usize,
    /// What multiplies `B A`.
    scale: f32,
    /// How much of the whole change acts.
    strength: f32,
    /// DoRA's.
    magnitude: Option<Vec<f32>>,
    /// The tensor's rows that are the module's.
    first_row: usize,
    rows: usize,
    /// Heads whose rows the tensor has in llama.cpp's order.
    heads: Option<usize>,
}

/// Which rows of a tensor are a module's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slot {
    pub tensor: String,
    /// Fused tensors hold several modules one after another: which of them, of the size of the
    /// module's outputs.
    pub index: usize,
    pub heads: Option<usize>,
}

impl Update {
    pub fn new(adapter: &Adapter, part: &Part, strength: f64, slot: &Slot) -> Self {
        Update {
            a: part.a.to_f32(),
            b: part.b.to_f32(),
            rank: part.rank(),
            scale: adapter.scale(part) as f32,
            strength: strength as f32,
            magnitude: part.magnitude.as_ref().map(|m| m.to_f32()),
            first_row: slot.index * part.outputs(),
            rows: part.outputs(),
            heads: slot.heads,
        }
    }

    /// Numbers of a row.
    pub fn columns(&self) -> usize {
        self.a.len() / self.rank
    }

    /// The first of the tensor's rows that lies beyond the module.
    pub fn end_row(&self) -> usize {
        self.first_row + self.rows
    }

    /// Whether the rows are whole heads of an even size, where llama.cpp's order needs them.
    pub fn divides(&self) -> bool {
        self.heads
            .is_none_or(|heads| self.rows.is_multiple_of(2 * heads))
    }

    /// Adds the update to the tensor's row `row`; `original` is that row without any update.
    fn add(&self, row: usize, original: &[f32], out: &mut [f32]) {
        if row < self.first_row || row >= self.end_row() {
            return;
        }
        let within = row - self.first_row;
        let within = match self.heads {
            Some(heads) => hugging_face_row(within, self.rows, heads),
            None => within,
        };
        let coefficients = &self.b[within * self.rank..(within + 1) * self.rank];
        let lora_rows = self.a.chunks_exact(original.len());
        match &self.magnitude {
            None => {
                for (&c, a) in coefficients.iter().zip(lora_rows) {
                    let c = c * self.scale * self.strength;
                    out.iter_mut().zip(a).for_each(|(out, &a)| *out += c * a);
                }
            }
            // The row of W + scale B A, given the length of the magnitude (arXiv:2402.09353).
            Some(magnitude) => {
                let mut whole = original.to_vec();
                for (&c, a) in coefficients.iter().zip(lora_rows) {
                    let c = c * self.scale;
                    whole.iter_mut().zip(a).for_each(|(w, &a)| *w += c * a);
                }
                let square: f64 = whole.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
                let stretch = f64::from(magnitude[within]) / square.sqrt();
                for ((out, &whole), &original) in out.iter_mut().zip(&whole).zip(original) {
                    *out += self.strength * ((f64::from(whole) * stretch) as f32 - original);
                }
            }
        }
    }
}

/// Adds updates to the rows of a tensor from `first_row` on.
pub(super) fn apply(updates: &[Update], first_row: usize, columns: usize, rows: &mut [f32]) {
    let each = rows.par_chunks_exact_mut(columns).enumerate();
    each.for_each_init(Vec::new, |original, (i, row)| {
        original.clear();
        original.extend_from_slice(row);
        for update in updates {
            update.add(first_row + i, original, row);
        }
    });
}
