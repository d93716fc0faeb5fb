//! Several adapters as one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use rayon::prelude::*;

use super::merge::Weighted;
use super::model::{Adapter, Part};
use super::numbers::{Dtype, Numbers};
use super::svd::{Matrix, reduce};
use crate::error::input_error;

/// What bringing an adapter to a lower rank lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduced {
    pub adapter: Adapter,
    /// The norm of what was lost over the norm of all updates.
    pub error: f64,
    /// The same of the part that lost most, and its module.
    pub worst: (f64, String),
}

/// One adapter that acts as all of them together, each at its strength: A is their A one below the
/// other, B their scaled B side by side, so nothing is lost and the ranks add up. The result's scale
/// is 1.
///
/// # Errors
/// Adapters of different bases, of DoRA, or with q and k in different orders.
pub fn concatenate(adapters: &[Weighted]) -> Result<Adapter> {
    let Some((first, _)) = adapters.first() else {
        return Err(input_error("there is no adapter to combine"));
    };
    let mut combined = Adapter {
        parts: BTreeMap::new(),
        use_rslora: false,
        metadata: BTreeMap::new(),
        target_modules: Vec::new(),
        layers_to_transform: Vec::new(),
        dropout: 0.0,
        ..first.clone()
    };
    for (adapter, _) in adapters {
        adapter
            .check_finite()
            .map_err(|e| input_error(e.to_string()))?;
        let refused = if adapter.family != first.family {
            Some(format!(
                "one adapter is of a {}, another of a {}",
                first.family.name(),
                adapter.family.name()
            ))
        } else if adapter.is_dora() {
            Some(
                "a DoRA adapter is no sum: merge it into the base with `loradeck merge` instead"
                    .to_owned(),
            )
        } else if adapter.rows != first.rows {
            Some(
                "one of the adapters is a GGUF and another is not: export both as peft first"
                    .to_owned(),
            )
        } else {
            None
        };
        if let Some(why) = refused {
            return Err(input_error(format!(
                "the adapters cannot be combined: {why}"
            )));
        }
        if combined.base_name != adapter.base_name {
            combined.base_name = None;
        }
    }
    let modules: BTreeSet<&String> = adapters.iter().flat_map(|(a, _)| a.parts.keys()).collect();
    for module in modules {
        let parts: Vec<(&Part, f64)> = adapters
            .iter()
            .filter_map(|(a, strength)| {
                let part = a.parts.get(module)?;
                Some((part, a.scale(part) * strength))
            })
            .collect();
        combined
            .parts
            .insert(module.clone(), stack(module, &parts)?);
    }
    Ok(combined)
}

/// The parts of one module, with what multiplies each, as one of scale 1.
fn stack(module: &str, parts: &[(&Part, f64)]) -> Result<Part> {
    let first = parts[0].0;
    for (part, _) in parts {
        if part.a.shape[1..] != first.a.shape[1..] || part.b.shape[0] != first.b.shape[0] {
            return Err(input_error(format!(
                "the adapters are of different bases: {module} is {:?} and {:?} in one, {:?} and \
                 {:?} in another",
                first.a.shape, first.b.shape, part.a.shape, part.b.shape
            )));
        }
    }
    let scaled: Vec<(Numbers, bool)> = parts.iter().map(|(p, factor)| p.b.times(*factor)).collect();
    let dtype = first.a.dtype;
    let alike = parts
        .iter()
        .all(|(p, _)| p.a.dtype == dtype && p.b.dtype == dtype);
    // In a narrow type only where nothing is rounded.
    let dtype = match alike && scaled.iter().all(|(_, exact)| *exact) {
        true => dtype,
        false => Dtype::F32,
    };
    let wide = |part: &Part, factor: f64| -> Vec<f32> {
        let numbers = part.b.to_f32().into_iter();
        numbers.map(|x| (f64::from(x) * factor) as f32).collect()
    };
    let rank: usize = parts.iter().map(|(p, _)| p.rank()).sum();
    let a: Vec<f32> = parts.iter().flat_map(|(p, _)| p.a.to_f32()).collect();
    let columns: Vec<(usize, Vec<f32>)> =
        parts.iter().map(|(p, f)| (p.rank(), wide(p, *f))).collect();
    let mut b = Vec::with_capacity(first.outputs() * rank);
    for row in 0..first.outputs() {
        for (rank, numbers) in &columns {
            b.extend_from_slice(&numbers[row * rank..(row + 1) * rank]);
        }
    }
    let with_rank = |shape: &[usize], at: usize| {
        let mut shape = shape.to_vec();
        shape[at] = rank;
        shape
    };
    Ok(Part {
        a: Numbers::new(&with_rank(&first.a.shape, 0), &a).cast(dtype)?,
        b: Numbers::new(&with_rank(&first.b.shape, 1), &b).cast(dtype)?,
        magnitude: None,
        alpha: rank as f64,
        keys: None,
    })
}

/// The adapter with every part brought to at most `rank`, by the singular value decomposition of its
/// update, in f32. The result's scale is 1.
///
/// # Errors
/// A rank of 0, a DoRA adapter.
pub fn reduce_rank(adapter: &Adapter, rank: usize) -> Result<Reduced> {
    if rank == 0 {
        return Err(input_error("--rank is 0; it must be at least 1"));
    }
    let whole = concatenate(&[(adapter.clone(), 1.0)])?;
    let reduced: Vec<(&String, Part, f64, f64)> = whole
        .parts
        .par_iter()
        .map(|(module, part)| match part.rank() <= rank {
            true => {
                let norm = super::inspect::update_norm(part);
                (module, part.clone(), 0.0, norm * norm)
            }
            false => {
                let (part, lost, all) = reduce_part(part, rank);
                (module, part, lost, all)
            }
        })
        .collect();
    let share = |lost: f64, all: f64| if all > 0.0 { (lost / all).sqrt() } else { 0.0 };
    let mut worst = (0.0, String::new());
    let (mut lost, mut all) = (0.0, 0.0);
    for (module, _, part_lost, part_all) in &reduced {
        lost += part_lost;
        all += part_all;
        let share = share(*part_lost, *part_all);
        if share > worst.0 {
            worst = (share, (*module).clone());
        }
    }
    let error = share(lost, all);
    let parts = reduced.into_iter();
    let parts = parts
        .map(|(module, part, ..)| (module.clone(), part))
        .collect();
    Ok(Reduced {
        adapter: Adapter {
            parts,
            target_modules: adapter.target_modules.clone(),
            ..whole.clone()
        },
        error,
        worst,
    })
}

fn reduce_part(part: &Part, rank: usize) -> (Part, f64, f64) {
    let matrix = |numbers: &Numbers, rows: usize, columns: usize| Matrix {
        rows,
        columns,
        numbers: numbers.to_f32().into_iter().map(f64::from).collect(),
    };
    let b = matrix(&part.b, part.outputs(), part.rank());
    let a = matrix(&part.a, part.rank(), part.inputs());
    let (b, a, lost, all) = reduce(&b, &a, rank);
    let numbers = |old: &[usize], at: usize, matrix: &Matrix| {
        let mut shape = old.to_vec();
        shape[at] = rank;
        let each = matrix.numbers.iter().map(|&x| x as f32);
        Numbers::new(&shape, &each.collect::<Vec<_>>())
    };
    let reduced = Part {
        a: numbers(&part.a.shape, 0, &a),
        b: numbers(&part.b.shape, 1, &b),
        magnitude: None,
        alpha: rank as f64,
        keys: None,
    };
    (reduced, lost, all)
}
