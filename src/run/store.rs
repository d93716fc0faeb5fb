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

use crate::config;
use crate::data::{self, Dataset};
use crate::model::{self, Tokenizer};
use crate::protocol::{Level, Query, Reply, RunCurves};

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

struct RecordsJob {
    from: usize,
    count: usize,
    answer: Answer,
}

/// Answers queries about one run.
pub struct Store {
    folder: RunFolder,
    /// The thread that holds the data set, once someone has asked for a record.
    records: Mutex<Option<Sender<RecordsJob>>>,
}

impl Store {
    pub fn new(folder: RunFolder) -> Self {
        Store {
            folder,
            records: Mutex::new(None),
        }
    }

    /// Answers a query: on the caller's thread, but records on a thread of their own, since the
    /// first of them has the data set read.
    pub fn answer(&self, query: Query, answer: Answer) {
        let reply = match query {
            Query::Records { from, count } => {
                return self.records(RecordsJob {
                    from,
                    count: count.min(RECORDS_LIMIT),
                    answer,
                });
            }
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
        RunInfo::read(&self.folder)
            .map(|info| info.config_path)
            .filter(|path| path.is_file())
            .unwrap_or_else(|| self.folder.config())
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
        let sets = RunInfo::read(&self.folder).map_or_else(Vec::new, |info| info.sets);
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

    /// Replaces the watched config file; a sentence that says so.
    ///
    /// # Errors
    /// The text is no right config (the file stays as it is), or cannot be written.
    pub fn write_config(&self, text: &str) -> Result<String> {
        let path = self.config_path();
        let sets = RunInfo::read(&self.folder).map_or_else(Vec::new, |info| info.sets);
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
        let folder = self.folder.clone();
        let started = thread::Builder::new()
            .name("records".into())
            .spawn(move || serve_records(&folder, &inbox));
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

fn serve_records(folder: &RunFolder, inbox: &Receiver<RecordsJob>) {
    let loaded = load_data(folder);
    while let Ok(job) = inbox.recv_timeout(RECORDS_IDLE) {
        let reply = match &loaded {
            Ok((dataset, tokenizer)) => Reply::Records {
                from: job.from,
                total: dataset.train.len() + dataset.eval.len(),
                records: dataset.preview(tokenizer, job.from, job.count),
            },
            Err(e) => refusal(format!("cannot read the data: {e:#}")),
        };
        job.answer.give(reply);
        if loaded.is_err() {
            return; // the next question tries again
        }
    }
}

fn load_data(folder: &RunFolder) -> Result<(Dataset, Tokenizer)> {
    let config = config::load(&folder.config(), &[])
        .map_err(|problems| {
            let first = problems.into_iter().next();
            anyhow!(first.map_or_else(|| "the config is broken".to_owned(), |p| p.message))
        })?
        .config;
    let tokenizer = model::open_tokenizer(&config.base_model)?;
    let dataset = data::load(&config, &tokenizer)?;
    Ok((dataset, tokenizer))
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
