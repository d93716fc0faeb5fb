//! Making an adapter fit a format: what the format cannot say is folded into the numbers where that
//! changes nothing, and refused otherwise.

use anyhow::Result;

use super::diffusers;
use super::model::{Adapter, Family, Format, Part, Rows, most_frequent};
use super::numbers::{Dtype, Numbers};
use crate::error::input_error;
use crate::model::{DecoderConfig, hugging_face_row, interleaved_row};

/// What an export needs to know besides the adapter.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions<'a> {
    /// Type of the written numbers; `None`: as they are.
    pub dtype: Option<Dtype>,
    /// The base, where it is at hand: GGUF needs its heads and its architecture.
    pub base: Option<&'a DecoderConfig>,
}

/// Whether a family's adapters, of DoRA or not, have a form in a format.
///
/// # Errors
/// One sentence that says why not and what to do.
pub fn check_format(family: Family, dora: bool, format: Format) -> Result<()> {
    let text = family == Family::Text;
    let of_text = matches!(format, Format::Peft | Format::Gguf);
    if text != of_text {
        let (kinds, use_instead) = match text {
            true => ("image models", "peft or gguf"),
            false => ("language models", "kohya or diffusers"),
        };
        return Err(input_error(format!(
            "the export format '{}' is not possible for this adapter: it is for {kinds}; use \
             {use_instead}",
            format.name()
        )));
    }
    if dora && format != Format::Peft {
        return Err(input_error(format!(
            "the export format '{}' is not possible for this adapter: it cannot hold DoRA's \
             magnitudes, and they are no low-rank update that could be folded in; use peft, or \
             merge the adapter into its base with `loradeck merge`",
            format.name()
        )));
    }
    Ok(())
}

/// The adapter as `format` can hold it, and what was changed, a sentence each.
///
/// # Errors
/// As [`check_format`]; the base is needed and not given; numbers that are not finite.
pub(super) fn prepare(
    mut adapter: Adapter,
    format: Format,
    options: &ExportOptions<'_>,
) -> Result<(Adapter, Vec<String>)> {
    check_format(adapter.family, adapter.is_dora(), format)?;
    adapter.check_finite()?;
    let mut notes = Vec::new();
    match format {
        Format::Peft => to_hugging_face_rows(&mut adapter, options.base)?,
        Format::Gguf => {
            without_rslora(&mut adapter, "GGUF", &mut notes);
            one_alpha(&mut adapter, options.dtype, &mut notes);
            if adapter.architecture.is_none() || options.base.is_some() {
                let base = options
                    .base
                    .ok_or_else(|| base_needed("the architecture"))?;
                adapter.architecture = Some(base.architecture.clone());
            }
            to_llama_cpp_rows(&mut adapter, options.base)?;
        }
        Format::Kohya => {
            without_rslora(&mut adapter, "kohya's format", &mut notes);
            let mut folded = Folded::default();
            for part in adapter.parts.values_mut().filter(|p| p.alpha == 0.0) {
                // Its readers take an alpha of 0 for "none".
                folded.fold(part, 0.0);
                part.alpha = part.rank() as f64;
            }
            folded.note(options.dtype, &mut notes);
        }
        Format::Diffusers => {
            if !diffusers::keeps_scale(&adapter)? {
                let rslora = std::mem::take(&mut adapter.use_rslora);
                let mut folded = Folded::default();
                for part in adapter.parts.values_mut() {
                    let rank = part.rank() as f64;
                    folded.fold(part, part.alpha / if rslora { rank.sqrt() } else { rank });
                    part.alpha = rank;
                }
                adapter.metadata.clear();
                folded.note(options.dtype, &mut notes);
            }
        }
    }
    if let Some(dtype) = options.dtype {
        adapter.cast(dtype)?;
    }
    Ok((adapter, notes))
}

fn base_needed(what: &str) -> anyhow::Error {
    input_error(format!(
        "{what} of the base is not in the adapter's file: name the base with --base"
    ))
}

/// alpha / sqrt(r) as alpha / r.
fn without_rslora(adapter: &mut Adapter, format: &str, notes: &mut Vec<String>) {
    if !std::mem::take(&mut adapter.use_rslora) {
        return;
    }
    for part in adapter.parts.values_mut() {
        part.alpha *= (part.rank() as f64).sqrt();
    }
    notes.push(format!(
        "{format} knows no rsLoRA: alpha is written times the square root of the rank, which is \
         the same scale"
    ));
}

/// One alpha for all parts.
fn one_alpha(adapter: &mut Adapter, dtype: Option<Dtype>, notes: &mut Vec<String>) {
    let alphas = adapter.parts.values().map(|p| p.alpha);
    // Bits keep the order of positive numbers.
    let bits = alphas.filter(|&a| a > 0.0).map(f64::to_bits);
    let alpha = most_frequent(bits).map_or(adapter.rank() as f64, f64::from_bits);
    let mut folded = Folded::default();
    for part in adapter.parts.values_mut().filter(|p| p.alpha != alpha) {
        folded.fold(part, part.alpha / alpha);
        part.alpha = alpha;
    }
    folded.note(dtype, notes);
}

/// Counts what became of the parts whose scale went into B.
#[derive(Default)]
struct Folded {
    parts: usize,
    widened: usize,
}

impl Folded {
    /// Multiplies B, in its own type where that is exact, in f32 otherwise.
    fn fold(&mut self, part: &mut Part, factor: f64) {
        if factor == 1.0 {
            return;
        }
        self.parts += 1;
        let (b, exact) = part.b.times(factor);
        if exact || part.b.dtype == Dtype::F32 {
            part.b = b;
            return;
        }
        self.widened += 1;
        let wide = |numbers: &Numbers| Numbers {
            dtype: Dtype::F32,
            shape: numbers.shape.clone(),
            bytes: Dtype::F32.encode(&numbers.to_f32()),
        };
        // Both ends: tools multiply A and B, which must be of one type.
        part.a = wide(&part.a);
        part.b = wide(&part.b).times(factor).0;
    }

    /// `dtype`: the type that all numbers get afterwards.
    fn note(&self, dtype: Option<Dtype>, notes: &mut Vec<String>) {
        if self.parts == 0 {
            return;
        }
        let mut note = format!("the scale of {} parts is folded into B", self.parts);
        if self.widened > 0 && dtype.is_none() {
            note += &format!(
                "; {} of them are written as f32, as their own type would round it (--dtype \
                 chooses another)",
                self.widened
            );
        }
        notes.push(note);
    }
}

/// Puts the rows of q and k in transformers' order.
///
/// # Errors
/// The base is needed and not given, or is another one.
pub(super) fn to_hugging_face_rows(
    adapter: &mut Adapter,
    base: Option<&DecoderConfig>,
) -> Result<()> {
    if adapter.rows == Rows::LlamaCpp {
        // Where row `row` of the result lies in llama.cpp's.
        reorder(adapter, base, interleaved_row)?;
        adapter.rows = Rows::HuggingFace;
    }
    Ok(())
}

fn to_llama_cpp_rows(adapter: &mut Adapter, base: Option<&DecoderConfig>) -> Result<()> {
    let architecture = adapter.architecture.clone().unwrap_or_default();
    if adapter.rows == Rows::HuggingFace && crate::model::interleaves_heads(&architecture) {
        reorder(adapter, base, hugging_face_row)?;
        adapter.rows = Rows::LlamaCpp;
    }
    Ok(())
}

/// Puts row `from(row, rows, heads)` of q's and k's B at `row`.
fn reorder(
    adapter: &mut Adapter,
    base: Option<&DecoderConfig>,
    from: impl Fn(usize, usize, usize) -> usize,
) -> Result<()> {
    for (module, part) in &mut adapter.parts {
        let is_query = module.ends_with("self_attn.q_proj");
        if !is_query && !module.ends_with("self_attn.k_proj") {
            continue;
        }
        let base = base.ok_or_else(|| base_needed("the number of heads"))?;
        let heads = if is_query { base.heads } else { base.kv_heads };
        let rows = part.outputs();
        if rows != heads * base.head_dim {
            return Err(input_error(format!(
                "the adapter is of another base: {module} has {rows} outputs, the base {}",
                heads * base.head_dim
            )));
        }
        let size = part.b.bytes.len() / rows;
        let mut bytes = Vec::with_capacity(part.b.bytes.len());
        for row in 0..rows {
            let at = from(row, rows, heads) * size;
            bytes.extend_from_slice(&part.b.bytes[at..at + size]);
        }
        part.b.bytes = bytes;
    }
    Ok(())
}
