//! Going on with an adapter that exists.

use std::collections::HashMap;

use candle_core::{Tensor, TensorId};

use super::adapter::same;
use crate::model::{LoraPair, LoraSet, Part};

/// Gives the fresh adapter what the given one does, exactly: where the fresh one's rank is higher,
/// the rows of A beyond keep their fresh numbers and the columns of B beyond are zero; where the
/// scales differ, B is multiplied by what is between them. Says what was changed.
///
/// # Errors
/// What of the given adapter the fresh one has no place for, and which settings would have.
pub(super) fn start_from(fresh: &LoraSet, given: &LoraSet) -> Result<Vec<String>, String> {
    let (theirs, ours) = (&given.spec, &fresh.spec);
    let largest = given
        .pairs
        .iter()
        .filter_map(|p| p.a.dims().first().copied());
    let largest = largest.max().unwrap_or(0);
    if largest > ours.rank {
        return Err(format!(
            "its rank is {largest}, above lora_rank {}: set `lora_rank: {largest}` or more, or \
             lower its rank first with `loradeck combine --rank {}`",
            ours.rank, ours.rank
        ));
    }
    if let Some(pair) = given
        .pairs
        .iter()
        .find(|p| !fresh.index.contains_key(&p.module))
    {
        return Err(format!(
            "it adapts {}, this config does not: set `target_modules: [{}]` and leave layers out",
            pair.module,
            theirs.target_modules.join(", ")
        ));
    }
    if let Some(pair) = fresh
        .pairs
        .iter()
        .find(|p| !given.index.contains_key(&p.module))
    {
        return Err(format!(
            "it does not adapt {}, this config does: set `target_modules: [{}]`",
            pair.module,
            theirs.target_modules.join(", ")
        ));
    }
    if theirs.use_dora && !ours.use_dora {
        return Err("it is DoRA, this config is not: set `use_dora: true`".to_owned());
    }
    let mut rescaled = false;
    // Where layers share numbers, a file holds them once for each.
    let mut taken: HashMap<TensorId, (&str, Tensor)> = HashMap::new();
    for (pair, given) in pairs(fresh, given) {
        let failed = |e| format!("{} cannot be taken over ({e})", pair.module);
        let factor = given.scale / pair.scale;
        rescaled |= factor != 1.0;
        for (part, var) in pair.parts() {
            let Some(numbers) = numbers(part, pair, given, factor).map_err(failed)? else {
                continue;
            };
            match taken.get(&var.id()) {
                None => var.set(&numbers).map_err(failed)?,
                Some((module, first)) if !same(first, &numbers).map_err(failed)? => {
                    return Err(format!(
                        "{module} and {} have other numbers, and `share_adapters` makes them one: \
                         leave `share_adapters` out",
                        pair.module
                    ));
                }
                Some(_) => {}
            }
            taken.insert(var.id(), (&pair.module, numbers));
        }
    }
    let mut notes = Vec::new();
    if theirs.rank < ours.rank {
        notes.push(format!(
            "init_from: its rank of {} is raised to {}; it acts as before",
            theirs.rank, ours.rank
        ));
    }
    if rescaled {
        notes.push(format!(
            "init_from: its scale of {} becomes {}, and its B is divided by the difference; it \
             acts as before",
            theirs.scale(),
            ours.scale()
        ));
    }
    Ok(notes)
}

fn pairs<'a>(
    fresh: &'a LoraSet,
    given: &'a LoraSet,
) -> impl Iterator<Item = (&'a LoraPair, &'a LoraPair)> {
    let each = fresh.pairs.iter();
    each.filter_map(|pair| Some((pair, &given.pairs[*given.index.get(&pair.module)?])))
}

/// What one part of the fresh pair becomes; `None`: it keeps its numbers.
fn numbers(
    part: Part,
    fresh: &LoraPair,
    given: &LoraPair,
    factor: f64,
) -> candle_core::Result<Option<Tensor>> {
    let (rank, wanted) = (given.a.dim(0)?, fresh.a.dim(0)?);
    let beyond = wanted - rank;
    let numbers = match part {
        Part::Magnitude => return Ok(given.magnitude.as_ref().map(|m| m.as_tensor().clone())),
        Part::A if beyond == 0 => given.a.as_tensor().clone(),
        Part::A => {
            let drawn = fresh.a.as_tensor().clone().narrow(0, rank, beyond)?;
            Tensor::cat(&[&given.a.as_tensor().clone(), &drawn], 0)?
        }
        Part::B => {
            let b = match factor {
                1.0 => given.b.as_tensor().clone(),
                _ => (given.b.as_tensor().clone() * factor)?,
            };
            b.pad_with_zeros(1, 0, beyond)?
        }
    };
    // A copy: setting the fresh numbers must not change what is compared with them.
    Ok(Some(numbers.contiguous()?.copy()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LoraSpec;
    use candle_core::Device;

    fn set(rank: usize, alpha: f64, seed: u64, names: &[&str]) -> LoraSet {
        let modules: Vec<(String, usize, usize)> =
            names.iter().map(|n| ((*n).to_owned(), 6, 5)).collect();
        let spec = LoraSpec {
            alpha,
            target_modules: names.iter().map(|n| (*n).to_owned()).collect(),
            ..LoraSpec::lora(rank)
        };
        let set = LoraSet::new(&modules, spec, seed, &Device::Cpu).unwrap();
        for pair in &set.pairs {
            let b: Vec<f32> = (0..5 * rank).map(|n| (n as f32).sin()).collect();
            pair.b
                .set(&Tensor::from_vec(b, (5, rank), &Device::Cpu).unwrap())
                .unwrap();
        }
        set
    }

    /// `scale B A`.
    fn update(pair: &LoraPair) -> Vec<f32> {
        let product = pair.b.matmul(&pair.a).unwrap();
        let product = (product * pair.scale).unwrap();
        product.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_raised_rank_acts_exactly_as_before_and_can_learn() {
        let given = set(2, 4.0, 1, &["x.q_proj"]);
        let fresh = set(4, 8.0, 2, &["x.q_proj"]);
        let drawn: Vec<f32> = fresh.pairs[0].a.flatten_all().unwrap().to_vec1().unwrap();
        let notes = start_from(&fresh, &given).unwrap();
        assert!(notes[0].contains("raised to 4"), "{notes:?}");
        let numbers = |var: &crate::model::Variable| var.to_vec2::<f32>().unwrap();
        let (old, new) = (&given.pairs[0], &fresh.pairs[0]);
        assert_eq!(numbers(&new.a)[..2], numbers(&old.a));
        for (new, old) in numbers(&new.b).iter().zip(numbers(&old.b)) {
            assert_eq!((&new[..2], &new[2..]), (&old[..], &[0.0, 0.0][..]));
        }
        assert_eq!(new.scale, old.scale);
        // The rows of A beyond are not zero, or nothing would ever reach them.
        let a: Vec<f32> = fresh.pairs[0].a.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(a[12..], drawn[12..]);
    }

    #[test]
    fn another_scale_acts_as_before() {
        let given = set(2, 2.0, 1, &["x.q_proj"]);
        let fresh = set(2, 8.0, 2, &["x.q_proj"]);
        let notes = start_from(&fresh, &given).unwrap();
        assert!(notes[0].contains("scale of 1 becomes 4"), "{notes:?}");
        assert_eq!(update(&fresh.pairs[0]), update(&given.pairs[0]));
    }

    #[test]
    fn what_has_no_place_is_explained_with_the_setting_that_would_have() {
        let given = set(4, 4.0, 1, &["x.q_proj", "x.v_proj"]);
        for (fresh, expected) in [
            (set(2, 2.0, 1, &["x.q_proj", "x.v_proj"]), "lora_rank: 4"),
            (set(4, 4.0, 1, &["x.q_proj"]), "it adapts x.v_proj"),
            (
                set(4, 4.0, 1, &["x.q_proj", "x.v_proj", "x.k_proj"]),
                "target_modules: [x.q_proj, x.v_proj]",
            ),
        ] {
            let error = start_from(&fresh, &given).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
