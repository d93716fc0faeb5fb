//! Opening bases: what conversion gives, what is refused, what can be adapted.

use std::path::PathBuf;

use super::super::{adaptable_modules, match_image_targets, open_clip_tokenizer};
use super::*;

fn fixture(name: &str) -> PathBuf {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures/diffusion").join(name)
}

fn open(name: &str) -> Source {
    Source::open(fixture(name).to_str().unwrap()).unwrap()
}

/// The folders are what diffusers' own conversion makes of the checkpoints
/// (`tests/tools/make_diffusion_fixtures.py`).
#[test]
fn every_tensor_of_a_checkpoint_is_the_one_that_diffusers_converts_it_to() {
    for kind in ["sd1", "sd2", "sdxl"] {
        let folder = open(&format!("{kind}/base"));
        let file = open(&format!("{kind}/checkpoint.safetensors"));
        let expected = folder.expected();
        assert_eq!(expected, file.expected());
        for (name, shape) in &expected {
            let numbers = |source: &Source| {
                let rows: usize = shape.iter().product();
                let stored = &source.tensors().stored[name];
                assert_eq!(stored.shape.iter().product::<usize>(), rows, "{name}");
                let whole: &[u8] = (*stored.bytes).as_ref();
                let bytes = rows * stored.encoding.type_size();
                whole[stored.start..stored.start + bytes].to_vec()
            };
            assert!(numbers(&folder) == numbers(&file), "{kind}: {name}");
        }
        for part in ["unet", "vae", "text_encoder"] {
            assert_eq!(folder.fingerprint(part), file.fingerprint(part));
        }
        assert_ne!(folder.fingerprint("unet"), folder.fingerprint("vae"));
    }
    assert_ne!(
        open("sd1/base").fingerprint("vae"),
        open("sd2/base").fingerprint("unet")
    );
}

#[test]
fn targets_are_those_that_are_named_in_unet_and_text_encoder() {
    let base = describe(fixture("sd1/base").to_str().unwrap()).unwrap();
    let matched = |names: &[&str], all: bool, text: bool| {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        match_image_targets(&base, all, &names, text)
    };
    let count = |names: &[&str], text: bool| matched(names, false, text).unwrap().len();
    // Five attentions of one transformer block, two attentions each.
    let transformers = 2 + 1 + 3;
    let default = ["q_proj", "k_proj", "v_proj", "o_proj"];
    assert_eq!(count(&default, false), 8 * transformers);
    assert_eq!(
        count(&["to_q", "to_k", "to_v", "to_out.0"], false),
        8 * transformers
    );
    assert_eq!(count(&default, true), 8 * transformers + 2 * 4);
    assert_eq!(count(&["attn2.to_k"], false), transformers);
    assert_eq!(count(&["fc1"], true), transformers + 2);
    let all = matched(&[], true, false).unwrap();
    assert_eq!(all.len(), 12 * transformers);
    let projection = all.iter().find(|t| t.module.ends_with("proj_in")).unwrap();
    assert_eq!(projection.kernel, Some(1));
    let conv = matched(&["conv1"], false, false).unwrap();
    assert_eq!(conv[0].module, "unet.down_blocks.0.resnets.0.conv1");
    assert_eq!((conv[0].inputs, conv[0].kernel), (9 * 16, Some(3)));
    // Besides those of the reference: conv_in, conv_out, the embedding of the timestep.
    assert_eq!(adaptable_modules(&base).len(), 129 + 4);
    for (names, text, expected) in [
        (&["to_w"][..], false, "did you mean 'to_"),
        (
            &["conv1"],
            true,
            "none of target_modules is a part of the text encoder",
        ),
        (&[], false, "no module"),
    ] {
        let error = matched(names, false, text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_no_image_base_is_refused_in_one_sentence() {
    let temp = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = temp.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let checkpoint = std::fs::read(fixture("sd1/checkpoint.safetensors")).unwrap();
    let renamed = |from: &str, to: &str| {
        let header = 8 + u64::from_le_bytes(checkpoint[..8].try_into().unwrap()) as usize;
        let text = std::str::from_utf8(&checkpoint[8..header]).unwrap();
        assert_eq!(from.len(), to.len());
        let mut bytes = checkpoint[..8].to_vec();
        bytes.extend(text.replace(from, to).bytes());
        bytes.extend(&checkpoint[header..]);
        bytes
    };
    let cases = [
        (write("x.ckpt", b"PK"), "is a pickle"),
        (
            write("half.safetensors", &checkpoint[..9000]),
            "damaged or incomplete",
        ),
        (
            write(
                "text.safetensors",
                &renamed("model.diffusion_model.", "model.diffusion_xodel."),
            ),
            "no checkpoint of Stable Diffusion",
        ),
        (
            write(
                "bare.safetensors",
                &renamed("cond_stage_model.", "xond_stage_model."),
            ),
            "name the full checkpoint",
        ),
        (
            write(
                "lacking.safetensors",
                &renamed(
                    "middle_block.0.in_layers.2.bias",
                    "middle_block.0.xn_layers.2.bias",
                ),
            ),
            "lacks the tensor unet.mid_block.resnets.0.conv1.bias",
        ),
        (fixture("tokenizer"), "has no unet/config.json"),
        (temp.path().join("nothing.safetensors"), "cannot be read"),
    ];
    for (path, expected) in cases {
        let error = Source::open(path.to_str().unwrap()).err().unwrap();
        assert_eq!(crate::error::exit_code(&error), 2);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_checkpoints_tokenizer_is_found_beside_it_and_its_absence_told() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("a/b/c/models/checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("x.safetensors");
    std::fs::copy(fixture("sd1/checkpoint.safetensors"), &path).unwrap();
    let source = Source::open(path.to_str().unwrap()).unwrap();
    let put = |place: PathBuf| {
        std::fs::create_dir_all(&place).unwrap();
        for file in ["vocab.json", "merges.txt"] {
            std::fs::copy(fixture("tokenizer").join(file), place.join(file)).unwrap();
        }
    };
    for place in ["tokenizer", "", "../../comfy/sd1_tokenizer"] {
        put(folder.join(place));
        let ids = source.tokenizer().unwrap().ids("a cat").unwrap();
        assert!(!ids.is_empty(), "{place}");
        let _ = std::fs::remove_dir_all(folder.join("tokenizer"));
        let _ = std::fs::remove_file(folder.join("vocab.json"));
    }
}

/// OpenAI's list of merges gives the vocabulary that `vocab.json` spells out.
#[test]
fn openais_list_of_merges_is_the_same_tokenizer() {
    let temp = tempfile::tempdir().unwrap();
    let merges = std::fs::read_to_string(fixture("tokenizer/merges.txt")).unwrap();
    let text = format!(
        "\"bpe_simple_vocab_16e6.txt#version: 0.2\n{}",
        merges.split_once('\n').unwrap().1
    );
    let file = std::fs::File::create(temp.path().join("bpe_simple_vocab_16e6.txt.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, text.as_bytes()).unwrap();
    packed.finish().unwrap();
    let ours = open_clip_tokenizer(temp.path()).unwrap();
    let theirs = open_clip_tokenizer(&fixture("tokenizer")).unwrap();
    for text in ["a photo of a cat", "naïve café", "it's 3 dogs"] {
        assert_eq!(ours.ids(text).unwrap(), theirs.ids(text).unwrap());
    }
    assert_eq!((ours.bos, ours.eos), (theirs.bos, theirs.eos));
    let empty = tempfile::tempdir().unwrap();
    let error = open_clip_tokenizer(empty.path()).err().unwrap().to_string();
    assert!(error.contains("vocab.json and merges.txt"), "{error}");
}
