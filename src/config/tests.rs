//! Whole configs: what they mean, how they change, and that nothing is lost in writing them.

use std::path::{Path, PathBuf};

use super::*;

/// A folder with the given files, and a config file in it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(files: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
        }
        Place { folder }
    }

    /// Loads `yaml` with `./` replaced by the folder: the working directory belongs to all tests.
    fn load(&self, yaml: &str, sets: &[&str]) -> Result<LoadedConfig, Vec<String>> {
        let root = format!("{}/", self.folder.path().display());
        let path = self.folder.path().join("my_run.yaml");
        std::fs::write(&path, yaml.replace("./", &root)).unwrap();
        let sets: Vec<String> = sets.iter().map(|s| s.replace("./", &root)).collect();
        load(&path, &sets).map_err(|problems| {
            problems
                .iter()
                .map(|p| p.to_string().replace(&root, "./"))
                .collect()
        })
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }
}

fn text_place() -> Place {
    Place::new(&[
        "models/llama-2-7b-chat.ggmlv3.q4_0.bin",
        "data/medical_qa/a.jsonl",
    ])
}

const THREE_KEYS: &str = r#"base_model: "./models/llama-2-7b-chat.ggmlv3.q4_0.bin"
task_type: "text-generation"
train_data_dir: "./data/medical_qa"
"#;

#[test]
fn three_keys_are_a_complete_config_by_the_documented_defaults() {
    let place = text_place();
    let loaded = place.load(THREE_KEYS, &[]).unwrap();
    let config = &loaded.config;
    assert!(loaded.warnings.is_empty());
    assert_eq!(config.task_type, TaskType::TextGeneration);
    assert_eq!(config.train_data_dir, place.path("data/medical_qa"));
    assert_eq!((config.lora_rank, config.lora_alpha), (8, 8.0));
    assert_eq!((config.batch_size, config.epochs), (2, 3.0));
    assert_eq!((config.learning_rate, config.save_steps), (2e-4, 100));
    assert_eq!(config.seed, 42);
    assert_eq!(config.export_formats, [ExportFormat::Peft]);
    assert_eq!(
        config.output_dir,
        std::path::absolute("output/my_run").unwrap()
    );
    let listed = |key: &str| {
        let entry = loaded.entries.iter().find(|e| e.key == key).unwrap();
        (entry.value.clone(), entry.source.clone())
    };
    assert_eq!(listed("learning_rate"), ("2e-4".into(), "default".into()));
    assert_eq!(
        listed("target_modules").0,
        "[q_proj, k_proj, v_proj, o_proj]"
    );
    assert_eq!(listed("task_type").1, "line 2");
    assert_eq!(loaded.entries.len(), keys::KEYS.len());
}

#[test]
fn the_image_example_is_read_whole_and_refused_with_one_sentence() {
    let place = Place::new(&[
        "models/Stable-diffusion/v1-5-pruned.safetensors",
        "data/style_train/metadata.csv",
    ]);
    let yaml = r#"train_data_dir: "./data/style_train"
metadata_path: "./data/style_train/metadata.csv"
base_model: "./models/Stable-diffusion/v1-5-pruned.safetensors"
lora_rank: 8
batch_size: 4
epochs: 10
learning_rate: 2e-4
output_dir: "./output/my_style_lora"
save_steps: 100
"#;
    let loaded = place.load(yaml, &[]).unwrap();
    assert_eq!(loaded.config.task_type, TaskType::TextToImage);
    assert_eq!(
        loaded.config.metadata_path,
        Some(place.path("data/style_train/metadata.csv"))
    );
    assert_eq!(
        loaded.config.export_formats,
        [ExportFormat::Diffusers, ExportFormat::Kohya]
    );
    assert!(loaded.warnings.is_empty());

    let missing = Place::new(&[]).load(yaml, &[]).unwrap_err();
    assert_eq!(missing.len(), 3, "{missing:#?}");
    for (problem, (line, key)) in missing.iter().zip([
        (1, "train_data_dir"),
        (2, "metadata_path"),
        (3, "base_model"),
    ]) {
        assert!(
            problem.contains(&format!(":{line}:")) && problem.contains(key),
            "{problem}"
        );
        assert!(problem.contains("does not exist"), "{problem}");
    }
}

#[test]
fn a_set_wins_over_the_file_and_says_so() {
    let place = text_place();
    let loaded = place
        .load(
            &format!("{THREE_KEYS}epochs: 0\n"),
            &["epochs=200", "sample_prompts=Doctor: hello"],
        )
        .unwrap();
    assert_eq!(loaded.config.epochs, 200.0);
    assert_eq!(loaded.config.sample_prompts, ["Doctor: hello"]);
    let entry = loaded.entries.iter().find(|e| e.key == "epochs").unwrap();
    assert_eq!(
        (entry.value.as_str(), entry.source.as_str()),
        ("200", "--set")
    );
    let problems = place
        .load(THREE_KEYS, &["save_steps=0", "lora_r=4", "epochs"])
        .unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:#?}");
}

/// A config in which no key has its default.
fn unusual(place: &Place) -> String {
    place
        .load(
            "base_model: ./base\ntask_type: text-generation\ntrain_data_dir: ./data\n\
             output_dir: ./out here\nlora_rank: 4\nlora_alpha: 12.5\nlora_dropout: 0.1\n\
             target_modules: [self_attn.q_proj, up_proj]\nlayers: [1, 3]\nuse_rslora: true\n\
             use_dora: true\nshare_adapters: layers\n\
             loraplus_ratio: 16\ninit_from: ./first\nepochs: 0.3\nmax_steps: 77\nbatch_size: 3\n\
             gradient_accumulation_steps: 5\ngradient_checkpointing: false\nmax_grad_norm: 0.25\n\
             learning_rate: 1e-3\nlr_scheduler: linear\nwarmup_steps: 7\nweight_decay: 0.01\n\
             optimizer: adamw\nseed: 18446744073709551615\nprecision: f32\nquantize: q4_k\ndevice: cpu\n\
             sequence_len: 99\npacking: true\ngroup_by_length: true\ntrain_on_inputs: true\nchat_template: \"{{ messages[0].content }}\\n\"\n\
             skip_bad_records: true\non_oom: pause\neval_split: 12\neval_steps: 11\n\
             sample_prompts: [\"it's: a \\\"prompt\\\"\\nof two lines\", '- #x', '8']\n\
             sample_steps: 13\nsave_steps: 17\nkeep_checkpoints: 2\nexport_formats: peft\n\
             notify_command: \"echo $LORADECK_MESSAGE\"\n",
            &[],
        )
        .map(|loaded| to_yaml(&loaded.config))
        .unwrap()
}

fn unusual_place() -> Place {
    Place::new(&[
        "base/config.json",
        "data/a.jsonl",
        "first/adapter_config.json",
    ])
}

#[test]
fn a_written_config_is_read_back_equal_key_by_key() {
    let place = unusual_place();
    let yaml = unusual(&place);
    let again = place.load(&yaml, &[]).unwrap();
    assert_eq!(to_yaml(&again.config), yaml);
    // Every key must differ from its default, or this test would not see a key that is not stored.
    let plain = place
        .load(
            "base_model: ./base\ntask_type: text-generation\ntrain_data_dir: ./data\n",
            &[],
        )
        .unwrap()
        .config;
    let fixed = [
        "base_model",
        "task_type",
        "train_data_dir",
        "optimizer",
        "export_formats",
    ];
    for key in keys::KEYS.iter().filter(|k| !fixed.contains(&k.name)) {
        assert_ne!(
            (key.show)(&again.config),
            (key.show)(&plain),
            "{}",
            key.name
        );
    }
    assert_eq!(again.config.seed, u64::MAX);
    assert_eq!(again.config.layers, Some((1, 3)));
    assert_eq!(
        again.config.sample_prompts,
        ["it's: a \"prompt\"\nof two lines", "- #x", "8"]
    );
    let defaults = place.load(&to_yaml(&plain), &[]).unwrap().config;
    assert_eq!(defaults, plain);
}

#[test]
fn a_diff_names_every_change_and_applies_only_what_may_act() {
    let place = unusual_place();
    let plain = place
        .load(
            "base_model: ./base\ntask_type: text-generation\ntrain_data_dir: ./data\n",
            &[],
        )
        .unwrap()
        .config;
    let edited = place.load(&unusual(&place), &[]).unwrap().config;
    assert!(diff(&plain, &plain).is_empty());
    let changes = diff(&plain, &edited);
    let change = changes.iter().find(|c| c.key == "learning_rate").unwrap();
    assert_eq!(
        (
            change.old.as_str(),
            change.new.as_str(),
            change.applies.as_str()
        ),
        ("2e-4", "1e-3", "live")
    );
    let mut running = plain.clone();
    apply_live(&mut running, &edited);
    assert_eq!(running.learning_rate, edited.learning_rate);
    assert_eq!(running.sample_prompts, edited.sample_prompts);
    assert_eq!(running.keep_checkpoints, Some(2));
    assert_eq!(running.lora_rank, plain.lora_rank);
    assert!(
        diff(&running, &edited)
            .iter()
            .all(|c| c.applies == "restart")
    );

    let forbidden: Vec<String> = restart_keys_differ(&plain, &edited)
        .into_iter()
        .map(|c| c.key)
        .collect();
    assert!(forbidden.contains(&"lora_rank".into()) && forbidden.contains(&"seed".into()));
    for free in [
        "output_dir",
        "device",
        "learning_rate",
        "gradient_checkpointing",
    ] {
        assert!(!forbidden.contains(&free.into()), "{free}");
    }
}

#[test]
fn only_live_keys_are_set_during_a_run_and_with_the_files_checks() {
    let place = text_place();
    let config = place.load(THREE_KEYS, &[]).unwrap().config;
    assert_eq!(
        set_live(&config, "learning_rate", "1e-4")
            .unwrap()
            .learning_rate,
        1e-4
    );
    let refused = |key: &str, value: &str| set_live(&config, key, value).unwrap_err();
    assert!(refused("lora_rank", "4").contains("needs a new run"));
    assert!(refused("save_steps", "0").contains("whole number"));
    assert!(refused("lr", "1e-4").contains("did you mean `learning_rate`"));
    assert!(refused("learning_rate", "").contains("has no value"));
    assert!(refused("export_formats", "kohya").contains("image models"));
    let short = set_live(&config, "max_steps", "10").unwrap();
    assert!(set_live(&short, "warmup_steps", "10").is_err());
}

#[test]
fn the_task_is_read_off_the_base() {
    let place = Place::new(&[
        "a.gguf",
        "b.safetensors",
        "sd/model_index.json",
        "d.xyz",
        "data/x",
    ]);
    std::fs::create_dir(place.path("llama")).unwrap();
    std::fs::write(
        place.path("llama/config.json"),
        r#"{"architectures": ["LlamaForCausalLM"]}"#,
    )
    .unwrap();
    std::fs::write(place.path("llama/model.safetensors"), "").unwrap();
    let task = |base: &str| {
        place
            .load(
                &format!("base_model: {base}\ntrain_data_dir: ./data\n"),
                &[],
            )
            .map(|l| l.config.task_type)
    };
    for (base, expected) in [
        ("builtin:tiny-llama", TaskType::TextGeneration),
        ("builtin:tiny-sd", TaskType::TextToImage),
        ("./a.gguf", TaskType::TextGeneration),
        ("./llama", TaskType::TextGeneration),
        ("./llama/model.safetensors", TaskType::TextGeneration),
        ("./b.safetensors", TaskType::TextToImage),
        ("./sd", TaskType::TextToImage),
    ] {
        assert_eq!(task(base), Ok(expected), "{base}");
    }
    let unclear = task("./d.xyz").unwrap_err();
    assert!(unclear[0].contains("task_type"), "{unclear:?}");
}

#[test]
fn a_byte_order_mark_and_crlf_change_nothing() {
    let place = text_place();
    let yaml = format!("\u{feff}{}", THREE_KEYS.replace('\n', "\r\n"));
    assert_eq!(
        place.load(&yaml, &[]).unwrap().config,
        place.load(THREE_KEYS, &[]).unwrap().config
    );
}

#[test]
fn a_chat_template_is_taken_from_its_file() {
    let place = text_place();
    std::fs::write(place.path("chat.jinja"), "{{ messages }}").unwrap();
    let loaded = place
        .load(&format!("{THREE_KEYS}chat_template: ./chat.jinja\n"), &[])
        .unwrap();
    assert_eq!(
        loaded.config.chat_template.as_deref(),
        Some("{{ messages }}")
    );
}

#[test]
fn the_readmes_table_is_the_one_this_version_acts_by() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap_or_default();
    let Some((_, rest)) = readme.split_once("<!-- config-table -->") else {
        return;
    };
    let table = rest.split("<!-- /config-table -->").next().unwrap_or(rest);
    assert_eq!(
        table.trim(),
        markdown_table().trim(),
        "paste this:\n{}",
        markdown_table()
    );
}
