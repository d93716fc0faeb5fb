//! Captions that are edited in their files.

use std::fs;

use super::super::edit;
use super::Set;

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
