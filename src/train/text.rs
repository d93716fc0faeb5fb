//! Text by cross-entropy: a decoder learns the next token.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use candle_core::Device;

use super::adapter::adapter_plan;
use super::device::{device_name, dtype, open_device};
use super::export::portable_name;
use super::objective::{Batch, Made, Objective, Pass, Sums, Taken, Volume, and_more};
use super::preflight::adapter_format;
use super::setup::{Opened, Telling, adapter_info};
use crate::adapter::{self, ExportOptions, Written};
use crate::config::{ExportFormat, RunConfig};
use crate::data::{self, Batches, Cursor, Dataset, Loader, Record, collate};
use crate::error::input_error;
use crate::generate::{SamplingOptions, encode_prompt, generate};
use crate::model::{
    self, Active, Base, Description, DropoutKey, LoraSet, Quantization, TokenBatch,
};
use crate::protocol::{BaseInfo, EventKind};
use crate::train::checkpoint::DataFingerprint;

/// Long enough to see what was learnt, short enough not to hold up the run.
const SAMPLE_TOKENS: usize = 64;

/// A decoder and the records it is trained on.
struct Text {
    base: Rc<Base>,
    data: Arc<Dataset>,
    batches: Arc<Batches>,
    loader: RefCell<Loader>,
}

/// Opens base and data.
///
/// # Errors
/// Either cannot be used.
pub(super) fn open(config: &RunConfig, telling: &Telling<'_>) -> Result<Opened> {
    telling.loading("reading the base");
    let device = open_device(config.device)?;
    let base = model::open_quantised(
        &config.base_model,
        config.quantize.and_then(Quantization::named),
        &device,
        dtype(config.precision, &device)?,
    )?;
    for note in &base.description.notes {
        telling.info(format!("base: {note}"));
    }
    telling.loading("reading the data");
    let data = data::load(config, &base.tokenizer)?;
    refuse_bad_records(config, &data)?;
    let fingerprint = DataFingerprint::of(&data);
    let statistics = data.statistics.clone();
    let batches = Arc::new(Batches::of(config, &data.train));
    let data = Arc::new(data);
    let loader = Loader::new(Arc::clone(&data), Arc::clone(&batches));
    let text = Text {
        base: Rc::new(base),
        loader: RefCell::new(loader),
        data,
        batches,
    };
    Ok(Opened {
        objective: Rc::new(text),
        fingerprint,
        statistics,
        on_gpu: device.is_cuda(),
    })
}

fn refuse_bad_records(config: &RunConfig, data: &Dataset) -> Result<()> {
    if !config.skip_bad_records
        && let Some(first) = data.bad.first()
    {
        let more = and_more(data.bad.len() - 1);
        return Err(input_error(format!(
            "{}:{}: {}{more}: mend the data, or leave bad records out with `skip_bad_records: true`",
            first.file, first.line, first.reason
        )));
    }
    if data.train.is_empty() {
        return Err(input_error(format!(
            "train_data_dir: {} leaves no record to train on",
            config.train_data_dir.display()
        )));
    }
    Ok(())
}

impl Text {
    fn device(&self) -> &Device {
        self.base.decoder.device()
    }

    fn batch(&self, records: TokenBatch, tokens: u64) -> TextBatch {
        TextBatch {
            base: Rc::clone(&self.base),
            records,
            tokens,
        }
    }
}

impl Objective for Text {
    fn base_name(&self) -> &str {
        &self.base.description.name
    }

    fn model_event(&self, set: &LoraSet) -> EventKind {
        let described = &self.base.description;
        let shape = &described.config;
        EventKind::Model {
            device: device_name(self.device()),
            base: BaseInfo {
                name: described.name.clone(),
                architecture: shape.architecture.clone(),
                format: described.format.clone(),
                dtype: described.dtype.clone(),
                parameters: described.parameters,
                layers: shape.layers as u64,
                hidden_size: shape.hidden_size as u64,
                vocabulary: shape.vocab_size as u64,
                bytes: described.bytes,
            },
            adapter: adapter_info(set),
        }
    }

    fn per_epoch(&self) -> u64 {
        self.batches.per_epoch()
    }

    fn take(&self, cursor: Cursor) -> Result<Taken> {
        let made = self.loader.borrow_mut().take(cursor)?;
        Ok(Taken {
            batch: Box::new(self.batch(made.batch, made.tokens)),
            after: made.after,
        })
    }

    fn held_out_count(&self) -> u64 {
        self.data.eval.len() as u64
    }

    fn held_out(&self) -> Result<Box<dyn Batch>> {
        // Records of like length together: pieces of like size, the same sums.
        let mut records: Vec<&Record> = self.data.eval.iter().collect();
        records.sort_by_key(|r| r.ids.len());
        let tokens = records.iter().map(|r| r.ids.len() as u64).sum();
        Ok(Box::new(self.batch(collate(&records), tokens)))
    }

    fn untrained(&self, config: &RunConfig) -> Result<LoraSet> {
        let plan = adapter_plan(config, self.base.decoder.config())?;
        let mut set = LoraSet::new(&plan.modules, plan.spec, config.seed, self.device())?;
        if config.use_dora {
            self.add_magnitudes(&mut set)?;
        }
        Ok(set)
    }

    fn read_adapter(&self, path: &Path) -> Result<LoraSet> {
        adapter::read_lora_set(path, self.base.decoder.config(), self.device())
    }

    fn add_magnitudes(&self, set: &mut LoraSet) -> Result<()> {
        self.base.decoder.add_magnitudes(set)
    }

    fn checkpoint_files(
        &self,
        set: &LoraSet,
        _config: &RunConfig,
        _step: u64,
    ) -> Result<Vec<(&'static str, Vec<u8>)>> {
        adapter::peft_files(set, &portable_name(self.base_name()))
    }

    fn export(
        &self,
        set: &LoraSet,
        _config: &RunConfig,
        _step: u64,
        format: ExportFormat,
        folder: &Path,
    ) -> Result<Written> {
        export(set, &self.base.description, format, folder)
    }

    fn sample(
        &self,
        prompt: &str,
        config: &RunConfig,
        adapters: &[Active<'_>],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Made> {
        let (decoder, tokenizer) = (&self.base.decoder, &self.base.tokenizer);
        let ids = encode_prompt(tokenizer, config.chat_template.as_deref(), prompt, false)?;
        let options = SamplingOptions::greedy(SAMPLE_TOKENS);
        let text = generate(decoder, tokenizer, adapters, &ids, &options, &mut |_| {
            go_on()
        })?;
        Ok(Made::Text(text))
    }

    fn sample_bytes(&self, prompt: &str, config: &RunConfig) -> Result<u64> {
        let template = config.chat_template.as_deref();
        let ids = encode_prompt(&self.base.tokenizer, template, prompt, false)?;
        let shape = self.base.decoder.config();
        Ok(model::momentary_bytes(shape, ids.len() as u64))
    }

    fn smaller_record(&self) -> &'static str {
        "Lower sequence_len or lora_rank, or train where there is more memory"
    }
}

/// Writes a decoder's adapter in one format into `folder`.
fn export(
    set: &LoraSet,
    base: &Description,
    format: ExportFormat,
    folder: &Path,
) -> Result<Written> {
    let trained = adapter::from_lora_set(set, &portable_name(&base.name))?;
    let options = ExportOptions {
        dtype: None,
        base: Some(&base.config),
    };
    adapter::write(trained, adapter_format(format), folder, &options)
}

/// Rows of tokens.
struct TextBatch {
    base: Rc<Base>,
    records: TokenBatch,
    /// Tokens of its records, those beyond the last target included.
    tokens: u64,
}

impl Batch for TextBatch {
    fn rows(&self) -> usize {
        self.records.input_ids.len()
    }

    fn volume(&self) -> Volume {
        Volume {
            tokens: self.tokens,
            images: 0,
        }
    }

    fn piece(&self, from: usize, most: usize) -> Range<usize> {
        from..from + most.min(self.rows() - from)
    }

    fn momentary_bytes(&self, rows: &Range<usize>) -> u64 {
        let rows = self.records.input_ids[rows.clone()].iter();
        let tokens = rows.map(|ids| ids.len() as u64).sum();
        model::momentary_bytes(self.base.decoder.config(), tokens)
    }

    fn loss(&self, rows: Range<usize>, adapters: &[Active<'_>]) -> Result<Sums> {
        let (loss, weight) = self.base.decoder.loss(&self.records.rows(rows), adapters)?;
        Ok(Sums { loss, weight })
    }

    fn loss_and_gradients(
        &self,
        rows: Range<usize>,
        set: &LoraSet,
        dropout: Option<DropoutKey>,
        recompute: bool,
    ) -> Result<Pass> {
        let piece = self.records.rows(rows);
        let pass = self
            .base
            .decoder
            .loss_and_gradients(&piece, set, dropout, recompute)?;
        Ok(Pass {
            sums: Sums {
                loss: pass.loss_sum,
                weight: pass.trained_tokens,
            },
            computed: pass.computed_tokens,
            gradients: pass.gradients,
        })
    }
}
