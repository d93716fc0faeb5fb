//! The report on whole sets.

use std::fs;

use image::{ImageFormat, Rgb as Pixel, RgbImage};

use super::{Set, encoded, named, names, pattern};
use crate::protocol::Severity;

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
