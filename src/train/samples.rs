//! Samples: what the adapter answers to `sample_prompts`, beside the bare base.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Context;

use super::checkpoint;
use super::shrink::{Work, is_out_of_memory, watched};
use super::trainer::{Flow, Trainer};
use crate::config::OnOom;
use crate::generate::{SamplingOptions, encode_prompt, generate};
use crate::model::{self, Active};
use crate::printable::printable;
use crate::protocol::{EventKind, Level, PhaseName, SampleText};

/// Long enough to see what was learnt, short enough not to hold up the run.
const MAX_TOKENS: usize = 64;

impl Trainer<'_> {
    /// Answers every prompt of `sample_prompts`.
    pub fn sample_all(&mut self) -> Flow<()> {
        let prompts = self.config.sample_prompts.clone();
        // What an earlier runner wrote at this step before it was killed would be there twice.
        let _ = fs::remove_file(self.samples_file());
        self.sample(&prompts)?;
        self.progress.sampled_at = Some(self.progress.step);
        Ok(())
    }

    /// Answers prompts greedily. Controls are taken in between tokens.
    pub fn sample(&mut self, prompts: &[String]) -> Flow<()> {
        let clock = Instant::now();
        let left = self.stage.enter(PhaseName::Sampling, "");
        let outer = std::mem::replace(&mut self.occupied, true);
        // A new adapter's B is zero: before the first update it is the bare base.
        let bare = self.optimizer.updates == 0 && self.config.init_from.is_none();
        let mut samples = Vec::new();
        for prompt in prompts {
            let base_text = match self.base_texts.get(prompt) {
                Some(text) => text.clone(),
                None => {
                    let Some(text) = self.answer(prompt, false)? else {
                        continue;
                    };
                    self.base_texts.insert(prompt.clone(), text.clone());
                    text
                }
            };
            if bare {
                samples.push(SampleText {
                    prompt: prompt.clone(),
                    text: base_text,
                    base_text: None,
                });
            } else if let Some(text) = self.answer(prompt, true)? {
                samples.push(SampleText {
                    prompt: prompt.clone(),
                    text,
                    base_text: Some(base_text),
                });
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

    /// `None`: memory ran out, which was told. A sample is not worth a pause, unless `on_oom` wants it.
    fn answer(&mut self, prompt: &str, with_adapter: bool) -> Flow<Option<String>> {
        let (base, set) = (Rc::clone(&self.base), self.set.clone());
        let active = [Active {
            set: &set,
            strength: 1.0,
        }];
        let adapters = if with_adapter { &active[..] } else { &[] };
        let template = self.config.chat_template.as_deref();
        let ids = encode_prompt(&base.tokenizer, template, prompt, false)?;
        let momentary = model::momentary_bytes(base.decoder.config(), ids.len() as u64);
        loop {
            let mut attended = Ok(());
            let text = watched(momentary, || {
                generate(
                    &base.decoder,
                    &base.tokenizer,
                    adapters,
                    &ids,
                    &SamplingOptions::greedy(MAX_TOKENS),
                    &mut |_| {
                        attended = self.attend();
                        attended.is_ok()
                    },
                )
            });
            attended?;
            match text {
                Ok(text) => return Ok(Some(text)),
                Err(e) if is_out_of_memory(&e) && self.config.on_oom == OnOom::Shrink => {
                    let text = format!(
                        "a sample was left out, as memory ran out ({e:#}): sample shorter prompts, \
                         or free memory and sample again"
                    );
                    self.message(Level::Warning, text);
                    return Ok(None);
                }
                Err(e) => self.out_of_memory(e, 1, Work::Sample)?,
            }
        }
    }

    /// Adds to `samples/step-000100.md`. A copy for people: the event log has them all, so a failure
    /// is only told.
    fn write_samples(&self, samples: &[SampleText]) {
        let mut text = String::new();
        for sample in samples {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "## {}\n\n{}\n",
                sample.prompt.trim(),
                sample.text.trim()
            );
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
