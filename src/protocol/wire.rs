//! The lines themselves: numbers that survive JSON, and the envelopes of either direction.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Command, Event, Query, Reply, RunState};

/// A floating-point number that may be non-finite.
///
/// JSON has no NaN and serde_json writes it as `null`, which then fails to read as a number; on
/// the wire non-finite values are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Num(pub f64);

impl PartialEq for Num {
    /// Bitwise, so that `NaN == NaN`: two folds of the same events must compare equal.
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl From<f64> for Num {
    fn from(value: f64) -> Self {
        Num(value)
    }
}

impl Serialize for Num {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else if self.0.is_nan() {
            serializer.serialize_str("NaN")
        } else if self.0 > 0.0 {
            serializer.serialize_str("Infinity")
        } else {
            serializer.serialize_str("-Infinity")
        }
    }
}

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Num;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a number, \"NaN\", \"Infinity\" or \"-Infinity\"")
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Num, E> {
                Ok(Num(v))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Num, E> {
                Ok(Num(v as f64))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Num, E> {
                Ok(Num(v as f64))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Num, E> {
                match v {
                    "NaN" => Ok(Num(f64::NAN)),
                    "Infinity" => Ok(Num(f64::INFINITY)),
                    "-Infinity" => Ok(Num(f64::NEG_INFINITY)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(v), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What a deck (or `loradeck send`) writes on the socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// First line. `watch: false` asks for no snapshot and no events (`send`, `status`).
    Hello {
        version: u32,
        /// Who it is, shown to all decks beside its commands: `user@host pid 123`.
        sender: String,
        #[serde(default)]
        watch: bool,
        /// Takes back the right to command: whatever this client sends later, it only watches.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        readonly: bool,
    },
    /// `id` is unique within its sender; the matching `Ack` carries it back.
    Command { id: u64, command: Command },
    /// Answered by `ServerMessage::Reply` with the same `id`.
    Query { id: u64, query: Query },
    /// To a bridge: start a runner again on a run that has ended early. Answered as a query is.
    StartRunner { id: u64 },
}

/// What a runner writes on the socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// First line, whatever the client's version.
    Hello {
        version: u32,
        program: String,
    },
    /// The state after every event up to `state.seq`.
    Snapshot {
        state: Box<RunState>,
    },
    Event {
        event: Box<Event>,
    },
    Reply {
        id: u64,
        reply: Reply,
    },
    /// So many metric events were not sent to this client since the last such line: its queue was
    /// full. The gap can be filled with `Query::Events`.
    Dropped {
        count: u64,
    },
    /// From a bridge: a runner answers. `readonly` says why it takes no commands.
    Connected {
        program: String,
        readonly: Option<String>,
    },
    /// From a bridge: no runner answers (any more).
    Disconnected {
        reason: String,
    },
}
