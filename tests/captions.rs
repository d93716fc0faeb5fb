//! Captions against transformers, on tiny random models in the real ones' format
//! (`tests/tools/make_vision_fixtures.py`), and `loradeck label` as a person runs it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{Device, Tensor, safetensors};
use loradeck::data::{images, pixel_values};
use loradeck::generate::{EarlyStopping, SearchOptions, search};
use loradeck::model::{Blip, ClipVision, Preprocessing, Size, embed_texts};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vision")
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    safetensors::load(fixtures().join(name), &Device::Cpu).unwrap()
}

fn json(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixtures().join(name)).unwrap()).unwrap()
}

fn pictures() -> Vec<images::Rgb> {
    let paths = images::list(&fixtures().join("pictures")).unwrap();
    assert_eq!(paths.len(), 5);
    paths
        .iter()
        .map(|(_, path)| images::open(path).unwrap())
        .collect()
}

fn prepared(steps: &Preprocessing) -> Vec<Vec<f32>> {
    let pictures = pictures();
    let prepare = |p: &images::Rgb| pixel_values(p.width, p.height, &p.data, steps);
    pictures.iter().map(prepare).collect()
}

fn furthest(ours: &[f32], theirs: &Tensor) -> f32 {
    let theirs = theirs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(ours.len(), theirs.len());
    let pairs = ours.iter().zip(&theirs);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn pictures_are_resized_as_pillow_resizes_them_bit_for_bit() {
    let expected = tensors("pillow.safetensors");
    for (index, picture) in pictures().iter().enumerate() {
        for (width, height) in [(32, 32), (100, 17), (61, 80)] {
            let steps = Preprocessing {
                size: Size::Exact(width, height),
                crop: None,
                mean: [0.0; 3],
                std: [1.0; 3],
            };
            let values = pixel_values(picture.width, picture.height, &picture.data, &steps);
            let bytes: Vec<u8> = values.iter().map(|v| (v * 255.0).round() as u8).collect();
            let theirs = &expected[&format!("{index}_{width}x{height}")];
            let theirs = theirs.permute((2, 0, 1)).unwrap().flatten_all().unwrap();
            assert_eq!(
                bytes,
                theirs.to_vec1::<u8>().unwrap(),
                "{index} {width}x{height}"
            );
        }
    }
}

#[test]
fn models_get_the_numbers_that_transformers_gives_them() {
    let blip = Blip::open(&fixtures().join("blip"), &Device::Cpu).unwrap();
    let clip = ClipVision::open(&fixtures().join("clip"), &Device::Cpu).unwrap();
    for (steps, file) in [
        (blip.preprocessing(), "blip.safetensors"),
        (clip.preprocessing(), "clip.safetensors"),
    ] {
        let off = furthest(&prepared(steps).concat(), &tensors(file)["pixel_values"]);
        assert!(off < 1e-5, "{file}: {off}");
    }
}

fn options(given: &Value) -> SearchOptions {
    let number = |key: &str| given[key].as_f64();
    SearchOptions {
        beams: number("num_beams").unwrap_or(1.0) as usize,
        max_tokens: number("max_new_tokens").unwrap() as usize,
        min_tokens: number("min_new_tokens").unwrap_or(0.0) as usize,
        length_penalty: number("length_penalty").unwrap_or(1.0),
        early_stopping: match &given["early_stopping"] {
            Value::Bool(true) => EarlyStopping::Yes,
            Value::String(never) if never == "never" => EarlyStopping::Never,
            _ => EarlyStopping::No,
        },
        repetition_penalty: number("repetition_penalty").map_or(1.0, |p| p as f32),
        no_repeat_ngram: number("no_repeat_ngram_size").unwrap_or(0.0) as usize,
    }
}

#[test]
fn blip_speaks_as_in_transformers_greedily_and_with_beams_token_for_token() {
    let model = Blip::open(&fixtures().join("blip"), &Device::Cpu).unwrap();
    let pixels = prepared(model.preprocessing());
    let first: Vec<(usize, u32)> = (0..pixels.len()).map(|at| (at, model.begin())).collect();
    let logits = model.look(&pixels).unwrap().step(&first).unwrap();
    let off = furthest(&logits.concat(), &tensors("blip.safetensors")["logits"]);
    assert!(off < 1e-4, "{off}");
    let searches = json("blip.json");
    let searches = searches.as_array().unwrap();
    assert!(searches.len() >= 10);
    for case in searches {
        let mut prompt = vec![model.begin()];
        if let Some(begin) = case["begin"].as_str() {
            prompt.extend(model.encode(begin).unwrap());
        }
        let options = options(&case["options"]);
        let mut speech = model.look(&pixels).unwrap();
        let found = search(&mut speech, pixels.len(), &prompt, model.end(), &options).unwrap();
        for (ids, theirs) in found.iter().zip(case["captions"].as_array().unwrap()) {
            let ids = [&prompt[1..], ids].concat();
            let expected: Vec<u32> = serde_json::from_value(theirs["ids"].clone()).unwrap();
            assert_eq!(ids, expected, "{}", case["options"]);
            let text = model.decode(&ids).unwrap();
            assert_eq!(text, theirs["text"].as_str().unwrap().trim());
        }
        // What is looked at together is not mixed up.
        let mut speech = model.look(&pixels[2..3]).unwrap();
        let alone = search(&mut speech, 1, &prompt, model.end(), &options).unwrap();
        assert_eq!(alone[0], found[2]);
    }
}

#[test]
fn clip_puts_pictures_and_texts_where_transformers_puts_them() {
    let folder = fixtures().join("clip");
    let vision = ClipVision::open(&folder, &Device::Cpu).unwrap();
    let expected = json("clip.json");
    let texts: Vec<String> = serde_json::from_value(expected["texts"].clone()).unwrap();
    let embedded = embed_texts(&folder, &Device::Cpu, &texts).unwrap();
    let pictures = vision.embed(&prepared(vision.preprocessing())).unwrap();
    let theirs = tensors("clip.safetensors");
    assert!(furthest(&pictures.concat(), &theirs["image_embeds"]) < 1e-5);
    assert!(furthest(&embedded.concat(), &theirs["text_embeds"]) < 1e-5);
    assert!((f64::from(vision.scale()) - expected["scale"].as_f64().unwrap()).abs() < 1e-4);
    let similarities: Vec<Vec<f32>> =
        serde_json::from_value(expected["similarities"].clone()).unwrap();
    for (picture, row) in pictures.iter().zip(similarities) {
        for (text, theirs) in embedded.iter().zip(row) {
            let ours: f32 = picture.iter().zip(text).map(|(a, b)| a * b).sum();
            assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
        }
    }
}

fn label(arguments: &[&str], cache: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loradeck"))
        .arg("label")
        .args(arguments)
        .env("HF_HOME", cache)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// A folder with three of the pictures, one of them deeper.
fn some_pictures(folder: &Path) -> String {
    let pictures = folder.join("pictures");
    fs::create_dir_all(pictures.join("more")).unwrap();
    for (from, to) in [
        ("0.png", "a.png"),
        ("1.png", "b.png"),
        ("2.png", "more/c.png"),
    ] {
        fs::copy(fixtures().join("pictures").join(from), pictures.join(to)).unwrap();
    }
    pictures.display().to_string()
}

#[test]
fn a_folder_gets_captions_that_stay_until_they_are_to_be_overwritten() {
    let scratch = tempfile::tempdir().unwrap();
    let input = some_pictures(scratch.path());
    let table = scratch.path().join("out/metadata.csv");
    let model = fixtures().join("blip");
    let common = |more: &[&'static str]| {
        let mut all = vec![
            "--input".to_owned(),
            input.clone(),
            "--output".to_owned(),
            table.display().to_string(),
            "--model".to_owned(),
            model.display().to_string(),
            "--max-tokens".to_owned(),
            "14".to_owned(),
            "--beams".to_owned(),
            "1".to_owned(),
        ];
        all.extend(more.iter().map(|word| (*word).to_owned()));
        let words: Vec<&str> = all.iter().map(String::as_str).collect();
        label(&words, scratch.path())
    };
    let output = common(&["--prefix", "sks", "--batch-size", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("3 captions in"), "{}", said(&output));
    let text = fs::read_to_string(&table).unwrap();
    let greedy = json("blip.json")[0]["captions"].clone();
    let caption = |at: usize| greedy[at]["text"].as_str().unwrap().trim().to_owned();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    assert_eq!(reader.headers().unwrap(), vec!["file_name", "text"]);
    let rows: Vec<(String, String)> = reader.deserialize().map(Result::unwrap).collect();
    let expected: Vec<(String, String)> = ["a.png", "b.png", "more/c.png"]
        .iter()
        .enumerate()
        .map(|(at, name)| ((*name).to_owned(), format!("sks, {}", caption(at))))
        .collect();
    assert_eq!(rows, expected);

    // A row by hand stays, one that is gone comes back.
    let edited = text.replace(&format!("sks, {}", caption(1)), "by hand");
    let edited: Vec<&str> = edited
        .lines()
        .filter(|line| !line.starts_with("a.png"))
        .collect();
    fs::write(&table, edited.join("\n") + "\n").unwrap();
    let output = common(&[]);
    assert!(said(&output).contains("1 captions in"));
    let text = fs::read_to_string(&table).unwrap();
    assert!(
        text.contains("b.png,by hand") && text.contains("a.png,"),
        "{text}"
    );
    let output = common(&[]);
    assert!(
        said(&output).contains("all 3 images have captions"),
        "{}",
        said(&output)
    );
    let output = common(&["--overwrite"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!fs::read_to_string(&table).unwrap().contains("by hand"));
}

#[test]
fn captions_are_written_as_asked_and_by_clip_too() {
    let scratch = tempfile::tempdir().unwrap();
    let input = some_pictures(scratch.path());
    fs::write(Path::new(&input).join("broken.png"), b"no picture").unwrap();
    let model = fixtures().join("clip").display().to_string();
    let jsonl = scratch.path().join("m.jsonl").display().to_string();
    let arguments = ["--input", &input, "--output", &jsonl, "--model", &model];
    let output = label(&arguments, scratch.path());
    // The broken one is told, and the others are there.
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("broken.png"), "{}", said(&output));
    let text = fs::read_to_string(&jsonl).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(text.lines().all(|line| line.contains(" of ")), "{text}");
    let arguments = ["--input", &input, "--format", "txt", "--model", &model];
    let output = label(&arguments, scratch.path());
    assert!(
        Path::new(&input).join("more/c.txt").is_file(),
        "{}",
        said(&output)
    );
}

#[test]
fn what_cannot_be_done_is_one_sentence() {
    let scratch = tempfile::tempdir().unwrap();
    let input = some_pictures(scratch.path());
    let out = scratch.path().join("m.csv").display().to_string();
    for (arguments, expected) in [
        (
            vec!["--input", &input, "--output", &out],
            "blip-image-captioning-base",
        ),
        (vec!["--input", &input], "--output metadata.csv"),
        (vec!["--input", "/nowhere", "--output", &out], "/nowhere"),
        (
            vec!["--input", &input, "--output", &out, "--model", "src"],
            "config.json",
        ),
        (
            vec![
                "--input",
                &input,
                "--output",
                &out,
                "--model",
                "tests/fixtures/llama_tied_gqa",
            ],
            "type llama",
        ),
    ] {
        let output = label(&arguments, scratch.path());
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(expected), "{}", said(&output));
        assert!(!Path::new(&out).exists());
    }
}
