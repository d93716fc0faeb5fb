//! What CLIP is asked about images, and what it answers: zero-shot classification with several
//! sentences for each answer (Radford et al., 2021, section 3.1.4).

use std::path::Path;

use anyhow::{Result, bail};

use crate::model::{Device, embed_texts, unit};

/// The questions that loradeck asks.
const QUESTIONS: &str = include_str!("questions.txt");

/// The answers that the report is about.
pub(super) const CHARACTER: &str = "a person or character";
pub(super) const VIEWS: [(&str, &str); 4] = [
    ("side", "front view"),
    ("side", "side view"),
    ("framing", "half body"),
    ("framing", "full body"),
];
pub(super) const CLUTTERED: (&str, &str) = ("ground", "cluttered");

/// Questions and their answers, put where CLIP's images are.
#[derive(Clone, Debug, PartialEq)]
pub struct Questions {
    questions: Vec<Question>,
    /// What similarities are multiplied by before the softmax.
    scale: f32,
}

#[derive(Clone, Debug, PartialEq)]
struct Question {
    name: String,
    answers: Vec<Answer>,
}

#[derive(Clone, Debug, PartialEq)]
struct Answer {
    name: String,
    /// Of length 1.
    vector: Vec<f32>,
}

/// A question, an answer to it, and the sentences that this is recognised by.
type Line<'a> = (&'a str, &'a str, Vec<&'a str>);

fn lines(text: &str) -> Result<Vec<Line<'_>>> {
    let mut all = Vec::new();
    let mut question = "";
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            question = name.trim_end_matches(']');
        } else if let Some((name, sentences)) = line.split_once(": ") {
            all.push((question, name, sentences.split(" | ").collect()));
        } else {
            bail!("a line of questions.txt has no answer's name: {line}");
        }
    }
    Ok(all)
}

impl Questions {
    /// Puts the answers' sentences where the CLIP of `folder` puts them. An answer lies in the middle
    /// of its sentences. `scale`: as [`crate::model::ClipVision::scale`].
    ///
    /// # Errors
    /// The folder holds no whole CLIP; the device fails.
    pub fn open(folder: &Path, device: &Device, scale: f32) -> Result<Self> {
        let lines = lines(QUESTIONS)?;
        let sentences = lines.iter().flat_map(|(_, _, sentences)| sentences);
        let sentences: Vec<String> = sentences.map(|text| (*text).to_owned()).collect();
        let mut embedded = embed_texts(folder, device, &sentences)?.into_iter();
        let vectors = lines.iter().map(|(_, _, sentences)| {
            let all: Vec<Vec<f32>> = embedded.by_ref().take(sentences.len()).collect();
            let width = all.first().map_or(0, Vec::len);
            unit(
                (0..width)
                    .map(|at| all.iter().map(|v| v[at]).sum())
                    .collect(),
            )
        });
        let vectors: Vec<Vec<f32>> = vectors.collect();
        Self::of(vectors, scale)
    }

    /// Of the answers' vectors, in the order of the file.
    pub(super) fn of(vectors: Vec<Vec<f32>>, scale: f32) -> Result<Self> {
        let lines = lines(QUESTIONS)?;
        if lines.len() != vectors.len() {
            bail!(
                "{} vectors for {} answers of questions.txt",
                vectors.len(),
                lines.len()
            );
        }
        let mut questions: Vec<Question> = Vec::new();
        for ((question, name, _), vector) in lines.into_iter().zip(vectors) {
            if questions.last().is_none_or(|last| last.name != question) {
                questions.push(Question {
                    name: question.to_owned(),
                    answers: Vec::new(),
                });
            }
            if let Some(last) = questions.last_mut() {
                last.answers.push(Answer {
                    name: name.to_owned(),
                    vector,
                });
            }
        }
        Ok(Questions { questions, scale })
    }

    /// Names the file's text, so that what was kept for another one is not taken.
    pub(super) fn fingerprint() -> blake3::Hash {
        blake3::hash(QUESTIONS.as_bytes())
    }

    /// Everything that has to be kept: the answers' vectors in the order of the file, and the scale.
    pub(super) fn vectors(&self) -> (Vec<&[f32]>, f32) {
        let answers = self.questions.iter().flat_map(|q| &q.answers);
        (answers.map(|a| a.vector.as_slice()).collect(), self.scale)
    }

    /// The answers to a question with their probabilities, which sum to 1, for an image's unit
    /// vector.
    pub fn ask(&self, question: &str, image: &[f32]) -> Vec<(&str, f32)> {
        let found = self.questions.iter().find(|q| q.name == question);
        let answers = found.map_or(&[][..], |q| &q.answers);
        let scores: Vec<f32> = answers
            .iter()
            .map(|answer| self.scale * dot(&answer.vector, image))
            .collect();
        let names = answers.iter().map(|answer| answer.name.as_str());
        names.zip(softmax(&scores)).collect()
    }

    /// The likeliest answer.
    pub(super) fn answer(&self, question: &str, image: &[f32]) -> &str {
        let mut answers = self.ask(question, image);
        answers.sort_by(|a, b| b.1.total_cmp(&a.1));
        answers.first().map_or("", |(name, _)| name)
    }

    /// The probability of an answer.
    pub(super) fn share(&self, (question, name): (&str, &str), image: &[f32]) -> f32 {
        let answers = self.ask(question, image);
        let found = answers.into_iter().find(|(answer, _)| *answer == name);
        found.map_or(0.0, |(_, share)| share)
    }

    /// How the probability that the answer is in each of several parts of an image is divided among
    /// them.
    pub(super) fn divided(&self, (question, name): (&str, &str), parts: &[Vec<f32>]) -> Vec<f32> {
        let found = self.questions.iter().find(|q| q.name == question);
        let answer = found.and_then(|q| q.answers.iter().find(|a| a.name == name));
        let score = |part: &Vec<f32>| answer.map_or(0.0, |a| self.scale * dot(&a.vector, part));
        softmax(&parts.iter().map(score).collect::<Vec<f32>>())
    }
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Questions whose every answer has an axis of its own, and that axis's number.
    pub fn axes(scale: f32) -> (Questions, impl Fn(&str) -> usize) {
        let lines = lines(QUESTIONS).unwrap();
        let names: Vec<String> = lines
            .iter()
            .map(|(_, name, _)| (*name).to_owned())
            .collect();
        let vector = |at: usize| {
            (0..names.len())
                .map(|i| f32::from(u8::from(i == at)))
                .collect()
        };
        let vectors = (0..names.len()).map(vector).collect();
        let questions = Questions::of(vectors, scale).unwrap();
        let axis = move |name: &str| names.iter().position(|n| n == name).unwrap();
        (questions, axis)
    }

    #[test]
    fn what_the_report_asks_for_stands_in_the_file() {
        let (questions, axis) = axes(1.0);
        let names = questions.questions.iter().map(|q| q.name.as_str());
        assert_eq!(
            names.collect::<Vec<_>>(),
            ["kind", "side", "framing", "ground"]
        );
        for (question, answer) in VIEWS.into_iter().chain([("kind", CHARACTER), CLUTTERED]) {
            let image = vec![0.0; axis("cluttered") + 1];
            let answers = questions.ask(question, &image);
            assert!(answers.iter().any(|(name, _)| *name == answer), "{answer}");
        }
    }

    #[test]
    fn an_answer_is_as_likely_as_the_softmax_over_its_question_says() {
        let (questions, axis) = axes(2.0);
        let mut image = vec![0.0; axis("cluttered") + 1];
        image[axis("side view")] = 0.5;
        // e^1 / (e^1 + 2 e^0); answers to other questions have no part in it.
        let share = questions.share(("side", "side view"), &image);
        assert!((share - 0.576_117).abs() < 1e-5, "{share}");
        assert_eq!(questions.answer("side", &image), "side view");
        let shares = questions.ask("framing", &image);
        assert!(
            shares
                .iter()
                .all(|(_, share)| (share - 1.0 / 3.0).abs() < 1e-6)
        );
    }
}
