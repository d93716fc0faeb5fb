//! Image runs in the deck: pictures with their captions, edited by hand, and samples that are pictures.

// Each test program uses its part of the story.
#[allow(dead_code)]
mod deck_story;
mod program;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deck_story::deck::Deck;
use loradeck::protocol::{
    BucketCount, Command, DataEdit, DataStatistics, EventKind, ImagePreview, ImageStatistics,
    PictureSource, Query, RecordPreview, RecordSegment, Reply, SampleText,
};
use loradeck::run::link::Update;
use loradeck::ui::app::{Action, Msg};
use loradeck::ui::theme::{Capabilities, ColorDepth};
use program::Scratch;
use program::terminal::Terminal;

fn statistics() -> DataStatistics {
    let bucket = |width, height, images| BucketCount {
        width,
        height,
        images,
        rows: images * 3,
    };
    DataStatistics {
        train_records: 80,
        images: Some(Box::new(ImageStatistics {
            images: 80,
            rows: 240,
            excluded: 1,
            captions: BTreeMap::from([("metadata.csv".into(), 78), ("no caption".into(), 2)]),
            resolution: 512,
            smallest: (400, 512),
            median: (768, 768),
            largest: (2048, 1536),
            upscaled: 3,
            buckets: vec![
                bucket(448, 576, 12),
                bucket(512, 512, 60),
                bucket(640, 384, 8),
            ],
            tags: vec![("sks style".into(), 78), ("outdoors".into(), 31)],
            distinct_tags: 140,
            ..ImageStatistics::default()
        })),
        ..DataStatistics::default()
    }
}

fn record(index: usize) -> RecordPreview {
    let excluded = index == 1;
    RecordPreview {
        index,
        origin: format!("3_sks/p{index:02}.png"),
        format: "metadata.csv".into(),
        tokens: 9,
        trained_tokens: 9,
        truncated: false,
        split: if excluded { "excluded" } else { "train" }.into(),
        segments: vec![RecordSegment {
            text: "sks style, a red house on a hill, outdoors".into(),
            trained: true,
        }],
        image: Some(ImagePreview {
            width: 768,
            height: 768,
            bucket: (512, 512),
            repeats: 3,
            caption_source: format!("metadata.csv:{}", index + 2),
            caption: "sks style, a red house on a hill, outdoors".into(),
            excluded,
        }),
    }
}

/// Sends an answer to a query as the link does.
fn answer(deck: &mut Deck, id: u64, query: Query, reply: Reply) {
    deck.send(Msg::Asked { id, query });
    deck.send(Msg::Update(Update::Reply { id, reply }));
}

/// A run on images, its data pane maximised.
fn with_images(size: (u16, u16), capabilities: Capabilities) -> Deck {
    let mut deck = Deck::running(size, capabilities, &deck_story::no_gpu());
    let data = deck.story.event(EventKind::Data {
        statistics: statistics(),
    });
    deck.event(data);
    deck.keys("6<enter>");
    let query = Query::Records { from: 0, count: 8 };
    let reply = Reply::Records {
        from: 0,
        total: 80,
        records: (0..8).map(record).collect(),
    };
    answer(&mut deck, 7000, query, reply);
    deck
}

fn full() -> Capabilities {
    Capabilities {
        depth: ColorDepth::True,
        unicode: true,
    }
}

/// The picture that the deck asked for last, red above blue.
fn picture(deck: &mut Deck) -> (u16, u16) {
    let asked = deck.actions.iter().rev().find_map(|action| match action {
        Action::Query(query @ Query::Picture { width, height, .. }) => {
            Some((query.clone(), *width, *height))
        }
        _ => None,
    });
    let (query, width, height) = asked.expect("a picture was asked for");
    let rows = (0..height).flat_map(|y| {
        let pixel = if y < height / 2 {
            [200, 30, 30]
        } else {
            [30, 30, 200]
        };
        pixel.repeat(usize::from(width))
    });
    let rgb = STANDARD.encode(rows.collect::<Vec<u8>>());
    answer(deck, 7001, query, Reply::Picture { width, height, rgb });
    (width, height)
}

#[test]
fn an_image_shows_with_its_caption_beside_the_statistics() {
    let mut deck = with_images((100, 30), full());
    let waiting = deck.screen();
    assert!(waiting.contains("fetching the picture"), "{waiting}");
    let (width, height) = picture(&mut deck);
    assert_eq!(width, height, "the image is a square");
    insta::assert_snapshot!(deck.screen());
    let buffer = deck.buffer();
    let blocks: Vec<_> = buffer
        .content
        .iter()
        .filter(|c| c.symbol() == "▀")
        .collect();
    assert_eq!(blocks.len(), usize::from(width) * usize::from(height) / 2);
    assert_eq!(blocks[0].fg, ratatui::style::Color::Rgb(200, 30, 30));
    assert_eq!(
        blocks[blocks.len() - 1].bg,
        ratatui::style::Color::Rgb(30, 30, 200)
    );
    // The one beside it is fetched when it shows, and that one only once.
    deck.actions.clear();
    deck.keys("l");
    let fetches: Vec<_> = deck
        .actions
        .iter()
        .filter(|a| {
            matches!(
                a,
                Action::Query(Query::Picture {
                    source: PictureSource::Record { index: 1 },
                    ..
                })
            )
        })
        .collect();
    assert_eq!(fetches.len(), 1);
}

#[test]
fn without_colours_a_picture_is_drawn_in_characters() {
    let plain = Capabilities {
        depth: ColorDepth::None,
        unicode: false,
    };
    let mut deck = with_images((80, 24), plain);
    picture(&mut deck);
    let screen = deck.screen();
    assert!(screen.is_ascii(), "{screen}");
    insta::assert_snapshot!(screen);
}

#[test]
fn a_picture_that_cannot_be_read_says_why() {
    let mut deck = with_images((100, 30), full());
    let asked = deck.actions.iter().find_map(|action| match action {
        Action::Query(query @ Query::Picture { .. }) => Some(query.clone()),
        _ => None,
    });
    let reply = Reply::Error {
        level: loradeck::protocol::Level::Error,
        message: "p00.png: it is damaged".into(),
    };
    answer(&mut deck, 7002, asked.unwrap(), reply);
    assert!(deck.screen().contains("p00.png: it is damaged"));
}

fn edits(deck: &mut Deck) -> Vec<DataEdit> {
    let edits = deck.actions.drain(..).filter_map(|action| match action {
        Action::Command(Command::EditData { edit }) => Some(edit),
        _ => None,
    });
    edits.collect()
}

#[test]
fn captions_are_edited_left_out_replaced_and_undone() {
    let mut deck = with_images((100, 30), full());
    deck.keys("i");
    assert!(deck.screen().contains("caption of 3_sks/p00.png"));
    deck.keys(", dusk<enter>");
    let file = || "3_sks/p00.png".to_owned();
    let caption = "sks style, a red house on a hill, outdoors, dusk".into();
    assert_eq!(
        edits(&mut deck),
        [DataEdit::Caption {
            file: file(),
            caption
        }]
    );
    deck.keys("X");
    assert_eq!(
        edits(&mut deck),
        [DataEdit::Exclude {
            file: file(),
            excluded: true
        }]
    );
    deck.keys("lX");
    let next = "3_sks/p01.png".to_owned();
    assert_eq!(
        edits(&mut deck),
        [DataEdit::Exclude {
            file: next,
            excluded: false
        }]
    );
    deck.keys("Rred<enter>");
    assert!(deck.screen().contains("replace `red` by"));
    deck.keys("green<enter>");
    let (find, replace) = ("red".into(), "green".into());
    assert_eq!(edits(&mut deck), [DataEdit::Replace { find, replace }]);
    deck.keys("Toutdoors<enter>");
    let tag = "outdoors".into();
    assert_eq!(edits(&mut deck), [DataEdit::RemoveTag { tag }]);
    deck.keys("u");
    assert_eq!(edits(&mut deck), [DataEdit::Undo]);
    // Left with Esc, nothing is sent.
    deck.keys("ixyz<esc>T<enter>R<esc>");
    assert_eq!(edits(&mut deck), []);
    // An answer has the records read anew: this story's runner has others. The second one shows.
    let ack = deck.story.event(EventKind::Ack {
        id: 1,
        sender: "somebody".into(),
        command: "undo".into(),
        ok: true,
        message: "undone".into(),
    });
    deck.event(ack);
    assert!(deck.screen().contains("train.jsonl:2"));
}

#[test]
fn captions_of_text_data_or_of_a_readonly_deck_stay_as_they_are() {
    let mut deck = Deck::training((100, 30));
    deck.keys("6<enter>XRTu");
    assert_eq!(edits(&mut deck), []);
    assert!(deck.screen().contains("no captions of images"));
    let mut deck = with_images((100, 30), full());
    deck.app.readonly = Some("of another version".into());
    deck.keys("iXRTu");
    assert_eq!(edits(&mut deck), []);
    assert!(deck.screen().contains("of another version"));
}

/// Two pictures a step: the bare base's at step 0, the adapter's beside it at 100 and 200.
fn sampled(size: (u16, u16), capabilities: Capabilities) -> Deck {
    let mut deck = with_images(size, capabilities);
    // The story's own samples are texts.
    deck.app.state.samples.clear();
    for step in [0, 100, 200] {
        let sample = |number: usize, prompt: &str| SampleText {
            prompt: prompt.into(),
            image: Some(format!("step-{step:06}-{number:02}.png")),
            base_image: (step > 0).then(|| format!("base-{number}.png")),
            ..SampleText::default()
        };
        let samples = vec![
            sample(0, "sks style, a lighthouse on a cliff --n blurry --d 7"),
            sample(1, "sks style, two boats"),
        ];
        let event = deck.story.event(EventKind::Sample {
            step,
            samples,
            seconds: 2.0,
        });
        deck.event(event);
    }
    deck.keys("7");
    deliver(&mut deck);
    deck
}

/// Files that the deck has asked for since the last look.
fn files_asked(deck: &mut Deck) -> Vec<(String, Query)> {
    let queries = deck.sent().into_iter().filter_map(|action| match action {
        Action::Query(query) => Some(query),
        _ => None,
    });
    let sample = |query: Query| match &query {
        Query::Picture {
            source: PictureSource::Sample { file },
            ..
        } => Some((file.clone(), query)),
        _ => None,
    };
    queries.filter_map(sample).collect()
}

/// The run answers for its samples: a band that lies the deeper the later the step; the base's has
/// none.
fn deliver(deck: &mut Deck) -> Vec<String> {
    let asked = files_asked(deck);
    let names = asked.iter().map(|(file, _)| file.clone()).collect();
    for (n, (file, query)) in asked.into_iter().enumerate() {
        let step: usize = file
            .strip_prefix("step-")
            .map_or(0, |rest| rest[..6].parse().unwrap());
        let side = 20;
        let rows = (0..side).flat_map(|y| {
            let band = step > 0 && (step / 20..step / 20 + 4).contains(&y);
            let pixel: [u8; 3] = if band { [250, 250, 240] } else { [40, 80, 90] };
            pixel.repeat(side)
        });
        let rgb = STANDARD.encode(rows.collect::<Vec<u8>>());
        let (width, height) = (side as u16, side as u16);
        let reply = Reply::Picture { width, height, rgb };
        answer(deck, 8000 + n as u64, query, reply);
    }
    names
}

#[test]
fn samples_that_are_pictures_stand_beside_the_bare_base_s() {
    for size in [(80, 24), (120, 40), (40, 12)] {
        let mut deck = sampled(size, full());
        insta::assert_snapshot!(format!("samples_{}x{}", size.0, size.1), deck.screen());
        deck.keys("<enter>");
        deliver(&mut deck);
        assert!(!deck.app.view.maximised);
        insta::assert_snapshot!(
            format!("samples_beside_{}x{}", size.0, size.1),
            deck.screen()
        );
    }
    let plain = Capabilities {
        depth: ColorDepth::None,
        unicode: false,
    };
    let deck = sampled((80, 24), plain);
    assert!(deck.screen().is_ascii(), "{}", deck.screen());
    insta::assert_snapshot!("samples_ascii", deck.screen());
    let mut deck = sampled((120, 40), full());
    deck.app.lang = loradeck::ui::lang::Lang::Chinese;
    insta::assert_snapshot!("samples_zh", deck.screen());
}

#[test]
fn another_step_s_pictures_are_asked_for_once_and_stand_beside() {
    let mut deck = sampled((120, 40), full());
    assert!(deck.screen().contains("bare base"), "{}", deck.screen());
    // The left side: the bare base, then the first step, then the second.
    let asked = [(); 2].map(|()| {
        deck.keys(">");
        deliver(&mut deck)
    });
    let of = |step: u32| [0, 1].map(|n| format!("step-{step:06}-{n:02}.png"));
    assert_eq!(asked, [of(0).to_vec(), of(100).to_vec()]);
    deck.keys("<lt>>");
    assert_eq!(files_asked(&mut deck), []);
    insta::assert_snapshot!("samples_against", deck.screen());
    // An earlier step.
    deck.keys("hh");
    let screen = deck.screen();
    assert!(
        screen.contains("step 0") && screen.contains("1/3"),
        "{screen}"
    );
}

#[test]
fn a_sample_whose_file_is_missing_says_so_and_one_written_anew_is_fetched_anew() {
    let mut deck = with_images((120, 40), full());
    deck.app.state.samples.clear();
    let sample = SampleText {
        prompt: "two boats".into(),
        image: Some("step-000100-00.png".into()),
        base_image: Some("base-0.png".into()),
        ..SampleText::default()
    };
    let event = |deck: &mut Deck, image: Option<String>| {
        let kind = EventKind::Sample {
            step: 100,
            samples: vec![SampleText {
                image,
                ..sample.clone()
            }],
            seconds: 2.0,
        };
        let event = deck.story.event(kind);
        deck.event(event);
    };
    event(&mut deck, sample.image.clone());
    deck.keys("7");
    let asked = files_asked(&mut deck);
    assert_eq!(asked.len(), 2);
    for (n, (file, query)) in asked.into_iter().enumerate() {
        let message = format!("{file}: no such file");
        let level = loradeck::protocol::Level::Error;
        answer(
            &mut deck,
            8100 + n as u64,
            query,
            Reply::Error { level, message },
        );
    }
    insta::assert_snapshot!("samples_missing", deck.screen());
    // As a runner does that went back to an earlier checkpoint.
    deck.app.state.samples.clear();
    event(&mut deck, sample.image.clone());
    let again: Vec<String> = files_asked(&mut deck).into_iter().map(|(f, _)| f).collect();
    assert_eq!(again, ["step-000100-00.png"]);
    // One that the disk had no room for.
    event(&mut deck, None);
    assert!(
        deck.screen().contains("was not written"),
        "{}",
        deck.screen()
    );
}

#[test]
fn a_typed_prompt_may_have_the_options_of_a_picture() {
    let mut deck = sampled((80, 24), full());
    deck.keys("S");
    assert!(deck.screen().contains("--d seed"), "{}", deck.screen());
    deck.keys("a fox --d 3<enter>");
    let prompt = Some("a fox --d 3".into());
    assert_eq!(deck.sent(), [Action::Command(Command::Sample { prompt })]);
}

#[test]
fn yank_copies_where_a_picture_lies() {
    let mut deck = sampled((120, 40), full());
    deck.keys("y");
    match deck.sent().pop() {
        Some(Action::Yank(text)) => {
            assert!(text.contains("/samples/step-000200-00.png"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

/// Cells of the screen that show a picture.
fn picture_cells(screen: &str) -> usize {
    screen.matches('▀').count()
}

#[test]
fn a_real_run_s_samples_show_while_it_trains_and_after_it_has_ended() {
    let scratch = Scratch::new("");
    let yaml = format!(
        "base_model: builtin:tiny-sd\ntrain_data_dir: {0}\nmetadata_path: {0}/metadata.csv\n\
         output_dir: {1}\ndevice: cpu\nresolution: 64\nlora_rank: 4\nbatch_size: 1\n\
         max_steps: 5000\nsave_steps: 1000\nsample_steps: 4\n\
         sample_prompts: [\"a red house --s 3 --l 4 --d 11\"]\n",
        program::repository().join("configs/demo_image").display(),
        scratch.run.display(),
    );
    std::fs::write(&scratch.config, yaml).unwrap();
    let run = scratch.run.to_str().unwrap();
    let config = scratch.config.to_str().unwrap();
    let mut deck = Terminal::open(&scratch, 120, 40, &["train", config]);
    deck.wait_for("training");
    deck.keys("7\r");
    deck.wait_until("both pictures", |s| {
        s.contains("bare base") && s.contains("with adapter") && picture_cells(s) > 800
    });
    deck.wait_for("seed 11");
    deck.keys("S");
    deck.wait_for("--d seed");
    deck.keys("a yellow star --s 3 --d 12\r");
    deck.wait_until("the picture of the typed prompt", |s| {
        s.contains("a yellow star") && s.contains("seed 12")
    });
    assert!(scratch.send(&["stop"]).status.success());
    scratch.wait_for_phase("stopped");
    deck.keys("q");
    deck.ends_within(Duration::from_secs(5));
    // Nothing but the folder is left; one picture's file is not.
    let mut samples: Vec<_> = std::fs::read_dir(scratch.run.join("samples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("/base-"))
        .collect();
    samples.sort();
    let mut deck = Terminal::open(&scratch, 120, 40, &["attach", run]);
    deck.wait_for("stopped");
    deck.keys("7\r");
    deck.wait_until("the last pictures", |s| picture_cells(s) > 800);
    deck.keys("q");
    deck.ends_within(Duration::from_secs(5));
    for file in samples {
        std::fs::remove_file(file).unwrap();
    }
    let mut deck = Terminal::open(&scratch, 120, 40, &["attach", run]);
    deck.wait_for("stopped");
    deck.keys("7\r");
    deck.wait_for("base-");
    deck.wait_until("the adapter's pictures", |s| picture_cells(s) > 400);
    deck.keys("q");
    deck.ends_within(Duration::from_secs(5));
}
