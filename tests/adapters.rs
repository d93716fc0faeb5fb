//! Adapters through the program: export, inspect, merge, combine, chat, on the small bases of
//! `tests/fixtures`. What other tools make of the results is in `tests/conformance.rs`.

mod program;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use candle_core::safetensors::load;
use candle_core::{DType, Device, Tensor};
use program::{PROGRAM, repository, text};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    repository().join("tests/fixtures")
}

fn loradeck(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn done(arguments: &[&str]) -> String {
    let out = loradeck(arguments);
    assert!(out.status.success(), "{arguments:?}\n{}", text(&out));
    String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap()
}

fn refused(arguments: &[&str], expected: &str) {
    let out = loradeck(arguments);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(stderr.contains(expected), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

fn string(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The logits of a prompt.
fn logits(base: &Path, loras: &[&str], folder: &Path) -> Tensor {
    let file = folder.join("logits.safetensors");
    let mut arguments = vec!["generate", "--device", "cpu", "--raw", "--prompt"];
    arguments.extend([
        "My knee hurts.",
        "--base",
        string(base),
        "--logits",
        string(&file),
    ]);
    for lora in loras {
        arguments.extend(["--lora", lora]);
    }
    done(&arguments);
    load(&file, &Device::Cpu).unwrap()["logits"].clone()
}

/// The largest difference, relative to the largest number.
fn apart(a: &Tensor, b: &Tensor) -> f32 {
    let largest = |t: &Tensor| -> f32 {
        let t = t.abs().unwrap().flatten_all().unwrap();
        t.max(0).unwrap().to_scalar().unwrap()
    };
    largest(&(a - b).unwrap()) / largest(b)
}

fn tiny_folder() -> PathBuf {
    repository().join("src/model/builtin/tiny-llama")
}

/// A PEFT adapter of the built-in base with numbers of its own.
fn tiny_adapter(folder: &Path, name: &str, salt: usize) -> PathBuf {
    use loradeck::adapter::write_peft;
    use loradeck::model::{self, LoraSet, LoraSpec};
    let description = model::describe("builtin:tiny-llama").unwrap();
    let modules = model::match_targets(&description.config, true, &[], None).unwrap();
    let spec = LoraSpec {
        alpha: 8.0,
        target_modules: [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..LoraSpec::lora(4)
    };
    let set = LoraSet::new(&modules, spec, salt as u64, &Device::Cpu).unwrap();
    for (i, pair) in set.pairs.iter().enumerate() {
        let (rows, rank) = pair.b.dims2().unwrap();
        let b: Vec<f32> = (0..rows * rank)
            .map(|n| ((n * n + 31 * i + 7 * salt) as f32).sin() * 0.2)
            .collect();
        let b = Tensor::from_vec(b, (rows, rank), &Device::Cpu).unwrap();
        pair.b.set(&b).unwrap();
    }
    let path = folder.join(name);
    write_peft(&set, "tiny-llama", &path).unwrap();
    path
}

#[test]
fn llama_cpps_own_logits_come_out_of_the_gguf_adapters_that_it_loaded() {
    let scratch = TempDir::new().unwrap();
    let base = fixtures().join("gguf/tiny-f32.gguf");
    for name in ["peft", "rslora"] {
        let folder = fixtures().join("llama_cpp");
        let file = scratch.path().join(format!("{name}.gguf"));
        done(&[
            "export",
            string(&folder.join(name)),
            "--format",
            "gguf",
            "--base",
            string(&base),
            "--output",
            string(&file),
        ]);
        // The very bytes that llama.cpp computed with.
        let loaded = fs::read(folder.join(format!("{name}.gguf"))).unwrap();
        assert!(fs::read(&file).unwrap() == loaded, "{name}.gguf");
        let expected = load(folder.join(format!("{name}.safetensors")), &Device::Cpu).unwrap();
        let ids: Vec<u32> = expected["input_ids"]
            .to_dtype(DType::U32)
            .unwrap()
            .to_vec1()
            .unwrap();
        use loradeck::model::{self, Active};
        let decoder = model::open_decoder(string(&base), &Device::Cpu, DType::F32).unwrap();
        let set = loradeck::adapter::read_lora_set(&file, decoder.config(), &Device::Cpu).unwrap();
        let active = [Active {
            set: &set,
            strength: 1.0,
        }];
        for (adapters, key) in [(&[][..], "bare"), (&active[..], "adapted")] {
            let ours = decoder
                .logits(std::slice::from_ref(&ids), adapters)
                .unwrap();
            let error = apart(&ours.squeeze(0).unwrap(), &expected[key]);
            assert!(error < 1e-4, "{name} {key}: {error}");
        }
        let moved = apart(&expected["adapted"], &expected["bare"]);
        assert!(moved > 0.1, "{name}: the adapter proves nothing: {moved}");
    }
}

#[test]
fn exports_of_any_format_act_alike_and_the_numbers_survive_the_way_back() {
    let scratch = TempDir::new().unwrap();
    let peft = tiny_adapter(scratch.path(), "peft", 1);
    let (base, folder) = (tiny_folder(), scratch.path());
    let (gguf, back) = (folder.join("a.gguf"), folder.join("back"));
    let base_word = string(&base);
    let export = |from: &Path, format: &str, to: &Path, more: &[&str]| {
        let mut arguments = vec!["export", string(from), "--format", format];
        arguments.extend(["--base", base_word, "--output", string(to)]);
        arguments.extend(more);
        done(&arguments)
    };
    let told = export(&peft, "gguf", &gguf, &[]);
    assert!(told.contains("bytes"), "{told}");
    export(&gguf, "peft", &back, &[]);
    let tensors = |folder: &Path| fs::read(folder.join("adapter_model.safetensors")).unwrap();
    assert!(tensors(&peft) == tensors(&back));
    let expected = logits(&base, &[string(&peft)], folder);
    assert_eq!(
        apart(&logits(&base, &[string(&gguf)], folder), &expected),
        0.0
    );
    let narrow = folder.join("narrow");
    export(&peft, "peft", &narrow, &["--dtype", "bf16"]);
    let (wide_size, narrow_size) = (tensors(&peft).len(), tensors(&narrow).len());
    assert!(
        narrow_size < wide_size * 6 / 10,
        "{narrow_size} of {wide_size}"
    );
    assert!(apart(&logits(&base, &[string(&narrow)], folder), &expected) < 1e-2);
    let json = done(&["inspect", string(&gguf), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["format"], "gguf");
    assert_eq!(json["architecture"], "llama");
    assert_eq!(json["rank"][0]["value"], 4.0);
    assert_eq!(json["scale"][0]["value"], 2.0);
    assert_eq!(json["warnings"].as_array().unwrap().len(), 0);
    let told = done(&["inspect", string(&peft)]);
    assert!(
        told.contains("q_proj x") && told.contains("layer 0"),
        "{told}"
    );
}

#[test]
fn a_merged_folder_answers_as_the_base_with_its_adapters_and_has_all_its_files() {
    let scratch = TempDir::new().unwrap();
    let base = tiny_folder();
    let (a, b) = (
        tiny_adapter(scratch.path(), "a", 1),
        tiny_adapter(scratch.path(), "b", 2),
    );
    let merged = scratch.path().join("merged");
    let (first, second) = (
        format!("{}:0.8", a.display()),
        format!("{}:-0.2", b.display()),
    );
    let arguments = ["merge", "--base", string(&base), "--lora", &first];
    let told = done(
        &[
            &arguments[..],
            &["--lora", &second, "--output", string(&merged)],
        ]
        .concat(),
    );
    assert!(told.contains("rounding error"), "{told}");
    for entry in fs::read_dir(&base).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(merged.join(&name).is_file(), "{name:?}");
        if name != "model.safetensors" {
            let (before, after) = (fs::read(base.join(&name)), fs::read(merged.join(&name)));
            assert_eq!(before.unwrap(), after.unwrap());
        }
    }
    let dtypes = |folder: &Path| -> BTreeMap<String, DType> {
        let tensors = load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
        let each = tensors.iter();
        each.map(|(name, t)| (name.clone(), t.dtype())).collect()
    };
    assert_eq!(dtypes(&base), dtypes(&merged));
    let expected = logits(&base, &[&first, &second], scratch.path());
    let bare = logits(&base, &[], scratch.path());
    let ours = logits(&merged, &[], scratch.path());
    // The base is in F16, and so is what it is merged into.
    assert!(
        apart(&ours, &expected) < 5e-3,
        "{}",
        apart(&ours, &expected)
    );
    assert!(apart(&bare, &expected) > 0.1);
    let again = [&arguments[..], &["--output", string(&merged)]].concat();
    refused(&again, "exists already");
    let leftovers = fs::read_dir(scratch.path()).unwrap();
    let hidden = |name: &str| name.starts_with('.');
    assert!(
        !leftovers
            .flatten()
            .any(|e| hidden(e.file_name().to_str().unwrap()))
    );
}

#[test]
fn a_merged_gguf_answers_as_the_base_with_its_adapter_and_keeps_everything_else() {
    let scratch = TempDir::new().unwrap();
    let adapter = fixtures().join("llama_cpp/peft");
    for (name, dtype, tolerance) in [
        ("tiny-f32", None, 1e-5),
        ("tiny-q8_0", None, 2e-2),
        ("tiny-q4_0", Some("f16"), 2e-3),
    ] {
        let base = fixtures().join(format!("gguf/{name}.gguf"));
        let merged = scratch.path().join(format!("{name}.gguf"));
        let mut arguments = vec!["merge", "--base", string(&base), "--lora", string(&adapter)];
        arguments.extend(["--output", string(&merged)]);
        if let Some(dtype) = dtype {
            arguments.extend(["--dtype", dtype]);
        }
        done(&arguments);
        let expected = logits(&base, &[string(&adapter)], scratch.path());
        let error = apart(&logits(&merged, &[], scratch.path()), &expected);
        assert!(error < tolerance, "{name}: {error}");
        // Metadata and untouched tensors, byte for byte.
        use loradeck::model::gguf::Header;
        let (before, after) = (fs::read(&base).unwrap(), fs::read(&merged).unwrap());
        let (old, new) = (
            Header::parse(&before).unwrap(),
            Header::parse(&after).unwrap(),
        );
        assert_eq!(before[..old.list_start], after[..new.list_start]);
        assert_eq!(old.order, new.order);
        let mut untouched = 0;
        for (name, info) in &old.tensors {
            let target = [
                "attn_q.",
                "attn_k.",
                "attn_v.",
                "attn_output.",
                "ffn_gate.",
                "ffn_up.",
                "ffn_down.",
            ];
            if target.iter().any(|t| name.contains(t)) {
                continue;
            }
            untouched += 1;
            let (block, size) = (info.encoding.block_size(), info.encoding.type_size());
            let length = info.shape.iter().product::<usize>() / block * size;
            let at = new.tensors[name].start;
            assert_eq!(new.tensors[name].encoding, info.encoding);
            assert_eq!(
                before[info.start..info.start + length],
                after[at..at + length]
            );
        }
        assert!(untouched > 3);
    }
}

#[test]
fn a_combination_acts_as_its_adapters_together_and_a_lower_rank_tells_its_error() {
    let scratch = TempDir::new().unwrap();
    let base = tiny_folder();
    let (a, b) = (
        tiny_adapter(scratch.path(), "a", 1),
        tiny_adapter(scratch.path(), "b", 2),
    );
    let (first, second) = (
        format!("{}:0.5", a.display()),
        format!("{}:0.25", b.display()),
    );
    let combined = scratch.path().join("ab");
    let arguments = ["combine", "--lora", &first, "--lora", &second, "--output"];
    let told = done(&[&arguments[..], &[string(&combined)]].concat());
    assert!(told.contains("rank 8, exact"), "{told}");
    let expected = logits(&base, &[&first, &second], scratch.path());
    let ours = logits(&base, &[string(&combined)], scratch.path());
    assert!(apart(&ours, &expected) < 1e-5);
    let small = scratch.path().join("small");
    let told = done(&[&arguments[..], &[string(&small), "--rank", "5"]].concat());
    assert!(
        told.contains("rank 5 of 8;") && told.contains("% of the update is lost"),
        "{told}"
    );
    let near = apart(&logits(&base, &[string(&small)], scratch.path()), &expected);
    let half = apart(&logits(&base, &[&first], scratch.path()), &expected);
    assert!(near < half, "{near} {half}");
}

#[test]
fn strengths_above_1_together_are_warned_of() {
    let scratch = TempDir::new().unwrap();
    let adapter = tiny_adapter(scratch.path(), "a", 1);
    let strong = format!("{}:1.25", adapter.display());
    for (lora, warned) in [(string(&adapter), false), (&strong, true)] {
        let told = done(&[
            "generate",
            "--base",
            "builtin:tiny-llama",
            "--device",
            "cpu",
            "--prompt",
            "Hi.",
            "--max-tokens",
            "1",
            "--lora",
            lora,
        ]);
        assert_eq!(told.contains("add up to 1.25"), warned, "{told}");
    }
}

#[test]
fn what_cannot_be_converted_or_merged_is_refused_with_a_sentence() {
    let scratch = TempDir::new().unwrap();
    let adapter = tiny_adapter(scratch.path(), "a", 1);
    let (adapter, base) = (string(&adapter), tiny_folder());
    let output = scratch.path().join("out");
    let output = string(&output);
    refused(
        &["export", adapter, "--format", "kohya", "--output", output],
        "peft or gguf",
    );
    refused(
        &["export", adapter, "--format", "gguf", "--output", output],
        "--base",
    );
    refused(&["export", adapter, "--format", "peft"], "--output");
    refused(
        &["export", adapter, "--format", "onnx", "--output", output],
        "not an export format",
    );
    refused(
        &["export", adapter, "--dtype", "int8", "--output", output],
        "'int8'",
    );
    refused(&["inspect", string(&base)], "is no adapter");
    let other = fixtures().join("llama_tied_gqa");
    let merge = ["merge", "--lora", adapter, "--output", output, "--base"];
    refused(&[&merge[..], &[string(&other)]].concat(), "another base");
    refused(
        &[&merge[..], &["/nowhere"]].concat(),
        "/nowhere cannot be read",
    );
    refused(
        &[&merge[..], &[string(&base), "--dtype", "q8_0"]].concat(),
        "GGUF bases",
    );
    assert!(!Path::new(output).exists());
}

/// A chat through a pipe; stdout.
fn chat(arguments: &[&str], lines: &str) -> (String, String) {
    let mut child = Command::new(PROGRAM)
        .args([
            "chat",
            "--base",
            "builtin:tiny-llama",
            "--device",
            "cpu",
            "--max-tokens",
            "12",
        ])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
    let utf8 = |bytes| String::from_utf8(bytes).unwrap();
    (utf8(out.stdout), utf8(out.stderr))
}

#[test]
fn a_chat_switches_and_weighs_adapters_without_opening_the_base_again() {
    let scratch = TempDir::new().unwrap();
    let adapter = tiny_adapter(scratch.path(), "a", 1);
    let strong = format!("{}:3", adapter.display());
    let question = "I have a cough.";
    let alone = |loras: &[&str]| {
        let mut arguments = vec![
            "generate",
            "--base",
            "builtin:tiny-llama",
            "--device",
            "cpu",
        ];
        arguments.extend(["--max-tokens", "12", "--prompt", question]);
        for lora in loras {
            arguments.extend(["--lora", lora]);
        }
        let out = loradeck(&arguments);
        String::from_utf8(out.stdout).unwrap()
    };
    let (bare, adapted) = (alone(&[]), alone(&[&strong]));
    assert_ne!(bare, adapted);
    let lines = format!(
        "{question}\n/reset\n/load {strong}\n{question}\n/weight 1 0\n/reset\n{question}\n\
         /weight 1 3\n/reset\n{question}\n/unload 1\n/reset\n{question}\n/quit\nnever read\n"
    );
    let (said, told) = chat(&[], &lines);
    assert_eq!(said, [&bare[..], &adapted, &bare, &adapted, &bare].concat());
    assert!(
        told.contains("at 3") && told.contains("no adapters"),
        "{told}"
    );
    assert!(told.contains("add up to 3.00"), "{told}");
}

#[test]
fn a_chat_remembers_what_was_said_and_answers_its_mistakes() {
    let (two, _) = chat(&[], "I have a cough.\nThank you.\n");
    let (forgotten, _) = chat(&[], "I have a cough.\n/reset\nThank you.\n");
    assert_eq!(two.lines().next(), forgotten.lines().next());
    let (said, told) = chat(
        &[],
        "/dance\n/weight 1 2\n/set top-p 7\n/set temperature\n/load\n/load /nowhere\n/set seed 3\n/set\n/help\n",
    );
    assert_eq!(said, "");
    for expected in [
        "no command /dance",
        "no adapter '1'",
        "top-p must be above 0 and at most 1",
        "no value for temperature",
        "/load without an adapter",
        "/nowhere cannot be read",
        "seed 3",
        "/weight N WEIGHT",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
}
