//! The report on images that a CLIP looks at (`clip_model`): its answers against transformers
//! (`tests/tools/make_question_fixtures.py`), and `loradeck check` as a person runs it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{Device, Tensor, safetensors};
use image::{Rgb, RgbImage};
use loradeck::data::images::{self, Questions};
use loradeck::data::pixel_values;
use loradeck::model::{ClipVision, embed_texts, unit};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vision")
}

#[test]
fn clip_answers_questions_about_images_as_in_transformers() {
    let folder = fixtures().join("clip");
    let vision = ClipVision::open(&folder, &Device::Cpu).unwrap();
    let questions = Questions::open(&folder, &Device::Cpu, vision.scale()).unwrap();
    let pictures = images::list(&fixtures().join("pictures")).unwrap();
    let pixels: Vec<Vec<f32>> = pictures
        .iter()
        .map(|(_, path)| {
            let picture = images::open(path).unwrap();
            let steps = vision.preprocessing();
            pixel_values(picture.width, picture.height, &picture.data, steps)
        })
        .collect();
    let pictures = vision.embed(&pixels).unwrap();
    let text = fs::read_to_string(fixtures().join("questions.json")).unwrap();
    let expected: HashMap<String, Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(expected.len(), 4);
    for (question, expected) in expected {
        let shares: Vec<Vec<f32>> = serde_json::from_value(expected["shares"].clone()).unwrap();
        assert_eq!(shares.len(), pictures.len());
        for (picture, shares) in pictures.iter().zip(shares) {
            let ours = questions.ask(&question, picture);
            let names: Vec<&str> = ours.iter().map(|(name, _)| *name).collect();
            assert_eq!(Value::from(names), expected["answers"]);
            for ((name, ours), theirs) in ours.iter().zip(shares) {
                assert!((ours - theirs).abs() < 1e-4, "{name}: {ours} {theirs}");
            }
        }
    }
}

/// A set of drawings that are much alike and one that is not, with a config.
struct Set {
    folder: tempfile::TempDir,
}

impl Set {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        for i in 0..12u8 {
            let image = RgbImage::from_fn(64, 64, |x, y| {
                let inside =
                    (x as i32 - 32).pow(2) + (y as i32 - 32).pow(2) < 300 + 10 * i32::from(i);
                Rgb(if inside {
                    [200, 60 + i, 30]
                } else {
                    [90, 120, 150 + 2 * i]
                })
            });
            image.save(data.join(format!("disc_{i:02}.png"))).unwrap();
        }
        let stray = RgbImage::from_fn(64, 64, |x, y| {
            Rgb(if (x / 2 + y / 2) % 2 == 0 {
                [255; 3]
            } else {
                [0; 3]
            })
        });
        stray.save(data.join("stray.png")).unwrap();
        Set { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn check(&self, clip: &str, more: &[&str]) -> Output {
        let config = self.path("run.yaml");
        let yaml = format!(
            "base_model: builtin:tiny-sd\ntrain_data_dir: {}\ntrigger_word: disc\nresolution: 64\n\
             max_steps: 1\neval_split: 0\noutput_dir: {}\n{clip}\n",
            self.path("data").display(),
            self.path("output").display()
        );
        fs::write(&config, yaml).unwrap();
        Command::new(env!("CARGO_BIN_EXE_loradeck"))
            .arg("check")
            .arg(&config)
            .args(more)
            .env("LORADECK_CACHE", self.path("cache"))
            .env("HF_HOME", self.path("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .unwrap()
    }

    fn findings(&self, clip: &str) -> HashMap<String, Value> {
        let output = self.check(clip, &["--json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
        // Whatever CLIP sees, it does not make training wrong.
        assert_eq!(output.status.code(), Some(0), "{text}");
        let findings = report["data"]["statistics"]["findings"].clone();
        let findings: Vec<Value> = serde_json::from_value(findings).unwrap();
        let with_kind = |f: Value| (f["kind"].as_str().unwrap().to_owned(), f);
        findings.into_iter().map(with_kind).collect()
    }

    /// Files that the cache has, with their times.
    fn kept(&self) -> Vec<(PathBuf, std::time::SystemTime)> {
        let mut found = Vec::new();
        let mut folders = vec![self.path("cache/arrays")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.path().is_dir() {
                    true => folders.push(entry.path()),
                    false => {
                        let time = entry.metadata().unwrap().modified().unwrap();
                        found.push((entry.path(), time));
                    }
                }
            }
        }
        found.sort();
        found
    }
}

fn names(finding: &Value) -> Vec<&str> {
    let items = finding["items"].as_array().unwrap();
    items.iter().map(|i| i["name"].as_str().unwrap()).collect()
}

/// The tiny CLIP with every image put where `texts` lie: the tower's last norm gives ones, which the
/// projection turns into the texts' middle.
fn clip_that_sees(texts: &[String], to: &Path) {
    let from = fixtures().join("clip");
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let all = embed_texts(&from, &Device::Cpu, texts).unwrap();
    let sum = (0..all[0].len()).map(|at| all.iter().map(|v| v[at]).sum());
    let middle = unit(sum.collect());
    let mut tensors = safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    let width = tensors["visual_projection.weight"].dims()[1];
    let norm = "vision_model.post_layernorm";
    let zeros = Tensor::zeros(width, candle_core::DType::F32, &Device::Cpu).unwrap();
    let rows: Vec<f32> = middle.iter().flat_map(|x| vec![*x; width]).collect();
    let projection = Tensor::from_vec(rows, (middle.len(), width), &Device::Cpu).unwrap();
    tensors.insert(format!("{norm}.bias"), zeros.ones_like().unwrap());
    tensors.insert(format!("{norm}.weight"), zeros);
    tensors.insert("visual_projection.weight".into(), projection);
    safetensors::save(&tensors, to.join("model.safetensors")).unwrap();
}

#[test]
fn strays_are_told_by_clip_and_what_it_saw_is_kept() {
    let set = Set::new();
    assert!(!format!("{:?}", set.findings("")).contains("CLIP"));
    let clip = format!("clip_model: {}", fixtures().join("clip").display());
    let first = set.findings(&clip);
    assert_eq!(names(&first["strays"])[0], "stray.png");
    let detail = first["strays"]["items"][0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("CLIP distance 0."), "{detail}");
    assert_eq!(first["strays"]["severity"], "warning");
    assert!(!first.contains_key("views_lacking"), "{first:?}");
    let kept = set.kept();
    assert_eq!(kept.len(), 14, "an array an image, and the questions");
    assert_eq!(set.findings(&clip), first);
    assert_eq!(set.kept(), kept);
    // Another picture is looked at, the others are not.
    let again = set.path("data/disc_03.png");
    RgbImage::from_pixel(64, 64, Rgb([90, 120, 150]))
        .save(again)
        .unwrap();
    set.findings(&clip);
    assert_eq!(set.kept().len(), 15);
}

#[test]
fn a_characters_set_is_told_the_views_that_it_lacks() {
    let set = Set::new();
    let text = fs::read_to_string("src/data/images/questions.txt").unwrap();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("a person or character: "));
    let sentences: Vec<String> = line.unwrap().split(" | ").map(str::to_owned).collect();
    clip_that_sees(&sentences, &set.path("clip"));
    let findings = set.findings(&format!("clip_model: {}", set.path("clip").display()));
    let lacking = &findings["views_lacking"];
    // All images are seen alike, so there is one side and one framing at most.
    assert!(names(lacking).len() >= 2, "{lacking}");
    assert!(
        lacking.to_string().contains("in none of 13 images"),
        "{lacking}"
    );
    assert_eq!(lacking["severity"], "note");
    // Nothing strays from a set whose images are the same to CLIP, nor lies at an edge.
    assert!(!findings.contains_key("strays") && !findings.contains_key("off_centre"));
    let output = set.check(&format!("clip_model: {}", set.path("clip").display()), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("note: of the character"), "{text}");
    assert!(text.contains("clip_model"), "{text}");
}

#[test]
fn a_clip_that_is_none_is_a_sentence_at_its_key() {
    let set = Set::new();
    let blip = fixtures().join("blip").display().to_string();
    for (written, expected) in [
        ("./nowhere", "does not exist"),
        ("tests", "is no folder with a model's config.json"),
        ("openai/clip-vit-large-patch14", "HF_HUB_OFFLINE"),
        (&blip, "is not of a whole CLIP model"),
    ] {
        let output = set.check(&format!("clip_model: {written}"), &[]);
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
