//! loradeck's numbers of image bases against those of diffusers, transformers and PEFT
//! (`tests/tools/make_diffusion_fixtures.py`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use loradeck::model::diffusion::{
    self, Grid, Kind, Prediction, Source, Text, TextCondition, TextEncoders, UNet, UNetInput,
};
use loradeck::model::{Active, DropoutKey, LoraPair, LoraSet, LoraSpec, Variable};
use loradeck::ops::LossSum;

const KINDS: [&str; 3] = ["sd1", "sd2", "sdxl"];
const CPU: Device = Device::Cpu;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diffusion")
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference over the largest number expected.
fn difference(got: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (floats(got), floats(expected));
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    let apart = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    apart.fold(0f32, f32::max) / largest.max(f32::MIN_POSITIVE)
}

/// A kind's base, adapter and the reference's numbers.
struct Case {
    name: &'static str,
    source: Source,
    expected: HashMap<String, Tensor>,
    captions: Vec<Vec<Vec<u32>>>,
}

impl Case {
    fn read(name: &'static str, base: &str) -> Self {
        let folder = fixtures().join(name);
        let file = folder.join("expected.safetensors");
        let expected = candle_core::safetensors::load(file, &CPU).unwrap();
        let ids: Vec<Vec<i64>> = expected["ids"].to_vec2().unwrap();
        let chunk = |ids: &Vec<i64>| vec![ids.iter().map(|&id| id as u32).collect()];
        Case {
            name,
            source: Source::open(folder.join(base).to_str().unwrap()).unwrap(),
            captions: ids.iter().map(chunk).collect(),
            expected,
        }
    }

    fn all() -> Vec<Self> {
        KINDS.map(|name| Case::read(name, "base")).into()
    }

    fn close(&self, got: &Tensor, key: &str) {
        let apart = difference(got, &self.expected[key]);
        assert!(apart < 1e-4, "{}, {key}: {apart:e}", self.name);
    }

    fn text_encoders(&self) -> TextEncoders {
        self.source.text_encoders(&CPU, DType::F32).unwrap()
    }

    fn unet(&self) -> UNet {
        self.source.unet(&CPU, DType::F32).unwrap()
    }

    /// The adapter of the components that begin with `prefix`.
    fn adapter(&self, prefix: &str) -> LoraSet {
        let mut modules: Vec<&str> = self
            .expected
            .keys()
            .filter_map(|key| key.strip_prefix("a."))
            .filter(|module| module.starts_with(prefix))
            .collect();
        modules.sort();
        let pairs = modules.iter().map(|module| LoraPair {
            module: (*module).to_owned(),
            a: Variable::from_tensor(&self.expected[&format!("a.{module}")]).unwrap(),
            b: Variable::from_tensor(&self.expected[&format!("b.{module}")]).unwrap(),
            magnitude: None,
            scale: 1.5,
        });
        LoraSet::from_pairs(pairs.collect(), LoraSpec::lora(2))
    }

    fn timesteps(&self) -> Vec<f32> {
        floats(&self.expected["unet.timesteps"])
    }

    fn time_ids(&self) -> Option<Vec<[f32; 6]>> {
        let ids: Vec<Vec<f32>> = self.expected.get("unet.time_ids")?.to_vec2().unwrap();
        Some(ids.iter().map(|row| row[..].try_into().unwrap()).collect())
    }

    fn with_input<R>(&self, f: impl FnOnce(&UNetInput<'_>) -> R) -> R {
        let (timesteps, time_ids) = (self.timesteps(), self.time_ids());
        f(&UNetInput {
            latents: &self.expected["unet.latents"],
            grid: LATENTS,
            timesteps: &timesteps,
            time_ids: time_ids.as_deref(),
        })
    }

    /// Mean squared error, and its gradient.
    fn loss(&self, prediction: &Tensor) -> anyhow::Result<(LossSum, Tensor)> {
        let difference = (prediction - &self.expected["target"])?;
        let loss = difference.sqr()?.mean_all()?.to_scalar::<f32>()?;
        let count = difference.elem_count() as f64;
        Ok((
            LossSum::Known(f64::from(loss)),
            (difference * (2.0 / count))?,
        ))
    }
}

const LATENTS: Grid = Grid {
    images: 2,
    height: 8,
    width: 12,
};

const IMAGE: Grid = Grid {
    images: 2,
    height: 16,
    width: 12,
};

#[test]
fn encoded_texts_are_those_of_transformers_at_every_clip_skip() {
    for case in Case::all() {
        let encoders = case.text_encoders();
        let text = encoders.encode(&case.captions, 0, &[]).unwrap();
        case.close(&text.context, "text.context");
        assert_eq!(text.lengths, [9, 9]);
        assert_eq!(text.pooled.is_some(), case.name == "sdxl");
        if let Some(pooled) = &text.pooled {
            case.close(pooled, "text.pooled");
        }
        for skip in [1, 2] {
            let text = encoders.encode(&case.captions, skip, &[]).unwrap();
            case.close(&text.context, &format!("skip.{skip}"));
        }
        assert!(encoders.encode(&case.captions, 99, &[]).is_err());
    }
}

#[test]
fn latents_and_images_are_those_of_diffusers() {
    for case in Case::all() {
        let encoder = case.source.vae_encoder(&CPU).unwrap();
        let (mean, log_variance) = encoder.encode(&case.expected["image"], IMAGE).unwrap();
        case.close(&mean, "vae.mean");
        case.close(&log_variance, "vae.log_variance");
        let decoder = case.source.vae_decoder(&CPU).unwrap();
        let latents = Grid {
            height: 4,
            width: 3,
            ..IMAGE
        };
        let image = decoder.decode(&case.expected["vae.mean"], latents).unwrap();
        case.close(&image, "vae.image");
    }
}

#[test]
fn predictions_are_those_of_diffusers_with_and_without_the_adapter() {
    for case in Case::all() {
        let (unet, encoders) = (case.unet(), case.text_encoders());
        let run = |adapters: &[Active<'_>]| {
            let text = encoders.encode(&case.captions, 0, adapters).unwrap();
            case.with_input(|input| unet.forward(input, &text, adapters).unwrap())
        };
        case.close(&run(&[]), "unet.base");
        let set = case.adapter("");
        let whole = Active {
            set: &set,
            strength: 1.0,
        };
        case.close(&run(&[whole]), "unet.out");
        let absent = Active {
            strength: 0.0,
            ..whole
        };
        case.close(&run(&[absent]), "unet.base");
    }
}

/// Of UNet and text encoder together, and of the UNet alone.
#[test]
fn losses_and_gradients_are_those_of_diffusers_with_and_without_recomputation() {
    for case in Case::all() {
        let (unet, encoders) = (case.unet(), case.text_encoders());
        let set = case.adapter("");
        let mut passes = Vec::new();
        for recompute in [false, true] {
            let text = Text::Trained {
                encoders: &encoders,
                captions: &case.captions,
                clip_skip: 0,
            };
            let pass = case.with_input(|input| {
                let loss = |prediction: &Tensor| case.loss(prediction);
                unet.loss_and_gradients(input, text, &set, None, recompute, loss)
            });
            let pass = pass.unwrap();
            let expected = f64::from(floats(&case.expected["loss"])[0]);
            let loss = pass.loss.value().unwrap();
            assert!((loss / expected - 1.0).abs() < 1e-5, "{}", case.name);
            for (parameter, gradient) in set.parameters().iter().zip(&pass.gradients) {
                let part = if parameter.part.name() == "lora_A" {
                    "a"
                } else {
                    "b"
                };
                case.close(gradient, &format!("grad.{part}.{}", parameter.module));
            }
            passes.push(pass);
        }
        for (a, b) in passes[0].gradients.iter().zip(&passes[1].gradients) {
            assert_eq!(floats(a), floats(b));
        }
        let text = encoders
            .encode(
                &case.captions,
                0,
                &[Active {
                    set: &set,
                    strength: 1.0,
                }],
            )
            .unwrap();
        let alone = case.adapter("unet.");
        let pass = case.with_input(|input| {
            let loss = |prediction: &Tensor| case.loss(prediction);
            let text = Text::Encoded(&text);
            unet.loss_and_gradients(input, text, &alone, None, true, loss)
        });
        for (parameter, gradient) in alone.parameters().iter().zip(&pass.unwrap().gradients) {
            let part = if parameter.part.name() == "lora_A" {
                "a"
            } else {
                "b"
            };
            case.close(gradient, &format!("grad.{part}.{}", parameter.module));
        }
    }
}

#[test]
fn a_pass_run_again_gives_the_same_bits_also_with_dropout() {
    let case = Case::read("sd1", "base");
    let (unet, encoders) = (case.unet(), case.text_encoders());
    let mut set = case.adapter("");
    set.spec.dropout = 0.3;
    let run = |step, recompute| {
        let key = DropoutKey {
            seed: 1,
            step,
            micro_batch: 2,
            tokens_before: 0,
        };
        let text = Text::Trained {
            encoders: &encoders,
            captions: &case.captions,
            clip_skip: 0,
        };
        let pass = case.with_input(|input| {
            let loss = |prediction: &Tensor| case.loss(prediction);
            unet.loss_and_gradients(input, text, &set, Some(key), recompute, loss)
        });
        let pass = pass.unwrap();
        let numbers: Vec<f32> = pass.gradients.iter().flat_map(floats).collect();
        (pass.loss.value().unwrap(), numbers)
    };
    let first = run(1, false);
    assert_eq!(run(1, false), first);
    assert_eq!(run(1, true), first, "recomputation must replay the masks");
    assert_ne!(run(2, false).0, first.0);
}

/// Texts of several lengths side by side, as a negative prompt and a long one are.
#[test]
fn images_of_one_batch_do_not_see_each_other() {
    for case in Case::all() {
        let (unet, encoders) = (case.unet(), case.text_encoders());
        let mut long = case.captions[0].clone();
        long.push(case.captions[1][0].clone());
        let texts = [long, case.captions[1].clone()]
            .map(|caption| encoders.encode(&[caption], 0, &[]).unwrap());
        let both = TextCondition::cat(&texts).unwrap();
        assert_eq!(both.lengths, [18, 9]);
        let together = case.with_input(|input| unet.forward(input, &both, &[]).unwrap());
        let (timesteps, time_ids) = (case.timesteps(), case.time_ids());
        for (image, text) in texts.iter().enumerate() {
            let grid = Grid {
                images: 1,
                ..LATENTS
            };
            let rows = |t: &Tensor| t.narrow(0, image * grid.rows(), grid.rows()).unwrap();
            let latents = rows(&case.expected["unet.latents"]);
            let input = UNetInput {
                latents: &latents,
                grid,
                timesteps: &timesteps[image..=image],
                time_ids: time_ids.as_ref().map(|ids| &ids[image..=image]),
            };
            let alone = unet.forward(&input, text, &[]).unwrap();
            assert!(difference(&alone, &rows(&together)) < 1e-5);
        }
    }
}

#[test]
fn a_checkpoint_is_described_and_computes_as_the_folder_that_diffusers_makes_of_it() {
    for (name, kind, prediction) in [
        ("sd1", Kind::Sd1, Prediction::Epsilon),
        ("sd2", Kind::Sd2, Prediction::V),
        ("sdxl", Kind::Sdxl, Prediction::Epsilon),
    ] {
        let folder = Case::read(name, "base");
        let file = Case::read(name, "checkpoint.safetensors");
        let (a, b) = (folder.source.description(), file.source.description());
        assert_eq!((&*a.format, &*b.format), ("diffusers", "safetensors"));
        assert_eq!((a.kind, a.prediction), (kind, prediction));
        assert_eq!((b.kind, b.prediction), (kind, prediction));
        assert_eq!((&a.unet, &a.text, &a.vae), (&b.unet, &b.text, &b.vae));
        assert_eq!((a.parameters, a.noise), (b.parameters, b.noise));
        assert_eq!((&*a.dtype, a.bytes), ("F16", 2 * a.parameters));
        let encoders = file.text_encoders();
        let text = encoders.encode(&file.captions, 0, &[]).unwrap();
        file.close(&text.context, "text.context");
        let prediction = file.with_input(|input| file.unet().forward(input, &text, &[]));
        file.close(&prediction.unwrap(), "unet.base");
        for base in ["base", "checkpoint.safetensors"] {
            let path = fixtures().join(name).join(base);
            assert!(diffusion::is_image_base(path.to_str().unwrap()));
        }
    }
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama_tied_gqa");
    assert!(!diffusion::is_image_base(text.to_str().unwrap()));
}

#[test]
fn captions_become_the_token_ids_of_transformers_in_chunks() {
    let folder = fixtures().join("tokenizer");
    let tokenizer = diffusion::open_clip_tokenizer(&folder).unwrap();
    let cases = std::fs::read_to_string(folder.join("tokens.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&cases).unwrap();
    for case in cases.as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.ids(text).unwrap(), ids, "{text:?}");
    }
    let (bos, eos) = (tokenizer.bos, tokenizer.eos);
    let empty = tokenizer.chunks("", 3).unwrap();
    assert_eq!(empty.len(), 1);
    assert_eq!((empty[0].len(), empty[0][0]), (77, bos));
    assert!(empty[0][1..].iter().all(|&id| id == eos));
    let text = "cat ".repeat(80);
    let all = tokenizer.ids(&text).unwrap();
    assert!((76..=150).contains(&all.len()));
    let chunks = tokenizer.chunks(&text, 3).unwrap();
    assert_eq!(chunks.len(), 2);
    assert_eq!(chunks[0][1..76], all[..75]);
    assert_eq!((chunks[0][76], chunks[1][0]), (eos, bos));
    assert_eq!(chunks[1][1..all.len() - 74], all[75..]);
    assert_eq!(tokenizer.chunks(&text, 1).unwrap(), chunks[..1]);
    assert_eq!(tokenizer.cut_off(&text, 1).unwrap(), all.len() - 75);
}
