//! The data pane of image training: a picture with its caption, and captions edited by hand.

// Each test program uses its part of the story.
#[allow(dead_code)]
mod deck_story;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deck_story::deck::Deck;
use loradeck::protocol::{
    BucketCount, Command, DataEdit, DataStatistics, EventKind, ImagePreview, ImageStatistics,
    PictureSource, Query, RecordPreview, RecordSegment, Reply,
};
use loradeck::run::link::Update;
use loradeck::ui::app::{Action, Msg};
use loradeck::ui::theme::{Capabilities, ColorDepth};

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
