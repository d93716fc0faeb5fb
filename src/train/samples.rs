//! Samples: what the adapter makes of `sample_prompts`, beside the bare base.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Context;

use super::checkpoint;
use super::objective::Made;
use super::shrink::{Work, is_out_of_memory, watched};
use super::trainer::{Flow, Trainer};
use crate::config::OnOom;
use crate::model::Active;
use crate::printable::printable;
use crate::protocol::{EventKind, Level, PhaseName, SampleText};

impl Trainer<'_> {
    /// Makes a sample of every prompt of `sample_prompts`.
    pub fn sample_all(&mut self) -> Flow<()> {
        let prompts = self.config.sample_prompts.clone();
        // What an earlier runner wrote at this step before it was killed would be there twice.
        let _ = fs::remove_file(self.samples_file());
        for number in 0.. {
            let name = picture_name(self.progress.step, number);
            if fs::remove_file(self.folders.samples.join(name)).is_err() {
                break;
            }
        }
        self.sample(&prompts)?;
        self.progress.sampled_at = Some(self.progress.step);
        Ok(())
    }

    /// Makes a sample of each prompt. Controls are taken in between tokens or denoising steps.
    pub fn sample(&mut self, prompts: &[String]) -> Flow<()> {
        let clock = Instant::now();
        let left = self.stage.enter(PhaseName::Sampling, "");
        let outer = std::mem::replace(&mut self.occupied, true);
        // A new adapter's B is zero: before the first update it is the bare base.
        let bare = self.optimizer.updates() == 0 && self.config.init_from.is_none();
        let mut samples = Vec::new();
        for prompt in prompts {
            let base = match self.base_samples.get(prompt) {
                Some(made) => made.clone(),
                None => {
                    let Some(made) = self.make(prompt, false)? else {
                        continue;
                    };
                    self.base_samples.insert(prompt.clone(), made.clone());
                    made
                }
            };
            if bare {
                samples.push(self.kept(prompt, base, None));
            } else if let Some(made) = self.make(prompt, true)? {
                samples.push(self.kept(prompt, made, Some(base)));
            }
        }
        self.occupied = outer;
        self.write_samples(&samples);
        self.reporter.emit(EventKind::Sample {
            step: self.progress.step,
            samples,
            seconds: clock.elapsed().as_secs_f64(),
        });
        self.stage.back(left);
        Ok(())
    }

    /// `None`: it cannot be made, which was told. A sample is not worth a pause, unless `on_oom` wants
    /// it.
    fn make(&mut self, prompt: &str, with_adapter: bool) -> Flow<Option<Made>> {
        let (objective, set) = (Rc::clone(&self.objective), self.set.clone());
        let active = [Active {
            set: &set,
            strength: 1.0,
        }];
        let adapters = if with_adapter { &active[..] } else { &[] };
        let config = self.config.clone();
        let momentary = match objective.sample_bytes(prompt, &config) {
            Ok(bytes) => bytes,
            Err(e) => return Ok(self.left_out(&e)),
        };
        loop {
            let mut attended = Ok(());
            let made = watched(momentary, || {
                objective.sample(prompt, &config, adapters, &mut || {
                    attended = self.attend();
                    attended.is_ok()
                })
            });
            attended?;
            match made {
                Ok(made) => return Ok(Some(made)),
                Err(e) if is_out_of_memory(&e) && self.config.on_oom == OnOom::Shrink => {
                    let text = format!(
                        "a sample was left out, as memory ran out ({e:#}): sample shorter prompts \
                         or smaller pictures, or free memory and sample again"
                    );
                    self.message(Level::Warning, text);
                    return Ok(None);
                }
                Err(e) if is_out_of_memory(&e) => self.out_of_memory(e, 1, Work::Sample)?,
                Err(e) => return Ok(self.left_out(&e)),
            }
        }
    }

    /// Tells that a prompt cannot be sampled: the run goes on without it.
    fn left_out(&self, error: &anyhow::Error) -> Option<Made> {
        let text = format!("a sample was left out: {error:#}");
        self.message(Level::Warning, text);
        None
    }

    /// What the event log holds of a sample; pictures become files of their own.
    fn kept(&self, prompt: &str, made: Made, base: Option<Made>) -> SampleText {
        let mut sample = SampleText {
            prompt: prompt.to_owned(),
            ..SampleText::default()
        };
        match made {
            Made::Text(text) => sample.text = text,
            Made::Picture(png) => sample.image = self.write_picture(&self.free_name(), &png),
        }
        match base {
            Some(Made::Text(text)) => sample.base_text = Some(text),
            Some(Made::Picture(png)) => {
                // The same for all steps.
                let name = format!("base-{}.png", &blake3::hash(&png).to_hex()[..12]);
                sample.base_image = self.write_picture(&name, &png);
            }
            None => {}
        }
        sample
    }

    /// Writes `samples/NAME` and returns the name. A failure is only told: the run goes on.
    fn write_picture(&self, name: &str, png: &[u8]) -> Option<String> {
        let path = self.folders.samples.join(name);
        let written = fs::create_dir_all(&self.folders.samples)
            .and_then(|()| fs::write(&path, png))
            .with_context(|| format!("the sample was not written to {}", path.display()));
        match written {
            Ok(()) => Some(name.to_owned()),
            Err(e) => {
                self.message(Level::Warning, format!("{e:#}"));
                None
            }
        }
    }

    /// `step-000100-02.png`: the first name of this step that is not taken.
    fn free_name(&self) -> String {
        let mut number = 0;
        loop {
            let name = picture_name(self.progress.step, number);
            if !self.folders.samples.join(&name).exists() {
                return name;
            }
            number += 1;
        }
    }

    /// Adds to `samples/step-000100.md`. A copy for people: the event log has them all, so a failure
    /// is only told.
    fn write_samples(&self, samples: &[SampleText]) {
        let mut text = String::new();
        for sample in samples {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "## {}\n", sample.prompt.trim());
            if let Some(image) = &sample.image {
                let _ = writeln!(text, "![with the adapter]({image})\n");
            } else {
                let _ = writeln!(text, "{}\n", sample.text.trim());
            }
            if let Some(image) = &sample.base_image {
                let _ = writeln!(text, "![the bare base]({image})\n");
            }
            if let Some(base) = &sample.base_text {
                let _ = writeln!(text, "The bare base: {}\n", base.trim());
            }
        }
        let path = self.samples_file();
        let written = fs::create_dir_all(&self.folders.samples)
            .and_then(|()| {
                let mut options = OpenOptions::new();
                options.create(true).append(true).open(&path)
            })
            .and_then(|mut file| file.write_all(printable(&text).as_bytes()))
            .with_context(|| format!("the samples were not written to {}", path.display()));
        if let Err(e) = written {
            self.message(Level::Warning, format!("{e:#}"));
        }
    }

    fn samples_file(&self) -> PathBuf {
        let name = format!("{}.md", checkpoint::name(self.progress.step));
        self.folders.samples.join(name)
    }
}

fn picture_name(step: u64, number: usize) -> String {
    format!("{}-{number:02}.png", checkpoint::name(step))
}
