//! Whole folders of images that the tests draw.

use std::fs;

use image::{DynamicImage, ImageFormat, Rgb as Pixel, RgbImage, Rgba, RgbaImage};

use super::*;
use crate::config;
use crate::protocol::{DataStatistics, Finding, Severity};

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

#[test]
fn each_convention_gives_its_caption_and_says_so() {
    let set = Set::new();
    for name in [
        "a.png",
        "b.png",
        "c.jpg",
        "sub/d.png",
        "12_sks dog/e.png",
        "f.png",
        "g.png",
    ] {
        set.write(
            name,
            drawing(
                128,
                128,
                name.len() as u32,
                match name.ends_with("jpg") {
                    true => ImageFormat::Jpeg,
                    false => ImageFormat::Png,
                },
            ),
        );
    }
    set.write(
        "metadata.csv",
        "file_name,text\r\na.png,\"from, the table\"\r\nsub/d.png,from above\r\n",
    );
    set.write("b.txt", "\u{feff}beside\nin two lines\n");
    set.write("c.caption", "a caption file");
    set.write(
        "sub/metadata.jsonl",
        "{\"filename\": \"d.png\", \"prompt\": \"from its own folder\"}\n",
    );
    set.write("f.png.txt", "with the whole name");
    let data = set.load("");
    let told: Vec<(&str, &str, String, u32)> = data
        .items
        .iter()
        .map(|i| {
            (
                i.name.as_str(),
                i.caption.as_str(),
                i.source.place(),
                i.repeats,
            )
        })
        .collect();
    let line = |name, caption, place: &str, repeats| (name, caption, place.to_owned(), repeats);
    assert_eq!(
        told,
        [
            line("12_sks dog/e.png", "sks dog", "12_sks dog", 12),
            line("a.png", "from, the table", "metadata.csv:2", 1),
            line("b.png", "beside in two lines", "b.txt", 1),
            line("c.jpg", "a caption file", "c.caption", 1),
            line("f.png", "with the whole name", "f.png.txt", 1),
            line("g.png", "", "", 1),
            line(
                "sub/d.png",
                "from its own folder",
                "sub/metadata.jsonl:1",
                1
            ),
        ]
    );
    let statistics = data.statistics(None);
    let without = named(&statistics, "without_caption");
    assert_eq!(
        (without.severity, names(without)),
        (Severity::Warning, vec!["g.png"])
    );
    assert_eq!(names(named(&statistics, "captions_differ")), ["sub/d.png"]);
    let images = statistics.images.unwrap();
    assert_eq!(images.captions[".txt beside the image"], 2);
    assert_eq!(images.rows, 18);
}

#[test]
fn rows_and_files_that_fit_nothing_are_listed_and_never_leave_the_folder() {
    let set = Set::new();
    set.draw("a.png", 128, 128, 1);
    set.draw("b.png", 128, 128, 2);
    fs::write(
        set.folder.path().join("secret.png"),
        drawing(8, 8, 0, ImageFormat::Png),
    )
    .unwrap();
    set.write(
        "metadata.csv",
        "file,caption\na.png,one\na.png,another\nb,by its stem\n../secret.png,x\n\
         /etc/passwd,x\ngone.png,x\n,x\n",
    );
    set.write("lonely.txt", "no image");
    set.write("old.tiff", "II");
    set.write("notes.docx", "");
    let data = set.load("");
    assert_eq!(data.items[1].caption, "by its stem");
    let statistics = data.statistics(None);
    let strays = named(&statistics, "caption_without_image");
    let mut lines = names(strays);
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "lonely.txt",
            "metadata.csv:5",
            "metadata.csv:6",
            "metadata.csv:7"
        ]
    );
    let of = |line: &str| {
        strays
            .items
            .iter()
            .find(|i| i.name.ends_with(line))
            .unwrap()
    };
    assert!(of(":5").detail.contains("outside"), "{strays:?}");
    assert!(of(":7").detail.contains("no such image"));
    assert_eq!(
        names(named(&statistics, "caption_rows_repeated")),
        ["a.png"]
    );
    assert_eq!(names(named(&statistics, "other_formats")), ["old.tiff"]);
    assert_eq!(names(named(&statistics, "other_files")), ["notes.docx"]);
    let unreadable = named(&statistics, "unreadable");
    assert_eq!(
        (unreadable.severity, names(unreadable)),
        (Severity::Wrong, vec!["metadata.csv:8"])
    );
}

#[test]
fn a_table_that_was_named_and_gives_nothing_is_an_error() {
    let set = Set::new();
    set.draw("a.png", 128, 128, 1);
    set.write("captions.csv", "name;words\na.png;x\n");
    let refusal = set.refused("metadata_path: ./data/captions.csv");
    assert!(
        refusal.contains("gives no caption") && refusal.contains("`name`"),
        "{refusal}"
    );
    set.write("captions.parquet", "x");
    assert!(
        set.refused("metadata_path: ./data/captions.parquet")
            .contains("not a .csv")
    );
    // One outside the data's folder names files relative to that.
    fs::write(
        set.folder.path().join("c.jsonl"),
        "{\"file\": \"a.png\", \"text\": \"t\"}\n",
    )
    .unwrap();
    let data = set.load("metadata_path: ./c.jsonl");
    assert_eq!(data.items[0].caption, "t");
}

#[test]
fn a_folder_without_images_says_what_it_holds() {
    let set = Set::new();
    set.write("a.heic", "x");
    let refusal = set.refused("");
    assert!(
        refusal.contains("holds no image") && refusal.contains("a.heic"),
        "{refusal}"
    );
    set.write("b.png", "");
    assert!(set.refused("").contains("b.png: the file is empty"));
}

/// A PNG's header that claims so many pixels, without any.
fn claims(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = drawing(1, 1, 0, ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = png_crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn png_crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0xEDB8_8320 & 0u32.wrapping_sub(c & 1))
        })
    })
}

#[test]
fn what_cannot_be_trained_on_is_refused_by_name() {
    let reason = |bytes: &[u8]| decode::decode(bytes).unwrap_err();
    assert!(reason(&claims(60_000, 60_000)).contains("60000x60000"));
    assert!(reason(b"%PDF-1.7").contains("no PNG"));
    let png = drawing(64, 64, 3, ImageFormat::Png);
    assert!(reason(&png[..png.len() / 2]).contains("damaged"));
    let jpeg = drawing(64, 64, 3, ImageFormat::Jpeg);
    assert!(reason(&jpeg[..100]).contains("damaged"));

    // The number of components in a JPEG's frame header makes it CMYK.
    let mut cmyk = jpeg.clone();
    let frame = cmyk.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    cmyk[frame + 9] = 4;
    assert!(reason(&cmyk).contains("CMYK"));

    let frame = || image::Frame::new(RgbaImage::from_pixel(8, 8, Rgba([9, 9, 9, 255])));
    let gif = |frames: usize| {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
        encoder.encode_frames((0..frames).map(|_| frame())).unwrap();
        drop(encoder);
        bytes
    };
    assert!(reason(&gif(2)).contains("animation"));
    assert_eq!(decode::decode(&gif(1)).unwrap().pixels.width, 8);
}

#[test]
fn every_format_gives_the_same_picture() {
    let expected = pattern(40, 30, 5);
    for format in [
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::WebP,
        ImageFormat::Jpeg,
    ] {
        let decoded = decode::decode(&drawing(40, 30, 5, format)).unwrap().pixels;
        assert_eq!((decoded.width, decoded.height), (40, 30));
        let apart: u64 = decoded
            .data
            .iter()
            .zip(expected.as_raw())
            .map(|(a, b)| u64::from(a.abs_diff(*b)))
            .sum();
        let mean = apart as f64 / decoded.data.len() as f64;
        assert!(
            mean <= if format == ImageFormat::Jpeg {
                12.0
            } else {
                0.0
            },
            "{format:?}: {mean}"
        );
    }
}

#[test]
fn transparency_lies_over_white_and_sixteen_bits_become_eight() {
    let half = RgbaImage::from_fn(2, 1, |x, _| Rgba([200, 0, 0, if x == 0 { 0 } else { 128 }]));
    let decoded = decode::decode(&encoded(&half.into(), ImageFormat::Png)).unwrap();
    assert!(decoded.transparent);
    assert_eq!(decoded.pixels.data[..3], [255, 255, 255]);
    assert_eq!(decoded.pixels.data[3..], [227, 127, 127]);
    let deep =
        image::ImageBuffer::<Pixel<u16>, Vec<u16>>::from_pixel(1, 1, Pixel([65535, 32768, 0]));
    let decoded = decode::decode(&encoded(&deep.into(), ImageFormat::Png)).unwrap();
    assert_eq!(decoded.pixels.data, [255, 128, 0]);
    let grey = image::GrayImage::from_pixel(1, 1, image::Luma([77]));
    let decoded = decode::decode(&encoded(&grey.into(), ImageFormat::Png)).unwrap();
    assert_eq!(decoded.pixels.data, [77, 77, 77]);
}

#[test]
fn exif_turns_an_image_upright() {
    // Left half red, right half blue; "6": turned a quarter clockwise for viewing.
    let sideways = RgbImage::from_fn(32, 16, |x, _| {
        Pixel(if x < 16 { [255, 0, 0] } else { [0, 0, 255] })
    });
    let jpeg = encoded(&sideways.into(), ImageFormat::Jpeg);
    let mut exif =
        b"Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
    let length = (exif.len() + 2) as u16;
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xFF, 0xE1]);
    bytes.extend(length.to_be_bytes());
    bytes.append(&mut exif);
    bytes.extend(&jpeg[2..]);
    let decoded = decode::decode(&bytes).unwrap();
    assert!(decoded.turned);
    assert_eq!((decoded.pixels.width, decoded.pixels.height), (16, 32));
    let (first, last) = (
        &decoded.pixels.data[..3],
        &decoded.pixels.data[16 * 31 * 3..][..3],
    );
    assert!(first[0] > 200 && first[2] < 60, "red on top: {first:?}");
    assert!(last[2] > 200 && last[0] < 60, "blue below: {last:?}");
}

#[test]
fn an_item_is_scaled_to_its_bucket_cut_from_the_middle_and_mirrored() {
    let set = Set::new();
    // 300x200 in a bucket: the middle column is white, left of it black, right of it red.
    let image = RgbImage::from_fn(300, 200, |x, _| match x {
        0..=149 => Pixel([0, 0, 0]),
        _ => Pixel([255, 0, 0]),
    });
    set.write("a.png", encoded(&image.into(), ImageFormat::Png));
    let data = set.load("buckets: false\nflip_aug: true");
    let placement = data.items[0].placement;
    assert_eq!(placement.bucket, (128, 128));
    assert_eq!(placement.resized, (192, 128));
    assert_eq!(placement.crop, (32, 0));
    let plain = data.decode(0, false).unwrap();
    assert_eq!((plain.original, plain.crop), ((300, 200), (32, 0)));
    assert_eq!(plain.data.len(), 128 * 128 * 3);
    assert_eq!(plain.data[..3], [-1.0, -1.0, -1.0]);
    assert_eq!(plain.data[127 * 3..128 * 3], [1.0, -1.0, -1.0]);
    let mirrored = data.decode(0, true).unwrap();
    assert_eq!(mirrored.data[..3], [1.0, -1.0, -1.0]);
    assert_ne!(
        Cache::at(None).get(&data.latent_key(0, true, b"vae")),
        Some(Vec::new())
    );
    // About half of the turns are mirrored, the same ones each time.
    let flips: Vec<bool> = (0..400)
        .map(|draw| data.flipped(Row { item: 0, draw }))
        .collect();
    let share = flips.iter().filter(|f| **f).count();
    assert!((150..250).contains(&share), "{share}");
    let again = set.load("buckets: false\nflip_aug: true");
    assert!((0..400).all(|draw| again.flipped(Row { item: 0, draw }) == flips[draw as usize]));
    // Another image under the same name is noticed.
    set.draw("a.png", 100, 100, 1);
    assert!(
        data.decode(0, false)
            .unwrap_err()
            .to_string()
            .contains("changed")
    );
}

#[test]
fn captions_are_shuffled_dropped_and_led_by_the_trigger_word() {
    let set = Set::new();
    set.draw("a.png", 128, 128, 1);
    set.write("a.txt", "one, two, three, four, five");
    set.draw("b.png", 128, 128, 2);
    set.write("b.txt", "grass, Sks Dog");
    set.draw("c.png", 128, 128, 3);
    let rows = |data: &ImageDataset| -> Vec<String> {
        (0..200)
            .map(|draw| data.caption(Row { item: 0, draw }))
            .collect()
    };
    let plain = set.load("");
    assert!(
        rows(&plain)
            .iter()
            .all(|c| c == "one, two, three, four, five")
    );

    let shuffled = set.load("shuffle_caption: true\nkeep_tokens: 2");
    let captions = rows(&shuffled);
    assert!(
        captions
            .iter()
            .all(|c| c.starts_with("one, two, ") && c.len() == captions[0].len())
    );
    let distinct: std::collections::HashSet<&String> = captions.iter().collect();
    assert_eq!(distinct.len(), 6, "{distinct:?}");
    assert_eq!(
        rows(&set.load("shuffle_caption: true\nkeep_tokens: 2")),
        captions
    );

    let dropped = set.load("caption_dropout: 0.25");
    let empty = rows(&dropped).iter().filter(|c| c.is_empty()).count();
    assert!((25..80).contains(&empty), "{empty}");

    let led = set.load("trigger_word: sks dog\nshuffle_caption: true");
    assert!(rows(&led).iter().all(|c| c.starts_with("sks dog, ")));
    assert_eq!(led.plain_caption(1), "grass, Sks Dog");
    assert_eq!(led.plain_caption(2), "sks dog");
}

#[test]
fn regularisation_images_have_as_many_turns_as_the_training() {
    let set = Set::new();
    for i in 0..3 {
        set.draw(&format!("5_sks/{i}.png"), 128, 128, i);
    }
    for i in 0..4 {
        let path = set.folder.path().join(format!("reg/1_dog/{i}.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, drawing(128, 128, 20 + i, ImageFormat::Png)).unwrap();
    }
    let data = set.load("reg_data_dir: ./reg\ntrigger_word: sks");
    let repeats: Vec<(bool, u32)> = data
        .items
        .iter()
        .map(|i| (i.regularization, i.repeats))
        .collect();
    // 15 turns, dealt to four images in turn: as kohya's loop does.
    assert_eq!(repeats[3..], [(true, 4), (true, 4), (true, 4), (true, 3)]);
    assert_eq!(data.plain_caption(3), "dog");
    let statistics = data.statistics(None);
    let images = statistics.images.unwrap();
    assert_eq!(
        (images.images, images.regularization, images.rows),
        (3, 4, 30)
    );
    let config = set.config("reg_data_dir: ./reg");
    assert_eq!(ImageBatches::of(&config, &data).rows(), 30);
    let few = set.load("reg_data_dir: ./reg").items.len();
    assert_eq!(few, 7);
}

#[test]
fn held_out_images_have_no_turn_and_hand_excluded_ones_are_none() {
    let set = Set::new();
    for i in 0..10 {
        set.draw(&format!("{i}.png"), 128, 128, i);
    }
    set.write(EXCLUDED_FILE, "# by hand\n3.png\ngone.png\n");
    let config = set.config("eval_split: 2");
    let data = load(&config, &|_, _| {}).unwrap();
    assert_eq!(
        (data.items.len(), data.held_out.len(), data.excluded.len()),
        (9, 2, 1)
    );
    assert!(data.items.iter().all(|i| i.name != "3.png"));
    let batches = ImageBatches::of(&config, &data);
    assert_eq!(batches.rows(), 7);
    let statistics = data.statistics(None);
    assert_eq!((statistics.train_records, statistics.eval_records), (7, 2));
    assert_eq!(names(named(&statistics, "excluded")), ["3.png"]);
    let preview = data.preview(None, 3, 1);
    assert_eq!(
        (preview[0].origin.as_str(), preview[0].split.as_str()),
        ("3.png", "excluded")
    );
}

/// Every finding of a set with planted faults, and none but those.
#[test]
fn the_report_finds_the_planted_faults_and_nothing_else() {
    let set = Set::new();
    for i in 0..20 {
        set.draw(&format!("p{i:02}.png"), 160, 160, i);
        set.write(&format!("p{i:02}.txt"), format!("sks, style, tag{i}"));
    }
    // The same file again; the same picture in another size; one that is too small; one of
    // another kind; one far too wide; one with a long caption.
    fs::copy(set.data().join("p03.png"), set.data().join("q_copy.png")).unwrap();
    set.write("q_copy.txt", "sks, style, other");
    let again = image::imageops::resize(
        &pattern(160, 160, 7),
        140,
        140,
        image::imageops::FilterType::Triangle,
    );
    set.write("q_near.png", encoded(&again.into(), ImageFormat::Png));
    set.write("q_near.txt", "sks, style, tag7");
    set.draw("q_small.png", 60, 60, 33);
    set.write("q_small.txt", "sks, style, small");
    let black = RgbImage::from_fn(160, 160, |x, y| {
        Pixel([if (x / 2 + y / 2) % 2 == 0 { 255 } else { 0 }; 3])
    });
    set.write("q_stray.png", encoded(&black.into(), ImageFormat::Png));
    set.write("q_stray.txt", "a photo of a car");
    set.draw("q_wide.png", 900, 130, 34);
    set.write("q_wide.txt", "sks, style, wide");
    set.draw("q_long.png", 160, 160, 35);
    set.write("q_long.txt", format!("sks, style{}", ", word".repeat(100)));
    let words = |caption: &str| caption.split([' ', ',']).filter(|w| !w.is_empty()).count();
    let statistics = set
        .load("trigger_word: sks\nbatch_size: 1")
        .statistics(Some(&words));
    let mut kinds: Vec<(&str, Vec<&str>)> = statistics
        .findings
        .iter()
        .map(|f| (f.kind.as_str(), names(f)))
        .collect();
    kinds.sort();
    assert_eq!(
        kinds,
        [
            ("captions_cut", vec!["q_long.png"]),
            ("cropped", vec!["q_wide.png"]),
            ("exact_duplicates", vec!["q_copy.png"]),
            ("near_duplicates", vec!["q_near.png"]),
            ("strays", vec!["q_stray.png"]),
            ("tags_with_trigger", vec!["style"]),
            ("too_small", vec!["q_small.png"]),
            ("trigger_missing", vec!["q_stray.png"]),
        ],
        "{:#?}",
        statistics.findings
    );
    for finding in &statistics.findings {
        assert!(!finding.remedy.is_empty() && finding.count == finding.items.len() as u64);
        assert!(finding.severity < Severity::Wrong);
    }
    assert_eq!(statistics.images.unwrap().tags[0], ("sks".to_owned(), 25));
}

#[test]
fn a_set_without_any_caption_is_wrong() {
    let set = Set::new();
    for i in 0..6 {
        set.draw(&format!("{i}.png"), 128, 128, i);
    }
    let severity = |more: &str| named(&set.load(more).statistics(None), "without_caption").severity;
    assert_eq!(severity(""), Severity::Wrong);
    assert_eq!(severity("trigger_word: sks"), Severity::Note);
    set.write("metadata.csv", "file_name,text\nother.png,x\n");
    let statistics = set.load("").statistics(None);
    assert_eq!(
        named(&statistics, "caption_without_image").severity,
        Severity::Wrong
    );
}

#[test]
fn edits_are_written_where_captions_came_from_and_can_be_undone() {
    use crate::protocol::DataEdit;
    let set = Set::new();
    for name in ["a.png", "b.png", "c.png", "d.png", "2_dog/e.png"] {
        set.draw(name, 64, 64, name.len() as u32);
    }
    let table = "file_name;note;text\r\na.png;keep;\"old, \"\"quoted\"\", sky\"\r\ngone.png;;x\r\n";
    set.write("metadata.csv", table);
    let lines = "{\"x\":1,\"file\":\"b.png\",\"prompt\":\"old, sky\"}\n\n{\"file\":\"none.png\",\"prompt\":\"y\"}\n";
    fs::create_dir(set.data().join("m")).unwrap();
    set.write("metadata.jsonl", lines);
    set.write("c.caption", "old and Sky, sky\n");
    let config = set.config("");
    let read = |name: &str| fs::read_to_string(set.data().join(name)).unwrap();
    let caption = |file: &str, caption: &str| DataEdit::Caption {
        file: file.into(),
        caption: caption.into(),
    };
    let say = |e: DataEdit| edit(&config, &e).map_err(|e| format!("{e:#}"));

    say(caption("a.png", "new; with, all")).unwrap();
    assert_eq!(
        read("metadata.csv"),
        "file_name;note;text\r\na.png;keep;\"new; with, all\"\r\ngone.png;;x\r\n"
    );
    assert_eq!(read("metadata.csv.bak"), table);
    say(caption("b.png", "new")).unwrap();
    assert_eq!(read("metadata.jsonl"), lines.replace("old, sky", "new"));
    // Without a caption, and with one of the folder's name, a file beside comes about.
    say(caption("d.png", "first\nline")).unwrap();
    say(caption("2_dog/e.png", "a dog")).unwrap();
    assert_eq!(
        (read("d.txt"), read("2_dog/e.txt")),
        ("first line\n".into(), "a dog\n".into())
    );
    for _ in 0..4 {
        say(DataEdit::Undo).unwrap();
    }
    assert_eq!(
        (read("metadata.csv"), read("metadata.jsonl")),
        (table.to_owned(), lines.to_owned())
    );
    assert!(!set.data().join("d.txt").exists());
    assert!(say(DataEdit::Undo).unwrap_err().contains("no edit to undo"));

    let done = say(DataEdit::Replace {
        find: "old".into(),
        replace: "new".into(),
    })
    .unwrap();
    assert!(
        done.contains("3 captions") && done.contains("3 files"),
        "{done}"
    );
    let done = say(DataEdit::RemoveTag { tag: "sky".into() }).unwrap();
    assert!(done.contains("3 captions"), "{done}");
    let captions: Vec<String> = set
        .load("")
        .items
        .iter()
        .map(|i| i.caption.clone())
        .collect();
    assert_eq!(
        captions,
        ["dog", "new, \"quoted\"", "new", "new and Sky", ""]
    );
    assert!(
        say(DataEdit::RemoveTag { tag: "sky".into() })
            .unwrap()
            .contains("nothing to change")
    );

    // What someone else changed after an edit is not overwritten by its undo.
    set.write("c.caption", "mine");
    assert!(say(DataEdit::Undo).unwrap_err().contains("c.caption"));
    assert_eq!(read("c.caption"), "mine");

    let exclude = |excluded| DataEdit::Exclude {
        file: "c.png".into(),
        excluded,
    };
    say(exclude(true)).unwrap();
    assert_eq!(set.load("").excluded[0].name, "c.png");
    say(exclude(false)).unwrap();
    assert!(set.load("").excluded.is_empty());
    assert!(
        say(caption("../secret.png", "x"))
            .unwrap_err()
            .contains("no image")
    );
}
