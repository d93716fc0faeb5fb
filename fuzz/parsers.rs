//! One function for each parser of files that others wrote: it takes any bytes, and whatever it makes of
//! them, it may not panic, hang, or take memory beyond a bound tied to the input's size.
//!
//! The targets of `fuzz/fuzz_targets` call these under libFuzzer, `tests/fuzz.rs` with its own mutations.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use loradeck::data::{Message, Role};
use loradeck::model::Tokenizer;
use loradeck::ops::heap::{self, Watch};

/// What reading may take beyond the input: tables of the parsers themselves, the dataset's statistics.
const FLOOR: usize = 64 << 20;
/// What it may take for each byte of the input.
const FACTOR: usize = 256;

/// A folder in memory where the system has one: a run is a file written and read.
fn scratch() -> &'static Path {
    thread_local!(static FOLDER: OnceCell<&'static Path> = const { OnceCell::new() });
    FOLDER.with(|folder| {
        *folder.get_or_init(|| {
            let shm = Path::new("/dev/shm");
            let parent = if shm.is_dir() {
                shm.to_owned()
            } else {
                std::env::temp_dir()
            };
            let name = format!(
                "loradeck-fuzz-{}-{:?}",
                std::process::id(),
                std::thread::current().id()
            );
            let path = parent.join(name.replace(['(', ')'], "-"));
            fs::create_dir_all(&path).unwrap();
            Box::leak(path.into_boxed_path())
        })
    })
}

/// Removes this thread's folder.
pub fn clean_up() {
    let _ = fs::remove_dir_all(scratch());
}

fn bounded(input: &[u8], work: impl FnOnce()) {
    let watch = Watch::new(FLOOR + FACTOR * input.len(), 1 << 20);
    work();
    if let Err(e) = heap::check() {
        panic!("{e}, from {} bytes of input", input.len());
    }
    drop(watch);
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|p| p.join("tests/fixtures"))
        .find(|p| p.is_dir())
        .unwrap()
}

/// A copy of a fixture's folder, once.
fn folder_of(name: &str, fixture: &str) -> PathBuf {
    let folder = scratch().join(name);
    if !folder.is_dir() {
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(fixtures().join(fixture)).unwrap().flatten() {
            if entry.path().is_file() {
                fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
            }
        }
    }
    folder
}

/// A base's `model.safetensors`.
pub fn safetensors(input: &[u8]) {
    let folder = folder_of("safetensors", "llama_tied_gqa");
    fs::write(folder.join("model.safetensors"), input).unwrap();
    bounded(input, || {
        drop(loradeck::model::describe(folder.to_str().unwrap()))
    });
}

/// A base's GGUF file: its tensors, and its tokenizer.
pub fn gguf(input: &[u8]) {
    let path = scratch().join("base.gguf");
    fs::write(&path, input).unwrap();
    let path = path.to_str().unwrap();
    bounded(input, || {
        if loradeck::model::describe(path).is_ok() {
            drop(loradeck::model::open_tokenizer(path));
        }
    });
}

/// A base's GGML file.
pub fn ggml(input: &[u8]) {
    let path = scratch().join("base.ggmlv3.bin");
    fs::write(&path, input).unwrap();
    let path = path.to_str().unwrap();
    bounded(input, || {
        if loradeck::model::describe(path).is_ok() {
            drop(loradeck::model::open_tokenizer(path));
        }
    });
}

/// A chat template, as a base brings one: compiled, and rendered.
pub fn template(input: &[u8]) {
    thread_local!(static TOKENIZER: OnceCell<Tokenizer> = const { OnceCell::new() });
    let Ok(source) = std::str::from_utf8(input) else {
        return;
    };
    let message = |role, content: &str| Message {
        role,
        content: content.to_owned(),
    };
    let messages = [
        message(Role::System, "Be kind."),
        message(Role::User, "Hi."),
        message(Role::Assistant, "Hello."),
        message(Role::User, "What now?"),
    ];
    TOKENIZER.with(|tokenizer| {
        let tokenizer = tokenizer
            .get_or_init(|| loradeck::model::open_tokenizer("builtin:tiny-llama").unwrap());
        // Its own bound: what a rendering may make, twice while a text grows.
        let watch = Watch::new(320 << 20, 1 << 20);
        drop(loradeck::data::render_chat(
            tokenizer,
            Some(source),
            &messages,
        ));
        if let Err(e) = heap::check() {
            panic!("{e}, from {} bytes of template", input.len());
        }
        drop(watch);
    });
}

/// A base's `tokenizer.json`, and what it makes of a text.
pub fn tokenizer(input: &[u8]) {
    let folder = folder_of("tokenizer", "llama_tied_gqa");
    fs::write(folder.join("tokenizer.json"), input).unwrap();
    bounded(input, || {
        if let Ok(tokenizer) = loradeck::model::open_tokenizer(folder.to_str().unwrap())
            && let Ok(ids) = tokenizer.encode("<s> Hello,  wörld 你好 <|im_end|>\n")
        {
            drop(tokenizer.decode(&ids, true));
        }
    });
}

/// A config file.
pub fn config(input: &[u8]) {
    let path = scratch().join("config.yaml");
    fs::write(&path, input).unwrap();
    bounded(input, || match loradeck::config::load(&path, &[]) {
        Ok(loaded) => drop(loradeck::config::to_yaml(&loaded.config)),
        Err(problems) => problems.iter().for_each(|p| drop(p.to_string())),
    });
}

fn data(name: &str, input: &[u8]) {
    thread_local!(static TOKENIZER: OnceCell<Tokenizer> = const { OnceCell::new() });
    let path = scratch().join(name);
    fs::write(&path, input).unwrap();
    let yaml = scratch().join(format!("{name}.yaml"));
    if !yaml.is_file() {
        let text = format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: {}\nskip_bad_records: true\neval_split: 0\n",
            path.display()
        );
        fs::write(&yaml, text).unwrap();
    }
    let config = loradeck::config::load(&yaml, &[]).unwrap().config;
    TOKENIZER.with(|tokenizer| {
        let tokenizer = tokenizer
            .get_or_init(|| loradeck::model::open_tokenizer("builtin:tiny-llama").unwrap());
        bounded(input, || drop(loradeck::data::load(&config, tokenizer)));
    });
}

pub fn csv(input: &[u8]) {
    data("records.csv", input);
}

pub fn jsonl(input: &[u8]) {
    data("records.jsonl", input);
}

/// A line on the socket or in the event log.
pub fn protocol(input: &[u8]) {
    use loradeck::protocol::{ClientMessage, ServerMessage};
    bounded(input, || {
        drop(serde_json::from_slice::<ClientMessage>(input));
        drop(serde_json::from_slice::<ServerMessage>(input));
        if let Ok(event) = serde_json::from_slice::<loradeck::protocol::Event>(input) {
            loradeck::protocol::RunState::default().apply(&event);
        }
    });
}

/// An adapter in a single file: kohya's, diffusers' or PEFT's names.
pub fn adapter(input: &[u8]) {
    let path = scratch().join("adapter.safetensors");
    fs::write(&path, input).unwrap();
    bounded(input, || drop(loradeck::adapter::open(&path)));
}

/// A GGUF adapter.
pub fn adapter_gguf(input: &[u8]) {
    let path = scratch().join("adapter.gguf");
    fs::write(&path, input).unwrap();
    bounded(input, || drop(loradeck::adapter::open(&path)));
}

/// A PEFT folder's `adapter_config.json`.
pub fn adapter_config(input: &[u8]) {
    let folder = folder_of("peft", "llama_tied_gqa/adapter");
    fs::write(folder.join("adapter_config.json"), input).unwrap();
    bounded(input, || drop(loradeck::adapter::open(&folder)));
}

/// A picture in any of the formats that are read. What it may take follows from the pixels that it
/// claims, of which there may be a hundred million.
pub fn image(input: &[u8]) {
    let path = scratch().join("picture");
    fs::write(&path, input).unwrap();
    let watch = Watch::new(3 << 30, 1 << 20);
    drop(loradeck::data::images::open(&path));
    if let Err(e) = heap::check() {
        panic!("{e}, from {} bytes of picture", input.len());
    }
    drop(watch);
}

/// A folder of two pictures beside a table of captions, and a file that no table may name.
fn captioned(table: &str, input: &[u8]) {
    let root = scratch().join(format!("captioned-{table}"));
    let config = root.join("config.yaml");
    if !root.is_dir() {
        fs::create_dir_all(root.join("data/sub")).unwrap();
        fs::write(root.join("base.safetensors"), "").unwrap();
        for name in ["outside.png", "data/a.png", "data/sub/b.png"] {
            fs::write(root.join(name), PIXEL).unwrap();
        }
        let yaml = format!(
            "base_model: {0}/base.safetensors\ntrain_data_dir: {0}/data\nresolution: 128\n\
             eval_split: 0\nskip_bad_records: true\n",
            root.display()
        );
        fs::write(&config, yaml).unwrap();
    }
    fs::write(root.join("data").join(table), input).unwrap();
    bounded(input, || {
        let config = loradeck::config::load(&config, &[]).unwrap().config;
        if let Ok(set) = loradeck::data::images::load(&config, &|_, _| {}) {
            for item in &set.items {
                assert!(item.path.starts_with(root.join("data")), "{item:?}");
            }
            drop(set.statistics(None));
        }
    });
}

/// A `metadata.csv` of captions.
pub fn image_csv(input: &[u8]) {
    captioned("metadata.csv", input);
}

/// A `metadata.jsonl` of captions.
pub fn image_jsonl(input: &[u8]) {
    captioned("metadata.jsonl", input);
}

/// A grey PNG of one pixel.
const PIXEL: &[u8] = b"\
    \x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x01\
    \x00\x00\x00\x01\x08\x00\x00\x00\x00\x3a\x7e\x9b\x55\x00\x00\x00\x0a\x49\x44\x41\
    \x54\x78\x9c\x63\x68\x00\x00\x00\x82\x00\x81\x77\xcd\x72\xb6\x00\x00\x00\x00\x49\
    \x45\x4e\x44\xae\x42\x60\x82";

/// A Stable Diffusion checkpoint in a single file.
pub fn diffusion(input: &[u8]) {
    let path = scratch().join("image-base.safetensors");
    fs::write(&path, input).unwrap();
    bounded(input, || {
        drop(loradeck::model::diffusion::Source::open(
            path.to_str().unwrap(),
        ));
    });
}

/// CLIP's `merges.txt`, and what it makes of a text.
pub fn clip_merges(input: &[u8]) {
    let folder = folder_of("clip", "diffusion/tokenizer");
    fs::write(folder.join("merges.txt"), input).unwrap();
    bounded(input, || {
        if let Ok(tokenizer) = loradeck::model::diffusion::open_clip_tokenizer(&folder) {
            drop(tokenizer.chunks("a photo of a cat, 你好  ", 3));
        }
    });
}

pub type Parser = (&'static str, fn(&[u8]));

pub const PARSERS: [Parser; 17] = [
    ("safetensors", safetensors),
    ("gguf", gguf),
    ("ggml", ggml),
    ("template", template),
    ("tokenizer", tokenizer),
    ("config", config),
    ("csv", csv),
    ("jsonl", jsonl),
    ("protocol", protocol),
    ("adapter", adapter),
    ("adapter_gguf", adapter_gguf),
    ("adapter_config", adapter_config),
    ("image", image),
    ("image_csv", image_csv),
    ("image_jsonl", image_jsonl),
    ("diffusion", diffusion),
    ("clip_merges", clip_merges),
];
