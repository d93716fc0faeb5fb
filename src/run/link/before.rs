//! A link to the data of a run that has not begun: it is looked through, and its captions are edited.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};

use crate::config::{self, LoadedConfig, TaskType};
use crate::data::{self, images};
use crate::model;
use crate::protocol::{Command, DataStatistics, Event, EventKind, Reply, RunState};
use crate::train::{image_statistics, open_device};

use super::super::folder::{RunFolder, now};
use super::super::store::{Answer, Store, refusal};
use super::{Request, Shared, Update, clear_wake};

/// The link's thread.
pub struct Worker<F> {
    config: PathBuf,
    sets: Vec<String>,
    shared: Arc<Shared>,
    woken: UnixStream,
    on_update: F,
}

/// What is known of the run: its config, and what its data holds.
///
/// # Errors
/// The config has mistakes; the data cannot be used at all.
fn look(loaded: LoadedConfig) -> Result<RunState> {
    let folder = RunFolder::new(&loaded.config.output_dir);
    let mut state = RunState {
        run: folder.name(),
        run_dir: folder.root().display().to_string(),
        config_path: Some(loaded.path.display().to_string()),
        config: loaded.entries,
        ..RunState::default()
    };
    state.apply(&Event {
        seq: 1,
        time: now(),
        kind: EventKind::Data {
            statistics: statistics(&loaded.config)?,
        },
    });
    Ok(state)
}

fn statistics(config: &config::RunConfig) -> Result<DataStatistics> {
    if config.task_type == TaskType::TextGeneration {
        let tokenizer = model::open_tokenizer(&config.base_model)?;
        return Ok(data::load(config, &tokenizer)?.statistics);
    }
    let mut dataset = images::load(config, &|_, _| {})?;
    if let Some(folder) = &config.clip_model {
        dataset.look_with_clip(folder, &open_device(config.device)?, &|_, _| {})?;
    }
    Ok(image_statistics(config, &dataset))
}

impl<F: FnMut(Update)> Worker<F> {
    pub fn new(
        config: PathBuf,
        sets: Vec<String>,
        shared: Arc<Shared>,
        woken: UnixStream,
        on_update: F,
    ) -> Self {
        Worker {
            config,
            sets,
            shared,
            woken,
            on_update,
        }
    }

    /// Until the link is dropped.
    pub fn run(mut self, loaded: LoadedConfig) {
        let folder = RunFolder::new(&loaded.config.output_dir);
        let store = Store::before(folder, self.config.clone(), self.sets.clone());
        (self.on_update)(Update::Before);
        self.look(Ok(loaded));
        while !self.shared.is_closed() {
            let mut wanted = [PollFd::new(&self.woken, PollFlags::IN)];
            // Interrupted or not: the next round looks again.
            let _ = poll(&mut wanted, None);
            clear_wake(&self.woken);
            self.serve(&store);
        }
    }

    /// Reports the data as it is now.
    fn look(&mut self, loaded: Result<LoadedConfig>) {
        let update = match loaded.and_then(look) {
            Ok(state) => Update::Snapshot(Box::new(state)),
            Err(e) => Update::Disconnected {
                reason: format!("{e:#}"),
            },
        };
        (self.on_update)(update);
    }

    fn serve(&mut self, store: &Store) {
        for request in self.shared.take() {
            match request {
                Request::Command(id, command) => {
                    let (reply, done) = match store.write(&command) {
                        Some(Ok(message)) => (Reply::Done { message }, true),
                        Some(Err(e)) => (refusal(format!("{e:#}")), false),
                        None => (refusal("no run has begun"), false),
                    };
                    (self.on_update)(Update::Reply { id, reply });
                    if done
                        && matches!(
                            command,
                            Command::EditData { .. } | Command::WriteConfig { .. }
                        )
                    {
                        let loaded = config::load(&self.config, &self.sets);
                        self.look(loaded.map_err(|p| anyhow!(config::problems_error(&p))));
                    }
                }
                Request::Query(id, query) => {
                    let shared = self.shared.clone();
                    let answer = Answer::new(move |reply| shared.push(Request::Answer(id, reply)));
                    store.answer(query, answer);
                }
                Request::Answer(id, reply) => (self.on_update)(Update::Reply { id, reply }),
                Request::StartRunner(id) => {
                    let result = Err("no run has begun".to_owned());
                    (self.on_update)(Update::RunnerStarted { id, result });
                }
                Request::Started(id, result) => {
                    (self.on_update)(Update::RunnerStarted { id, result });
                }
            }
        }
    }
}
