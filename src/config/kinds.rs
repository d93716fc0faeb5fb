//! Readers and writers of the keys whose values are more than a number: words, lists, ranges.

use serde_yaml::Value;

use super::values::{Fault, count, flow, quoted, text, texts, word};
use super::{
    DeviceChoice, ExportFormat, LrScheduler, OnOom, Optimizer, Precision, ShareAdapters,
    TargetModules, TaskType,
};

pub(super) const TASKS: &[(&str, TaskType)] = &[
    ("text-generation", TaskType::TextGeneration),
    ("text-to-image", TaskType::TextToImage),
];
pub(super) const OTHER_TASKS: &[(&str, &str)] = &[
    ("text", "text-generation"),
    ("llm", "text-generation"),
    ("causal_lm", "text-generation"),
    ("causal-lm", "text-generation"),
    ("llama", "text-generation"),
    ("sft", "text-generation"),
    ("text_generation", "text-generation"),
    ("image", "text-to-image"),
    ("text_to_image", "text-to-image"),
    ("diffusion", "text-to-image"),
    ("stable-diffusion", "text-to-image"),
];
pub(super) const SHARING: &[(&str, ShareAdapters)] = &[
    ("none", ShareAdapters::None),
    ("layers", ShareAdapters::Layers),
];
pub(super) const OTHER_SHARING: &[(&str, &str)] = &[
    ("true", "layers"),
    ("layer", "layers"),
    ("all", "layers"),
    ("across_layers", "layers"),
    ("across layers", "layers"),
    ("false", "none"),
];
pub(super) const SCHEDULERS: &[(&str, LrScheduler)] = &[
    ("constant", LrScheduler::Constant),
    ("linear", LrScheduler::Linear),
    ("cosine", LrScheduler::Cosine),
];
pub(super) const OTHER_SCHEDULERS: &[(&str, &str)] = &[
    ("constant_with_warmup", "constant"),
    ("cosine_with_restarts", "cosine"),
    ("none", "constant"),
];
pub(super) const OPTIMIZERS: &[(&str, Optimizer)] = &[("adamw", Optimizer::AdamW)];
pub(super) const OTHER_OPTIMIZERS: &[(&str, &str)] = &[
    ("adam", "adamw"),
    ("adamw_torch", "adamw"),
    ("adamw_torch_fused", "adamw"),
    ("adamw_hf", "adamw"),
    ("adamw_8bit", "adamw"),
    ("adamw_bnb_8bit", "adamw"),
    ("adamw8bit", "adamw"),
    ("paged_adamw_8bit", "adamw"),
    ("paged_adamw_32bit", "adamw"),
];
pub(super) const ON_OOM: &[(&str, OnOom)] = &[
    ("shrink", OnOom::Shrink),
    ("pause", OnOom::Pause),
    ("stop", OnOom::Stop),
];
pub(super) const OTHER_ON_OOM: &[(&str, &str)] = &[
    ("halve", "shrink"),
    ("auto", "shrink"),
    ("wait", "pause"),
    ("fail", "stop"),
    ("abort", "stop"),
    ("exit", "stop"),
];
pub(super) const PRECISIONS: &[(&str, Precision)] = &[
    ("f32", Precision::F32),
    ("bf16", Precision::Bf16),
    ("fp16", Precision::Fp16),
];
pub(super) const OTHER_PRECISIONS: &[(&str, &str)] = &[
    ("fp32", "f32"),
    ("float32", "f32"),
    ("float", "f32"),
    ("full", "f32"),
    ("no", "f32"),
    ("32", "f32"),
    ("bfloat16", "bf16"),
    ("f16", "fp16"),
    ("float16", "fp16"),
    ("half", "fp16"),
];
pub(super) const QUANTIZATIONS: &[(&str, &str)] = &[
    ("q8_0", "q8_0"),
    ("q6_k", "q6_k"),
    ("q5_k", "q5_k"),
    ("q5_1", "q5_1"),
    ("q5_0", "q5_0"),
    ("q4_k", "q4_k"),
    ("q4_1", "q4_1"),
    ("q4_0", "q4_0"),
    ("q3_k", "q3_k"),
    ("q2_k", "q2_k"),
];
pub(super) const OTHER_QUANTIZATIONS: &[(&str, &str)] = &[
    ("q8", "q8_0"),
    ("8", "q8_0"),
    ("8bit", "q8_0"),
    ("int8", "q8_0"),
    ("q6", "q6_k"),
    ("q5", "q5_k"),
    ("q5_k_m", "q5_k"),
    ("q5_k_s", "q5_k"),
    ("q4", "q4_k"),
    ("4", "q4_k"),
    ("4bit", "q4_k"),
    ("nf4", "q4_k"),
    ("int4", "q4_k"),
    ("q4_k_m", "q4_k"),
    ("q4_k_s", "q4_k"),
    ("q3_k_m", "q3_k"),
];
pub(super) const FORMATS: &[(&str, ExportFormat)] = &[
    ("peft", ExportFormat::Peft),
    ("diffusers", ExportFormat::Diffusers),
    ("kohya", ExportFormat::Kohya),
    ("gguf", ExportFormat::Gguf),
];
pub(super) const OTHER_FORMATS: &[(&str, &str)] = &[
    ("hf", "peft"),
    ("huggingface", "peft"),
    ("safetensors", "peft"),
    ("a1111", "kohya"),
    ("webui", "kohya"),
    ("comfyui", "kohya"),
    ("ggml", "gguf"),
    ("llama.cpp", "gguf"),
];

pub(super) fn shown_word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> String {
    words
        .iter()
        .find(|(_, v)| v == value)
        .map_or_else(String::new, |(w, _)| (*w).to_owned())
}

/// `absent` as `None`, anything else through `read`.
pub(super) fn optional<T>(
    value: &Value,
    absent: &str,
    read: impl Fn(&Value) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    if value.as_str() == Some(absent) {
        return Ok(None);
    }
    read(value).map(Some).map_err(|mut fault| {
        fault.verdict = format!("{}, or `{absent}`", fault.verdict);
        fault
    })
}

pub(super) fn show_optional<T: ToString>(value: &Option<T>, absent: &str) -> String {
    value.as_ref().map_or(absent.to_owned(), T::to_string)
}

pub(super) fn target_modules(value: &Value) -> Result<TargetModules, Fault> {
    let list = texts(value)
        .ok()
        .filter(|l| !l.is_empty() && !value.is_bool())
        .ok_or_else(|| Fault::is_not("a list of module names, or `all-linear`"))?;
    if let [one] = list.as_slice() {
        match one.to_lowercase().replace('_', "-").as_str() {
            "all-linear" => return Ok(TargetModules::AllLinear),
            "all" | "all-linears" | "all-linear-layers" => {
                return Err(Fault::new("names no module", "did you mean `all-linear`?"));
            }
            _ => {}
        }
    }
    let mut names: Vec<String> = Vec::new();
    // A comma-separated text is how some trainers write the list.
    for name in list.iter().flat_map(|l| l.split(',')).map(str::trim) {
        if name == "all-linear" {
            return Err(Fault::new(
                "mixes `all-linear` with names",
                "write `all-linear` alone, or names only",
            ));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(fits) {
            return Err(Fault::new(
                format!("holds `{name}`, which is no module's name"),
                "write names or suffixes such as `q_proj` or `layers.0.mlp.up_proj`; patterns are not supported",
            ));
        }
        if !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    Ok(TargetModules::Names(names))
}

pub(super) fn show_targets(targets: &TargetModules) -> String {
    match targets {
        TargetModules::AllLinear => "all-linear".into(),
        TargetModules::Names(names) => flow(names.iter().map(|n| quoted(n))),
    }
}

pub(super) fn layers(value: &Value) -> Result<Option<(usize, usize)>, Fault> {
    let fault = || Fault::is_not("a range of layers such as `0-15`, a layer, or `all`");
    let bounds: Vec<usize> = match value {
        Value::String(s) if s == "all" => return Ok(None),
        Value::String(s) => s
            .split('-')
            .map(|n| n.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| fault())?,
        Value::Sequence(items) => items
            .iter()
            .map(|n| count(n, 0, 100_000))
            .collect::<Result<_, _>>()
            .map_err(|_| fault())?,
        one => vec![count(one, 0, 100_000).map_err(|_| fault())?],
    };
    match bounds.as_slice() {
        [one] => Ok(Some((*one, *one))),
        [first, last] if first <= last => Ok(Some((*first, *last))),
        [first, last] => Err(Fault::new(
            "ends before it begins",
            format!("write `layers: {last}-{first}`"),
        )),
        _ if matches!(value, Value::Sequence(_)) => Err(Fault::new(
            "is not a range of two numbers",
            "write the first and the last layer, e.g. `layers: 0-15`",
        )),
        _ => Err(fault()),
    }
}

pub(super) fn device(value: &Value) -> Result<DeviceChoice, Fault> {
    let text = text(value).map_err(|_| Fault::is_not("`auto`, `cpu` or `cuda:0`"))?;
    let built = |index| {
        if cfg!(feature = "cuda") {
            Ok(DeviceChoice::Cuda(index))
        } else {
            Err(Fault::new(
                "needs a loradeck built for CUDA, which this one is not",
                "build with `cargo build --release --features cuda`, or write `device: cpu`",
            ))
        }
    };
    match text.trim() {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "cuda" => built(0),
        "gpu" => Err(Fault::is_not("`auto`, `cpu` or `cuda:0`").fixed("did you mean `cuda:0`?")),
        "mps" | "metal" | "rocm" | "hip" | "xpu" | "vulkan" => Err(Fault::new(
            "is a device that loradeck does not compute on",
            "write `auto`, `cpu` or `cuda:0`",
        )),
        other => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(index) => built(index),
            None => Err(Fault::is_not("`auto`, `cpu` or `cuda:0`")),
        },
    }
}

pub(super) fn show_device(device: &DeviceChoice) -> String {
    match device {
        DeviceChoice::Auto => "auto".into(),
        DeviceChoice::Cpu => "cpu".into(),
        DeviceChoice::Cuda(index) => format!("cuda:{index}"),
    }
}

pub(super) fn export_formats(value: &Value) -> Result<Vec<ExportFormat>, Fault> {
    let list = texts(value)
        .ok()
        .filter(|l| !l.is_empty())
        .ok_or_else(|| Fault::is_not("a list of formats"))?;
    let mut formats = Vec::new();
    for name in list.iter().flat_map(|l| l.split(',')) {
        let format =
            word(&Value::String(name.trim().into()), FORMATS, OTHER_FORMATS).map_err(|fault| {
                Fault::new(
                    format!("holds `{}`, which {}", name.trim(), fault.verdict),
                    fault.fix,
                )
            })?;
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    Ok(formats)
}
