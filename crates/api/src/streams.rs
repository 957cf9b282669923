//! Streams out of the engine: logs with or without Docker's frames, and lines of JSON.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use engine::request::{LogRecord, Stream};
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

/// Log records as clients expect them.
pub fn encode_records(records: &[LogRecord], tty: bool, timestamps: bool) -> Bytes {
    let size: usize = records.iter().map(|record| record.line.len() + record.time.len() + FRAME_HEAD_LEN + NANOS_DIGITS + 2).sum();
    let mut out = BytesMut::with_capacity(size);
    for record in records {
        let time = if timestamps { format!("{} ", fixed_nanos(&record.time)) } else { String::new() };
        if !tty {
            let length = u32::try_from(time.len() + record.line.len()).unwrap_or(u32::MAX);
            out.put_u8(match record.stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            });
            out.put_bytes(0, 3);
            out.put_u32(length);
        }
        out.put_slice(time.as_bytes());
        out.put_slice(&record.line);
    }
    out.freeze()
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

    fn record(stream: Stream, line: &'static str) -> LogRecord {
        LogRecord { stream, time: "2026-11-22T10:51:26.89Z".to_owned(), line: Bytes::from_static(line.as_bytes()) }
    }

    #[test]
    fn records_are_framed_unless_there_is_a_terminal() {
        let records = [record(Stream::Stderr, "err\n"), record(Stream::Stdout, "out\n")];
        assert_eq!(&encode_records(&records, false, false)[..], b"\x02\0\0\0\0\0\0\x04err\n\x01\0\0\0\0\0\0\x04out\n");
        assert_eq!(&encode_records(&records, true, false)[..], b"err\nout\n");
        assert_eq!(&encode_records(&records[1..], false, true)[..], b"\x01\0\0\0\0\0\0\x232026-11-22T10:51:26.890000000Z out\n");
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
