//! The messages of TensorBoard's event files (tensorflow/core/util/event.proto and
//! framework/summary.proto, the fields used here) and their framing.

use std::io::{self, Write};

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since the Unix epoch.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum What {
    /// `brain.Event:2`, in the first event of a file.
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Value {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
    #[prost(oneof = "Content", tags = "2, 8")]
    pub content: Option<Content>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Content {
    #[prost(float, tag = "2")]
    Simple(f32),
    #[prost(message, tag = "8")]
    Tensor(Tensor),
}

#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    #[prost(message, optional, tag = "1")]
    pub plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PluginData {
    #[prost(string, tag = "1")]
    pub plugin_name: String,
}

/// A tensor of strings.
#[derive(Clone, PartialEq, Message)]
pub struct Tensor {
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub strings: Vec<Vec<u8>>,
}

/// `DT_STRING`
pub const STRING: i32 = 7;

#[derive(Clone, PartialEq, Message)]
pub struct Shape {
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Dim {
    #[prost(int64, tag = "1")]
    pub size: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct SessionLog {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// `SessionStatus::START`: readers forget what they know from this step on.
pub const START: i32 = 1;

/// Writes an event as a TFRecord: length, its checksum, the bytes, their checksum.
///
/// # Errors
/// The file cannot be written.
pub fn write_record(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let bytes = event.encode_to_vec();
    let length = (bytes.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked_crc(&length).to_le_bytes())?;
    out.write_all(&bytes)?;
    out.write_all(&masked_crc(&bytes).to_le_bytes())
}

/// CRC-32C, rotated and shifted as TFRecord wants it.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as `tensorflow`'s own record writer gives them for this event.
    #[test]
    fn the_first_record_has_the_bytes_every_tensorboard_file_starts_with() {
        let mut out = Vec::new();
        let event = Event {
            wall_time: 1.0,
            step: 0,
            what: Some(What::FileVersion("brain.Event:2".into())),
        };
        write_record(&mut out, &event).unwrap();
        assert_eq!(&out[..8], &24u64.to_le_bytes());
        // The checksum of a length of 24 in the head of every such file.
        assert_eq!(&out[8..12], &[0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(&out[12..21], b"\x09\0\0\0\0\0\0\xf0\x3f");
        assert_eq!(&out[21..36], b"\x1a\x0dbrain.Event:2");
        assert_eq!(out.len(), 8 + 4 + 24 + 4);
    }
}
