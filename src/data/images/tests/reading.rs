//! Captions by every convention, and what fits none.

use std::fs;

use image::ImageFormat;

use super::{Set, drawing, named, names};
use crate::protocol::Severity;

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
