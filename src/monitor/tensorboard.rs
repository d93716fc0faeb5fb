//! A run's events as TensorBoard shows them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::protocol::{Event, EventKind, SampleText};

use super::tfevents::{
    self as tf, Content, Dim, Metadata, PluginData, SessionLog, Shape, Summary, Tensor, Value,
    What, write_record,
};

/// One `events.out.tfevents.*` file; each runner writes its own.
pub struct TensorBoard {
    file: File,
    /// Records not written yet.
    pending: Vec<u8>,
    /// Bytes that are whole records in the file.
    written: u64,
}

impl TensorBoard {
    /// Begins a file in `folder`, named so that readers take it after the ones already there.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn create(folder: &Path, time: f64) -> Result<Self> {
        let creating = || format!("cannot create a TensorBoard file in {}", folder.display());
        let newest = fs::read_dir(folder)
            .with_context(creating)?
            .flatten()
            .filter_map(|e| seconds_of(e.file_name().to_str()?))
            .max();
        let seconds = (time.max(0.0) as u64).max(newest.map_or(0, |n| n + 1));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path_of(folder, seconds))
            .with_context(creating)?;
        let mut board = TensorBoard {
            file,
            pending: Vec::new(),
            written: 0,
        };
        board.record(time, 0, What::FileVersion("brain.Event:2".to_owned()));
        board.flush().with_context(creating)?;
        Ok(board)
    }

    /// Adds what TensorBoard shows of an event; reaches the file with the next `flush`.
    pub fn add(&mut self, event: &Event) {
        let time = event.time;
        match &event.kind {
            EventKind::Resumed { step, .. } => {
                let start = What::SessionLog(SessionLog { status: tf::START });
                self.record(time, step + 1, start);
            }
            EventKind::Step(m) => {
                let mut values = vec![
                    scalar("training_loss", m.loss.0),
                    scalar("learning_rate", m.learning_rate),
                    scalar("grad_norm", m.grad_norm.0),
                    scalar("epoch", m.epoch),
                ];
                if m.seconds > 0.0 {
                    values.push(scalar("tokens_per_second", m.tokens as f64 / m.seconds));
                }
                self.summary(time, m.step, values);
            }
            EventKind::Eval {
                step,
                loss,
                base_loss,
                ..
            } => {
                let mut values = vec![scalar("eval_loss", loss.0)];
                values.extend(base_loss.map(|b| scalar("base_eval_loss", b.0)));
                self.summary(time, *step, values);
            }
            EventKind::Sample { step, samples, .. } => {
                let values = samples.iter().enumerate();
                let values = values.map(|(i, s)| text(&format!("samples/{}", i + 1), s));
                self.summary(time, *step, values.collect());
            }
            _ => {}
        }
    }

    fn summary(&mut self, time: f64, step: u64, value: Vec<Value>) {
        self.record(time, step, What::Summary(Summary { value }));
    }

    fn record(&mut self, wall_time: f64, step: u64, what: What) {
        let event = tf::Event {
            wall_time,
            step: step as i64,
            what: Some(what),
        };
        // Writing into memory does not fail.
        let _ = write_record(&mut self.pending, &event);
    }

    /// Writes what was added. After an error it stays in memory, and no torn record in the file.
    ///
    /// # Errors
    /// The disk is full, say.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Err(e) = self.file.write_all(&self.pending) {
            self.file.set_len(self.written)?;
            io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.written))?;
            return Err(e);
        }
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

fn path_of(folder: &Path, seconds: u64) -> PathBuf {
    folder.join(format!(
        "events.out.tfevents.{seconds:010}.loradeck.{}",
        std::process::id()
    ))
}

fn seconds_of(name: &str) -> Option<u64> {
    let rest = name.strip_prefix("events.out.tfevents.")?;
    rest.split('.').next()?.parse().ok()
}

fn scalar(tag: &str, value: f64) -> Value {
    Value {
        tag: tag.to_owned(),
        metadata: None,
        content: Some(Content::Simple(value as f32)),
    }
}

/// A sample as Markdown, which the text plugin renders.
fn text(tag: &str, sample: &SampleText) -> Value {
    let mut markdown = format!("**{}**\n\n{}", sample.prompt, sample.text);
    if let Some(base) = &sample.base_text {
        markdown += &format!("\n\n*bare base:* {base}");
    }
    Value {
        tag: tag.to_owned(),
        metadata: Some(Metadata {
            plugin_data: Some(PluginData {
                plugin_name: "text".to_owned(),
            }),
        }),
        content: Some(Content::Tensor(Tensor {
            dtype: tf::STRING,
            shape: Some(Shape {
                dim: vec![Dim { size: 1 }],
            }),
            strings: vec![markdown.into_bytes()],
        })),
    }
}
