//! Whole image runs on builtin:tiny-sd: resumed to the same bits, and four configs on one set of
//! pictures in a queue, switched and stacked afterwards.

mod program;
#[path = "support/training.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use loradeck::config;
use loradeck::protocol::{Command, EventKind, StopMode};
use loradeck::random::{Purpose, Stream};
use loradeck::train::{Outcome, checkpoint};
use program::{Scratch, files_below, text};
use support::{Run, losses};

/// A drawn picture: a figure of one colour before another.
fn draw(path: &Path, side: u32, figure: [u8; 3], ground: [u8; 3], shape: usize) {
    let middle = side as i32 / 2;
    let inside = |x: i32, y: i32| match shape % 4 {
        0 => (x - middle).pow(2) + (y - middle).pow(2) < (middle * middle) / 2,
        1 => (x - middle).abs().max((y - middle).abs()) < middle * 2 / 3,
        2 => (x - middle).abs() + (y - middle).abs() < middle,
        _ => (x - middle).abs() < (y / 2).min(middle),
    };
    let pixels: Vec<u8> = (0..side as i32)
        .flat_map(|y| (0..side as i32).map(move |x| (x, y)))
        .flat_map(|(x, y)| if inside(x, y) { figure } else { ground })
        .collect();
    let file = fs::File::create(path).unwrap();
    let mut encoder = png::Encoder::new(file, side, side);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&pixels).unwrap();
    writer.finish().unwrap();
}

/// `count` pictures with captions beside them.
fn pictures(folder: &Path, count: usize) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        let shade = (i * 37 % 200) as u8;
        let (figure, ground) = ([220, shade, 60], [shade / 2, 120, 200 - shade]);
        draw(&folder.join(format!("{i:02}.png")), 64, figure, ground, i);
        let caption = format!("a figure {i}, number {}, drawn", i % 5);
        fs::write(folder.join(format!("{i:02}.txt")), caption).unwrap();
    }
}

fn image_run(folder: &Path, data: &Path, settings: &str) -> Run {
    fs::create_dir_all(folder).unwrap();
    let yaml = format!(
        "base_model: builtin:tiny-sd\ntrain_data_dir: {}\noutput_dir: {}\ndevice: cpu\n\
         resolution: 64\nlora_rank: 4\nbatch_size: 2\n{settings}\n",
        data.display(),
        folder.display()
    );
    let path = folder.join("run.yaml");
    fs::write(&path, yaml).unwrap();
    let loaded = config::load(&path, &[]).unwrap_or_else(|problems| panic!("{problems:?}"));
    Run {
        folder: folder.to_owned(),
        config: loaded.config,
    }
}

#[derive(Debug, PartialEq)]
struct Bits {
    losses: BTreeMap<u64, u64>,
    adapter: Vec<u8>,
    moments: Vec<u8>,
    kohya: Vec<u8>,
    diffusers: Vec<u8>,
}

fn bits(run: &Run, steps: u64, losses: BTreeMap<u64, u64>) -> Bits {
    let last = run.checkpoint(steps);
    checkpoint::verify(&last).unwrap();
    let exports = run.folders().exports;
    Bits {
        losses,
        adapter: fs::read(last.join("adapter.safetensors")).unwrap(),
        moments: fs::read(last.join("optimizer.safetensors")).unwrap(),
        kohya: fs::read(exports.join("kohya/lora.safetensors")).unwrap(),
        diffusers: fs::read(exports.join("diffusers/pytorch_lora_weights.safetensors")).unwrap(),
    }
}

#[test]
fn an_image_run_that_was_cut_off_ends_with_the_same_bits() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("pictures");
    pictures(&data, 9);
    // Everything random at once: flips, shuffled and dropped captions, offset noise, dropout.
    let settings = "learning_rate: 2e-3\nmax_steps: 6\nsave_steps: 2\ngradient_accumulation_steps: 2\neval_split: 2\n\
        eval_steps: 3\nflip_aug: true\nshuffle_caption: true\ncaption_dropout: 0.2\n\
        noise_offset: 0.05\nmin_snr_gamma: 5\nlora_dropout: 0.1\ntrain_text_encoder: true\n\
        text_encoder_lr: 1e-3";
    let straight = image_run(&temp.path().join("straight"), &data, settings);
    let (outcome, events) = straight.train(None);
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let whole = bits(&straight, 6, losses(&events).into_iter().collect());
    assert_eq!(whole.losses.len(), 6);

    for k in [1, 3, 4] {
        let run = image_run(&temp.path().join(format!("cut-{k}")), &data, settings);
        let mut seen = BTreeMap::new();
        for end in [Some(k), None] {
            let newest = checkpoint::newest(&run.folders().checkpoints).unwrap();
            let resume = newest.checkpoint.map(|c| c.path);
            let (outcome, events) = run.train_with(resume.as_deref(), move |event, hand| {
                if let EventKind::Step(m) = event
                    && Some(m.step) == end
                {
                    let mode = StopMode::Discard;
                    hand.send(1, Command::Stop { mode });
                }
            });
            outcome.unwrap();
            seen.extend(losses(&events));
        }
        assert_eq!(bits(&run, 6, seen), whole, "cut off after step {k}");
    }
}

#[test]
fn the_loss_falls_and_samples_are_pictures_that_change() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("pictures");
    pictures(&data, 8);
    let settings = "max_steps: 12\nlearning_rate: 5e-3\neval_split: 2\neval_steps: 12\n\
        sample_steps: 12\nsample_prompts: [\"a red house --s 4 --l 2 --d 1\"]";
    let run = image_run(&temp.path().join("run"), &data, settings);
    let (outcome, events) = run.train(None);
    assert_eq!(outcome.unwrap(), Outcome::Done);
    let evals: Vec<f64> = events
        .iter()
        .filter_map(|e| match e {
            EventKind::Eval { loss, .. } => Some(loss.0),
            _ => None,
        })
        .collect();
    assert_eq!(evals.len(), 2);
    assert!(evals[1] < evals[0], "{evals:?}");
    let samples: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            EventKind::Sample { samples, .. } => samples.first().cloned(),
            _ => None,
        })
        .collect();
    let file = |name: &Option<String>| {
        fs::read(run.folders().samples.join(name.as_ref().unwrap())).unwrap()
    };
    let (before, after) = (file(&samples[0].image), file(&samples[1].image));
    assert_eq!(&before[1..4], b"PNG");
    assert_ne!(before, after);
    // The bare base draws the same at any step.
    assert_eq!(before, file(&samples[1].base_image));
}

/// The names of the four-run case.
const OUTFITS: [&str; 4] = ["everyday", "battle", "swim", "festival"];

struct Case {
    scratch: Scratch,
    configs: Vec<PathBuf>,
}

impl Case {
    /// One set of 80 pictures and four configs that say of it which outfit they learn.
    fn new() -> Case {
        let scratch = Scratch::new("");
        let root = scratch.folder.path().to_owned();
        let data = root.join("pictures");
        fs::create_dir_all(&data).unwrap();
        let mut table = String::from("file_name,text\n");
        for i in 0..80 {
            let name = format!("{i:02}.png");
            let shade = (i * 3) as u8;
            draw(
                &data.join(&name),
                64,
                [200, shade, 90],
                [240 - shade, 210, shade],
                i,
            );
            table += &format!("{name},a girl in {} clothes {i}\n", OUTFITS[i % 4]);
        }
        fs::write(data.join("metadata.csv"), table).unwrap();
        let configs = OUTFITS.map(|outfit| {
            let path = root.join(format!("{outfit}.yaml"));
            let yaml = format!(
                "base_model: builtin:tiny-sd\ntrain_data_dir: {}\noutput_dir: {}\n\
                 trigger_word: {outfit}\nresolution: 64\nbatch_size: 4\nmax_steps: 3\n\
                 learning_rate: 5e-3\ndevice: cpu\n",
                data.display(),
                root.join("output").join(outfit).display()
            );
            fs::write(&path, yaml).unwrap();
            path
        });
        Case {
            scratch,
            configs: configs.to_vec(),
        }
    }

    fn cache(&self) -> PathBuf {
        self.scratch.folder.path().join("cache")
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = self.scratch.command(arguments);
        let out = command
            .env("LORADECK_CACHE", self.cache())
            .output()
            .unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", text(&out));
        out
    }

    fn adapter(&self, outfit: &str) -> String {
        let output = self.scratch.folder.path().join("output");
        let file = output.join(outfit).join("exports/kohya/lora.safetensors");
        file.to_str().unwrap().to_owned()
    }

    /// Draws with adapters; the picture's bytes and what was said on stderr.
    fn draw(&self, adapters: &[String]) -> (Vec<u8>, String) {
        let file = self.scratch.folder.path().join("drawn.png");
        let mut arguments = vec!["generate", "--base", "builtin:tiny-sd", "--prompt"];
        arguments.extend(["a girl", "--steps", "3", "--device", "cpu", "--output"]);
        arguments.push(file.to_str().unwrap());
        for adapter in adapters {
            arguments.extend(["--lora", adapter]);
        }
        let out = self.run(&arguments);
        let complaints = String::from_utf8_lossy(&out.stderr).into_owned();
        (fs::read(&file).unwrap(), complaints)
    }
}

/// Pictures of the set whose latents are kept, by when they were written.
fn kept(folder: &Path) -> BTreeMap<PathBuf, std::time::SystemTime> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => {
                    let written = entry.metadata().unwrap().modified().unwrap();
                    found.insert(path, written);
                }
            }
        }
    }
    found
}

/// Of what is kept, the latents: mean and variance of 16x16x4 numbers are less than a caption's
/// 77x64.
fn latents(kept: &BTreeMap<PathBuf, std::time::SystemTime>) -> usize {
    let small = |path: &&PathBuf| fs::metadata(path).unwrap().len() < 15_000;
    kept.keys().filter(small).count()
}

#[test]
fn four_runs_on_one_set_of_pictures_share_its_latents_and_their_adapters_stack() {
    let case = Case::new();
    let first = case.configs[0].to_str().unwrap();
    case.run(&["train", first, "--headless"]);
    let after_one = kept(&case.cache().join("arrays"));
    assert_eq!(latents(&after_one), 80);
    let mut arguments = vec!["queue"];
    arguments.extend(case.configs[1..].iter().map(|path| path.to_str().unwrap()));
    case.run(&arguments);
    let after_all = kept(&case.cache().join("arrays"));
    for (file, written) in &after_one {
        assert_eq!(
            after_all.get(file),
            Some(written),
            "made anew: {}",
            file.display()
        );
    }
    // Other captions, the same pictures.
    assert!(after_all.len() > after_one.len());
    assert_eq!(latents(&after_all), 80);

    let adapters: Vec<String> = OUTFITS.map(|outfit| case.adapter(outfit)).to_vec();
    let (bare, _) = case.draw(&[]);
    let alone: Vec<Vec<u8>> = adapters
        .iter()
        .map(|adapter| case.draw(std::slice::from_ref(adapter)).0)
        .collect();
    for (i, picture) in alone.iter().enumerate() {
        assert_ne!(picture, &bare, "{} does nothing", OUTFITS[i]);
        assert_eq!(
            picture,
            &case.draw(&adapters[i..=i]).0,
            "the same seed, the same picture"
        );
    }
    assert_ne!(alone[0], alone[1]);
    let half = |i: usize| format!("{}:0.5", adapters[i]);
    let (stacked, quiet) = case.draw(&[half(0), half(1)]);
    assert!(stacked != alone[0] && stacked != alone[1] && stacked != bare);
    assert!(!quiet.contains("add up"), "{quiet}");
    let (_, warned) = case.draw(&adapters[..2]);
    assert!(warned.contains("add up to 2.00, above 1.0"), "{warned}");
}

/// Kills and damage while latents and captions are kept: `LORADECK_KILLS=300` kills a tenth as often.
#[test]
fn a_run_killed_while_it_keeps_latents_or_with_damaged_ones_ends_with_the_same_bits() {
    let scratch = Scratch::new("");
    let root = scratch.folder.path();
    let (data, run, config) = (root.join("data"), root.join("run"), root.join("run.yaml"));
    pictures(&data, 12);
    let yaml = format!(
        "base_model: builtin:tiny-sd\ntrain_data_dir: {}\noutput_dir: {}\ndevice: cpu\n\
         resolution: 64\nlora_rank: 2\nbatch_size: 2\nmax_steps: 2\n",
        data.display(),
        run.display()
    );
    fs::write(&config, yaml).unwrap();
    let arguments = ["train", config.to_str().unwrap(), "--headless"];
    let train = |cache: &Path| {
        let out = scratch
            .command(&arguments)
            .env("LORADECK_CACHE", cache)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", text(&out));
        let adapter = fs::read(run.join("exports/kohya/lora.safetensors")).unwrap();
        let kept = files_below(&cache.join("arrays")).into_iter();
        let kept: BTreeMap<PathBuf, Vec<u8>> = kept
            .map(|f| {
                (
                    f.strip_prefix(cache).unwrap().to_owned(),
                    fs::read(&f).unwrap(),
                )
            })
            .collect();
        fs::remove_dir_all(&run).unwrap();
        (adapter, kept)
    };
    let undisturbed = train(&root.join("cache"));
    assert!(undisturbed.1.len() > 12, "nothing was kept");

    let wanted = std::env::var("LORADECK_KILLS")
        .ok()
        .and_then(|n| n.parse().ok());
    let wanted = wanted.unwrap_or(0u32).div_ceil(10).max(2);
    let mut stream = Stream::new(3, Purpose::Sampling, 0, 0);
    let (mut inside, mut after) = (0, 0);
    for i in 0..wanted {
        let cache = root.join(format!("cache-{i}"));
        let mut command = scratch.command(&arguments);
        let mut child = command
            .env("LORADECK_CACHE", &cache)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let wanted = 1 + stream.below(undisturbed.1.len() as u32) as usize;
        let begun = || files_below(&cache).len() >= wanted;
        while !begun() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(50));
        }
        std::thread::sleep(Duration::from_micros(u64::from(stream.below(3000))));
        let whole = kept(&cache).len() == undisturbed.1.len();
        match child.try_wait().unwrap().is_none() && !whole {
            true => inside += 1,
            false => after += 1,
        }
        let _ = child.kill();
        child.wait().unwrap();
        assert!(train(&cache) == undisturbed, "kill {i}");
    }

    let cache = root.join("cache");
    for file in undisturbed.1.keys() {
        let mut bytes = fs::read(cache.join(file)).unwrap();
        let at = stream.below(bytes.len() as u32) as usize;
        bytes[at] ^= 1 << stream.below(8);
        fs::write(cache.join(file), bytes).unwrap();
    }
    assert!(train(&cache) == undisturbed, "damaged");
    println!(
        "{inside} kills while latents and captions were kept ({after} came too late), {} flipped bytes",
        undisturbed.1.len()
    );
}
