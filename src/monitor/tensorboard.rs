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
                for (tag, count) in [
                    ("tokens_per_second", m.tokens),
                    ("images_per_second", m.images),
                ] {
                    if m.seconds > 0.0 && count > 0 {
                        values.push(scalar(tag, count as f64 / m.seconds));
                    }
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

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::protocol::{Num, StepMetrics};

    /// The records of a file, framing checked.
    fn read(path: &Path) -> Vec<tf::Event> {
        let bytes = fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            events.push(tf::Event::decode(&rest[12..12 + length]).unwrap());
            rest = &rest[12 + length + 4..];
        }
        events
    }

    fn step(step: u64, loss: f64) -> Event {
        Event {
            seq: step,
            time: step as f64,
            kind: EventKind::Step(StepMetrics {
                step,
                loss: Num(loss),
                seconds: 0.5,
                tokens: 10,
                ..StepMetrics::default()
            }),
        }
    }

    #[test]
    fn a_resume_tells_readers_to_forget_the_later_steps() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(folder.path(), 100.0).unwrap();
        board.add(&step(1, 2.0));
        board.add(&Event {
            seq: 2,
            time: 2.0,
            kind: EventKind::Resumed {
                step: 40,
                epoch: 1.0,
                total_tokens: 0,
                checkpoint: String::new(),
            },
        });
        board.add(&step(41, f64::NAN));
        board.flush().unwrap();
        let events = read(&path_of(folder.path(), 100));
        assert_eq!(events.len(), 4);
        assert_eq!(
            (events[2].step, &events[2].what),
            (41, &Some(What::SessionLog(SessionLog { status: 1 })))
        );
        let Some(What::Summary(summary)) = &events[3].what else {
            panic!("{:?}", events[3]);
        };
        let loss = &summary.value[0];
        assert_eq!(loss.tag, "training_loss");
        assert!(matches!(loss.content, Some(Content::Simple(v)) if v.is_nan()));
        let speed = summary.value.last().unwrap();
        assert_eq!(speed.content, Some(Content::Simple(20.0)));
    }

    #[test]
    fn two_runners_in_the_same_second_write_two_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        TensorBoard::create(folder.path(), 100.2).unwrap();
        TensorBoard::create(folder.path(), 100.9).unwrap();
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 2);
        assert!(names[0].contains("0000000100") && names[1].contains("0000000101"));
    }
}
