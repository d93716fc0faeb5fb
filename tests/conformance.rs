//! What loradeck writes, read by the tools people use. Needs Python with the packages of
//! `tests/tools/requirements.txt` (`LORADECK_PYTHON`) and, where said, the SmolLM2 GGUF
//! (`tests/tools/fetch_smollm2.sh models`).

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use program::{Scratch, repository, text};

fn python(script: &str, arguments: &[&str]) {
    let interpreter = std::env::var("LORADECK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let out = Command::new(&interpreter)
        .arg(repository().join("tests/tools").join(script))
        .args(arguments)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap_or_else(|e| panic!("{interpreter}: {e}"));
    println!("{}", text(&out));
    assert!(out.status.success(), "{script}\n{}", text(&out));
}

fn smollm2() -> PathBuf {
    let base = repository().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(
        base.is_file(),
        "run tests/tools/fetch_smollm2.sh models first"
    );
    base
}

/// Trains (with a SIGKILL right after the first checkpoint and a resume, when `killed`), then
/// compares the export's logits with PEFT's over the same base.
fn train_and_compare(config: &str, base: &str, killed: bool) {
    let scratch = Scratch::new("");
    fs::write(
        &scratch.config,
        config.replace("OUTPUT", scratch.run.to_str().unwrap()),
    )
    .unwrap();
    if killed {
        let mut child = scratch.headless();
        while scratch
            .run
            .join("checkpoints/latest")
            .symlink_metadata()
            .is_err()
        {
            assert!(
                child.try_wait().unwrap().is_none(),
                "ended before a checkpoint"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let out = scratch.output(&["train", scratch.config.to_str().unwrap(), "--headless"]);
    println!("{}", text(&out));
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(killed, text(&out).contains("resum"));
    let status = scratch.status();
    let (bare, tuned) = (
        status["base_eval_loss"].as_f64().unwrap(),
        status["eval_loss"].as_f64().unwrap(),
    );
    assert!(
        tuned < bare,
        "held-out loss did not fall: {bare} -> {tuned}"
    );

    let adapter = scratch.run.join("exports/peft");
    let logits = scratch.folder.path().join("logits.safetensors");
    let out = scratch.output(&[
        "generate",
        "--base",
        base,
        "--lora",
        adapter.to_str().unwrap(),
        "--prompt",
        "I have had a sore throat for two days. What should I do?",
        "--logits",
        logits.to_str().unwrap(),
    ]);
    assert!(out.status.success(), "{}", text(&out));
    python(
        "check_peft.py",
        &[
            "--base",
            base,
            "--adapter",
            adapter.to_str().unwrap(),
            "--logits",
            logits.to_str().unwrap(),
        ],
    );
    if killed {
        compare_greedy_text(base, &adapter, scratch.folder.path());
    }
    python(
        "check_tensorboard.py",
        &["--run", scratch.run.to_str().unwrap()],
    );
}

fn loradeck(arguments: &[&str]) -> String {
    let out = Command::new(program::PROGRAM)
        .args(arguments)
        .output()
        .unwrap();
    assert!(out.status.success(), "{arguments:?}\n{}", text(&out));
    println!("{}", text(&out));
    String::from_utf8(out.stdout).unwrap()
}

fn string(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Greedy text of 200 tokens, and llama.cpp's and PEFT's view of a trained adapter's exports.
fn compare_greedy_text(base: &str, adapter: &Path, folder: &Path) {
    let prompt = "Write a long story about a village doctor and her three patients.";
    let generated = loradeck(&[
        "generate",
        "--base",
        base,
        "--lora",
        string(adapter),
        "--prompt",
        prompt,
        "--max-tokens",
        "200",
        "--device",
        "cpu",
    ]);
    let file = folder.join("text.txt");
    fs::write(&file, generated).unwrap();
    python(
        "check_greedy.py",
        &[
            "--base",
            base,
            "--adapter",
            string(adapter),
            "--prompt",
            prompt,
            "--text",
            string(&file),
        ],
    );
}

/// Every linear adapted, with numbers of their own: made by `make_llama_cpp_fixture.py`.
fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures/llama_cpp").join(name)
}

#[test]
#[ignore = "needs Python with transformers and peft"]
fn merged_bases_equal_pefts_merge_and_unload() {
    let scratch = tempfile::tempdir().unwrap();
    let base = repository().join("tests/fixtures/llama_tied_gqa");
    let adapter = base.join("adapter");
    let merged = scratch.path().join("merged");
    let (base, adapter) = (string(&base), string(&adapter));
    let lora = format!("{adapter}:0.6");
    let twice = [
        "merge", "--base", base, "--lora", adapter, "--lora", &lora, "--output",
    ];
    loradeck(&[&twice[..], &[string(&merged)]].concat());
    python(
        "check_merge.py",
        &[
            "--base",
            base,
            "--adapter",
            adapter,
            "--adapter",
            adapter,
            "--weights",
            "1.0",
            "0.6",
            "--merged",
            string(&merged),
        ],
    );
    let gguf = repository().join("tests/fixtures/gguf/tiny-f32.gguf");
    for name in ["peft", "rslora"] {
        let (adapter, merged) = (fixture(name), scratch.path().join(format!("{name}.gguf")));
        let (adapter, merged) = (string(&adapter), string(&merged));
        loradeck(&[
            "merge",
            "--base",
            string(&gguf),
            "--lora",
            adapter,
            "--output",
            merged,
        ]);
        python(
            "check_merge.py",
            &[
                "--base",
                string(&gguf),
                "--adapter",
                adapter,
                "--merged",
                merged,
            ],
        );
    }
}

#[test]
#[ignore = "needs Python with xllamacpp (llama.cpp)"]
fn llama_cpp_computes_the_same_logits_with_exported_adapters_and_merged_bases() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let base = repository().join("tests/fixtures/gguf/tiny-f32.gguf");
    let base = string(&base);
    for name in ["peft", "rslora"] {
        let adapter = fixture(name);
        let adapter = string(&adapter);
        let (logits, exported, merged) = (
            at("logits"),
            at("adapter.gguf"),
            at(&format!("{name}.gguf")),
        );
        loradeck(&[
            "generate",
            "--base",
            base,
            "--lora",
            adapter,
            "--prompt",
            "My knee hurts.",
            "--raw",
            "--device",
            "cpu",
            "--logits",
            &logits,
        ]);
        loradeck(&[
            "export", adapter, "--format", "gguf", "--base", base, "--output", &exported,
        ]);
        python(
            "check_llama_cpp.py",
            &[
                "--base",
                base,
                "--adapter",
                &exported,
                "--logits",
                &logits,
                "--tolerance",
                "1e-4",
            ],
        );
        loradeck(&[
            "merge", "--base", base, "--lora", adapter, "--output", &merged,
        ]);
        python(
            "check_llama_cpp.py",
            &[
                "--base",
                &merged,
                "--logits",
                &logits,
                "--tolerance",
                "1e-4",
            ],
        );
    }
}

#[test]
#[ignore = "needs Python with gguf"]
fn gguf_reader_finds_everything_in_an_exported_adapter() {
    python(
        "check_gguf_adapter.py",
        &[
            "--adapter",
            string(&fixture("rslora.gguf")),
            "--peft",
            string(&fixture("rslora")),
            "--base",
            string(&repository().join("tests/fixtures/gguf/tiny-f32.gguf")),
        ],
    );
}

/// Exports of a kohya adapter in both image formats and merges into both forms of a base.
fn compare_image_model(family: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let models = string(scratch.path());
    let at = |name: &str| format!("{models}/{name}");
    python(
        "image_models.py",
        &["make", "--family", family, "--output", models],
    );
    let check = |name: &str, scale: &str| {
        let adapter = at(name);
        let arguments = ["--models", models, "--adapter", &adapter, "--scale", scale];
        python(
            "image_models.py",
            &[&["check", "--family", family][..], &arguments].concat(),
        );
    };
    let kohya = at("kohya.safetensors");
    for (from, format, to, scale) in [
        ("kohya.safetensors", "diffusers", "1.safetensors", "1"),
        ("kohya.safetensors", "kohya", "2.safetensors", "1.5"),
        ("1.safetensors", "kohya", "3.safetensors", "1"),
        ("3.safetensors", "diffusers", "4.safetensors", "1"),
    ] {
        loradeck(&["export", &at(from), "--format", format, "--output", &at(to)]);
        check(to, scale);
    }
    let halved = format!("{kohya}:0.5");
    for (base, merged, strength, lora) in [
        ("pipeline", "merged", "0.5", &halved),
        ("checkpoint.safetensors", "merged.safetensors", "1", &kohya),
    ] {
        let (base, merged) = (at(base), at(merged));
        loradeck(&[
            "merge", "--base", &base, "--lora", lora, "--output", &merged,
        ]);
        python(
            "image_models.py",
            &[
                "check-merge",
                "--family",
                family,
                "--models",
                models,
                "--merged",
                &merged,
                "--strength",
                strength,
            ],
        );
    }
}

#[test]
#[ignore = "needs Python with diffusers"]
fn diffusers_loads_adapters_of_stable_diffusion_1_and_fuses_them_alike() {
    compare_image_model("sd1");
}

#[test]
#[ignore = "needs Python with diffusers"]
fn diffusers_loads_adapters_of_stable_diffusion_xl_and_fuses_them_alike() {
    compare_image_model("sdxl");
}

#[test]
#[ignore = "needs Python with transformers and peft"]
fn the_tiny_bases_adapter_gives_the_same_logits_in_peft() {
    let base = repository().join("src/model/builtin/tiny-llama");
    let base = base.to_str().unwrap();
    train_and_compare(
        &format!(
            "base_model: {base}\ntrain_data_dir: {}\noutput_dir: OUTPUT\nepochs: 1\n\
             batch_size: 8\nlearning_rate: 3e-3\neval_split: 0.1\neval_steps: 20\ndevice: cpu\n",
            repository().join("configs/demo").display()
        ),
        base,
        false,
    );
}

#[test]
#[ignore = "needs Python with transformers and peft"]
fn every_kind_of_adapter_gives_the_same_logits_in_peft() {
    let base = repository().join("src/model/builtin/tiny-llama");
    let base = base.to_str().unwrap();
    for kind in [
        "use_dora: true\nuse_rslora: true\nlora_dropout: 0.1",
        "share_adapters: layers\ntarget_modules: all-linear",
        "layers: 1-2\ntarget_modules: [self_attn.q_proj, up_proj]\nuse_dora: true",
        "layers: 0-1\ntarget_modules: [layers.0.self_attn.q_proj, down_proj]\nshare_adapters: layers",
    ] {
        println!("{kind}");
        train_and_compare(
            &format!(
                "base_model: {base}\ntrain_data_dir: {}\noutput_dir: OUTPUT\nmax_steps: 30\n\
                 batch_size: 4\nlearning_rate: 3e-3\neval_split: 16\ndevice: cpu\npacking: true\n\
                 sequence_len: 128\n{kind}\n",
                repository().join("configs/demo").display()
            ),
            base,
            false,
        );
    }
}

/// The same first A and B, the same batches, 50 steps: every loss within 1e-3 of PEFT's.
#[test]
#[ignore = "needs Python with transformers and peft"]
fn training_is_that_of_peft_step_by_step() {
    for options in [
        "--accumulation 2 --weight-decay 0.1",
        "--targets all-linear --use-rslora",
        "--targets all-linear --use-dora --loraplus-ratio 4 --weight-decay 0.1",
        "--packing --batch-size 1 --use-dora",
    ] {
        println!("{options}");
        let mut arguments = vec![
            "--loradeck",
            program::PROGRAM,
            "--base",
            "builtin:tiny-llama",
            "--learning-rate",
            "1e-3",
            "--records",
            "60",
        ];
        arguments.extend(options.split(' '));
        python("compare_training.py", &arguments);
    }
}

#[test]
#[ignore = "needs Python with transformers and peft, and the SmolLM2 GGUF"]
fn a_real_quantised_base_trains_resumes_and_its_adapter_gives_the_same_logits_in_peft() {
    let base = smollm2();
    let base = base.to_str().unwrap();
    train_and_compare(
        &format!(
            "base_model: {base}\ntrain_data_dir: {}\noutput_dir: OUTPUT\nmax_steps: 6\n\
             batch_size: 2\nlearning_rate: 1e-3\neval_split: 6\neval_steps: 3\nsequence_len: 192\n\
             save_steps: 3\ndevice: cpu\nsample_prompts: [\"I have a headache.\"]\nsample_steps: 6\n",
            repository().join("configs/smollm2").display()
        ),
        base,
        true,
    );
}

#[test]
#[ignore = "needs Python with huggingface_hub (transformers brings it)"]
fn the_hubs_cache_is_shared_with_huggingface_hub_both_ways() {
    python("check_hub_cache.py", &[env!("CARGO_BIN_EXE_loradeck")]);
}
