//! Text from the built-in base, as the library makes it and as the program prints it.

use std::io::Read;
use std::process::{Command, Stdio};

use candle_core::{DType, Device};
use loradeck::generate::{SamplingOptions, encode_prompt, generate};
use loradeck::model::{self, Active, Base, LoraSet, LoraSpec};

const BASE: &str = "builtin:tiny-llama";
const PROMPT: &str = "I have a cough. What should I do?";

fn open() -> Base {
    model::open(BASE, &Device::Cpu, DType::F32).unwrap()
}

/// An adapter that changes the answers.
fn adapter(base: &Base) -> LoraSet {
    let shape = &base.description.config;
    let modules = model::match_targets(shape, true, &[], None).unwrap();
    let (names, _) = model::peft_targets(shape, &modules);
    let spec = LoraSpec {
        target_modules: names,
        ..LoraSpec::lora(4)
    };
    let set = LoraSet::new(&modules, spec, 1, &Device::Cpu).unwrap();
    for (i, pair) in set.pairs.iter().enumerate() {
        let (outputs, rank) = pair.b.dims2().unwrap();
        let wave = |n: usize| ((n + 31 * i) as f32).sin() * 0.05;
        let b: Vec<f32> = (0..outputs * rank).map(wave).collect();
        let b = candle_core::Tensor::from_vec(b, (outputs, rank), &Device::Cpu).unwrap();
        pair.b.set(&b).unwrap();
    }
    set
}

#[test]
fn greedy_text_is_the_likeliest_token_of_the_whole_sequence_each_time() {
    let base = open();
    let set = adapter(&base);
    let active = [Active {
        set: &set,
        strength: 60.0,
    }];
    let prompt = encode_prompt(&base.tokenizer, None, PROMPT, false).unwrap();
    let mut texts = Vec::new();
    for adapters in [&[][..], &active[..]] {
        let mut streamed = String::new();
        let text = generate(
            &base.decoder,
            &base.tokenizer,
            adapters,
            &prompt,
            &SamplingOptions::greedy(12),
            &mut |piece| {
                streamed += piece;
                true
            },
        )
        .unwrap();
        assert_eq!(streamed, text);
        // The same without a cache: all of the sequence for every token.
        let mut ids = prompt.clone();
        while ids.len() < prompt.len() + 12 {
            let logits = base.decoder.logits(&[ids.clone()], adapters).unwrap();
            let last = logits.get(0).unwrap().get(ids.len() - 1).unwrap();
            let next = last.argmax(0).unwrap().to_scalar::<u32>().unwrap();
            if base.tokenizer.eos.contains(&next) {
                break;
            }
            ids.push(next);
        }
        let expected = base.tokenizer.decode(&ids[prompt.len()..], false).unwrap();
        assert_eq!(text, expected);
        texts.push(text);
    }
    assert_ne!(texts[0], texts[1], "the adapter acts");
}

#[test]
fn a_listener_that_has_enough_ends_the_text() {
    let base = open();
    let prompt = encode_prompt(&base.tokenizer, None, PROMPT, false).unwrap();
    let mut pieces = 0;
    generate(
        &base.decoder,
        &base.tokenizer,
        &[],
        &prompt,
        &SamplingOptions::greedy(50),
        &mut |_| {
            pieces += 1;
            pieces < 2
        },
    )
    .unwrap();
    assert_eq!(pieces, 2);
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loradeck"));
    command.args(["generate", "--device", "cpu", "--prompt", PROMPT]);
    command.args(arguments);
    command
}

#[test]
fn the_program_writes_the_prompts_logits() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("logits.safetensors");
    let output = program(&["--base", BASE, "--logits", file.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let written = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let base = open();
    let prompt = encode_prompt(&base.tokenizer, None, PROMPT, false).unwrap();
    let ids: Vec<i64> = prompt.iter().map(|&id| i64::from(id)).collect();
    assert_eq!(written["input_ids"].to_vec1::<i64>().unwrap(), ids);
    let logits = base.decoder.logits(&[prompt], &[]).unwrap();
    assert_eq!(
        written["logits"].to_vec2::<f32>().unwrap(),
        logits.squeeze(0).unwrap().to_vec2::<f32>().unwrap()
    );
}

#[test]
fn a_closed_stdout_is_no_error_of_the_program() {
    let mut child = program(&["--base", BASE, "--temperature", "1", "--max-tokens", "200"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn what_cannot_be_used_is_refused_with_a_sentence() {
    for (arguments, expected) in [
        (
            &["--base", BASE, "--lora", "/nowhere:0.5"][..],
            "--lora /nowhere:0.5: /nowhere cannot be read",
        ),
        (
            &["--base", BASE, "--device", "tpu"],
            "--device tpu is not a device",
        ),
        (&["--base", BASE, "--top-p", "0"], "--top-p must be above 0"),
        (&["--base", BASE, "--raw", "--prompt", ""], "the prompt"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loradeck"));
        command.arg("generate");
        if !arguments.contains(&"--prompt") {
            command.args(["--prompt", PROMPT]);
        }
        let output = command.args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.contains(expected) && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
}
