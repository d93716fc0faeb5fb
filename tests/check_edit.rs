//! Captions mended before any run exists, in a real pseudo-terminal: `check --edit`, and home's key.

mod program;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use image::{Rgb, RgbImage};
use program::Scratch;
use program::terminal::Terminal;

/// Six pictures, two of them without a caption, and a config in `configs`.
fn set() -> (Scratch, PathBuf) {
    let scratch = Scratch::new("");
    let root = scratch.folder.path();
    let data = root.join("pictures");
    fs::create_dir(&data).unwrap();
    fs::create_dir(root.join("configs")).unwrap();
    for i in 0..6u8 {
        let image = RgbImage::from_fn(64, 64, |x, y| {
            Rgb([
                40 * i,
                (x * 4) as u8,
                if i % 2 == 0 { y as u8 * 3 } else { 10 },
            ])
        });
        image.save(data.join(format!("{i}.png"))).unwrap();
        if i > 1 {
            fs::write(
                data.join(format!("{i}.txt")),
                format!("a wall, number {i}\n"),
            )
            .unwrap();
        }
    }
    let yaml = format!(
        "base_model: builtin:tiny-sd\ntrain_data_dir: {}\noutput_dir: {}\nresolution: 64\n\
         eval_split: 0\nmax_steps: 2\ndevice: cpu\n",
        data.display(),
        root.join("output/walls").display()
    );
    fs::write(root.join("configs/walls.yaml"), yaml).unwrap();
    (scratch, data)
}

fn cached(scratch: &Scratch) -> String {
    scratch.folder.path().join("cache").display().to_string()
}

fn open(scratch: &Scratch, arguments: &[&str]) -> Terminal {
    let cache = cached(scratch);
    let environment = [("LORADECK_CACHE", cache.as_str())];
    Terminal::open_with(scratch, (120, 34), arguments, &environment)
}

/// Writes a caption for the picture that shows.
fn write_caption(terminal: &mut Terminal, file: &str, caption: &str) {
    terminal.keys("i");
    terminal.wait_for(&format!("caption of {file}"));
    terminal.keys(&format!("{caption}\r"));
    // Beside the picture stands where its caption comes from.
    terminal.wait_for(&file.replace(".png", ".txt"));
}

#[test]
fn captions_are_mended_before_a_run_exists_and_the_report_follows() {
    let (scratch, data) = set();
    let mut terminal = open(&scratch, &["check", "configs/walls.yaml", "--edit"]);
    terminal.wait_for("no run has begun");
    terminal.wait_for("2 images have no caption");
    write_caption(&mut terminal, "0.png", "a red wall");
    // What was found follows the edit.
    terminal.wait_for("1 image has no caption");
    assert_eq!(
        fs::read_to_string(data.join("0.txt")).unwrap(),
        "a red wall\n"
    );
    terminal.keys("l");
    terminal.wait_for("1.png");
    write_caption(&mut terminal, "1.png", "a second wall");
    terminal.wait_until("no finding", |screen| !screen.contains("no caption"));
    // What needs a runner says that there is none.
    terminal.keys("c");
    terminal.wait_for("loradeck train starts one");
    terminal.keys("q");
    assert_eq!(terminal.ends_within(Duration::from_secs(60)), 0);
    terminal.assert_restored();
    let report = terminal.contents();
    assert!(report.contains("start it with `loradeck train"), "{report}");
    assert!(!scratch.folder.path().join("output").exists());
}

#[test]
fn home_opens_a_configs_data_and_gets_it_back() {
    let (scratch, data) = set();
    let mut terminal = open(&scratch, &[]);
    terminal.wait_for("walls");
    terminal.keys("2");
    terminal.wait_for("its data");
    terminal.keys("v");
    terminal.wait_for("no run has begun");
    write_caption(&mut terminal, "0.png", "a red wall");
    assert!(data.join("0.txt").exists());
    terminal.keys("q");
    terminal.wait_for("configs");
    terminal.keys("q");
    assert_eq!(terminal.ends_within(Duration::from_secs(60)), 0);
    terminal.assert_restored();
}
