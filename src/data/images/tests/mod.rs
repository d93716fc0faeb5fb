//! Whole folders of images that the tests draw.

mod decoding;
mod edits;
mod reading;
mod report;
mod turns;

use std::fs;

use image::{DynamicImage, ImageFormat, Rgb as Pixel, RgbImage};

use super::*;
use crate::config;
use crate::protocol::{DataStatistics, Finding};

/// A folder of images and a config that trains on them.
struct Set {
    folder: tempfile::TempDir,
}

impl Set {
    fn new() -> Self {
        let set = Set {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(set.data()).unwrap();
        fs::write(set.folder.path().join("base.safetensors"), "").unwrap();
        set
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.data().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A drawing that `kind` alone decides.
    fn draw(&self, name: &str, width: u32, height: u32, kind: u32) {
        self.write(name, drawing(width, height, kind, ImageFormat::Png));
    }

    fn config(&self, more: &str) -> RunConfig {
        let root = self.folder.path().display();
        let path = self.folder.path().join("run.yaml");
        let yaml = format!(
            "base_model: {root}/base.safetensors\ntrain_data_dir: {root}/data\n\
             resolution: 128\n{more}\n"
        );
        let yaml = match more.contains("eval_split") {
            true => yaml,
            false => yaml + "eval_split: 0\n",
        };
        fs::write(&path, yaml.replace("./", &format!("{root}/"))).unwrap();
        config::load(&path, &[]).unwrap().config
    }

    fn load(&self, more: &str) -> ImageDataset {
        load(&self.config(more), &|_, _| {}).unwrap()
    }

    fn refused(&self, more: &str) -> String {
        match load(&self.config(more), &|_, _| {}) {
            Ok(_) => panic!("loaded"),
            Err(e) => {
                assert_eq!(crate::error::exit_code(&e), 2);
                format!("{e:#}").replace(&format!("{}/", self.folder.path().display()), "./")
            }
        }
    }
}

/// Bars whose number, direction and colours follow from `kind`.
fn pattern(width: u32, height: u32, kind: u32) -> RgbImage {
    let colour = |n: u32| {
        Pixel([
            40 + (n * 53 % 160) as u8,
            40 + (n * 97 % 160) as u8,
            40 + (n * 31 % 160) as u8,
        ])
    };
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (x * 1000 / width, y * 1000 / height);
        let along = match kind % 3 {
            0 => u,
            1 => v,
            _ => (u + v) / 2,
        };
        let wave = (along * (2 + kind % 5) + kind * 137) % 1000;
        let mut pixel = colour(kind + u32::from(wave < 500));
        pixel.0[1] = pixel.0[1].saturating_add((along / 20) as u8);
        pixel
    })
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn drawing(width: u32, height: u32, kind: u32, format: ImageFormat) -> Vec<u8> {
    encoded(&pattern(width, height, kind).into(), format)
}

fn named<'a>(statistics: &'a DataStatistics, kind: &str) -> &'a Finding {
    let found = statistics.findings.iter().find(|f| f.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {:#?}", statistics.findings))
}

fn names(finding: &Finding) -> Vec<&str> {
    finding.items.iter().map(|i| i.name.as_str()).collect()
}

/// An image of nothing, by its name alone.
pub(super) fn item(name: &str) -> ImageItem {
    ImageItem {
        path: name.into(),
        name: name.to_owned(),
        caption: String::new(),
        source: CaptionSource::None,
        repeats: 1,
        class: None,
        regularization: false,
        placement: Placement::default(),
        content: name.to_owned(),
        facts: Facts {
            size: (64, 64),
            transparent: false,
            turned: false,
            look: Look {
                hash: (0, 0),
                features: Vec::new(),
            },
        },
    }
}
