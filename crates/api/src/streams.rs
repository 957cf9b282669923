//! Streams out of the engine: logs with or without Docker's frames, and lines of JSON.

use std::collections::BTreeMap;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use engine::LogBatch;
use engine::request::Stream;
use serde::Serialize;

use crate::version::Version;

/// Frames of 8 bytes, then output: `[1 or 2, 0, 0, 0, length as big-endian u32]`.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
/// Bytes as the process wrote them; below API 1.42 also the name of the multiplexed stream.
pub const RAW: &str = "application/vnd.docker.raw-stream";

const FRAME_HEAD_LEN: usize = 8;
const NANOS_DIGITS: usize = 9;

/// The content type of a container's output.
pub fn content_type(version: Version, tty: bool) -> &'static str {
    if !tty && version.since(42) { MULTIPLEXED } else { RAW }
}

/// How log records are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown {
    /// There is a terminal: no frames.
    pub raw: bool,
    /// With their times.
    pub timestamps: bool,
    /// With what the log's options say of the container.
    pub details: bool,
}

/// Log records as clients expect them.
pub fn encode_records(records: &LogBatch, shown: Shown) -> Bytes {
    let mut out = BytesMut::with_capacity(records.bytes() + records.len() * (FRAME_HEAD_LEN + NANOS_DIGITS));
    for record in records.iter() {
        let mut before = if shown.timestamps { format!("{} ", fixed_nanos(&record.time.text())) } else { String::new() };
        if shown.details {
            before.push_str(&details(record.attrs));
            before.push(' ');
        }
        if !shown.raw {
            let length = u32::try_from(before.len() + record.line.len()).unwrap_or(u32::MAX);
            out.put_u8(match record.stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            });
            out.put_bytes(0, 3);
            out.put_u32(length);
        }
        out.put_slice(before.as_bytes());
        out.put_slice(record.line);
    }
    out.freeze()
}

/// Attributes as `logs --details` shows them: `a=b,c=d`, each encoded as in an address.
fn details(attrs: &str) -> String {
    let attrs: BTreeMap<String, String> = serde_json::from_str(attrs).unwrap_or_default();
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pairs: Vec<String> = attrs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    pairs.join(",")
}

/// An RFC 3339 time in UTC with exactly nine decimals, as `logs --timestamps` shows it; what is no such time stays as it is.
fn fixed_nanos(time: &str) -> String {
    let Some(bare) = time.strip_suffix('Z') else { return time.to_owned() };
    let (seconds, fraction) = bare.split_once('.').unwrap_or((bare, ""));
    format!("{seconds}.{fraction:0<NANOS_DIGITS$}Z")
}

/// A line of a JSON stream of progress, ended as Docker ends it.
pub fn progress_line<T: Serialize>(value: &T) -> io::Result<Bytes> {
    let mut text = serde_json::to_vec(value)?;
    text.extend_from_slice(b"\r\n");
    Ok(text.into())
}

/// A line of a JSON stream of events or samples.
pub fn json_line<T: Serialize>(value: &T) -> io::Result<Bytes> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_encoded() {
        assert_eq!(details(r#"{"b":"2 3","a":"x,y"}"#), "a=x%2Cy,b=2+3");
        assert_eq!(details(""), "");
    }

    #[test]
    fn times_get_nine_decimals() {
        assert_eq!(fixed_nanos("2026-11-22T10:51:26Z"), "2026-11-22T10:51:26.000000000Z");
        assert_eq!(fixed_nanos("2026-11-22T10:51:26.123456789Z"), "2026-11-22T10:51:26.123456789Z");
        assert_eq!(fixed_nanos("yesterday"), "yesterday");
    }

    #[test]
    fn the_content_type_depends_on_the_version() {
        assert_eq!(content_type(Version::new(41), false), RAW);
        assert_eq!(content_type(Version::new(42), false), MULTIPLEXED);
        assert_eq!(content_type(Version::new(51), true), RAW);
    }
}
