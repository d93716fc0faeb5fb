//! loradeck's numbers against those of transformers and PEFT (`tests/tools/make_fixtures.py`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use loradeck::adapter::read_lora_set;
use loradeck::model::{
    self, Active, Decoder, DecoderConfig, DropoutKey, LoraSet, Quantization, RopeScaling,
    TokenBatch, Tokenizer,
};
use serde_json::Value;

const CASES: [&str; 17] = [
    "llama_tied_gqa",
    "llama_untied_headdim",
    "llama_rope_llama3",
    "llama_rope_linear",
    "llama_dora",
    "families/llama_bias",
    "families/llama_dynamic",
    "families/mistral",
    "families/mistral_no_window",
    "families/qwen2",
    "families/qwen2_window",
    "families/qwen3",
    "families/qwen3_yarn",
    "families/phi3",
    "families/phi3_longrope",
    "families/smollm3",
    "families/smollm3_window",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference over the largest number expected.
fn difference(got: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (floats(got), floats(expected));
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    let apart = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    apart.fold(0f32, f32::max) / largest
}

fn decoder(path: &Path) -> Decoder {
    model::open_decoder(path.to_str().unwrap(), &Device::Cpu, DType::F32).unwrap()
}

/// A case: its decoder, adapter, batch and the reference's numbers.
struct Case {
    decoder: Decoder,
    set: LoraSet,
    batch: TokenBatch,
    lengths: Vec<usize>,
    expected: HashMap<String, Tensor>,
}

impl Case {
    fn read(name: &str) -> Self {
        let folder = fixtures().join(name);
        let decoder = decoder(&folder);
        let set = read_lora_set(&folder.join("adapter"), decoder.config(), &Device::Cpu).unwrap();
        let batch = json(&folder.join("batch.json"));
        let rows =
            |key: &str| -> Vec<Vec<i64>> { serde_json::from_value(batch[key].clone()).unwrap() };
        let labels = rows("labels");
        let next = |row: &Vec<i64>, t: usize| row.get(t + 1).and_then(|&l| u32::try_from(l).ok());
        Case {
            decoder,
            set,
            batch: TokenBatch {
                input_ids: rows("input_ids")
                    .iter()
                    .map(|row| row.iter().map(|&id| id as u32).collect())
                    .collect(),
                targets: labels
                    .iter()
                    .map(|row| (0..row.len()).map(|t| next(row, t)).collect())
                    .collect(),
            },
            lengths: rows("attention_mask")
                .iter()
                .map(|row| row.iter().sum::<i64>() as usize)
                .collect(),
            expected: tensors(&folder.join("expected.safetensors")),
        }
    }

    fn adapters(&self) -> [Active<'_>; 1] {
        [Active {
            set: &self.set,
            strength: 1.0,
        }]
    }

    fn scalar(&self, name: &str) -> f64 {
        f64::from(floats(&self.expected[name])[0])
    }
}

#[test]
fn hidden_states_are_those_of_transformers_and_peft_after_every_block() {
    for name in CASES {
        let case = Case::read(name);
        let got = case
            .decoder
            .hidden_states(&case.batch.input_ids, &case.adapters())
            .unwrap();
        assert_eq!(got.len(), case.decoder.config().layers + 1);
        for (layer, got) in got.iter().enumerate() {
            let expected = &case.expected[&format!("hidden.{layer}")];
            for (row, &length) in case.lengths.iter().enumerate() {
                let cut = |t: &Tensor| t.get(row).unwrap().narrow(0, 0, length).unwrap();
                let apart = difference(&cut(got), &cut(expected));
                assert!(apart < 1e-4, "{name}, layer {layer}, row {row}: {apart:e}");
            }
        }
    }
}

#[test]
fn logits_are_those_of_transformers_and_peft() {
    for name in CASES {
        let case = Case::read(name);
        let got = case
            .decoder
            .logits(&case.batch.input_ids, &case.adapters())
            .unwrap();
        for (row, &length) in case.lengths.iter().enumerate() {
            let cut = |t: &Tensor| t.get(row).unwrap().narrow(0, 0, length).unwrap();
            let apart = difference(&cut(&got), &cut(&case.expected["logits"]));
            assert!(apart < 1e-4, "{name}, row {row}: {apart:e}");
        }
    }
}

#[test]
fn losses_are_those_of_transformers_with_and_without_the_adapter() {
    for name in CASES {
        let case = Case::read(name);
        for (adapters, key) in [(&case.adapters()[..], "loss"), (&[], "base_loss")] {
            let (sum, tokens) = case.decoder.loss(&case.batch, adapters).unwrap();
            let sum = sum.value().unwrap();
            let (got, expected) = (sum / tokens as f64, case.scalar(key));
            assert!(
                (got / expected - 1.0).abs() < 1e-5,
                "{name} {key}: {got} {expected}"
            );
        }
    }
}

#[test]
fn adapter_gradients_are_those_of_peft_with_and_without_recomputation() {
    for name in CASES {
        let case = Case::read(name);
        let mut passes = Vec::new();
        for recompute in [false, true] {
            let pass = case
                .decoder
                .loss_and_gradients(&case.batch, &case.set, None, recompute)
                .unwrap();
            let tokens = pass.trained_tokens as f64;
            let loss = pass.loss_sum.value().unwrap();
            assert!((loss / tokens / case.scalar("loss") - 1.0).abs() < 1e-5);
            let mut compared = 0;
            for (parameter, gradient) in case.set.parameters().iter().zip(&pass.gradients) {
                let (module, part) = (parameter.module, parameter.part.name());
                let key = format!("grad.base_model.model.{module}.{part}.weight");
                let gradient = (gradient / tokens).unwrap();
                let apart = difference(&gradient, &case.expected[&key]);
                assert!(apart < 1e-4, "{name}, {key}: {apart:e}");
                compared += 1;
            }
            let expected = case
                .expected
                .keys()
                .filter(|k| k.starts_with("grad."))
                .count();
            assert_eq!(compared, expected, "{name}");
            passes.push(pass);
        }
        for (a, b) in passes[0].gradients.iter().zip(&passes[1].gradients) {
            assert_eq!(floats(a), floats(b));
        }
    }
}

/// N steps straight equal k steps, a kill and the rest, only if equal inputs give equal bits.
#[test]
fn a_pass_run_again_gives_the_same_bits_also_with_dropout() {
    for name in ["llama_untied_headdim", "llama_dora"] {
        passes_are_equal(name);
    }
}

fn passes_are_equal(name: &str) {
    let mut case = Case::read(name);
    case.set.spec.dropout = 0.3;
    let run = |step, recompute| {
        let key = DropoutKey {
            seed: 1,
            step,
            micro_batch: 2,
            tokens_before: 0,
        };
        let pass = case
            .decoder
            .loss_and_gradients(&case.batch, &case.set, Some(key), recompute)
            .unwrap();
        let numbers: Vec<f32> = pass.gradients.iter().flat_map(floats).collect();
        (pass.loss_sum.value().unwrap(), numbers)
    };
    let first = run(1, false);
    for _ in 0..5 {
        assert_eq!(run(1, false), first);
        assert_eq!(run(1, true), first, "recomputation must replay the masks");
    }
    assert_ne!(run(2, false).0, first.0);
}

#[test]
fn a_cache_gives_the_logits_of_the_whole_sequence() {
    for name in [
        "llama_untied_headdim",
        "llama_rope_llama3",
        "families/mistral",
        "families/qwen3",
        "families/phi3",
        "families/smollm3_window",
    ] {
        let case = Case::read(name);
        let ids = &case.batch.input_ids[0];
        let whole = case
            .decoder
            .logits(std::slice::from_ref(ids), &case.adapters())
            .unwrap();
        let mut cache = case.decoder.cache(&case.adapters()).unwrap();
        for part in [&ids[..5], &ids[5..6], &ids[6..20], &ids[20..21]] {
            let got = case.decoder.next_logits(part, &mut cache).unwrap();
            let expected = whole.get(0).unwrap().get(cache.len() - 1).unwrap();
            let apart = difference(&got, &expected);
            assert!(apart < 1e-5, "{name} after {}: {apart:e}", cache.len());
        }
    }
}

#[test]
fn every_gguf_encoding_gives_the_logits_of_its_dequantised_weights() {
    for name in [
        "tiny-f32",
        "tiny-f16",
        "tiny-bf16",
        "tiny-q8_0",
        "tiny-q4_0",
        "tiny-q4_1",
        "tiny-q5_0",
        "tiny-q5_1",
        "k-q2_k",
        "k-q3_k",
        "k-q4_k",
        "k-q5_k",
        "k-q6_k",
        "tiny-llama3-untied",
    ] {
        let folder = fixtures().join("gguf");
        check_logits(&folder.join(format!("{name}.gguf")), &folder.join(name));
    }
}

/// Holds a base's logits against the reference's of `expected`.safetensors.
fn check_logits(base: &Path, expected: &Path) {
    let decoder = decoder(base);
    let expected = tensors(&expected.with_extension("safetensors"));
    let ids: Vec<i64> = expected["input_ids"].to_vec1().unwrap();
    let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    let got = decoder.logits(&[ids], &[]).unwrap();
    let apart = difference(&got.get(0).unwrap(), &expected["logits"]);
    assert!(apart < 1e-4, "{}: {apart:e}", base.display());
}

#[test]
fn a_gguf_of_every_family_gives_the_logits_of_transformers() {
    for name in [
        "llama_bias",
        "qwen2",
        "qwen3",
        "qwen3_yarn",
        "phi3",
        "phi3_longrope",
        "smollm3",
    ] {
        let base = fixtures().join(format!("gguf/family-{name}.gguf"));
        check_logits(&base, &base.with_extension(""));
    }
}

#[test]
fn a_base_quantised_while_loading_computes_nearly_the_same_with_less_memory() {
    let base = fixtures().join("llama_rope_linear");
    let base = base.to_str().unwrap();
    let plain = decoder(Path::new(base)).logits(&[vec![5, 9, 70]], &[]);
    let plain = plain.unwrap();
    let dense = model::describe(base).unwrap();
    // 8 bits leave about 0.5 % on the output of each of 14 linears, 5 bits eight times that.
    for (name, dtype, close) in [("q8_0", "Q8_0", 0.05), ("q4_k", "Q5_0", 0.4)] {
        let quantization = Quantization::named(name);
        assert!(quantization.is_some());
        let described = model::describe_quantised(base, quantization).unwrap();
        assert_eq!(described.dtype, dtype);
        assert_eq!(described.parameters, dense.parameters);
        assert!(described.bytes < dense.bytes * 2 / 3);
        let decoder =
            model::open_decoder_quantised(base, quantization, &Device::Cpu, DType::F32).unwrap();
        let apart = difference(&decoder.logits(&[vec![5, 9, 70]], &[]).unwrap(), &plain);
        assert!(apart > 0.0 && apart < close, "{name}: {apart}");
    }
    let gguf = fixtures().join("gguf/tiny-q4_0.gguf");
    let error = model::describe_quantised(gguf.to_str().unwrap(), Quantization::named("q8_0"));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("Q4_0 already; remove the line"), "{error}");
}

#[test]
fn a_ggml_file_gives_the_logits_of_its_dequantised_weights() {
    let folder = fixtures().join("ggml");
    let base = folder.join("tiny.ggmlv3.bin");
    check_logits(&base, &folder.join("tiny"));
    let base = model::describe(base.to_str().unwrap()).unwrap();
    let config = &base.config;
    assert_eq!((&*base.format, &*base.dtype), ("ggml", "Q4_0"));
    assert_eq!(
        (config.heads, config.kv_heads, config.intermediate_size),
        (4, 2, 64)
    );
    assert!(base.notes[0].contains("LLaMA 2"), "{:?}", base.notes);
}

#[test]
fn sentencepiece_tokens_in_gguf_and_ggml_are_those_of_sentencepiece() {
    let folder = fixtures().join("ggml");
    let expected = json(&folder.join("tokens.json"));
    for file in ["llama-tokens.gguf", "tiny.ggmlv3.bin"] {
        let path = folder.join(file);
        let tokenizer = model::open_tokenizer(path.to_str().unwrap()).unwrap();
        check_tokenizer(&tokenizer, &expected);
        assert!(tokenizer.add_bos);
    }
}

/// Holds a tokenizer against what transformers' gives.
fn check_tokenizer(tokenizer: &Tokenizer, expected: &Value) {
    for case in expected["strings"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
    for case in expected["decoded"].as_array().unwrap() {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    assert_eq!(
        tokenizer.bos.map(u64::from),
        expected["bos_token_id"].as_u64()
    );
    let eos = tokenizer.eos.first().map(|&id| u64::from(id));
    assert_eq!(eos, expected["eos_token_id"].as_u64());
    assert_eq!(
        Some(tokenizer.vocab_size() as u64),
        expected["vocab_size"].as_u64()
    );
    assert!(tokenizer.chat_template.is_some());
}

#[test]
fn a_tokenizer_in_a_gguf_gives_the_token_ids_of_transformers() {
    let folder = fixtures().join("gguf");
    let path = folder.join("tiny-q8_0.gguf");
    let tokenizer = model::open_tokenizer(path.to_str().unwrap()).unwrap();
    check_tokenizer(&tokenizer, &json(&folder.join("tiny-tokens.json")));
}

#[test]
fn the_built_in_base_opens_and_its_tokenizer_gives_the_token_ids_of_transformers() {
    let base = model::open("builtin:tiny-llama", &Device::Cpu, DType::F32).unwrap();
    assert_eq!(base.description.format, "builtin");
    let expected = fixtures().join("gguf/tiny-llama.json");
    check_tokenizer(&base.tokenizer, &json(&expected));
}

/// `tests/tools/make_llama_vocabulary.py` makes the files.
#[test]
#[ignore = "needs models/llama-vocabulary.ggmlv3.bin"]
fn the_llama_2_vocabulary_gives_the_token_ids_of_both_reference_tokenizers() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let path = models.join("llama-vocabulary.ggmlv3.bin");
    let tokenizer = model::open_tokenizer(path.to_str().unwrap()).unwrap();
    check_tokenizer(&tokenizer, &json(&models.join("llama-vocabulary.json")));
}

/// `tests/tools/fetch_smollm2.sh` fetches the file.
#[test]
#[ignore = "needs models/SmolLM2-135M-Instruct.Q4_1.gguf"]
fn smollm2_tokenizes_as_transformers_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let path = path.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let tokenizer = model::open_tokenizer(path.to_str().unwrap()).unwrap();
    check_tokenizer(&tokenizer, &json(&fixtures().join("gguf/smollm2.json")));
}

#[test]
fn descriptions_tell_what_the_headers_say() {
    let describe = |name: &str| {
        let path = fixtures().join(name);
        model::describe(path.to_str().unwrap()).unwrap()
    };
    let base = describe("llama_rope_llama3");
    assert_eq!((&*base.format, &*base.dtype), ("safetensors", "F16"));
    assert_eq!(base.bytes, 2 * base.parameters);
    assert_eq!(base.files.len(), 4);
    assert!(matches!(
        base.config.rope_scaling,
        RopeScaling::Llama3 { .. }
    ));
    let base = describe("gguf/tiny-q4_1.gguf");
    assert_eq!((&*base.format, &*base.dtype), ("gguf", "Q4_1"));
    let DecoderConfig {
        heads, kv_heads, ..
    } = base.config;
    assert_eq!((heads, kv_heads), (4, 2));
}
