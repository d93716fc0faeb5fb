//! Greedy and beam search over a model that scores next tokens, as transformers' `generate` does it
//! (`generation/utils.py`, `_sample` and `_beam_search`, version 5).

use std::cmp::Ordering;

use anyhow::Result;

use crate::model::Speech;

/// When a beam search stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As soon as there are as many finished texts as beams.
    Yes,
    /// When it is unlikely that a better one comes.
    #[default]
    No,
    /// Only when no better one can come.
    Never,
}

/// How a text is searched.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchOptions {
    /// 1: greedy.
    pub beams: usize,
    /// Tokens at most, the first not counted.
    pub max_tokens: usize,
    /// Tokens at least.
    pub min_tokens: usize,
    /// A finished text's score is its log probability over its length to this power.
    pub length_penalty: f64,
    pub early_stopping: EarlyStopping,
    /// Above 1: what was said becomes less likely.
    pub repetition_penalty: f32,
    /// No run of so many tokens comes twice; 0: any may.
    pub no_repeat_ngram: usize,
}

impl Default for SearchOptions {
    fn default() -> Self {
        SearchOptions {
            beams: 1,
            max_tokens: 20,
            min_tokens: 0,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::No,
            repetition_penalty: 1.0,
            no_repeat_ngram: 0,
        }
    }
}

/// A model that scores what comes next.
pub trait Scores {
    /// Says one token in each row and gives the scores of the next, `[rows][vocabulary]`, before the
    /// softmax. A row continues the row of the last step that it names; in the first step it names
    /// the text's index.
    ///
    /// # Errors
    /// The model fails.
    fn step(&mut self, rows: &[(usize, u32)]) -> Result<Vec<Vec<f32>>>;
}

impl Scores for Speech<'_> {
    fn step(&mut self, rows: &[(usize, u32)]) -> Result<Vec<Vec<f32>>> {
        Speech::step(self, rows)
    }
}

/// A text in the making.
#[derive(Clone, Debug)]
struct Beam {
    /// With the prompt.
    tokens: Vec<u32>,
    score: f32,
    finished: bool,
}

/// Where no real score is.
const NOTHING: f32 = -1.0e9;

/// Texts that begin with `prompt` and end before the token `end`, one for each of `count` (without
/// prompt and end).
///
/// # Errors
/// The model fails.
pub fn search(
    model: &mut dyn Scores,
    count: usize,
    prompt: &[u32],
    end: u32,
    options: &SearchOptions,
) -> Result<Vec<Vec<u32>>> {
    let mut texts: Vec<Text> = (0..count).map(|_| Text::new(prompt, options)).collect();
    let Some((&first, rest)) = prompt.split_first() else {
        return Ok(vec![Vec::new(); count]);
    };
    // The prompt is the same for all beams of a text, so one row says it.
    let said: Vec<(usize, u32)> = (0..count).map(|text| (text, first)).collect();
    let mut scores = model.step(&said)?;
    for token in rest {
        let said: Vec<(usize, u32)> = (0..count).map(|row| (row, *token)).collect();
        scores = model.step(&said)?;
    }
    // Which rows of the last step each text's beams are.
    let mut rows: Vec<Vec<usize>> = (0..count)
        .map(|row| vec![row; options.beams.max(1)])
        .collect();
    loop {
        let mut next = Vec::new();
        for (text, own) in texts.iter_mut().zip(&mut rows) {
            if text.done {
                continue;
            }
            let of_beams: Vec<&[f32]> = own.iter().map(|row| scores[*row].as_slice()).collect();
            let chosen = text.choose(&of_beams, end, options);
            if text.done {
                continue;
            }
            let parents: Vec<usize> = chosen.iter().map(|(beam, _)| own[*beam]).collect();
            *own = (next.len()..next.len() + chosen.len()).collect();
            let tokens = chosen.iter().map(|(_, token)| *token);
            next.extend(parents.into_iter().zip(tokens));
        }
        if next.is_empty() {
            break;
        }
        scores = model.step(&next)?;
    }
    Ok(texts
        .into_iter()
        .map(|text| text.best(prompt.len(), end))
        .collect())
}

/// The search for one text.
struct Text {
    running: Vec<Beam>,
    finished: Vec<Beam>,
    prompt: usize,
    improvable: bool,
    done: bool,
}

impl Text {
    fn new(prompt: &[u32], options: &SearchOptions) -> Self {
        let beams = options.beams.max(1);
        let beam = |score| Beam {
            tokens: prompt.to_vec(),
            score,
            finished: false,
        };
        Text {
            // Only the first is real, so that not all say the same.
            running: (0..beams)
                .map(|i| beam(if i == 0 { 0.0 } else { NOTHING }))
                .collect(),
            finished: (0..beams).map(|_| beam(NOTHING)).collect(),
            prompt: prompt.len(),
            improvable: true,
            done: false,
        }
    }

    /// Chooses the next tokens: for each beam of the next step, the beam that it continues and the
    /// token.
    fn choose(
        &mut self,
        scores: &[&[f32]],
        end: u32,
        options: &SearchOptions,
    ) -> Vec<(usize, u32)> {
        match options.beams {
            0 | 1 => self.choose_best(scores[0], end, options),
            beams => self.choose_beams(scores, end, beams, options),
        }
    }

    fn choose_best(
        &mut self,
        scores: &[f32],
        end: u32,
        options: &SearchOptions,
    ) -> Vec<(usize, u32)> {
        let beam = &mut self.running[0];
        let mut scores = scores.to_vec();
        rule(&mut scores, &beam.tokens, self.prompt, end, options);
        let mut best = 0;
        for (token, score) in scores.iter().enumerate() {
            if *score > scores[best] {
                best = token;
            }
        }
        let token = best as u32;
        beam.tokens.push(token);
        if token == end || beam.tokens.len() - self.prompt >= options.max_tokens {
            self.finished[0] = beam.clone();
            self.done = true;
        }
        vec![(0, token)]
    }

    fn choose_beams(
        &mut self,
        scores: &[&[f32]],
        end: u32,
        beams: usize,
        options: &SearchOptions,
    ) -> Vec<(usize, u32)> {
        let length = self.running[0].tokens.len();
        let max_length = self.prompt + options.max_tokens;
        let power = options.length_penalty;
        let mut all: Vec<(f32, usize, u32)> = Vec::new();
        for (at, (beam, scores)) in self.running.iter().zip(scores).enumerate() {
            let mut scores = log_softmax(scores);
            rule(&mut scores, &beam.tokens, self.prompt, end, options);
            let summed = scores.iter().enumerate();
            let mut own: Vec<(f32, usize, u32)> = summed
                .map(|(token, score)| (score + beam.score, at, token as u32))
                .collect();
            largest(&mut own, 2 * beams, |candidate| candidate.0);
            all.extend(own);
        }
        largest(&mut all, 2 * beams, |candidate| candidate.0);
        let hits: Vec<bool> = all
            .iter()
            .map(|(_, _, token)| *token == end || length + 1 >= max_length)
            .collect();
        let candidate = |at: usize, score: f32| {
            let (_, parent, token) = all[at];
            let mut tokens = self.running[parent].tokens.clone();
            tokens.push(token);
            Beam {
                tokens,
                score,
                finished: false,
            }
        };

        let full = self.finished.iter().all(|beam| beam.finished);
        let closed = (full && options.early_stopping == EarlyStopping::Yes) || !self.improvable;
        let mut merged = self.finished.clone();
        for (at, hit) in hits.iter().enumerate() {
            let just_finished = *hit && at < beams;
            let per_length = ((length + 1 - self.prompt) as f64).powf(power) as f32;
            let mut score = all[at].0 / per_length;
            if closed {
                score += NOTHING;
            }
            if !just_finished {
                score += NOTHING;
            }
            merged.push(Beam {
                finished: just_finished,
                ..candidate(at, score)
            });
        }
        largest(&mut merged, beams, |beam| beam.score);

        let mut going: Vec<(f32, usize)> = hits
            .iter()
            .enumerate()
            .map(|(at, hit)| (all[at].0 + if *hit { NOTHING } else { 0.0 }, at))
            .collect();
        largest(&mut going, beams, |candidate| candidate.0);
        let running: Vec<Beam> = going
            .iter()
            .map(|(score, at)| candidate(*at, *score))
            .collect();
        let chosen = going
            .iter()
            .map(|(_, at)| (all[*at].1, all[*at].2))
            .collect();
        self.running = running;
        self.finished = merged;

        let likely_length = match options.early_stopping {
            EarlyStopping::Never if power > 0.0 => max_length - self.prompt,
            _ => length + 1 - self.prompt,
        };
        let best_possible = self.running[0].score / (likely_length as f64).powf(power) as f32;
        let full = self.finished.iter().all(|beam| beam.finished);
        let worst = self
            .finished
            .iter()
            .map(|beam| beam.score)
            .fold(f32::INFINITY, f32::min);
        self.improvable &= !full && best_possible > NOTHING || best_possible > worst;
        self.done = !self.improvable
            || (full && options.early_stopping == EarlyStopping::Yes)
            || hits.iter().all(|hit| *hit);
        chosen
    }

    fn best(self, prompt: usize, end: u32) -> Vec<u32> {
        let best = self.finished.into_iter().next();
        let mut tokens = best.map_or_else(Vec::new, |beam| beam.tokens[prompt..].to_vec());
        if tokens.last() == Some(&end) {
            tokens.pop();
        }
        tokens
    }
}

/// Keeps the `count` with the largest scores, in their order; of equal ones the first.
fn largest<T>(all: &mut Vec<T>, count: usize, score: impl Fn(&T) -> f32) {
    let order = |a: &T, b: &T| score(b).partial_cmp(&score(a)).unwrap_or(Ordering::Equal);
    all.sort_by(order);
    all.truncate(count);
}

fn log_softmax(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores
        .iter()
        .map(|score| f64::from(score - most).exp())
        .sum();
    let log = sum.ln() as f32;
    scores.iter().map(|score| score - most - log).collect()
}

/// What was said before, and the least length, as transformers' logits processors take it into
/// account, in their order.
fn rule(scores: &mut [f32], tokens: &[u32], prompt: usize, end: u32, options: &SearchOptions) {
    if options.repetition_penalty != 1.0 {
        let mut said = tokens.to_vec();
        said.sort_unstable();
        said.dedup();
        for token in said {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = match *score < 0.0 {
                    true => *score * options.repetition_penalty,
                    false => *score / options.repetition_penalty,
                };
            }
        }
    }
    let size = options.no_repeat_ngram;
    if size > 0 && tokens.len() + 1 >= size {
        let prefix = &tokens[tokens.len() + 1 - size..];
        for window in tokens.windows(size) {
            if let Some((last, first)) = window.split_last()
                && first == prefix
                && let Some(score) = scores.get_mut(*last as usize)
            {
                *score = f32::NEG_INFINITY;
            }
        }
    }
    if tokens.len() - prompt < options.min_tokens
        && let Some(score) = scores.get_mut(end as usize)
    {
        *score = f32::NEG_INFINITY;
    }
}
