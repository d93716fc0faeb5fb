//! Captions of pictures: written by BLIP, or composed of phrases that CLIP ranks.

use std::path::Path;

use anyhow::{Result, anyhow};
use candle_core::Device;

use super::beam::{SearchOptions, search};
use crate::data::images::Rgb;
use crate::data::pixel_values;
use crate::error::input_error;
use crate::model::{Blip, ClipVision, embed_texts, vision_model_type};

/// Writes captions.
pub enum Labeller {
    Blip {
        model: Box<Blip>,
        /// The tokens that every caption begins with, and the text of them.
        prompt: Vec<u32>,
        options: SearchOptions,
    },
    Clip(Box<Ranker>),
}

/// What CLIP chooses from, already put where the pictures are.
pub struct Ranker {
    vision: ClipVision,
    sections: Vec<Section>,
}

struct Section {
    most: usize,
    least: f32,
    phrases: Vec<String>,
    /// A unit vector for each phrase.
    texts: Vec<Vec<f32>>,
}

const PHRASES: &str = include_str!("phrases.txt");

impl Labeller {
    /// Opens a BLIP or CLIP folder. `begin`: words that a BLIP caption begins with.
    ///
    /// # Errors
    /// Another model, or a damaged one: one sentence.
    pub fn open(
        folder: &Path,
        device: &Device,
        begin: Option<&str>,
        options: SearchOptions,
    ) -> Result<Self> {
        match vision_model_type(folder)?.as_str() {
            "blip" => {
                let model = Blip::open(folder, device)?;
                let mut prompt = vec![model.begin()];
                if let Some(begin) = begin {
                    prompt.extend(model.encode(begin)?);
                }
                if prompt.len() + options.max_tokens > model.longest() {
                    return Err(input_error(format!(
                        "--max-tokens {} is more than the model's {} positions allow",
                        options.max_tokens,
                        model.longest()
                    )));
                }
                Ok(Labeller::Blip {
                    model: Box::new(model),
                    prompt,
                    options,
                })
            }
            "clip" if begin.is_some() => Err(input_error(
                "--begin is for BLIP: CLIP's captions are composed of phrases; use --prefix",
            )),
            "clip" => Ok(Labeller::Clip(Box::new(Ranker::open(folder, device)?))),
            other => Err(input_error(format!(
                "{} holds a model of the type {other}: captions are written by BLIP \
                 (BlipForConditionalGeneration) or CLIP",
                folder.display()
            ))),
        }
    }

    /// A caption for each picture.
    ///
    /// # Errors
    /// The model fails.
    pub fn captions(&self, pictures: &[Rgb]) -> Result<Vec<String>> {
        let steps = match self {
            Labeller::Blip { model, .. } => model.preprocessing(),
            Labeller::Clip(ranker) => ranker.vision.preprocessing(),
        };
        let pixels: Vec<Vec<f32>> = pictures
            .iter()
            .map(|picture| pixel_values(picture.width, picture.height, &picture.data, steps))
            .collect();
        match self {
            Labeller::Blip {
                model,
                prompt,
                options,
            } => {
                let mut speech = model.look(&pixels)?;
                let found = search(&mut speech, pixels.len(), prompt, model.end(), options)?;
                found
                    .into_iter()
                    .map(|ids| model.decode(&[&prompt[1..], &ids].concat()))
                    .collect()
            }
            Labeller::Clip(ranker) => {
                let pictures = ranker.vision.embed(&pixels)?;
                Ok(pictures
                    .iter()
                    .map(|picture| ranker.caption(picture))
                    .collect())
            }
        }
    }
}

impl Ranker {
    fn open(folder: &Path, device: &Device) -> Result<Self> {
        let vision = ClipVision::open(folder, device)?;
        let mut sections: Vec<Section> = Vec::new();
        let (mut sentence, mut sentences) = ("", Vec::new());
        for line in PHRASES
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            if let Some(head) = line.strip_prefix('[') {
                let (_, head) = head.split_once("] ").unwrap_or_default();
                let mut parts = head.split(" | ");
                sentence = parts.next().unwrap_or_default();
                let mut number = || parts.next().and_then(|n| n.parse::<f32>().ok());
                let (Some(most), Some(least)) = (number(), number()) else {
                    return Err(anyhow!("a section of phrases.txt has no numbers: {line}"));
                };
                sections.push(Section {
                    most: most as usize,
                    least,
                    phrases: Vec::new(),
                    texts: Vec::new(),
                });
            } else if let Some(section) = sections.last_mut() {
                section.phrases.push(line.to_owned());
                sentences.push(sentence.replace("{}", line));
            }
        }
        let mut texts = embed_texts(folder, device, &sentences)?.into_iter();
        for section in &mut sections {
            section.texts = texts.by_ref().take(section.phrases.len()).collect();
        }
        Ok(Ranker { vision, sections })
    }

    /// "a photograph of a cat, long hair, indoors": the first two sections are joined by "of".
    fn caption(&self, picture: &[f32]) -> String {
        let mut parts: Vec<String> = Vec::new();
        for (at, section) in self.sections.iter().enumerate() {
            for phrase in section.chosen(picture, self.vision.scale()) {
                match parts.first_mut() {
                    Some(medium) if at == 1 => *medium = format!("{medium} of {phrase}"),
                    _ => parts.push(phrase.to_owned()),
                }
            }
        }
        parts.join(", ")
    }
}

impl Section {
    /// The likeliest phrases that are likely enough.
    fn chosen(&self, picture: &[f32], scale: f32) -> Vec<&str> {
        let scores = self.texts.iter().map(|text| {
            let pairs = text.iter().zip(picture);
            scale * pairs.map(|(a, b)| a * b).sum::<f32>()
        });
        let scores: Vec<f32> = scores.collect();
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = scores.iter().map(|score| (score - most).exp()).sum();
        let shares = scores.iter().map(|score| (score - most).exp() / sum);
        let mut ranked: Vec<(f32, &str)> = shares
            .zip(self.phrases.iter().map(String::as_str))
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked
            .into_iter()
            .take(self.most)
            .filter(|(share, _)| *share >= self.least)
            .map(|(_, phrase)| phrase)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_ranked_within_their_section() {
        let section = Section {
            most: 2,
            least: 0.2,
            phrases: ["one", "two", "three"].map(str::to_owned).to_vec(),
            texts: vec![vec![0.0, 1.0], vec![1.0, 0.0], vec![0.8, 0.6]],
        };
        assert_eq!(section.chosen(&[1.0, 0.0], 3.0), ["two", "three"]);
        assert_eq!(section.chosen(&[1.0, 0.0], 100.0), ["two"]);
    }

    #[test]
    fn the_phrase_list_is_well_formed() {
        let heads = PHRASES.lines().filter(|line| line.starts_with('['));
        for head in heads {
            assert!(
                head.contains("{}") && head.split(" | ").count() == 3,
                "{head}"
            );
        }
        let phrases = PHRASES
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with(['#', '[']));
        let mut all: Vec<&str> = phrases.collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert!(count > 150 && all.len() == count, "a phrase stands twice");
    }
}
