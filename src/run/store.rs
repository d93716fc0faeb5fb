//! Answers to queries, from the run's folder: the same code for a live run and a finished one.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use base64::Engine;

use crate::config;
use crate::config::{RunConfig, TaskType};
use crate::data::images::{self, ImageDataset};
use crate::data::{self, Dataset};
use crate::model::{self, Tokenizer};
use crate::protocol::{Command, DataEdit, Level, PictureSource, Query, Reply, RunCurves};

use super::folder::{RunFolder, RunInfo, write_atomically};
use super::queue;
use super::segments::{for_each_line, parse_event};
use super::status::{load_state, runs_under};

/// Most events of one reply, whatever its query's limit.
pub const EVENTS_LIMIT: usize = 10_000;
const LOG_LINES_LIMIT: usize = 10_000;
/// Most bytes of `runner.log` that are looked at.
const LOG_BYTES: u64 = 1 << 20;
const RECORDS_LIMIT: usize = 1000;
/// Most pixels of a picture's side: a terminal shows no more.
const PICTURE_SIDE: u16 = 1024;
/// The data set is let go when nobody has asked for a record this long.
const RECORDS_IDLE: Duration = Duration::from_secs(300);

/// Takes a reply; one that is dropped unused says that there is none.
pub struct Answer(Option<Box<dyn FnOnce(Reply) + Send>>);

impl Answer {
    pub fn new(take: impl FnOnce(Reply) + Send + 'static) -> Self {
        Answer(Some(Box::new(take)))
    }
    fn give(mut self, reply: Reply) {
        if let Some(take) = self.0.take() {
            take(reply);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(take) = self.0.take() {
            take(refusal("the answer got lost; runner.log may say why"));
        }
    }
}

/// An error as a reply.
pub fn refusal(message: impl Into<String>) -> Reply {
    Reply::Error {
        level: Level::Error,
        message: message.into(),
    }
}

/// What is asked of the data.
enum Wanted {
    Records {
        from: usize,
        count: usize,
    },
    /// An image, made to fit.
    Picture {
        index: usize,
        side: (u16, u16),
    },
}

struct RecordsJob {
    wanted: Wanted,
    answer: Answer,
}

/// Answers queries about one run.
pub struct Store {
    folder: RunFolder,
    /// The config of a run that has not begun, and what is set over it.
    before: Option<(PathBuf, Vec<String>)>,
    /// The thread that holds the data set, once someone has asked for a record.
    records: Mutex<Option<Sender<RecordsJob>>>,
}

impl Store {
    pub fn new(folder: RunFolder) -> Self {
        Store {
            folder,
            before: None,
            records: Mutex::new(None),
        }
    }

    /// For a run that has not begun: about its config and its data.
    pub fn before(folder: RunFolder, config: PathBuf, sets: Vec<String>) -> Self {
        Store {
            before: Some((config, sets)),
            ..Store::new(folder)
        }
    }

    /// Answers a query: on the caller's thread, but records on a thread of their own, since the
    /// first of them has the data set read.
    pub fn answer(&self, query: Query, answer: Answer) {
        let reply = match query {
            Query::Records { from, count } => {
                let count = count.min(RECORDS_LIMIT);
                let wanted = Wanted::Records { from, count };
                return self.records(RecordsJob { wanted, answer });
            }
            Query::Picture {
                source: PictureSource::Record { index },
                width,
                height,
            } => {
                let side = (width, height);
                let wanted = Wanted::Picture { index, side };
                return self.records(RecordsJob { wanted, answer });
            }
            Query::Picture {
                source: PictureSource::Sample { file },
                width,
                height,
            } => self.sample(&file, (width, height)),
            Query::Events { from, to, limit } => self.events(from, to, limit),
            Query::RunnerLog { lines } => {
                last_lines(&self.folder.runner_log(), lines).map(|lines| Reply::RunnerLog { lines })
            }
            Query::ConfigFile => self.config_file(),
            Query::CheckConfig { text } => self.check_config(&text),
            Query::Runs => self.runs(),
            Query::Curves { run } => self.curves(&run),
            Query::QueuePlace => Ok(Reply::QueuePlace {
                place: queue::place_of(self.folder.root()),
            }),
        };
        answer.give(reply.unwrap_or_else(|e| refusal(format!("{e:#}"))));
    }

    fn events(&self, from: u64, to: u64, limit: usize) -> Result<Reply> {
        let limit = limit.min(EVENTS_LIMIT);
        let mut events = Vec::new();
        for_each_line(self.folder.root(), from, |seq, line| {
            if seq >= to || events.len() >= limit {
                return ControlFlow::Break(());
            }
            events.extend(parse_event(line));
            ControlFlow::Continue(())
        })?;
        Ok(Reply::Events { events })
    }

    /// The watched config file, or the run's own copy where that is gone.
    fn config_path(&self) -> PathBuf {
        if let Some((path, _)) = &self.before {
            return path.clone();
        }
        RunInfo::read(&self.folder)
            .map(|info| info.config_path)
            .filter(|path| path.is_file())
            .unwrap_or_else(|| self.folder.config())
    }

    fn sets(&self) -> Vec<String> {
        match &self.before {
            Some((_, sets)) => sets.clone(),
            None => RunInfo::read(&self.folder).map_or_else(Vec::new, |info| info.sets),
        }
    }

    /// The config that the run was started with, or will be.
    fn run_config(&self) -> Result<RunConfig> {
        match &self.before {
            Some((path, sets)) => read_config(path, sets),
            None => read_config(&self.folder.config(), &[]),
        }
    }

    fn config_file(&self) -> Result<Reply> {
        let path = self.config_path();
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read the config file {}", path.display()))?;
        Ok(Reply::ConfigFile {
            path: path.display().to_string(),
            text,
        })
    }

    fn check_config(&self, text: &str) -> Result<Reply> {
        let path = self.config_path();
        let sets = self.sets();
        let edited = match config::load_text(&path, text, &sets) {
            Ok(edited) => edited,
            Err(problems) => {
                return Ok(Reply::ConfigCheck {
                    changes: Vec::new(),
                    errors: problems.iter().map(ToString::to_string).collect(),
                });
            }
        };
        // A file that is broken now is compared by what the run began with.
        let running = config::load(&path, &sets)
            .or_else(|_| config::load(&self.folder.config(), &[]))
            .map_err(|_| anyhow!("neither {} nor the run's copy is right", path.display()))?;
        Ok(Reply::ConfigCheck {
            changes: config::diff(&running.config, &edited.config),
            errors: Vec::new(),
        })
    }

    /// Carries out a command that writes the person's own files, which needs no trainer: a sentence
    /// that says what was done. `None`: it is another command.
    pub fn write(&self, command: &Command) -> Option<Result<String>> {
        match command {
            Command::WriteConfig { text } => Some(self.write_config(text)),
            Command::EditData { edit } => Some(self.edit_data(edit)),
            _ => None,
        }
    }

    fn edit_data(&self, edit: &DataEdit) -> Result<String> {
        let config = self.run_config()?;
        if config.task_type != TaskType::TextToImage {
            return Err(anyhow!("only captions of images are edited here"));
        }
        let done = images::edit(&config, edit)?;
        // The next question reads the data anew.
        *self.records.lock().unwrap_or_else(|e| e.into_inner()) = None;
        Ok(match self.before {
            Some(_) => done,
            None => format!("{done} (a run reads its data when it starts)"),
        })
    }

    /// A picture of the run's samples, which is told by its name alone.
    fn sample(&self, file: &str, side: (u16, u16)) -> Result<Reply> {
        if file.is_empty() || file.contains('/') || file.starts_with('.') {
            return Err(anyhow!("there is no sample called {file}"));
        }
        picture(&self.folder.root().join("samples").join(file), side)
    }

    /// Replaces the watched config file; a sentence that says so.
    ///
    /// # Errors
    /// The text is no right config (the file stays as it is), or cannot be written.
    fn write_config(&self, text: &str) -> Result<String> {
        let path = self.config_path();
        let sets = self.sets();
        config::load_text(&path, text, &sets).map_err(|problems| {
            let first = problems.first().map_or_else(String::new, |p| p.to_string());
            anyhow!("the file stays as it is: {first}")
        })?;
        // Through a link the file itself is replaced.
        let path = fs::canonicalize(&path).unwrap_or(path);
        write_atomically(&path, text.as_bytes())?;
        Ok(format!("{} is written", path.display()))
    }

    fn runs(&self) -> Result<Reply> {
        let root = fs::canonicalize(self.folder.root())?;
        let runs = match root.parent() {
            Some(parent) => runs_under(parent)?,
            None => Vec::new(),
        };
        Ok(Reply::Runs {
            runs: runs
                .into_iter()
                .filter_map(|(folder, _)| Some(folder.root().file_name()?.to_str()?.to_owned()))
                .collect(),
        })
    }

    fn curves(&self, run: &str) -> Result<Reply> {
        // A name, never a way out of the folder.
        let plain = !run.is_empty() && run != ".." && !run.contains('/');
        let root = fs::canonicalize(self.folder.root())?;
        let folder = root
            .parent()
            .filter(|_| plain)
            .map(|parent| RunFolder::new(parent.join(run)))
            .filter(RunFolder::has_run)
            .ok_or_else(|| anyhow!("there is no run called {run} beside this one"))?;
        Ok(Reply::Curves {
            curves: Box::new(RunCurves::of(&load_state(&folder)?)),
        })
    }

    fn records(&self, job: RecordsJob) {
        let mut records = self.records.lock().unwrap_or_else(|e| e.into_inner());
        let mut job = job;
        if let Some(thread) = &*records {
            match thread.send(job) {
                Ok(()) => return,
                // It has ended for want of questions.
                Err(mpsc::SendError(returned)) => job = returned,
            }
        }
        let (jobs, inbox) = mpsc::channel();
        let config = self.run_config();
        let started = thread::Builder::new()
            .name("records".into())
            .spawn(move || serve_records(config, &inbox));
        match started {
            Ok(_) => {
                let _ = jobs.send(job);
                *records = Some(jobs);
            }
            Err(e) => job
                .answer
                .give(refusal(format!("cannot start a thread: {e}"))),
        }
    }
}

/// A run's data, as its records are asked for.
enum Data {
    Text(Box<Dataset>, Box<Tokenizer>),
    Images(Box<ImageDataset>),
}

fn serve_records(config: Result<RunConfig>, inbox: &Receiver<RecordsJob>) {
    let loaded = config.and_then(|config| load_data(&config));
    while let Ok(job) = inbox.recv_timeout(RECORDS_IDLE) {
        let reply = match &loaded {
            Ok(data) => data
                .answer(job.wanted)
                .unwrap_or_else(|e| refusal(format!("{e:#}"))),
            Err(e) => refusal(format!("cannot read the data: {e:#}")),
        };
        job.answer.give(reply);
        if loaded.is_err() {
            return; // the next question tries again
        }
    }
}

impl Data {
    fn answer(&self, wanted: Wanted) -> Result<Reply> {
        match (self, wanted) {
            (Data::Text(dataset, tokenizer), Wanted::Records { from, count }) => {
                Ok(Reply::Records {
                    from,
                    total: dataset.train.len() + dataset.eval.len(),
                    records: dataset.preview(tokenizer, from, count),
                })
            }
            (Data::Images(dataset), Wanted::Records { from, count }) => Ok(Reply::Records {
                from,
                total: dataset.shown().len(),
                records: dataset.preview(None, from, count),
            }),
            (Data::Images(dataset), Wanted::Picture { index, side }) => {
                let shown = dataset.shown();
                let (item, _) = shown.get(index).context("there is no such image")?;
                picture(&item.path, side)
            }
            (Data::Text(..), Wanted::Picture { .. }) => Err(anyhow!("the data holds no images")),
        }
    }
}

/// The picture in a file, made to fit, as it travels.
fn picture(path: &Path, (width, height): (u16, u16)) -> Result<Reply> {
    let limit = |side: u16| u32::from(side.min(PICTURE_SIDE));
    let small = images::thumbnail(path, limit(width), limit(height))?;
    Ok(Reply::Picture {
        width: small.width as u16,
        height: small.height as u16,
        rgb: base64::engine::general_purpose::STANDARD.encode(&small.data),
    })
}

fn read_config(path: &Path, sets: &[String]) -> Result<RunConfig> {
    let loaded = config::load(path, sets).map_err(|problems| {
        let first = problems.into_iter().next();
        anyhow!(first.map_or_else(|| "the config is broken".to_owned(), |p| p.message))
    })?;
    Ok(loaded.config)
}

fn load_data(config: &RunConfig) -> Result<Data> {
    if config.task_type == TaskType::TextToImage {
        return Ok(Data::Images(Box::new(images::load(config, &|_, _| {})?)));
    }
    let tokenizer = model::open_tokenizer(&config.base_model)?;
    let dataset = data::load(config, &tokenizer)?;
    Ok(Data::Text(Box::new(dataset), Box::new(tokenizer)))
}

/// Last lines of a text file; none when it does not exist.
fn last_lines(path: &Path, lines: usize) -> Result<Vec<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let reading = || format!("cannot read {}", path.display());
    let length = file.metadata().with_context(reading)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))
        .with_context(reading)?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES)
        .read_to_end(&mut bytes)
        .with_context(reading)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let skip = all.len().saturating_sub(lines.min(LOG_LINES_LIMIT));
    Ok(all[skip..].iter().map(|&l| l.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RecordPreview;

    /// A run on two drawn images.
    fn image_run() -> (tempfile::TempDir, Store) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        for folder in ["data", "run/samples"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("base.safetensors"), "").unwrap();
        for (name, size) in [
            ("data/a.png", (96, 48)),
            ("data/b.png", (64, 64)),
            ("run/samples/s.png", (32, 32)),
        ] {
            let image = image::RgbImage::from_pixel(size.0, size.1, image::Rgb([9, 90, 200]));
            image.save(root.join(name)).unwrap();
        }
        fs::write(root.join("data/a.txt"), "a blue wall").unwrap();
        let yaml = format!(
            "base_model: {0}/base.safetensors\ntrain_data_dir: {0}/data\nresolution: 64\n\
             eval_split: 0\n",
            root.display()
        );
        fs::write(root.join("run/config.yaml"), yaml).unwrap();
        let store = Store::new(RunFolder::new(root.join("run")));
        (place, store)
    }

    fn ask(store: &Store, query: Query) -> Reply {
        let (sender, receiver) = mpsc::channel();
        let answer = Answer::new(move |reply| sender.send(reply).unwrap());
        store.answer(query, answer);
        receiver.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    fn records(store: &Store) -> Vec<RecordPreview> {
        match ask(store, Query::Records { from: 0, count: 9 }) {
            Reply::Records { records, total, .. } => {
                assert_eq!(records.len(), total);
                records
            }
            other => panic!("{other:?}"),
        }
    }

    fn picture(store: &Store, source: PictureSource) -> Result<(u16, u16), String> {
        let query = Query::Picture {
            source,
            width: 24,
            height: 40,
        };
        match ask(store, query) {
            Reply::Picture { width, height, rgb } => {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(rgb)
                    .unwrap();
                assert_eq!(bytes.len(), usize::from(width) * usize::from(height) * 3);
                assert_eq!(bytes[..3], [9, 90, 200]);
                Ok((width, height))
            }
            Reply::Error { message, .. } => Err(message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn images_travel_as_records_and_small_pictures_and_nothing_else_of_the_disk_does() {
        let (_place, store) = image_run();
        let previews = records(&store);
        assert_eq!(previews[0].segments[0].text, "a blue wall");
        assert_eq!(previews[0].image.as_ref().unwrap().bucket, (64, 64));
        let record = |index| picture(&store, PictureSource::Record { index });
        assert_eq!(record(0), Ok((24, 12)));
        assert_eq!(record(1), Ok((24, 24)));
        assert!(record(2).unwrap_err().contains("no such image"));
        let sample = |file: &str| picture(&store, PictureSource::Sample { file: file.into() });
        assert_eq!(sample("s.png"), Ok((24, 24)));
        for outside in ["../../data/a.png", "", "..", "/etc/passwd", "gone.png"] {
            assert!(sample(outside).is_err(), "{outside}");
        }
    }

    #[test]
    fn captions_are_edited_without_a_runner_and_read_anew() {
        let (_place, store) = image_run();
        assert_eq!(records(&store)[1].image.as_ref().unwrap().caption, "");
        let write = |edit| store.write(&Command::EditData { edit }).unwrap();
        write(DataEdit::Caption {
            file: "b.png".into(),
            caption: "a square".into(),
        })
        .unwrap();
        write(DataEdit::Exclude {
            file: "a.png".into(),
            excluded: true,
        })
        .unwrap();
        let previews = records(&store);
        assert_eq!(previews[1].segments[0].text, "a square");
        assert_eq!(previews[0].split, "excluded");
        assert!(store.write(&Command::Pause).is_none());
    }
}
