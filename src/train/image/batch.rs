//! Pictures that are computed together.

use std::ops::Range;
use std::rc::Rc;

use anyhow::Result;
use candle_core::Tensor;

use super::Image;
use super::denoise::{Noised, loss};
use crate::model::diffusion::{Grid, Text, TextCondition, UNetInput};
use crate::model::{Active, DropoutKey, LoraSet};
use crate::train::objective::{Batch, Pass, Sums, Volume};

/// A noised picture with its text.
pub(super) struct Prepared {
    pub noised: Noised,
    /// In latent pixels.
    pub height: usize,
    pub width: usize,
    pub text: Captioned,
    /// SDXL's sizes and crop.
    pub time_ids: [f32; 6],
}

/// A caption as the pass needs it.
pub(super) enum Captioned {
    Encoded(TextCondition),
    /// Chunks of ids for text encoders that are trained.
    Ids(Vec<Vec<u32>>),
}

/// Pictures in the order they are computed in.
pub(super) struct ImageBatch {
    pub image: Rc<Image>,
    pub rows: Vec<Prepared>,
}

impl ImageBatch {
    /// What the UNet takes for some rows, which are of one size.
    fn inputs(&self, rows: &[Prepared]) -> Result<Inputs> {
        let grid = Grid {
            images: rows.len(),
            height: rows[0].height,
            width: rows[0].width,
        };
        let latents: Vec<f32> = rows
            .iter()
            .flat_map(|r| r.noised.latent.iter().copied())
            .collect();
        let channels = latents.len() / grid.rows().max(1);
        Ok(Inputs {
            latents: Tensor::from_vec(latents, (grid.rows(), channels), self.image.device())?,
            grid,
            timesteps: rows.iter().map(|r| r.noised.timestep).collect(),
            time_ids: rows.iter().map(|r| r.time_ids).collect(),
        })
    }

    /// The text of some rows through text encoders with `adapters`, where those are trained.
    fn condition(&self, rows: &[Prepared], adapters: &[Active<'_>]) -> Result<TextCondition> {
        let each = rows.iter().map(|row| match &row.text {
            Captioned::Encoded(condition) => Ok(condition.clone()),
            Captioned::Ids(chunks) => {
                let encoders = self.image.texts.open(&self.image.source)?;
                encoders.encode(
                    std::slice::from_ref(chunks),
                    self.image.texts.clip_skip(),
                    adapters,
                )
            }
        });
        let each: Result<Vec<TextCondition>> = each.collect();
        TextCondition::cat(&each?)
    }
}

struct Inputs {
    latents: Tensor,
    grid: Grid,
    timesteps: Vec<f32>,
    time_ids: Vec<[f32; 6]>,
}

impl Inputs {
    fn of(&self, sdxl: bool) -> UNetInput<'_> {
        UNetInput {
            latents: &self.latents,
            grid: self.grid,
            timesteps: &self.timesteps,
            time_ids: sdxl.then_some(&self.time_ids[..]),
        }
    }
}

impl Batch for ImageBatch {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn volume(&self) -> Volume {
        Volume {
            tokens: 0,
            images: self.rows.len() as u64,
        }
    }

    fn piece(&self, from: usize, most: usize) -> Range<usize> {
        let size = |row: &Prepared| (row.height, row.width);
        let alike = self.rows[from..]
            .iter()
            .take(most)
            .take_while(|row| size(row) == size(&self.rows[from]));
        from..from + alike.count()
    }

    fn momentary_bytes(&self, rows: &Range<usize>) -> u64 {
        let first = &self.rows[rows.start];
        let side = (first.height, first.width);
        self.image.momentary_bytes(rows.len(), side)
    }

    fn loss(&self, rows: Range<usize>, adapters: &[Active<'_>]) -> Result<Sums> {
        let rows = &self.rows[rows];
        let inputs = self.inputs(rows)?;
        let condition = self.condition(rows, adapters)?;
        let input = inputs.of(self.image.is_sdxl());
        let prediction = self.image.unet.forward(&input, &condition, adapters)?;
        let noised: Vec<&Noised> = rows.iter().map(|row| &row.noised).collect();
        let (loss, _) = loss(&noised, &prediction)?;
        Ok(Sums {
            loss,
            weight: rows.len() as u64,
        })
    }

    fn loss_and_gradients(
        &self,
        rows: Range<usize>,
        set: &LoraSet,
        dropout: Option<DropoutKey>,
        recompute: bool,
    ) -> Result<Pass> {
        let rows = &self.rows[rows];
        let inputs = self.inputs(rows)?;
        let input = inputs.of(self.image.is_sdxl());
        let noised: Vec<&Noised> = rows.iter().map(|row| &row.noised).collect();
        let chunks: Vec<Vec<Vec<u32>>> = rows
            .iter()
            .filter_map(|row| match &row.text {
                Captioned::Ids(chunks) => Some(chunks.clone()),
                Captioned::Encoded(_) => None,
            })
            .collect();
        let (encoders, encoded);
        let text = match chunks.is_empty() {
            true => {
                encoded = self.condition(rows, &[])?;
                Text::Encoded(&encoded)
            }
            false => {
                encoders = self.image.texts.open(&self.image.source)?;
                Text::Trained {
                    encoders: &encoders,
                    captions: &chunks,
                    clip_skip: self.image.texts.clip_skip(),
                }
            }
        };
        let pass = self.image.unet.loss_and_gradients(
            &input,
            text,
            set,
            dropout,
            recompute,
            |prediction| loss(&noised, prediction),
        )?;
        Ok(Pass {
            sums: Sums {
                loss: pass.loss,
                weight: rows.len() as u64,
            },
            computed: rows.len() as u64,
            gradients: pass.gradients,
        })
    }
}
