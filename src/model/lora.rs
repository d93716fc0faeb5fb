//! Adapters in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Result;
use candle_core::{Device, TensorId};

use super::config::DecoderConfig;
use crate::error::input_error;
use crate::ops::Variable;
use crate::random::{Purpose, Stream};

/// Which of a module's trained numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    A,
    B,
    /// DoRA's magnitude vector.
    Magnitude,
}

impl Part {
    /// As PEFT calls it.
    pub fn name(self) -> &'static str {
        match self {
            Part::A => "lora_A",
            Part::B => "lora_B",
            Part::Magnitude => "lora_magnitude_vector",
        }
    }
}

/// One module's adapter. `scale` (alpha / r, or alpha / sqrt(r) with rsLoRA) multiplies `B A x`.
/// Modules that share numbers hold clones of the same variable.
#[derive(Clone, Debug)]
pub struct LoraPair {
    /// `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// `[r, in]`, f32.
    pub a: Variable,
    /// `[out, r]`, f32.
    pub b: Variable,
    /// `[out]`, f32: with DoRA, the norm of each row of the adapted weight.
    pub magnitude: Option<Variable>,
    pub scale: f64,
}

impl LoraPair {
    /// What is trained: A, B and, with DoRA, the magnitude.
    pub fn parts(&self) -> impl Iterator<Item = (Part, &Variable)> {
        let magnitude = self.magnitude.as_ref();
        [(Part::A, &self.a), (Part::B, &self.b)]
            .into_iter()
            .chain(magnitude.map(|magnitude| (Part::Magnitude, magnitude)))
    }
}

/// What an adapter is, but for its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSpec {
    pub rank: usize,
    pub alpha: f64,
    pub use_rslora: bool,
    /// Weight-decomposed LoRA (DoRA, arXiv:2402.09353).
    pub use_dora: bool,
    /// One A/B for the same linear of all layers.
    pub share_layers: bool,
    pub dropout: f64,
    /// As PEFT writes them: `["q_proj", "v_proj"]`.
    pub target_modules: Vec<String>,
    /// The layers that `target_modules` are of; empty: all.
    pub layers_to_transform: Vec<usize>,
}

impl LoraSpec {
    /// LoRA of a rank, with alpha equal to it.
    pub fn lora(rank: usize) -> Self {
        LoraSpec {
            rank,
            alpha: rank as f64,
            use_rslora: false,
            use_dora: false,
            share_layers: false,
            dropout: 0.0,
            target_modules: Vec::new(),
            layers_to_transform: Vec::new(),
        }
    }

    /// What multiplies `B A x`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// The name under which a module's A and B are drawn and shared.
    fn owner<'a>(&self, module: &'a str) -> &'a str {
        match self.share_layers {
            true => within_layer(module),
            false => module,
        }
    }

    /// Numbers that an adapter of the given modules `(name, in, out)` trains, shared ones once.
    pub fn parameter_count(&self, modules: &[(String, usize, usize)]) -> u64 {
        let mut owners = BTreeSet::new();
        let mut count = 0;
        for (module, inputs, outputs) in modules {
            if owners.insert((self.owner(module), inputs, outputs)) {
                count += self.rank * (inputs + outputs);
            }
            if self.use_dora {
                count += outputs;
            }
        }
        count as u64
    }

    /// Numbers that a file of such an adapter holds: what layers share, for each of them.
    pub fn written_count(&self, modules: &[(String, usize, usize)]) -> u64 {
        let unshared = LoraSpec {
            share_layers: false,
            ..self.clone()
        };
        unshared.parameter_count(modules)
    }
}

/// `model.layers.3.self_attn.q_proj` without what tells its layer: `self_attn.q_proj`.
fn within_layer(module: &str) -> &str {
    let rest = module.strip_prefix("model.layers.");
    rest.and_then(|rest| rest.split_once('.'))
        .map_or(module, |(_, within)| within)
}

/// An adapter in memory: its pairs by module, in the order of the base's modules.
#[derive(Clone, Debug)]
pub struct LoraSet {
    pub spec: LoraSpec,
    pub pairs: Vec<LoraPair>,
    /// Module -> index into `pairs`.
    pub index: BTreeMap<String, usize>,
}

/// Numbers that are trained.
pub struct Parameter<'a> {
    /// The module that has them, the first of those that share them.
    pub module: &'a str,
    pub part: Part,
    pub var: &'a Variable,
}

/// An adapter applied at a strength (1.0: as trained).
#[derive(Clone, Copy)]
pub struct Active<'a> {
    pub set: &'a LoraSet,
    pub strength: f64,
}

impl LoraSet {
    /// Fresh pairs for the given modules `(name, in, out)`: A Kaiming-uniform (a = sqrt 5) from the
    /// counter-based generator, B zero. A module's A does not depend on which others there are.
    /// Magnitudes are the base's to tell: [`super::Decoder::add_magnitudes`].
    ///
    /// # Errors
    /// A rank of 0; the device fails (memory).
    pub fn new(
        modules: &[(String, usize, usize)],
        spec: LoraSpec,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        if spec.rank == 0 {
            return Err(input_error("lora_rank is 0; it must be at least 1"));
        }
        let rank = spec.rank;
        let mut drawn: BTreeMap<(&str, usize, usize), (Variable, Variable)> = BTreeMap::new();
        let mut pairs = Vec::new();
        for (module, inputs, outputs) in modules {
            let owner = spec.owner(module);
            let key = (owner, *inputs, *outputs);
            let (a, b) = match drawn.get(&key) {
                Some(pair) => pair.clone(),
                None => {
                    // Kaiming-uniform with a = sqrt 5: sqrt(6 / ((1 + 5) in)).
                    let bound = 1.0 / (*inputs as f32).sqrt();
                    let item = crc32c::crc32c(owner.as_bytes());
                    let mut stream = Stream::new(seed, Purpose::Init, 0, item);
                    let a: Vec<f32> = (0..rank * inputs)
                        .map(|_| (2.0 * stream.uniform() - 1.0) * bound)
                        .collect();
                    let a = Variable::from_vec(a, (rank, *inputs), device)?;
                    let b =
                        Variable::from_vec(vec![0f32; outputs * rank], (*outputs, rank), device)?;
                    drawn.entry(key).or_insert((a, b)).clone()
                }
            };
            pairs.push(LoraPair {
                module: module.clone(),
                a,
                b,
                magnitude: None,
                scale: spec.scale(),
            });
        }
        Ok(Self::from_pairs(pairs, spec))
    }

    /// A set of given pairs, indexed by module.
    pub fn from_pairs(pairs: Vec<LoraPair>, spec: LoraSpec) -> Self {
        let index = pairs
            .iter()
            .enumerate()
            .map(|(i, pair)| (pair.module.clone(), i))
            .collect();
        LoraSet { spec, pairs, index }
    }

    /// All that is trained, in order; what modules share once. Gradients and moments keep this
    /// order.
    pub fn parameters(&self) -> Vec<Parameter<'_>> {
        let mut seen = HashSet::new();
        let mut parameters = Vec::new();
        for pair in &self.pairs {
            for (part, var) in pair.parts() {
                if seen.insert(var.id()) {
                    parameters.push(Parameter {
                        module: &pair.module,
                        part,
                        var,
                    });
                }
            }
        }
        parameters
    }

    /// Puts other variables in the place of those it has, by the tensor they are now.
    pub fn replace(&mut self, by: &HashMap<TensorId, Variable>) {
        for pair in &mut self.pairs {
            let parts = [&mut pair.a, &mut pair.b].into_iter();
            for part in parts.chain(&mut pair.magnitude) {
                if let Some(other) = by.get(&part.id()) {
                    *part = other.clone();
                }
            }
        }
    }

    /// Numbers in all parameters.
    pub fn parameter_count(&self) -> u64 {
        let counts = self.parameters().into_iter().map(|p| p.var.elem_count());
        counts.sum::<usize>() as u64
    }

    /// Numbers that a file of it holds: what layers share, for each of them.
    pub fn written_count(&self) -> u64 {
        let parts = self.pairs.iter().flat_map(LoraPair::parts);
        parts.map(|(_, var)| var.elem_count()).sum::<usize>() as u64
    }
}

/// The linears that get adapters, as `(name, in_features, out_features)` in the base's order:
/// all of them, or those whose name is, or ends in a dot and, one of `names`; within the first and
/// last of `layers` (inclusive).
///
/// On a base that fuses them, `q_proj`, `k_proj` and `v_proj` together mean `qkv_proj`, and
/// `gate_proj` and `up_proj` mean `gate_up_proj`.
///
/// # Errors
/// A name that fits no linear, a range beyond the base's layers, nothing left.
pub fn match_targets(
    config: &DecoderConfig,
    all_linear: bool,
    names: &[String],
    layers: Option<(usize, usize)>,
) -> Result<Vec<(String, usize, usize)>> {
    let linears = config.linears();
    let names = &fused_names(config, names);
    if !all_linear {
        for name in names {
            if !linears.iter().any(|(linear, ..)| fits(linear, name)) {
                return Err(unknown_target(config, name));
            }
        }
    }
    if let Some((first, last)) = layers
        && (first > last || last >= config.layers)
    {
        return Err(input_error(format!(
            "layers [{first}, {last}] is no range within the base's layers 0 to {}",
            config.layers - 1
        )));
    }
    let per_layer = config.block_linears().len();
    let chosen: Vec<_> = linears
        .into_iter()
        .enumerate()
        .filter(|(i, (linear, ..))| {
            let layer = i / per_layer;
            layers.is_none_or(|(first, last)| (first..=last).contains(&layer))
                && (all_linear || names.iter().any(|name| fits(linear, name)))
        })
        .map(|(_, linear)| linear)
        .collect();
    if chosen.is_empty() {
        return Err(input_error(
            "target_modules and layers leave no module to adapt; name at least one",
        ));
    }
    Ok(chosen)
}

/// What PEFT must be told so that it adapts exactly `modules` (as [`match_targets`] gives them):
/// `target_modules` and `layers_to_transform` (empty: all layers). Bare names (`q_proj`) where every
/// adapted layer has the same ones adapted, else whole names.
pub fn peft_targets(
    config: &DecoderConfig,
    modules: &[(String, usize, usize)],
) -> (Vec<String>, Vec<usize>) {
    let mut by_layer: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (module, ..) in modules {
        let layer = module.split('.').find_map(|part| part.parse().ok());
        let leaf = module.rsplit('.').next().unwrap_or(module);
        let leaves = by_layer.entry(layer.unwrap_or(0)).or_default();
        leaves.push(leaf.to_owned());
    }
    let first = by_layer.values().next().cloned().unwrap_or_default();
    if by_layer.values().any(|leaves| *leaves != first) {
        let whole = modules.iter().map(|(module, ..)| module.clone());
        return (whole.collect(), Vec::new());
    }
    match by_layer.len() == config.layers {
        true => (first, Vec::new()),
        false => (first, by_layer.into_keys().collect()),
    }
}

/// `names` with those of the parts of a fused linear replaced by its own, where all parts are named.
fn fused_names(config: &DecoderConfig, names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    if config.fused {
        for (parts, whole) in [
            (&["q_proj", "k_proj", "v_proj"][..], "qkv_proj"),
            (&["gate_proj", "up_proj"], "gate_up_proj"),
        ] {
            let named = |part: &&str| names.iter().any(|name| name == part);
            if parts.iter().all(named) {
                names.retain(|name| !parts.contains(&&name[..]) && name != whole);
                names.insert(0, whole.to_owned());
            }
        }
    }
    names
}

/// PEFT's rule: the whole name, or its end after a dot.
fn fits(linear: &str, name: &str) -> bool {
    let end = linear.strip_suffix(name);
    end.is_some_and(|before| before.is_empty() || before.ends_with('.')) && !name.is_empty()
}

fn unknown_target(config: &DecoderConfig, name: &str) -> anyhow::Error {
    let linears: Vec<&str> = config.block_linears().iter().map(|l| l.name).collect();
    let leaf = |linear: &&'static str| linear.rsplit('.').next().unwrap_or(linear);
    let leaves: Vec<&str> = linears.iter().map(leaf).collect();
    let near = leaves
        .iter()
        .chain(&linears)
        .chain(&["all-linear"])
        .map(|valid| (strsim::normalized_damerau_levenshtein(name, valid), valid))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.5);
    let near = near.map_or(String::new(), |(_, valid)| {
        format!(" (did you mean '{valid}'?)")
    });
    input_error(format!(
        "target_modules: '{name}' fits no linear of the base{near}; there are {}, also with the \
         path before them, such as layers.{}.{}, and all-linear",
        leaves.join(", "),
        config.layers - 1,
        linears[0]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::to_vec;

    fn config() -> DecoderConfig {
        DecoderConfig::tiny()
    }

    fn matched(names: &[&str], layers: Option<(usize, usize)>) -> Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let modules = match_targets(&config(), false, &names, layers)?;
        Ok(modules.into_iter().map(|(name, ..)| name).collect())
    }

    #[test]
    fn targets_are_whole_names_or_ends_after_a_dot() {
        assert_eq!(matched(&["q_proj", "v_proj"], None).unwrap().len(), 6);
        assert_eq!(
            matched(&["layers.1.mlp.up_proj"], None).unwrap(),
            ["model.layers.1.mlp.up_proj"]
        );
        assert_eq!(
            matched(&["self_attn.q_proj"], Some((1, 1))).unwrap(),
            ["model.layers.1.self_attn.q_proj"]
        );
        let all = match_targets(&config(), true, &[], None).unwrap();
        assert_eq!(all, config().linears());
    }

    #[test]
    fn the_names_of_a_fused_linears_parts_mean_the_whole_only_together() {
        let config = DecoderConfig {
            fused: true,
            ..config()
        };
        let matched = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            let modules = match_targets(&config, false, &names, None)?;
            Ok::<_, anyhow::Error>(peft_targets(&config, &modules).0)
        };
        let default = ["q_proj", "k_proj", "v_proj", "o_proj"];
        assert_eq!(matched(&default).unwrap(), ["qkv_proj", "o_proj"]);
        let mlp = ["gate_proj", "up_proj", "down_proj"];
        assert_eq!(matched(&mlp).unwrap(), ["gate_up_proj", "down_proj"]);
        assert_eq!(matched(&["qkv_proj"]).unwrap(), ["qkv_proj"]);
        let error = matched(&["q_proj", "v_proj"]).unwrap_err().to_string();
        assert!(error.contains("there are qkv_proj, o_proj"), "{error}");
        assert_eq!(match_targets(&config, true, &[], None).unwrap().len(), 12);
    }

    #[test]
    fn a_wrong_target_is_answered_with_the_valid_ones_and_the_nearest() {
        for (name, layers, expected) in [
            ("q_prj", None, "did you mean 'q_proj'?"),
            ("c_attn", None, "there are q_proj, k_proj"),
            ("roj", None, "fits no linear"),
            ("q_proj", Some((1, 3)), "0 to 2"),
            ("layers.0.mlp.up_proj", Some((1, 2)), "no module"),
        ] {
            let error = matched(&[name], layers).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn peft_is_told_bare_names_and_layers_where_these_say_it_all() {
        let told = |targets: &[&str], layers| {
            let targets: Vec<String> = targets.iter().map(|&n| n.to_owned()).collect();
            let modules = match_targets(&config(), false, &targets, layers).unwrap();
            peft_targets(&config(), &modules)
        };
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            told(&["up_proj", "q_proj"], None),
            (names(&["q_proj", "up_proj"]), vec![])
        );
        assert_eq!(
            told(&["self_attn.q_proj", "mlp.up_proj"], Some((1, 2))),
            (names(&["q_proj", "up_proj"]), vec![1, 2])
        );
        assert_eq!(
            told(&["layers.0.self_attn.q_proj", "up_proj"], Some((0, 1))),
            (
                names(&[
                    "model.layers.0.self_attn.q_proj",
                    "model.layers.0.mlp.up_proj",
                    "model.layers.1.mlp.up_proj"
                ]),
                vec![]
            )
        );
    }

    #[test]
    fn what_layers_share_is_one_variable_counted_once() {
        let modules = match_targets(&config(), true, &[], None).unwrap();
        let spec = |share_layers, use_dora| LoraSpec {
            share_layers,
            use_dora,
            ..LoraSpec::lora(2)
        };
        let count = |spec: &LoraSpec| {
            let set = LoraSet::new(&modules, spec.clone(), 1, &Device::Cpu).unwrap();
            assert_eq!(set.written_count(), spec.written_count(&modules));
            set.parameter_count()
        };
        let (alone, shared) = (spec(false, false), spec(true, false));
        assert_eq!(count(&alone), alone.parameter_count(&modules));
        assert_eq!(count(&shared), shared.parameter_count(&modules));
        assert_eq!(count(&alone), 3 * count(&shared));
        assert_eq!(
            alone.written_count(&modules),
            shared.written_count(&modules)
        );
        // Magnitudes are of a layer's own weight.
        let outputs: usize = modules.iter().map(|(.., outputs)| outputs).sum();
        let dora = spec(true, true).parameter_count(&modules);
        assert_eq!(dora, count(&shared) + outputs as u64);
        let set = LoraSet::new(&modules, shared, 1, &Device::Cpu).unwrap();
        let of = |module: &str| set.pairs[set.index[module]].a.id();
        let q = of("model.layers.0.self_attn.q_proj");
        assert_eq!(q, of("model.layers.2.self_attn.q_proj"));
        assert_ne!(q, of("model.layers.0.self_attn.o_proj"));
    }

    #[test]
    fn a_fresh_adapter_is_kaiming_uniform_over_zero_and_the_same_for_the_same_seed() {
        let modules = [
            ("x.q_proj".to_owned(), 400, 30),
            ("x.k_proj".to_owned(), 400, 10),
        ];
        let set = |modules: &[(String, usize, usize)], seed| {
            let spec = LoraSpec {
                alpha: 16.0,
                use_rslora: true,
                ..LoraSpec::lora(8)
            };
            LoraSet::new(modules, spec, seed, &Device::Cpu).unwrap()
        };
        let first = set(&modules, 1);
        let a = to_vec(&first.pairs[0].a).unwrap();
        let bound = 1.0 / 20.0;
        assert!(a.iter().all(|x| x.abs() <= bound));
        // The variance of a uniform number is bound^2 / 3.
        let variance = a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32;
        assert!((variance * 3.0 / (bound * bound) - 1.0).abs() < 0.1);
        assert!(to_vec(&first.pairs[0].b).unwrap().iter().all(|&b| b == 0.0));
        assert_eq!(first.pairs[0].scale, 16.0 / 8f64.sqrt());
        let alone = set(&modules[1..], 1);
        let of = |set: &LoraSet, i: usize| to_vec(&set.pairs[i].a).unwrap();
        assert_eq!(of(&alone, 0), of(&first, 1));
        assert_ne!(of(&set(&modules, 2), 0), a);
    }
}
