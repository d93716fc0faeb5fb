//! BLIP for captions (Li et al., 2022): a vision transformer, and a BERT that looks at it while it
//! writes.

use std::path::Path;

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use serde_json::Value;

use super::Preprocessing;
use super::blip_text::{Decoder, Layered};
use super::tower::{Style, Tower};
use super::weights::Weights;
use crate::error::input_error;
use crate::model::Tokenizer;

/// A captioning model.
pub struct Blip {
    tower: Tower,
    decoder: Decoder,
    preprocessing: Preprocessing,
    tokenizer: Tokenizer,
}

impl Blip {
    /// Opens a Hugging Face folder of `BlipForConditionalGeneration`.
    ///
    /// # Errors
    /// Not such a folder, or a damaged one: one sentence.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let file = folder.join("config.json");
        let config = super::json(&file)?;
        if config.get("model_type").and_then(Value::as_str) != Some("blip") {
            return Err(input_error(format!(
                "{} is not of a BLIP model",
                file.display()
            )));
        }
        let weights = Weights::open(folder, device)?;
        if !weights.has("text_decoder.bert.embeddings.word_embeddings.weight") {
            return Err(input_error(format!(
                "{} is a BLIP for another task than captions (it has no text decoder)",
                folder.display()
            )));
        }
        let name = file.display().to_string();
        let empty = Value::Object(serde_json::Map::new());
        let part = |key: &str| config.get(key).unwrap_or(&empty);
        let tower = Tower::read(&weights, part("vision_config"), &name, Style::Blip)?;
        Ok(Blip {
            decoder: Decoder::read(&weights, part("text_config"), &name, tower.width)?,
            preprocessing: Preprocessing::read(folder, tower.side, false)?,
            tokenizer: Tokenizer::from_folder(folder)?,
            tower,
        })
    }

    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The token that a caption begins after.
    pub fn begin(&self) -> u32 {
        self.decoder.begin
    }

    /// The token that ends a caption.
    pub fn end(&self) -> u32 {
        self.decoder.end
    }

    /// Tokens that a caption may have, the first included.
    pub fn longest(&self) -> usize {
        self.decoder.positions
    }

    /// Token ids of a caption's beginning, without special tokens.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text)
    }

    /// A caption as text.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(self.tokenizer.decode(ids, false)?.trim().to_owned())
    }

    /// Looks at pictures, `[3, side, side]` numbers each, and is ready to speak of them.
    ///
    /// # Errors
    /// Another count of numbers; the device fails.
    pub fn look(&self, pixels: &[Vec<f32>]) -> Result<Speech<'_>> {
        if pixels.is_empty() {
            bail!("no picture to look at");
        }
        let states = self.tower.states(pixels)?;
        let (pictures, tokens, width) = states.dims3()?;
        let states = self
            .tower
            .after(&states.reshape((pictures * tokens, width))?)?;
        Ok(Speech {
            pictures: self.decoder.cross(&states, pictures)?,
            said: Vec::new(),
            owners: Vec::new(),
            length: 0,
            decoder: &self.decoder,
        })
    }
}

/// Captions in the making: rows of tokens, each of one picture.
pub struct Speech<'a> {
    decoder: &'a Decoder,
    /// Keys and values of the pictures, for every layer.
    pictures: Vec<Layered>,
    /// Keys and values of what was said, for every layer; `[rows, heads, tokens, size]`.
    said: Vec<Layered>,
    /// The picture of each row.
    owners: Vec<usize>,
    length: usize,
}

impl Speech<'_> {
    /// Says one more token in each row and gives the scores of the next, `[rows][vocabulary]`, before
    /// the softmax. A row continues the row of the step before that it names; in the first step it
    /// names its picture.
    ///
    /// # Errors
    /// A token beyond the vocabulary, more tokens than positions; the device fails.
    pub fn step(&mut self, rows: &[(usize, u32)]) -> Result<Vec<Vec<f32>>> {
        if self.length == 0 {
            self.owners = rows.iter().map(|(picture, _)| *picture).collect();
        } else {
            let parents: Vec<u32> = rows.iter().map(|(row, _)| *row as u32).collect();
            self.owners = rows.iter().map(|(row, _)| self.owners[*row]).collect();
            for layer in &mut self.said {
                let index = Tensor::new(parents.as_slice(), layer.keys.device())?;
                layer.keys = layer.keys.index_select(&index, 0)?;
                layer.values = layer.values.index_select(&index, 0)?;
            }
        }
        let tokens: Vec<u32> = rows.iter().map(|(_, token)| *token).collect();
        let logits = self.decoder.step(
            &tokens,
            self.length,
            &mut self.said,
            &self.pictures,
            &self.owners,
        )?;
        self.length += 1;
        Ok(logits.to_vec2::<f32>()?)
    }
}
