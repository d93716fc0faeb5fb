//! What an adapter is, in figures, and what is wrong with it.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::family;
use super::model::{Adapter, Family, Format, Part};

/// A root mean square of the update's numbers from which a part is called exploded: a base's own
/// weights lie around 0.02 to 0.1, so it would drown them.
const EXPLODED: f64 = 1.0;
/// As many times the median part.
const OUTLIER: f64 = 100.0;

/// What [`inspect`] tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub format: Option<Format>,
    pub family: Family,
    pub base_name: Option<String>,
    /// llama.cpp's name of the base's architecture, where the file has it.
    pub architecture: Option<String>,
    /// "LoRA", "rsLoRA", "DoRA".
    pub kind: String,
    /// Number of parts by rank.
    pub ranks: BTreeMap<usize, usize>,
    /// Number of parts by alpha as written.
    pub alphas: Vec<(f64, usize)>,
    /// Number of parts by the scale that multiplies B A.
    pub scales: Vec<(f64, usize)>,
    pub dtypes: Vec<&'static str>,
    pub parameters: u64,
    /// Number of parts by the last words of their names.
    pub targets: BTreeMap<String, usize>,
    pub parts: Vec<PartReport>,
    /// Frobenius norms of the layers' updates, in the layers' order.
    pub layers: Vec<(String, f64)>,
    pub metadata: BTreeMap<String, String>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PartReport {
    pub module: String,
    pub rank: usize,
    pub scale: f64,
    /// Frobenius norm of `scale B A`; not finite where A or B is not.
    pub norm: f64,
    /// Root mean square of its numbers.
    pub rms: f64,
}

/// Measures an adapter.
pub fn inspect(adapter: &Adapter) -> Report {
    let mut measured: Vec<PartReport> = adapter
        .parts
        .par_iter()
        .map(|(module, part)| {
            let scale = adapter.scale(part);
            let norm = scale.abs() * update_norm(part);
            let count = part.outputs() as f64 * part.inputs() as f64;
            PartReport {
                module: module.clone(),
                rank: part.rank(),
                scale,
                norm,
                rms: norm / count.sqrt(),
            }
        })
        .collect();
    measured.sort_by_key(|part| natural(&part.module));
    let mut ranks = BTreeMap::new();
    let mut targets = BTreeMap::new();
    let mut layers: Vec<(String, f64)> = Vec::new();
    for part in &measured {
        *ranks.entry(part.rank).or_default() += 1;
        *targets.entry(target(&part.module)).or_default() += 1;
        let layer = layer(&part.module);
        match layers.iter_mut().find(|(name, _)| *name == layer) {
            Some((_, norm)) => *norm = norm.hypot(part.norm),
            None => layers.push((layer, part.norm)),
        }
    }
    let kind = match (adapter.is_dora(), adapter.use_rslora) {
        (true, true) => "DoRA with rsLoRA's scale",
        (true, false) => "DoRA",
        (false, true) => "rsLoRA",
        (false, false) => "LoRA",
    };
    let keys = adapter.parts.values().find_map(|part| part.keys.as_ref());
    let format = keys.map(|keys| keys.format);
    Report {
        format,
        family: adapter.family,
        base_name: base_name(adapter),
        architecture: adapter.architecture.clone(),
        kind: kind.to_owned(),
        ranks,
        alphas: counted(adapter.parts.values().map(|part| part.alpha)),
        scales: counted(measured.iter().map(|part| part.scale)),
        dtypes: adapter.dtypes().into_iter().map(|d| d.name()).collect(),
        parameters: adapter.parameters(),
        targets,
        layers,
        warnings: warnings(adapter, &measured, format),
        parts: measured,
        metadata: adapter.metadata.clone(),
    }
}

/// The Frobenius norm of `B A`, without multiplying them out: its square is the trace of
/// `(B^T B)(A A^T)`.
pub(super) fn update_norm(part: &Part) -> f64 {
    let (rank, inputs) = (part.rank(), part.inputs());
    let (a, b) = (part.a.to_f32(), part.b.to_f32());
    let mut square = 0.0;
    for i in 0..rank {
        for j in 0..=i {
            let rows = a[i * inputs..(i + 1) * inputs]
                .iter()
                .zip(&a[j * inputs..(j + 1) * inputs]);
            let of_a: f64 = rows.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            let of_b: f64 = b
                .chunks_exact(rank)
                .map(|row| f64::from(row[i]) * f64::from(row[j]))
                .sum();
            square += of_a * of_b * if i == j { 1.0 } else { 2.0 };
        }
    }
    // Rounding may leave a little less than nothing.
    if square < 0.0 { 0.0 } else { square.sqrt() }
}

/// Values with how many parts have them, the most frequent first.
fn counted(values: impl Iterator<Item = f64>) -> Vec<(f64, usize)> {
    let mut found: Vec<(f64, usize)> = Vec::new();
    for value in values {
        match found.iter_mut().find(|(v, _)| *v == value) {
            Some((_, count)) => *count += 1,
            None => found.push((value, 1)),
        }
    }
    found.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    found
}

fn base_name(adapter: &Adapter) -> Option<String> {
    let named = |key: &str| adapter.metadata.get(key).cloned();
    let names = [
        adapter.base_name.clone(),
        named("ss_sd_model_name"),
        named("ss_base_model_version"),
    ];
    names.into_iter().flatten().next()
}

/// What a part stands for in all layers: `q_proj`, `attn1.to_q`.
fn target(module: &str) -> String {
    let words: Vec<&str> = module.split('.').collect();
    let is_number = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    let last = words.iter().rposition(|word| !is_number(word)).unwrap_or(0);
    // The UNet's leaves mean something only with the word before.
    match words[..last].last() {
        Some(&before) if before.starts_with("attn") => format!("{before}.{}", words[last]),
        Some(&before) if module.contains(".ff.") => match is_number(before) {
            true => "ff.net.0.proj".to_owned(),
            false => "ff.net.2".to_owned(),
        },
        _ => words[last].to_owned(),
    }
}

/// The layer or block that a module lies in.
fn layer(module: &str) -> String {
    let words: Vec<&str> = module.split('.').collect();
    let number = |word: &&str| word.bytes().all(|b| b.is_ascii_digit());
    let text = words.iter().position(|word| *word == "layers");
    match text {
        Some(at) if words.get(at + 1).is_some_and(number) => {
            let component = if words[0] == "model" { "" } else { words[0] };
            format!("{component} layer {}", words[at + 1])
                .trim()
                .to_owned()
        }
        _ => {
            // `unet.down_blocks.1.attentions.0`: up to the second number.
            let numbers = words.iter().enumerate().filter(|(_, w)| number(w));
            let end = numbers.map(|(i, _)| i + 1).take(2).last();
            words[..end.unwrap_or(words.len())].join(".")
        }
    }
}

/// A key that sorts numbers in names by their value.
fn natural(name: &str) -> Vec<(usize, String)> {
    name.split('.')
        .map(|word| match word.parse() {
            Ok(number) => (number, String::new()),
            Err(_) => (0, word.to_owned()),
        })
        .collect()
}

fn warnings(adapter: &Adapter, parts: &[PartReport], format: Option<Format>) -> Vec<String> {
    let mut warnings = Vec::new();
    let named = |chosen: &[&PartReport]| {
        let first: Vec<&str> = chosen.iter().take(3).map(|p| p.module.as_str()).collect();
        let more = match chosen.len() {
            0..=3 => String::new(),
            n => format!(" and {} more", n - 3),
        };
        format!("{}{more}", first.join(", "))
    };
    let broken: Vec<_> = parts.iter().filter(|p| !p.norm.is_finite()).collect();
    if !broken.is_empty() {
        warnings.push(format!(
            "broken: numbers that are not finite in {}",
            named(&broken)
        ));
    }
    let dead: Vec<_> = parts.iter().filter(|p| p.norm == 0.0).collect();
    if dead.len() == parts.len() {
        warnings.push(
            "dead: every update is zero, so the adapter changes nothing (it was not trained)"
                .to_owned(),
        );
    } else if !dead.is_empty() {
        warnings.push(format!("dead: the update is zero in {}", named(&dead)));
    }
    let mut norms: Vec<f64> = parts
        .iter()
        .map(|p| p.norm)
        .filter(|n| n.is_finite() && *n > 0.0)
        .collect();
    norms.sort_by(f64::total_cmp);
    let median = norms.get(norms.len() / 2).copied().unwrap_or(0.0);
    let exploded: Vec<_> = parts
        .iter()
        .filter(|p| p.norm.is_finite() && (p.rms >= EXPLODED || p.norm > OUTLIER * median))
        .collect();
    if !exploded.is_empty() {
        let largest = exploded.iter().map(|p| p.norm).fold(0.0, f64::max);
        warnings.push(format!(
            "exploded: updates of a norm up to {largest:.3e}, where the median is {median:.3e}, in {}",
            named(&exploded)
        ));
    }
    if format == Some(Format::Kohya) && family::from_metadata(&adapter.metadata).is_none() {
        warnings.push(
            "the metadata names no base (ss_base_model_version): AUTOMATIC1111 takes the file for \
             Stable Diffusion 1; `loradeck export --format kohya` completes it"
                .to_owned(),
        );
    }
    warnings
}

impl Report {
    /// The report for people.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |what: &str, value: String| lines.push(format!("{what:<12}{value}"));
        let format = self.format.map_or("none", Format::name);
        line("format", format.to_owned());
        let architecture = self.architecture.as_ref();
        let architecture = architecture.map_or(String::new(), |a| format!(" ({a})"));
        line("family", format!("{}{architecture}", self.family.name()));
        line(
            "base",
            self.base_name.clone().unwrap_or("not named".to_owned()),
        );
        line("kind", self.kind.clone());
        line(
            "rank",
            counts(self.ranks.iter().map(|(r, c)| (*r as f64, *c))),
        );
        line("alpha", counts(self.alphas.iter().copied()));
        line("scale", counts(self.scales.iter().copied()));
        line(
            "numbers",
            format!("{} as {}", self.parameters, self.dtypes.join(", ")),
        );
        let targets = self.targets.iter();
        let targets: Vec<String> = targets.map(|(t, n)| format!("{t} x{n}")).collect();
        line("targets", targets.join(", "));
        lines.push(format!("{:<12}{:>11}", "layers", "norm of the update"));
        let largest = self
            .layers
            .iter()
            .map(|(_, n)| *n)
            .filter(|n| n.is_finite());
        let largest = largest.fold(0.0, f64::max);
        let width = self.layers.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0);
        for (name, norm) in &self.layers {
            let share = if largest > 0.0 { norm / largest } else { 0.0 };
            let bar = "#".repeat((share.clamp(0.0, 1.0) * 30.0).round() as usize);
            lines.push(format!("  {name:<width$}  {norm:>10.4e}  {bar}"));
        }
        if !self.metadata.is_empty() {
            lines.push("metadata".to_owned());
        }
        for (key, value) in &self.metadata {
            let short: String = value.chars().take(100).collect();
            let cut = if short.len() < value.len() { "..." } else { "" };
            lines.push(format!("  {key}: {}{cut}", short.replace('\n', " ")));
        }
        for warning in &self.warnings {
            lines.push(format!("warning: {warning}"));
        }
        lines.join("\n") + "\n"
    }

    /// The report for scripts.
    pub fn json(&self) -> serde_json::Value {
        use serde_json::json;
        // JSON has no numbers that are not finite.
        let finite = |x: f64| match x.is_finite() {
            true => json!(x),
            false => json!(x.to_string()),
        };
        let listed = |values: &[(f64, usize)]| -> Vec<serde_json::Value> {
            let each = values.iter();
            each.map(|(value, parts)| json!({"value": finite(*value), "parts": parts}))
                .collect()
        };
        let parts = self.parts.iter();
        let parts: Vec<_> = parts
            .map(|p| {
                json!({"module": p.module, "rank": p.rank, "scale": finite(p.scale),
                       "norm": finite(p.norm), "rms": finite(p.rms)})
            })
            .collect();
        let layers = self.layers.iter();
        let layers: Vec<_> = layers
            .map(|(name, norm)| json!({"layer": name, "norm": finite(*norm)}))
            .collect();
        let ranks = self.ranks.iter().map(|(r, n)| (*r as f64, *n));
        json!({
            "format": self.format.map(Format::name),
            "family": self.family.name(),
            "base": self.base_name,
            "architecture": self.architecture,
            "kind": self.kind,
            "rank": listed(&ranks.collect::<Vec<_>>()),
            "alpha": listed(&self.alphas),
            "scale": listed(&self.scales),
            "dtypes": self.dtypes,
            "parameters": self.parameters,
            "targets": self.targets,
            "parts": parts,
            "layers": layers,
            "metadata": self.metadata,
            "warnings": self.warnings,
        })
    }
}

/// `8`, or `8 (20 parts), 4 (2 parts)`.
fn counts(values: impl Iterator<Item = (f64, usize)>) -> String {
    let mut all: Vec<(f64, usize)> = values.collect();
    if let [(value, _)] = all[..] {
        return value.to_string();
    }
    all.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let mut shown: Vec<String> = all
        .iter()
        .take(6)
        .map(|(value, count)| format!("{value} ({count} parts)"))
        .collect();
    if all.len() > 6 {
        shown.push(format!("{} more", all.len() - 6));
    }
    shown.join(", ")
}
