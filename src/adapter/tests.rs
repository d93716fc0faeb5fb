//! Reading, writing and converting, held against each other. What other tools make of the files is
//! in `tests/conformance.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::Device;

use super::*;
use crate::model::{DecoderConfig, LoraSet, LoraSpec};

fn base() -> DecoderConfig {
    DecoderConfig {
        layers: 2,
        ..DecoderConfig::tiny()
    }
}

fn set(spec: LoraSpec) -> LoraSet {
    let targets = vec!["q_proj".to_owned(), "down_proj".to_owned()];
    let modules = crate::model::match_targets(&base(), false, &targets, None).unwrap();
    let spec = LoraSpec {
        dropout: 0.1,
        target_modules: targets,
        ..spec
    };
    let set = LoraSet::new(&modules, spec, 7, &Device::Cpu).unwrap();
    for (i, pair) in set.pairs.iter().enumerate() {
        let (rows, rank) = pair.b.dims2().unwrap();
        let b: Vec<f32> = (0..rows * rank)
            .map(|n| ((n + 31 * i) as f32).sin())
            .collect();
        pair.b
            .set(&candle_core::Tensor::from_vec(b, (rows, rank), &Device::Cpu).unwrap())
            .unwrap();
    }
    set
}

fn rslora() -> LoraSpec {
    LoraSpec {
        alpha: 4.0,
        use_rslora: true,
        layers_to_transform: vec![0, 1],
        ..LoraSpec::lora(2)
    }
}

fn all(set: &LoraSet) -> Vec<(String, Vec<f32>, Vec<f32>, f64)> {
    let numbers = |var: &crate::model::Variable| var.flatten_all().unwrap().to_vec1().unwrap();
    set.pairs
        .iter()
        .map(|p| (p.module.clone(), numbers(&p.a), numbers(&p.b), p.scale))
        .collect()
}

/// An image adapter with numbers of its own in every part.
fn image(family: Family, modules: &[(&str, &[usize], &[usize])], dtype: Dtype) -> Adapter {
    let mut adapter = Adapter::new(family);
    for (i, (module, a, b)) in modules.iter().enumerate() {
        let numbers = |shape: &[usize], salt: usize| {
            let count: usize = shape.iter().product();
            let each = (0..count).map(|n| ((n * 7 + i * 3 + salt) as f32).sin() * 0.1);
            Numbers::new(shape, &each.collect::<Vec<_>>())
                .cast(dtype)
                .unwrap()
        };
        let part = Part {
            a: numbers(a, 1),
            b: numbers(b, 2),
            magnitude: None,
            alpha: a[0] as f64,
            keys: None,
        };
        adapter.parts.insert((*module).to_owned(), part);
    }
    adapter
}

fn sd1(dtype: Dtype) -> Adapter {
    let q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
    let out = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0";
    let modules: &[(&str, &[usize], &[usize])] = &[
        (q, &[4, 8], &[8, 4]),
        (out, &[4, 8], &[8, 4]),
        (
            "unet.up_blocks.1.attentions.2.proj_in",
            &[4, 8, 1, 1],
            &[8, 4, 1, 1],
        ),
        (
            "unet.down_blocks.1.resnets.0.conv1",
            &[4, 8, 3, 3],
            &[16, 4, 1, 1],
        ),
        (
            "text_encoder.text_model.encoder.layers.3.self_attn.q_proj",
            &[4, 8],
            &[8, 4],
        ),
    ];
    image(Family::Sd1, modules, dtype)
}

fn write_to(adapter: &Adapter, format: Format, path: &Path) -> Written {
    let base = base();
    let options = ExportOptions {
        dtype: None,
        base: (adapter.family == Family::Text).then_some(&base),
    };
    write(adapter.clone(), format, path, &options).unwrap()
}

/// The tensors and their bytes, without what only tells where they were read.
fn tensors(adapter: &Adapter) -> BTreeMap<String, (Numbers, Numbers, f64)> {
    let each = adapter.parts.iter();
    each.map(|(module, part)| {
        let scale = adapter.scale(part);
        (module.clone(), (part.a.clone(), part.b.clone(), scale))
    })
    .collect()
}

#[test]
fn an_adapter_read_back_is_the_one_written_and_its_bytes_are_always_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (temp.path().join("1"), temp.path().join("2"));
    let set = set(rslora());
    let bytes = write_peft(&set, "some/base", &first).unwrap();
    write_peft(&set, "some/base", &second).unwrap();
    let mut total = 0;
    for name in [peft::CONFIG, peft::WEIGHTS] {
        let content = fs::read(first.join(name)).unwrap();
        assert_eq!(content, fs::read(second.join(name)).unwrap());
        total += content.len() as u64;
    }
    assert_eq!(bytes, total);
    let back = read_lora_set(&first, &base(), &Device::Cpu).unwrap();
    assert_eq!(all(&back), all(&set));
    assert_eq!(back.spec, set.spec);
}

#[test]
fn a_number_that_is_not_finite_is_never_written() {
    let temp = tempfile::tempdir().unwrap();
    let set = set(rslora());
    let b = &set.pairs[1].b;
    b.set(&(b.ones_like().unwrap() / 0.0).unwrap()).unwrap();
    let folder = temp.path().join("x");
    let error = write_peft(&set, "base", &folder).unwrap_err();
    assert!(error.to_string().contains("inf"), "{error}");
    assert!(!folder.exists());
}

#[test]
fn what_does_not_fit_is_explained() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("x");
    write_peft(&set(rslora()), "base", &folder).unwrap();
    let error = |base: &DecoderConfig| {
        let error = read_lora_set(&folder, base, &Device::Cpu).unwrap_err();
        assert_eq!(crate::error::exit_code(&error), 2);
        error.to_string()
    };
    let wider = DecoderConfig {
        hidden_size: 16,
        ..base()
    };
    assert!(error(&wider).contains("another base"));
    let shorter = DecoderConfig {
        layers: 1,
        ..base()
    };
    assert!(error(&shorter).contains("model.layers.1."));
    let config = folder.join(peft::CONFIG);
    let text = fs::read_to_string(&config).unwrap();
    for (from, to, expected) in [
        ("\"LORA\"", "\"LOHA\"", "LOHA"),
        ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
        ("\"r\": 2", "\"r\": 3", "r 3"),
        ("{", "", "not valid JSON"),
    ] {
        fs::write(&config, text.replacen(from, to, 1)).unwrap();
        let error = error(&base());
        assert!(error.contains(expected), "{error}");
    }
    fs::write(&config, text).unwrap();
    let weights = fs::read(folder.join(peft::WEIGHTS)).unwrap();
    fs::write(folder.join(peft::WEIGHTS), &weights[..weights.len() - 1]).unwrap();
    assert!(error(&base()).contains("damaged"));
    fs::remove_file(folder.join(peft::WEIGHTS)).unwrap();
    assert!(error(&base()).contains("cannot be read"));
}

#[test]
fn peft_to_gguf_and_back_is_the_same_bits_and_only_q_and_k_change_their_rows() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("adapter.gguf");
    let original = from_lora_set(&set(LoraSpec::lora(2)), "base").unwrap();
    write_to(&original, Format::Gguf, &path);
    let file = open(&path).unwrap();
    assert_eq!(file.rows, Rows::LlamaCpp);
    let (q, down) = (
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.down_proj",
    );
    assert_eq!(file.parts[down].b, original.parts[down].b);
    // Two heads of four rows: llama.cpp has a head's rows in the order 0 2 1 3.
    let rows = |part: &Part| -> Vec<Vec<f32>> {
        let numbers = part.b.to_f32();
        numbers.chunks(2).map(<[f32]>::to_vec).collect()
    };
    let (theirs, ours) = (rows(&file.parts[q]), rows(&original.parts[q]));
    for (at, from) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
        assert_eq!(theirs[at], ours[from]);
    }
    let back = temp.path().join("peft");
    write_to(&file, Format::Peft, &back);
    assert_eq!(tensors(&open(&back).unwrap()), tensors(&original));
}

#[test]
fn gguf_gets_one_alpha_for_all_parts_and_no_rslora() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("adapter.gguf");
    let original = from_lora_set(&set(rslora()), "base").unwrap();
    let written = write_to(&original, Format::Gguf, &path);
    assert!(written.notes[0].contains("rsLoRA"), "{:?}", written.notes);
    let back = open(&path).unwrap();
    assert!(!back.use_rslora);
    for (module, part) in &original.parts {
        let (ours, theirs) = (original.scale(part), back.scale(&back.parts[module]));
        assert!((ours / theirs - 1.0).abs() < 1e-6, "{ours} {theirs}");
    }
    let mut mixed = from_lora_set(&set(LoraSpec::lora(2)), "base").unwrap();
    let down = "model.layers.1.mlp.down_proj";
    mixed.parts.get_mut(down).unwrap().alpha = 6.0;
    write_to(&mixed, Format::Gguf, &path);
    let back = open(&path).unwrap();
    assert_eq!(back.parts[down].alpha, 2.0);
    let (ours, theirs) = (mixed.parts[down].b.to_f32(), back.parts[down].b.to_f32());
    assert!(ours.iter().zip(theirs).all(|(o, t)| o * 3.0 == t));
}

#[test]
fn gguf_needs_the_bases_heads_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let mut adapter = from_lora_set(&set(LoraSpec::lora(2)), "base").unwrap();
    let none = ExportOptions::default();
    let path = temp.path().join("a.gguf");
    let error = write(adapter.clone(), Format::Gguf, &path, &none).unwrap_err();
    assert!(error.to_string().contains("--base"), "{error}");
    adapter.architecture = Some("llama".to_owned());
    let error = write(adapter, Format::Gguf, &path, &none).unwrap_err();
    assert!(error.to_string().contains("heads"), "{error}");
    assert!(!path.exists());
}

#[test]
fn every_image_format_read_and_written_again_is_the_same_file() {
    let temp = tempfile::tempdir().unwrap();
    for dtype in Dtype::ALL {
        for format in [Format::Kohya, Format::Diffusers] {
            let (first, second) = (
                temp.path().join("1.safetensors"),
                temp.path().join("2.safetensors"),
            );
            write_to(&sd1(dtype), format, &first);
            let read = open(&first).unwrap();
            assert_eq!(read.family, Family::Sd1);
            assert_eq!(tensors(&read), tensors(&sd1(dtype)));
            write_to(&read, format, &second);
            assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
        }
    }
}

#[test]
fn kohya_to_diffusers_and_back_keeps_every_number_at_a_scale_of_1() {
    let temp = tempfile::tempdir().unwrap();
    let (kohya, diffusers, again) = (
        temp.path().join("k.safetensors"),
        temp.path().join("d.safetensors"),
        temp.path().join("k2.safetensors"),
    );
    write_to(&sd1(Dtype::F16), Format::Kohya, &kohya);
    write_to(&open(&kohya).unwrap(), Format::Diffusers, &diffusers);
    let between = open(&diffusers).unwrap();
    assert!(between.parts.values().all(|p| p.alpha == 4.0));
    write_to(&between, Format::Kohya, &again);
    assert_eq!(tensors(&open(&again).unwrap()), tensors(&sd1(Dtype::F16)));
}

#[test]
fn a_scale_is_folded_into_b_for_diffusers_in_its_own_type_only_where_that_is_exact() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("d.safetensors");
    for (alpha, dtype) in [(8.0, Dtype::F16), (3.0, Dtype::F32)] {
        let mut adapter = sd1(Dtype::F16);
        adapter.parts.values_mut().for_each(|p| p.alpha = alpha);
        write_to(&adapter, Format::Diffusers, &path);
        let back = open(&path).unwrap();
        for (module, part) in &adapter.parts {
            let theirs = &back.parts[module];
            assert_eq!((theirs.b.dtype, theirs.a.dtype), (dtype, dtype));
            let scale = alpha as f32 / 4.0;
            let pairs = part.b.to_f32().into_iter().zip(theirs.b.to_f32());
            for (ours, theirs) in pairs {
                assert!((ours * scale - theirs).abs() <= 1e-7 * theirs.abs());
            }
        }
        let keys = safetensors_file::read(&path).unwrap().tensors;
        assert!(keys.keys().all(|key| !key.ends_with("alpha")));
    }
}

#[test]
fn a_kohya_file_without_alpha_or_with_0_has_the_rank_as_alpha_and_is_written_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (
        temp.path().join("1.safetensors"),
        temp.path().join("2.safetensors"),
    );
    let (a, b) = (
        Numbers::new(&[2, 3], &[1.0; 6]),
        Numbers::new(&[4, 2], &[2.0; 8]),
    );
    let zero = Numbers::new(&[], &[0.0]).cast(Dtype::F16).unwrap();
    let name = |layer: usize| format!("lora_te_text_model_encoder_layers_{layer}_mlp_fc1");
    let mut tensors = BTreeMap::new();
    for layer in 0..2 {
        tensors.insert(format!("{}.lora_down.weight", name(layer)), &a);
        tensors.insert(format!("{}.lora_up.weight", name(layer)), &b);
    }
    tensors.insert(format!("{}.alpha", name(1)), &zero);
    fs::write(
        &first,
        safetensors_file::to_bytes(&tensors, &BTreeMap::new()),
    )
    .unwrap();
    let read = open(&first).unwrap();
    assert!(read.parts.values().all(|part| read.scale(part) == 1.0));
    write_to(&read, Format::Kohya, &second);
    let (before, after) = (
        safetensors_file::read(&first).unwrap(),
        safetensors_file::read(&second).unwrap(),
    );
    assert_eq!(before.tensors, after.tensors);
}

#[test]
fn a_format_that_cannot_hold_the_adapter_is_refused_with_a_way_out() {
    let temp = tempfile::tempdir().unwrap();
    let mut dora = from_lora_set(&set(LoraSpec::lora(2)), "base").unwrap();
    for part in dora.parts.values_mut() {
        part.magnitude = Some(Numbers::new(&[part.outputs()], &vec![1.0; part.outputs()]));
    }
    let text = from_lora_set(&set(LoraSpec::lora(2)), "base").unwrap();
    for (adapter, format, expected) in [
        (&dora, Format::Gguf, "DoRA"),
        (&text, Format::Kohya, "peft or gguf"),
        (&sd1(Dtype::F32), Format::Peft, "kohya or diffusers"),
    ] {
        let path = temp.path().join("x");
        let error = write(adapter.clone(), format, &path, &ExportOptions::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(crate::error::exit_code(&error), 2);
    }
    write_to(&dora, Format::Peft, &temp.path().join("dora"));
    let back = open(&temp.path().join("dora")).unwrap();
    assert!(back.parts.iter().all(|(module, part)| {
        part.magnitude == dora.parts[module].magnitude && part.magnitude.is_some()
    }));
}

#[test]
fn ranks_and_alphas_of_their_own_survive_a_peft_folder() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("x");
    let mut adapter = from_lora_set(&set(LoraSpec::lora(2)), "base").unwrap();
    let module = "model.layers.1.self_attn.q_proj";
    let part = adapter.parts.get_mut(module).unwrap();
    part.a = Numbers::new(&[3, 8], &[0.5; 24]);
    part.b = Numbers::new(&[8, 3], &[0.25; 24]);
    part.alpha = 9.0;
    write_to(&adapter, Format::Peft, &folder);
    let back = open(&folder).unwrap();
    assert_eq!(tensors(&back), tensors(&adapter));
    assert_eq!(back.parts[module].alpha, 9.0);
}

#[test]
fn inspect_measures_norms_and_warns_of_dead_and_exploded_parts() {
    let mut adapter = from_lora_set(&set(LoraSpec::lora(2)), "some-base").unwrap();
    let q = "model.layers.0.self_attn.q_proj";
    let report = inspect(&adapter);
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    // The norm by multiplying out.
    let part = &adapter.parts[q];
    let (a, b) = (part.a.to_f32(), part.b.to_f32());
    let mut square = 0.0;
    for row in b.chunks(2) {
        for column in 0..8 {
            square += f64::from(row[0] * a[column] + row[1] * a[8 + column]).powi(2);
        }
    }
    let found = report.parts.iter().find(|p| p.module == q).unwrap();
    assert!((found.norm / square.sqrt() - 1.0).abs() < 1e-5);
    assert_eq!(report.targets["q_proj"], 2);
    assert_eq!(report.layers[0].0, "layer 0");
    let rows = part.b.shape.clone();
    adapter.parts.get_mut(q).unwrap().b = Numbers::new(&rows, &[0.0; 16]);
    let down = "model.layers.1.mlp.down_proj";
    let part = adapter.parts.get_mut(down).unwrap();
    part.b = part.b.times(1e4).0;
    let warnings = inspect(&adapter).warnings;
    assert!(
        warnings[0].contains("dead") && warnings[0].contains(q),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("exploded") && warnings[1].contains(down));
    let part = adapter.parts.get_mut(down).unwrap();
    part.b = Numbers::new(&part.b.shape.clone(), &vec![f32::NAN; part.b.count()]);
    assert!(inspect(&adapter).warnings[0].contains("not finite"));
    let text = inspect(&adapter).text();
    assert!(
        text.contains("some-base") && text.contains("down_proj x2"),
        "{text}"
    );
}
