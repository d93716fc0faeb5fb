//! What runner and deck say to each other, and the pure fold of what was said.
//!
//! One JSON object per line, both on the control socket and (events only) in `events.*.jsonl`.
//! This room knows nothing of training, terminals or files: it is plain data.

mod alerts;
mod command;
mod curves;
mod event;
mod finding;
mod images;
mod kept;
mod log;
mod queue;
mod series;
mod state;
mod wire;

pub use alerts::{ActiveAlert, Alert, Alerts, Remedy};
pub use command::{Command, Query, Reply, StopMode};
pub use curves::RunCurves;
pub use event::{
    AdapterInfo, BaseInfo, CheckpointReason, ConfigChange, ConfigEntry, DataStatistics, Event,
    EventKind, GpuReading, GpuStatus, HostReading, LengthBucket, Level, Message, PackingStatistics,
    PhaseName, RecordPreview, RecordSegment, SampleText, StepMetrics,
};
pub use finding::{Finding, FindingItem, Severity};
pub use images::{BucketCount, DataEdit, ImagePreview, ImageStatistics, PictureSource};
pub use kept::{AckLine, CheckpointLine, ExportLine, GpuHistory, SampleLine, Throughput};
pub use log::{LogEntry, LogLine};
pub use queue::{QueuePlace, QueueState};
pub use series::{Bucket, Series};
pub use state::{Marks, RunState};
pub use wire::{ClientMessage, Num, ServerMessage};

/// Version of the protocol. A deck and a runner of different versions still show each other's
/// events, but the deck stays read-only.
pub const VERSION: u32 = 3;
