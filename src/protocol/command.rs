//! What may be asked of a run: commands change it, queries only read.

use serde::{Deserialize, Serialize};

use super::{
    ConfigChange, DataEdit, Event, Level, PictureSource, QueuePlace, RecordPreview, RunCurves,
};

/// Changes a run. Every command gets an `Ack` event that all decks see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Command {
    Pause,
    Resume,
    Checkpoint,
    /// Exports the adapter as it is now, in every format of `export_formats`.
    Export,
    /// Samples now; without a prompt, every prompt of `sample_prompts`.
    Sample {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prompt: Option<String>,
    },
    Eval,
    Stop {
        mode: StopMode,
    },
    /// Sets a live key for the rest of the run; `value` is YAML.
    Set {
        key: String,
        value: String,
    },
    /// Replaces the watched config file's text; an edit like any other.
    WriteConfig {
        text: String,
    },
    /// Changes captions, or what is left out; it acts when the data is read again.
    EditData {
        edit: DataEdit,
    },
}

impl Command {
    /// The word used on the command line and in the log.
    pub fn word(&self) -> String {
        match self {
            Command::Pause => "pause".into(),
            Command::Resume => "resume".into(),
            Command::Checkpoint => "checkpoint".into(),
            Command::Export => "export".into(),
            Command::Sample { .. } => "sample".into(),
            Command::Eval => "eval".into(),
            Command::Stop {
                mode: StopMode::Save,
            } => "stop".into(),
            Command::Stop {
                mode: StopMode::Discard,
            } => "stop (discard)".into(),
            Command::Set { key, value } => format!("set {key}={value}"),
            Command::WriteConfig { .. } => "write config".into(),
            Command::EditData { edit } => edit.word(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// Checkpoint, then end: the run can be resumed where it stood.
    Save,
    /// End without a checkpoint: steps after the last one are lost.
    Discard,
}

/// Reads something that is not an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Query {
    /// Events with `from <= seq < to`, at full resolution, at most `limit` of them.
    Events { from: u64, to: u64, limit: usize },
    /// Records `from..from + count` of the training data, as the model sees them.
    Records { from: usize, count: usize },
    /// A picture, made to fit so many pixels.
    Picture {
        source: PictureSource,
        width: u16,
        height: u16,
    },
    /// Last `lines` lines of `runner.log`.
    RunnerLog { lines: usize },
    /// Text of the watched config file.
    ConfigFile,
    /// What the run would make of this text in its config file.
    CheckConfig { text: String },
    /// Names of the runs that lie beside this one, newest first.
    Runs,
    /// The curves of one of them.
    Curves { run: String },
    /// Where the run stands in its queue.
    QueuePlace,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Reply {
    Events {
        events: Vec<Event>,
    },
    Records {
        from: usize,
        total: usize,
        records: Vec<RecordPreview>,
    },
    /// Rows of pixels, three bytes each (red, green, blue), in base64.
    Picture {
        width: u16,
        height: u16,
        rgb: String,
    },
    RunnerLog {
        lines: Vec<String>,
    },
    ConfigFile {
        path: String,
        text: String,
    },
    /// Against the file as it is; `errors` are sentences, and then nothing would change.
    ConfigCheck {
        changes: Vec<ConfigChange>,
        errors: Vec<String>,
    },
    Runs {
        runs: Vec<String>,
    },
    Curves {
        curves: Box<RunCurves>,
    },
    /// `None`: the run is in no queue, or its turn is over.
    QueuePlace {
        place: Option<QueuePlace>,
    },
    /// A command was carried out where no runner is alive.
    Done {
        message: String,
    },
    /// From a bridge: a runner was started again, and its socket answers.
    RunnerStarted,
    Error {
        level: Level,
        message: String,
    },
}
