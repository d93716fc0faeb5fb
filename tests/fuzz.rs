//! Every parser of files that others wrote, with mutated inputs. `LORADECK_FUZZ_RUNS=1000000` runs each
//! so often, `LORADECK_FUZZ_ONLY=gguf` one of them; `fuzz/` has the same parsers for cargo-fuzz:
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run gguf`.
//!
//! Inputs that once failed lie in `tests/fixtures/fuzz/PARSER/` and are run first.

#[path = "../fuzz/parsers.rs"]
mod parsers;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loradeck::random::{Purpose, Stream};
use parsers::PARSERS;

/// A parser that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, is: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file() && is(&p.to_string_lossy()))
        .collect();
    paths.sort();
    paths
}

/// Whole inputs to start from.
fn seeds(parser: &str) -> Vec<Vec<u8>> {
    let fixtures = repository().join("tests/fixtures");
    let peft = fixtures.join("llama_tied_gqa/adapter");
    let paths = match parser {
        "safetensors" => files(&fixtures.join("llama_tied_gqa"), |n| {
            n.ends_with(".safetensors")
        }),
        "gguf" => files(&fixtures.join("gguf"), |n| {
            n.ends_with("q4_1.gguf") || n.ends_with("f16.gguf")
        }),
        "ggml" => files(&fixtures.join("ggml"), |n| n.ends_with(".bin")),
        "tokenizer" => files(&repository().join("src/model/builtin/tiny-llama"), |n| {
            n.ends_with("tokenizer.json")
        }),
        "config" => {
            let mut paths = files(&repository().join("configs"), |n| n.ends_with(".yaml"));
            paths.extend(files(&repository().join("tests/configs/bad"), |n| {
                n.ends_with(".yaml")
            }));
            paths
        }
        "diffusion" => files(&fixtures.join("diffusion/sd1"), |n| {
            n.ends_with("checkpoint.safetensors")
        }),
        "clip_merges" => files(&fixtures.join("diffusion/tokenizer"), |n| {
            n.ends_with("merges.txt")
        }),
        "adapter" => files(&peft, |n| n.ends_with(".safetensors")),
        "adapter_config" => files(&peft, |n| n.ends_with(".json")),
        _ => Vec::new(),
    };
    let mut seeds: Vec<Vec<u8>> = paths.iter().map(|p| fs::read(p).unwrap()).collect();
    let texts: &[&str] = match parser {
        // Beside the built-in base's: the other kinds of model, normaliser, splitter and decoder.
        "tokenizer" => &[
            r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Prepend","prepend":"_"},{"type":"Replace","pattern":{"Regex":" +"},"content":"_"},{"type":"Precompiled","precompiled_charsmap":"AAAAAA=="}]},"pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":true},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"_"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},"model":{"type":"Unigram","unk_id":1,"vocab":[["<s>",0.0],["<unk>",0.0],["_",-1.5],["l",-2.0],["lo",-2.5],["_Hel",-3.0]],"byte_fallback":true}}"#,
            r#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}| ?\\p{L}+|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},"post_processor":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":"</w>","fuse_unk":false,"byte_fallback":false,"ignore_merges":true,"vocab":{"H":0,"e":1,"l":2,"o":3,"He":4,"ll":5,"Hell":6},"merges":[["H","e"],["l","l"],["He","ll"]]}}"#,
            r#"{"version":"1.0","added_tokens":[],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":{"type":"BertProcessing","sep":["[SEP]",1],"cls":["[CLS]",0]},"decoder":{"type":"WordPiece","prefix":"\u0023#","cleanup":true},"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"\u0023#","max_input_chars_per_word":100,"vocab":{"[CLS]":0,"[SEP]":1,"[UNK]":2,"hello":3,"\u0023#x":4}}}"#,
        ],
        "template" => &[
            "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
             {{ raise_exception('roles must alternate') }}{% endif %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}\
             {% endfor %}",
            "{%- set ns = namespace(text='', n=0) -%}{%- for m in messages[1:] -%}{%- set ns.text = ns.text ~ m.content -%}\
             {%- set ns.n = ns.n + loop.length * 2 -%}{%- endfor -%}{{ ns.text | upper | replace('a', 'b') * ns.n }}",
            "{% macro turn(m, depth=1) %}<|{{ m.role }}|>{{ m.content | trim | tojson }}{% if depth > 0 %}{{ turn(m, depth - 1) }}\
             {% endif %}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}{{ range(10) | list | join(',') | indent(4) }}\
             {{ strftime_now('%d %b %Y') }}{% if add_generation_prompt %}{{ '%s' | format('x') }}{% endif %}",
        ],
        "image_csv" => &[
            "file_name,text\na.png,one\nsub/b.png,\"two, three\"\n",
            "file,caption,other\n./a.png,x,1\nsub/../sub/b.png,y,2\n../outside.png,z,3\n",
            "/etc/passwd,stolen\na,by its stem\n",
        ],
        "image_jsonl" => &[
            "{\"file_name\": \"a.png\", \"text\": \"one\"}\n{\"file_name\": \"sub/b.png\", \"caption\": \"two\"}\n",
            "{\"file_name\": \"../outside.png\", \"text\": \"x\"}\n{\"image\": \"b.png\", \"prompt\": \"y\"}\n",
        ],
        "csv" => &[
            "prompt,completion\n\"a, b\",c\nd,\"e\n\"\"f\"\"\"\n",
            "instruction,input,output\nadd,1 2,3\n",
            "text\nhello\n",
        ],
        "jsonl" => &[
            "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"ho\"}]}\n",
            "{\"conversations\": [{\"from\": \"human\", \"value\": \"hi\"}, {\"from\": \"gpt\", \"value\": \"ho\"}]}\n{\"text\": \"x\"}\n",
            "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n",
        ],
        "protocol" => &[
            "{\"type\":\"hello\",\"version\":1,\"sender\":\"ada@box pid 7\",\"watch\":true}",
            "{\"type\":\"command\",\"id\":3,\"command\":{\"name\":\"set\",\"key\":\"learning_rate\",\"value\":\"1e-4\"}}",
            "{\"type\":\"query\",\"id\":4,\"query\":{\"name\":\"events\",\"from\":1,\"to\":9,\"limit\":100}}",
            "{\"seq\":12,\"time\":3.25,\"type\":\"step\",\"step\":7,\"epoch\":0.5,\"loss\":\"NaN\",\"learning_rate\":0.0001,\"grad_norm\":1.5,\"tokens\":1,\"total_tokens\":2,\"seconds\":0.25,\"peak_memory_bytes\":3}",
            "{\"seq\":2,\"time\":1.0,\"type\":\"phase\",\"phase\":\"training\",\"detail\":\"\",\"error\":null}",
            "{\"seq\":5,\"time\":1.0,\"type\":\"plan\",\"total_steps\":10,\"steps_per_epoch\":3}",
        ],
        _ => &[],
    };
    seeds.extend(texts.iter().map(|t| t.as_bytes().to_vec()));
    if parser == "image" {
        seeds.extend(pictures());
    }
    if parser == "adapter_gguf" {
        // Ours, from the PEFT fixture; its base gives the order of heads.
        let folder = tempfile::tempdir().unwrap();
        let base =
            loradeck::model::describe(fixtures.join("llama_tied_gqa").to_str().unwrap()).unwrap();
        let options = loradeck::adapter::ExportOptions {
            dtype: None,
            base: Some(&base.config),
        };
        let adapter = loradeck::adapter::open(&peft).unwrap();
        let out = folder.path().join("gguf");
        let format = loradeck::adapter::Format::Gguf;
        loradeck::adapter::write(adapter, format, &out, &options).unwrap();
        seeds.extend(
            files(&out, |n| n.ends_with(".gguf"))
                .iter()
                .map(|p| fs::read(p).unwrap()),
        );
    }
    assert!(!seeds.is_empty(), "no seeds for {parser}");
    seeds
}

/// One picture in each format that is read, and in the modes that they have.
fn pictures() -> Vec<Vec<u8>> {
    use image::{DynamicImage, ImageFormat, RgbaImage};
    let rgba = RgbaImage::from_fn(9, 7, |x, y| {
        image::Rgba([(x * 28) as u8, (y * 36) as u8, 99, (255 - x * 9) as u8])
    });
    let rgba = DynamicImage::from(rgba);
    let (rgb, grey) = (
        DynamicImage::from(rgba.to_rgb8()),
        DynamicImage::from(rgba.to_luma8()),
    );
    let deep = DynamicImage::from(rgba.to_rgb16());
    [
        (&rgba, ImageFormat::Png),
        (&grey, ImageFormat::Png),
        (&deep, ImageFormat::Png),
        (&rgb, ImageFormat::Jpeg),
        (&grey, ImageFormat::Jpeg),
        (&rgba, ImageFormat::WebP),
        (&rgb, ImageFormat::Bmp),
        (&rgba, ImageFormat::Gif),
    ]
    .into_iter()
    .map(|(picture, format)| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    })
    .collect()
}

/// Words that mean something to one parser or another.
const WORDS: [&[u8]; 20] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\n",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"\\ud800",
    b"\xff\xfe",
    b"\0\0\0\0\0\0\0\0",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"data_offsets",
    b"&a [*a,*a]",
    b"<<: ",
    b"../../../etc/passwd",
];

/// One to eight changes, most of them near the beginning, where headers are.
fn mutate(seed: &[u8], others: &[Vec<u8>], stream: &mut Stream) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..1 + stream.below(8) {
        let size = out.len() as u32;
        let near = match stream.below(4) {
            0 => size,
            1 => size.min(4096),
            2 => size.min(256),
            _ => size.min(32),
        };
        let at = stream.below(near.max(1)) as usize;
        match stream.below(9) {
            0 if at < out.len() => out[at] ^= 1 << stream.below(8),
            1 if at < out.len() => out[at] = stream.below(256) as u8,
            2 if at < out.len() => out[at] = [0, 1, 0x7f, 0x80, 0xff][stream.below(5) as usize],
            3 => out.truncate(at),
            4 => {
                let word = WORDS[stream.below(WORDS.len() as u32) as usize];
                out.splice(at.min(out.len())..at.min(out.len()), word.iter().copied());
            }
            5 => {
                let end = (at + stream.below(16) as usize).min(out.len());
                out.drain(at.min(end)..end);
            }
            6 => {
                let end = (at + 1 + stream.below(64) as usize).min(out.len());
                let piece = out[at.min(end)..end].to_vec();
                out.splice(at.min(out.len())..at.min(out.len()), piece);
            }
            7 if at + 8 <= out.len() => {
                let number = [
                    0,
                    1,
                    u64::from(size),
                    u64::MAX,
                    1 << 31,
                    1 << 40,
                    u64::MAX / 2,
                ][stream.below(7) as usize];
                out[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            _ => {
                let other = &others[stream.below(others.len() as u32) as usize];
                if !other.is_empty() {
                    let from = stream.below(other.len() as u32) as usize;
                    let end = (from + 1 + stream.below(128) as usize).min(other.len());
                    out.splice(
                        at.min(out.len())..at.min(out.len()),
                        other[from..end].iter().copied(),
                    );
                }
            }
        }
    }
    out
}

/// Runs a parser; keeps an input that fails and panics with its place.
fn run(parser: &str, parse: fn(&[u8]), input: &[u8]) {
    let start = Instant::now();
    let fine = catch_unwind(AssertUnwindSafe(|| parse(input))).is_ok();
    if !fine || start.elapsed() > PATIENCE {
        let name = format!("{parser}-{}", &blake3::hash(input).to_hex()[..12]);
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&kept, input).unwrap();
        panic!(
            "{parser} failed in {:?} on {}",
            start.elapsed(),
            kept.display()
        );
    }
}

/// One test: the bound on memory is the whole process's.
#[test]
fn parsers_neither_panic_nor_hang_nor_take_memory_beyond_their_inputs_size() {
    let parameter = |name: &str| std::env::var(name).ok();
    // The index of scanned pictures.
    let cache = tempfile::tempdir().unwrap();
    // SAFETY: this test is alone in its process, and no other thread has begun.
    unsafe { std::env::set_var("LORADECK_CACHE", cache.path()) };
    let runs: u64 = parameter("LORADECK_FUZZ_RUNS")
        .and_then(|n| n.parse().ok())
        .unwrap_or(150);
    let first: u64 = parameter("LORADECK_FUZZ_FROM")
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let only = parameter("LORADECK_FUZZ_ONLY");
    for (number, (parser, parse)) in PARSERS.into_iter().enumerate() {
        if only.as_deref().is_some_and(|only| only != parser) {
            continue;
        }
        let found = files(
            &repository().join("tests/fixtures/fuzz").join(parser),
            |_| true,
        );
        for path in &found {
            run(parser, parse, &fs::read(path).unwrap());
        }
        let seeds = seeds(parser);
        seeds.iter().for_each(|seed| run(parser, parse, seed));
        let start = Instant::now();
        for i in first..first + runs {
            let mut stream = Stream::new(number as u64, Purpose::Sampling, i, 0);
            let seed = &seeds[stream.below(seeds.len() as u32) as usize];
            run(parser, parse, &mutate(seed, &seeds, &mut stream));
        }
        println!(
            "{parser}: {runs} runs from {first} in {:.0} s, {} found cases, {} seeds",
            start.elapsed().as_secs_f64(),
            found.len(),
            seeds.len()
        );
    }
    parsers::clean_up();
}
