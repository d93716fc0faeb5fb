//! What a turn of an image is: its bucket, its caption, how often it comes.

use std::fs;

use image::{ImageFormat, Rgb as Pixel, RgbImage};

use super::super::{Cache, EXCLUDED_FILE, ImageBatches, ImageDataset, Row, load};
use super::{Set, drawing, encoded, named, names};

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
