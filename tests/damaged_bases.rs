//! Bases that are missing, damaged or of another kind: always one sentence, never a panic, a huge
//! allocation or random weights.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use loradeck::error::exit_code;
use loradeck::model;
use loradeck::random::{Purpose, Stream};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The sentence of a base that must not open.
fn refusal(path: &Path) -> String {
    let error = model::describe(path.to_str().unwrap()).unwrap_err();
    assert_eq!(exit_code(&error), 2, "{error:#}");
    let text = format!("{error:#}");
    assert!(!text.contains('\n'), "{text}");
    text
}

/// A copy of a folder of files.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn what_is_not_a_base_is_told_what_is() {
    let temp = tempfile::tempdir().unwrap();
    assert!(refusal(&temp.path().join("absent")).contains("cannot be read"));
    assert!(refusal(temp.path()).contains("no config.json"));
    let other = temp.path().join("llama.ggmlv3.q4_0.bin");
    fs::write(&other, b"weights").unwrap();
    assert!(refusal(&other).contains("a GGML .bin file (ggjt v3) or builtin:tiny-llama"));
    let error = model::describe("builtin:tiny").err().unwrap().to_string();
    assert!(error.contains("builtin:tiny-llama"), "{error}");
}

#[test]
fn a_folder_that_lacks_something_is_told_what() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    copy(&fixtures().join("llama_rope_llama3"), folder);
    model::describe(folder.to_str().unwrap()).unwrap();
    assert!(
        model::open_tokenizer(folder.to_str().unwrap())
            .err()
            .unwrap()
            .to_string()
            .contains("no tokenizer.json")
    );
    let shard = folder.join("model-00002-of-00003.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refusal(folder).contains("damaged or incomplete"));
    fs::remove_file(&shard).unwrap();
    assert!(refusal(folder).contains("model-00002-of-00003.safetensors"));
    fs::write(&shard, &bytes).unwrap();
    let config = folder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    for (from, to, expected) in [
        (
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 4",
            "lacks the tensor",
        ),
        (
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 16000000",
            "only",
        ),
        (
            "\"intermediate_size\": 96",
            "\"intermediate_size\": 97",
            "of shape",
        ),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "the fixture has no {from}");
        fs::write(&config, changed).unwrap();
        let text = refusal(folder);
        assert!(text.contains(expected), "{text}");
    }
    fs::write(&config, &text).unwrap();
    fs::write(
        folder.join("model.safetensors.index.json"),
        "{\"weight_map\": {\"x\": \"../x\"}}",
    )
    .unwrap();
    assert!(refusal(folder).contains("not a file name"));
}

#[test]
fn a_gguf_cut_short_anywhere_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let bytes = fs::read(fixtures().join("gguf/tiny-q4_0.gguf")).unwrap();
    let path = temp.path().join("cut.gguf");
    for length in (0..bytes.len()).step_by(487).chain([bytes.len() - 1]) {
        fs::write(&path, &bytes[..length]).unwrap();
        let opened = model::open(path.to_str().unwrap(), &Device::Cpu, DType::F32);
        let error = opened
            .err()
            .unwrap_or_else(|| panic!("{length} bytes opened"));
        assert_eq!(exit_code(&error), 2, "{error:#}");
    }
}

#[test]
fn ggml_files_of_other_versions_are_told_how_to_convert_them() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("llama.ggml.bin");
    let version = |magic: &[u8], version: u32| [magic, &version.to_le_bytes()].concat();
    for (header, expected) in [
        (version(b"tjgg", 1), "ggjt of version 1"),
        (version(b"tjgg", 2), "ggjt of version 2"),
        (version(b"fmgg", 1), "ggmf"),
        (b"lmgg".to_vec(), "ggml without a version"),
    ] {
        fs::write(&path, header).unwrap();
        let text = refusal(&path);
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("convert_llama_ggml_to_gguf.py"), "{text}");
    }
    fs::write(&path, b"algg").unwrap();
    assert!(refusal(&path).contains("an adapter"));
}

#[test]
fn a_ggml_file_cut_short_anywhere_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let bytes = fs::read(fixtures().join("ggml/tiny.ggmlv3.bin")).unwrap();
    let path = temp.path().join("cut.bin");
    for length in (0..bytes.len()).step_by(487).chain([bytes.len() - 1]) {
        fs::write(&path, &bytes[..length]).unwrap();
        refusal(&path);
    }
}

/// Whatever a damaged header says, opening ends in a base or a sentence.
#[test]
fn headers_with_any_byte_changed_neither_panic_nor_exhaust_memory() {
    let temp = tempfile::tempdir().unwrap();
    for name in [
        "gguf/tiny-q4_0.gguf",
        "ggml/tiny.ggmlv3.bin",
        "llama_tied_gqa/model.safetensors",
    ] {
        let source = fixtures().join(name);
        let bytes = fs::read(&source).unwrap();
        let folder = temp.path().join(name.replace('/', "-"));
        fs::create_dir(&folder).unwrap();
        copy(source.parent().unwrap(), &folder);
        let file = folder.join(source.file_name().unwrap());
        let base = if name.ends_with(".safetensors") {
            &folder
        } else {
            &file
        };
        let mut stream = Stream::new(11, Purpose::Shuffle, 0, 0);
        for _ in 0..300 {
            let mut damaged = bytes.clone();
            for _ in 0..=stream.below(3) {
                let at = stream.below(9_000.min(bytes.len() as u32)) as usize;
                // Large lengths are the dangerous ones.
                damaged[at] = match stream.below(3) {
                    0 => 0xff,
                    1 => 0,
                    _ => stream.next_u32() as u8,
                };
            }
            fs::write(&file, damaged).unwrap();
            if let Err(error) = model::describe(base.to_str().unwrap()) {
                assert_eq!(exit_code(&error), 2, "{error:#}");
            }
        }
    }
}
