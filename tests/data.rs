//! Text data end to end with the built-in base's own tokenizer: what is read, what is refused and
//! why, and which tokens count.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use loradeck::config::{self, RunConfig};
use loradeck::data::{self, Dataset};
use loradeck::model::{self, Tokenizer};
use loradeck::protocol::FindingItem;

struct Place(tempfile::TempDir);

impl Place {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join("data").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        Place(folder)
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// A config over the data, with more lines.
    fn config(&self, more: &str) -> RunConfig {
        let path = self.0.path().join("run.yaml");
        let yaml = format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: {}\noutput_dir: {}\n{more}",
            self.data().display(),
            self.0.path().join("out").display()
        );
        std::fs::write(&path, yaml).unwrap();
        config::load(&path, &[]).unwrap().config
    }

    fn load(&self, more: &str) -> anyhow::Result<Dataset> {
        data::load(&self.config(more), &tokenizer())
    }
}

fn tokenizer() -> Tokenizer {
    model::open_tokenizer("builtin:tiny-llama").unwrap()
}

/// The same tokenizer, of a base without chat template.
fn plain_tokenizer() -> Tokenizer {
    let mut tokenizer = tokenizer();
    tokenizer.chat_template = None;
    tokenizer
}

/// A record's text with the trained parts in `<<` `>>`.
fn marked(data: &Dataset, tokenizer: &Tokenizer, index: usize) -> String {
    data.preview(tokenizer, index, 1)[0]
        .segments
        .iter()
        .map(|s| {
            if s.trained {
                format!("<<{}>>", s.text)
            } else {
                s.text.clone()
            }
        })
        .collect()
}

fn one(line: &str) -> Place {
    Place::new(&[("a.jsonl", line.as_bytes())])
}

fn only(place: &Place, more: &str) -> String {
    let data = place.load(&format!("eval_split: 0\n{more}")).unwrap();
    assert_eq!(data.train.len(), 1, "{:?}", data.bad);
    marked(&data, &tokenizer(), 0)
}

#[test]
fn every_assistant_turn_is_trained_with_its_end_and_nothing_else() {
    let place = one(
        r#"{"messages": [{"role": "user", "content": "Good morning."}, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "I have a cough."}, {"role": "assistant", "content": "Drink tea."}]}"#,
    );
    assert_eq!(
        only(&place, ""),
        "<|im_start|>user\nGood morning.<|im_end|>\n<|im_start|>assistant\n<<Hello!<|im_end|>>>\n\
         <|im_start|>user\nI have a cough.<|im_end|>\n<|im_start|>assistant\n\
         <<Drink tea.<|im_end|>>>\n"
    );
    let all = only(&place, "train_on_inputs: true\n");
    assert!(
        all.starts_with("<<<|im_start|>user") && all.ends_with("\n>>"),
        "{all}"
    );
}

#[test]
fn all_five_formats_are_recognised_and_say_the_same() {
    let chat = "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n<<Hello.<|im_end|>>>\n";
    for (format, line, expected) in [
        (
            "messages",
            r#"{"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]}]}"#,
            chat,
        ),
        (
            "sharegpt",
            r#"{"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]}"#,
            chat,
        ),
        (
            "alpaca",
            r#"{"instruction": "Hi.", "input": "", "output": "Hello."}"#,
            chat,
        ),
        (
            "prompt/completion",
            r#"{"prompt": "Hi.", "completion": "Hello."}"#,
            chat,
        ),
        (
            "prompt/completion",
            r#"{"question": "Hi.", "answer": "Hello.", "source": "x"}"#,
            chat,
        ),
        (
            "prompt/completion",
            r#"{"prompt": [{"role": "user", "content": "Hi."}], "completion": [{"role": "assistant", "content": "Hello."}]}"#,
            chat,
        ),
        (
            "text",
            r#"{"text": "Hi. Hello."}"#,
            "<<Hi. Hello.<|im_end|>>>",
        ),
    ] {
        let data = one(line).load("eval_split: 0\n").unwrap();
        assert_eq!(data.train[0].format, format, "{line}");
        assert_eq!(data.statistics.formats[format], 1);
        assert_eq!(marked(&data, &tokenizer(), 0), expected, "{line}");
    }
    let alpaca = r#"{"instruction": "Greet.", "input": "Anna", "output": "Hello, Anna.", "system": "Be kind.", "history": [["Hi.", "Hello."]]}"#;
    assert_eq!(
        only(&one(alpaca), ""),
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n\
         <|im_start|>assistant\n<<Hello.<|im_end|>>>\n<|im_start|>user\nGreet.\n\nAnna<|im_end|>\n\
         <|im_start|>assistant\n<<Hello, Anna.<|im_end|>>>\n"
    );
}

#[test]
fn without_a_template_the_documented_plain_forms_are_used() {
    for (line, expected) in [
        (
            r#"{"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye."}, {"role": "assistant", "content": "See you."}]}"#,
            "Be kind.\n\nUser: Hi.\nAssistant:<< Hello.\n>>User: Bye.\nAssistant:<< See you.<|im_end|>>>",
        ),
        (
            r#"{"prompt": "Hi.", "completion": "Hello."}"#,
            "Hi.\n<<Hello.<|im_end|>>>",
        ),
        (
            r#"{"prompt": "Hi.", "completion": " Hello."}"#,
            "Hi.<< Hello.<|im_end|>>>",
        ),
    ] {
        let place = one(line);
        let tokenizer = plain_tokenizer();
        let data = data::load(&place.config("eval_split: 0\n"), &tokenizer).unwrap();
        let text = marked(&data, &tokenizer, 0);
        assert_eq!(
            text.strip_prefix("<|endoftext|>").unwrap_or(&text),
            expected
        );
        assert!(data.statistics.warnings[0].contains("no chat template"));
    }
    let place = one(r#"{"instruction": "Greet.", "input": "Anna", "output": "Hello."}"#);
    let tokenizer = plain_tokenizer();
    let data = data::load(&place.config("eval_split: 0\n"), &tokenizer).unwrap();
    let text = marked(&data, &tokenizer, 0);
    assert!(
        text.contains("### Instruction:\nGreet.\n\n### Input:\nAnna\n\n### Response:\n<<Hello.")
    );
}

#[test]
fn a_template_whose_prefixes_disagree_still_trains_the_answers_alone() {
    // The end-of-turn token only after the last message; the generation prompt opens a thought that
    // the whole rendering does not have.
    let template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if loop.last %}\
                    {{ eos_token }}{% else %} {% endif %}{% endfor %}\
                    {% if add_generation_prompt %}[assistant] <think>{% endif %}";
    let place = one(
        r#"{"messages": [{"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "Again: yes."}, {"role": "assistant", "content": "yes"}]}"#,
    );
    assert_eq!(
        only(&place, &format!("chat_template: \"{template}\"\n")),
        "[user] Say yes. [assistant]<< yes>> [user] Again: yes. [assistant]<< yes<|im_end|>>>"
    );
}

#[test]
fn an_answer_that_the_template_does_not_end_gets_the_end_of_sequence() {
    let place = one(r#"{"prompt": "Hi.", "completion": "Hello."}"#);
    let template = "chat_template: '{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}'\n";
    let text = only(&place, template.replace('\n', "\n\n").trim_end());
    assert!(text.ends_with("<|im_end|>>>"), "{text}");
}

#[test]
fn every_bad_record_is_reported_with_file_line_and_reason() {
    let lines = [
        r#"{"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}"#,
        r#"{"messages": [{"role": "user", "content": "Hi."}"#,
        r#"[1, 2]"#,
        "",
        r#"{"messages": "Hi."}"#,
        r#"{"messages": []}"#,
        r#"{"messages": [{"role": "user", "content": "Hi."}]}"#,
        r#"{"messages": [{"role": "assistant", "content": "Hi."}]}"#,
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}"#,
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}"#,
        r#"{"messages": [{"role": "wizard", "content": "a"}]}"#,
        r#"{"messages": [{"role": "user", "content": 7}]}"#,
        r#"{"messages": [{"speaker": "user", "says": "a"}]}"#,
        r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "system", "value": "b"}]}"#,
        r#"{"instruction": "a", "output": ""}"#,
        r#"{"instruction": "a"}"#,
        r#"{"prompt": "a", "completion": null}"#,
        r#"{"text": "  "}"#,
        r#"{"title": "a", "body": "b"}"#,
        r#"{}"#,
    ];
    let mut bytes = lines.join("\n").into_bytes();
    bytes.extend(b"\n{\"text\": \"\xff\"}\n");
    let data = Place::new(&[("a.jsonl", bytes.as_slice())])
        .load("eval_split: 0\nskip_bad_records: true\n")
        .unwrap();
    let reported: Vec<String> = data.bad.iter().map(ToString::to_string).collect();
    let expected = [
        "a.jsonl:2: it is not valid JSON: EOF while parsing a list (column 48)",
        "a.jsonl:3: it is a list, not an object",
        "a.jsonl:5: `messages` is a text, not a list of messages",
        "a.jsonl:6: `messages` is empty",
        "a.jsonl:7: it has no assistant message, so there is nothing to learn",
        "a.jsonl:8: the first message is from `assistant`: a user must begin",
        "a.jsonl:9: messages 1 and 2 are both from `user`: user and assistant must take turns",
        "a.jsonl:10: message 2 (`assistant`) is empty",
        "a.jsonl:11: message 1: the role `wizard` is none of `system`, `user`, `assistant`",
        "a.jsonl:12: message 1: `content` is a number, not a text",
        "a.jsonl:13: message 1: it has `speaker`, `says`, not `role` and `content` (or `from` and `value`)",
        "a.jsonl:14: message 2 is from `system`, which may come first only",
        "a.jsonl:15: `output` is empty",
        "a.jsonl:16: `output` is missing",
        "a.jsonl:17: `completion` is null, not a text",
        "a.jsonl:18: `text` is empty",
        "a.jsonl:19: its keys are `title`, `body`; expected `messages`, `conversations`, `instruction` and `output`, `prompt` and `completion`, or `text`",
        "a.jsonl:20: it has no keys; expected `messages`, `conversations`, `instruction` and `output`, `prompt` and `completion`, or `text`",
        "a.jsonl:21: it holds bytes that are not UTF-8",
    ];
    assert_eq!(reported, expected);
    assert_eq!(data.statistics.skipped, 19);
    assert_eq!(data.train.len(), 1);
}

#[test]
fn json_csv_and_txt_are_read_with_the_lines_of_their_records() {
    let place = Place::new(&[
        (
            "a.json",
            b"[\n  {\"prompt\": \"[one\", \"completion\": \"a }\"},\n  {\"prompt\": \"two\", },\n  \
              {\"prompt\": \"three\",\n   \"completion\": \"c\"}\n]\n",
        ),
        ("b.json", b"{\"prompt\": \"one\", \"completion\": \"a\"}"),
        ("c.json", b"{\"text\": \"one\"}\n{\"text\": 2}\n"),
        (
            "d.csv",
            b"\xEF\xBB\xBFprompt,completion\r\none,\"a, with\r\na line break\"\r\ntwo\r\nthree,c\r\n",
        ),
        ("e.csv", b"prompt;completion\none, that is;a\n"),
        ("f/g.txt", b"A whole\r\ndocument."),
        ("README.md", b"# about"),
        (".hidden.jsonl", b"{"),
        ("dataset_info.json", b"{}"),
        ("h.parquet", b"PAR1"),
        ("i.jsonl", b"\n\n"),
    ]);
    let data = place
        .load("eval_split: 0\nskip_bad_records: true\n")
        .unwrap();
    let origins: Vec<&str> = data.train.iter().map(|r| r.origin.as_str()).collect();
    assert_eq!(
        origins,
        [
            "a.json:2",
            "a.json:4",
            "b.json:1",
            "c.json:1",
            "d.csv:2",
            "d.csv:5",
            "e.csv:2",
            "f/g.txt:1"
        ]
    );
    let bad: Vec<String> = data.bad.iter().map(ToString::to_string).collect();
    assert_eq!(
        bad,
        [
            "a.json:3: it is not valid JSON: trailing comma (column 19)",
            "c.json:2: `text` is a number, not a text",
            "d.csv:4: it has 1 cell, and the header has 2",
        ]
    );
    assert_eq!(data.statistics.files, 7);
    let warnings = data.statistics.warnings.join("\n");
    for said in [
        "passed over as no data: .hidden.jsonl, README.md, dataset_info.json",
        "not read: h.parquet (convert to .jsonl to use it)",
        "i.jsonl holds no record",
    ] {
        assert!(warnings.contains(said), "{warnings}");
    }
    assert!(marked(&data, &tokenizer(), 4).contains("a, with\r\na line break"));
    assert!(marked(&data, &tokenizer(), 7).contains("A whole\ndocument."));
}

#[test]
fn a_broken_array_loses_only_what_is_broken() {
    let place = Place::new(&[(
        "a.json",
        b"[{\"text\": \"one\"}, {\"text\": \"t\\\"]o\"}, {\"text\": \"thr",
    )]);
    let data = place.load("eval_split: 0\n").unwrap();
    assert_eq!(data.train.len(), 2);
    assert_eq!(data.bad.len(), 2, "{:?}", data.bad);
    assert!(data.bad[1].reason.contains("closing bracket is missing"));
}

#[test]
fn long_records_are_cut_and_counted_and_refused_when_nothing_is_left() {
    let short = r#"{"prompt": "Hi.", "completion": "Hello."}"#;
    let long_answer = format!(
        r#"{{"prompt": "Hi.", "completion": "{}"}}"#,
        "so on ".repeat(50)
    );
    let long_question = format!(
        r#"{{"prompt": "{}", "completion": "Yes."}}"#,
        "so on ".repeat(50)
    );
    let place = one(&format!("{short}\n{long_answer}\n{long_question}\n"));
    let data = place.load("eval_split: 0\nsequence_len: 40\n").unwrap();
    assert_eq!(data.statistics.truncated, 1);
    assert_eq!(data.statistics.max_length, 40);
    assert!(data.train[1].cut > 0 && data.train[1].ids.len() == 40);
    let cut = data.train[1].cut;
    assert_eq!(data.statistics.cut_tokens, cut as u64);
    let findings = &data.statistics.findings;
    let found = findings.iter().find(|f| f.kind == "truncated").unwrap();
    assert_eq!(found.items[0].name, "a.jsonl:2");
    assert!(found.message.contains(&format!("leaves out {cut} tokens")));
    let longest = format!("sequence_len: {}", 40 + cut);
    assert!(found.remedy.contains(&longest), "{}", found.remedy);
    assert_eq!(data.bad[0].line, 3);
    assert!(
        data.bad[0].reason.contains("sequence_len: 40"),
        "{}",
        data.bad[0]
    );
}

#[test]
fn packing_counts_its_rows_and_says_when_it_can_do_nothing() {
    let records = ["one", "two", "three", "four"].map(|word| format!("{{\"text\": \"{word}\"}}"));
    let place = one(&records.join("\n"));
    let data = place
        .load("eval_split: 0\npacking: true\nsequence_len: 64\n")
        .unwrap();
    let packing = data.statistics.packing.unwrap();
    assert_eq!((packing.rows, packing.tokens), (1, data.statistics.tokens));
    assert!(data.statistics.warnings.is_empty());
    let long = ["so on ".repeat(20), "and so ".repeat(20)];
    let place = one(&long
        .map(|text| format!("{{\"text\": \"{text}\"}}"))
        .join("\n"));
    let settings = "eval_split: 0\npacking: true\nsequence_len: 40\n";
    let warnings = place.load(settings).unwrap().statistics.warnings.join("");
    assert!(warnings.contains("no two records"), "{warnings}");
}

#[test]
fn a_long_document_is_cut_into_pieces_that_predict_every_token_once() {
    let text = "The village has a well. ".repeat(60);
    let place = Place::new(&[("a.txt", text.as_bytes())]);
    let data = place.load("eval_split: 0\nsequence_len: 50\n").unwrap();
    let tokenizer = tokenizer();
    let mut whole = tokenizer.encode(&text).unwrap();
    whole.push(tokenizer.eos[0]);
    assert!(data.train.len() > 3);
    let mut predicted: Vec<u32> = Vec::new();
    for piece in &data.train {
        assert!(piece.ids.len() <= 50 && piece.cut == 0);
        predicted.extend(&piece.ids[1..]);
    }
    // The very first token is predicted only where a begin-of-sequence token precedes it.
    let first = usize::from(!tokenizer.add_bos);
    assert_eq!(predicted, whole[first..]);
    assert_eq!(data.train[1].origin, "a.txt:1, piece 2");
}

#[test]
fn the_split_is_seeded_and_leaves_something_on_both_sides() {
    let lines: String = (0..50)
        .map(|i| format!("{{\"text\": \"number {i}\"}}\n"))
        .collect();
    let place = one(&lines);
    let eval = |more: &str| -> Vec<String> {
        let data = place.load(more).unwrap();
        assert_eq!(data.train.len() + data.eval.len(), 50);
        data.eval.iter().map(|r| r.origin.clone()).collect()
    };
    let first = eval("eval_split: 0.1\n");
    assert_eq!(first.len(), 5);
    assert_eq!(first, eval("eval_split: 5\n"));
    assert_ne!(first, eval("eval_split: 5\nseed: 1\n"));
    assert_eq!(eval("eval_split: 0.001\n").len(), 1);
    assert!(eval("eval_split: 0\n").is_empty());
    let refused = place.load("eval_split: 50\n").err().unwrap().to_string();
    assert!(refused.contains("holds out 50 of 50"), "{refused}");
    assert!(one("{\"text\": \"alone\"}").load("").is_err());
}

#[test]
fn repeated_records_are_counted_and_named() {
    let place = one("{\"text\": \"same\"}\n{\"text\": \"other\"}\n{\"text\": \"same\"}\n");
    let data = place.load("eval_split: 0\n").unwrap();
    assert_eq!(data.statistics.duplicates, 1);
    let [found] = &data.statistics.findings[..] else {
        panic!("{:?}", data.statistics.findings)
    };
    assert_eq!(found.kind, "exact_duplicates");
    assert_eq!(found.items, [FindingItem::new("a.jsonl:3", "as a.jsonl:1")]);
}

#[test]
fn data_that_cannot_be_used_at_all_is_one_sentence() {
    let sentence = |place: &Place, more: &str| {
        let error = place.load(more).err().unwrap();
        assert_eq!(loradeck::error::exit_code(&error), 2);
        error.to_string()
    };
    let none = Place::new(&[("a.parquet", b"PAR1")]);
    assert!(
        sentence(&none, "")
            .contains("holds no .jsonl, .json, .csv or .txt file; it holds a.parquet")
    );
    let empty = Place::new(&[("a.jsonl", b"")]);
    assert!(sentence(&empty, "").contains("holds no record"));
    let bad = Place::new(&[("a.jsonl", b"{\"a\": 1}\nnonsense\n")]);
    assert!(sentence(&bad, "").contains("none of the 2 records"));
    assert!(sentence(&bad, "").contains("a.jsonl:2: it is not valid JSON"));
    let good = one("{\"text\": \"one\"}\n{\"text\": \"two\"}");
    assert!(
        sentence(&good, "chat_template: \"{% for %}\"\n")
            .starts_with("chat_template is not valid Jinja")
    );
}

#[test]
fn a_template_that_refuses_or_never_ends_is_a_reason_not_a_hang() {
    let place = one("{\"prompt\": \"Hi.\", \"completion\": \"Hello.\"}\n{\"text\": \"t\"}\n");
    for (template, reason) in [
        ("{{ raise_exception('no thanks') }}", "no thanks"),
        (
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}{{ x }}",
            "does not come to an end",
        ),
        (
            "{% for a in range(90000) %}{{ messages }}{% endfor %}",
            "prints without end",
        ),
        (
            "{% set n = namespace(t='x') %}{% for i in range(90) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
            "makes too much text",
        ),
        ("{{ nothing.at.all }}", "refuses"),
    ] {
        let data = place
            .load(&format!("eval_split: 0\nchat_template: \"{template}\"\n"))
            .unwrap();
        assert_eq!(data.bad.len(), 1);
        assert!(data.bad[0].reason.contains(reason), "{}", data.bad[0]);
    }
}

#[test]
fn a_preview_shows_characters_whole_even_where_the_mask_cuts_one() {
    let tokenizer = tokenizer();
    let text = "Grüße ✓ 日本語";
    let place = one(&format!("{{\"text\": \"{text}\"}}"));
    let mut data = place.load("eval_split: 0\n").unwrap();
    // Whatever the mask, the segments are the text.
    for every in 1..6 {
        for (i, t) in data.train[0].trained.iter_mut().enumerate() {
            *t = i % (every + 1) == every;
        }
        let preview = &data.preview(&tokenizer, 0, 1)[0];
        let whole: String = preview.segments.iter().map(|s| s.text.as_str()).collect();
        assert_eq!(whole, format!("{text}<|im_end|>"));
        assert!(
            preview
                .segments
                .iter()
                .all(|s| !s.text.contains('\u{fffd}'))
        );
    }
}

const MEDICAL_QA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/medical_qa");

/// Kind of finding -> places.
fn found(data: &Dataset) -> BTreeMap<String, Vec<String>> {
    let findings = data.statistics.findings.iter();
    findings
        .map(|finding| {
            let places = finding.items.iter().map(|item| item.name.clone());
            (finding.kind.clone(), places.collect())
        })
        .collect()
}

#[test]
fn the_report_finds_every_planted_fault_of_a_medical_set_and_nothing_else() {
    let planted: BTreeMap<String, Vec<String>> =
        serde_json::from_str(include_str!("fixtures/medical_qa.json")).unwrap();
    assert_eq!(planted.len(), 6);
    let files = ["train.jsonl", "eval.jsonl"].map(|name| {
        let text = std::fs::read_to_string(Path::new(MEDICAL_QA).join(name)).unwrap();
        (name, text)
    });
    let as_it_is = files
        .each_ref()
        .map(|(name, text)| (*name, text.as_bytes()));
    let data = Place::new(&as_it_is).load("").unwrap();
    assert_eq!(data.train.len() + data.eval.len() + data.bad.len(), 100);
    assert_eq!(found(&data), planted);
    assert_eq!(data.statistics.held_out_files, ["eval.jsonl"]);
    // Without them it is clean, also where chance splits it.
    let clean = files.each_ref().map(|(name, text)| {
        let places: Vec<&String> = planted.values().flatten().collect();
        let kept = text.lines().enumerate().filter(|(i, _)| {
            let place = format!("{name}:{}", i + 1);
            !places.contains(&&place)
        });
        kept.map(|(_, line)| format!("{line}\n"))
            .collect::<String>()
    });
    for names in [["train.jsonl", "eval.jsonl"], ["a.jsonl", "b.jsonl"]] {
        let data = Place::new(&[
            (names[0], clean[0].as_bytes()),
            (names[1], clean[1].as_bytes()),
        ])
        .load("")
        .unwrap();
        assert_eq!(data.statistics.findings, []);
        assert_eq!(data.statistics.warnings, [""; 0]);
    }
}

#[test]
fn the_demo_and_smollm2_data_that_ship_are_without_fault() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, at_least) in [("configs/demo", 300), ("configs/smollm2", 100)] {
        let path = tempfile::tempdir().unwrap();
        let config_path = path.path().join("c.yaml");
        let yaml = format!(
            "base_model: builtin:tiny-llama\ntrain_data_dir: {}\n",
            root.join(folder).display()
        );
        std::fs::write(&config_path, yaml).unwrap();
        let config = config::load(&config_path, &[]).unwrap().config;
        let data = data::load(&config, &tokenizer()).unwrap();
        assert!(data.bad.is_empty(), "{:?}", data.bad);
        assert!(data.train.len() >= at_least);
    }
}

#[test]
fn a_prompt_is_rendered_up_to_the_assistants_turn() {
    let tokenizer = tokenizer();
    let message = |role, content: &str| data::Message {
        role,
        content: content.to_owned(),
    };
    let hi = message(data::Role::User, "Hi.");
    assert_eq!(
        data::render_chat(&tokenizer, None, std::slice::from_ref(&hi)).unwrap(),
        "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"
    );
    let own = "{{ messages[0].content | upper }}{{ add_generation_prompt }}";
    assert_eq!(
        data::render_chat(&tokenizer, Some(own), std::slice::from_ref(&hi)).unwrap(),
        "HI.True"
    );
    let chat = [
        message(data::Role::System, "Be kind."),
        hi.clone(),
        message(data::Role::Assistant, "Hello."),
        hi,
    ];
    assert_eq!(
        data::render_chat(&plain_tokenizer(), None, &chat).unwrap(),
        "Be kind.\n\nUser: Hi.\nAssistant: Hello.\nUser: Hi.\nAssistant:"
    );
}
