//! Graylog's extended log format: JSON, in datagrams compressed and split.

use std::io::{self, Write};

use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Map, Value};

use super::About;
use crate::log::decode::LogRecord;
use crate::log::options::Compression;
use crate::request::Stream;

/// What one datagram of a split message carries, so that it fits an Ethernet frame.
const CHUNK_BYTES: usize = 1408;
const CHUNKS_MAX: usize = 128;
const CHUNK_MAGIC: [u8; 2] = [0x1e, 0x0f];

/// One record as a message.
pub(super) fn message(about: &About, record: &LogRecord<'_>, time_ns: i64) -> Vec<u8> {
    let line = record.line.strip_suffix(b"\n").unwrap_or(record.line);
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("version", "1.1".into());
    put("host", about.host.as_str().into());
    put("short_message", String::from_utf8_lossy(line).into());
    put("timestamp", (time_ns as f64 / 1e9).into());
    put("level", if record.stream == Stream::Stderr { 3 } else { 6 }.into());
    for (name, value) in [
        ("_container_id", &about.id),
        ("_container_name", &about.name),
        ("_image_id", &about.image_id),
        ("_image_name", &about.image),
        ("_command", &about.command),
        ("_created", &about.created),
        ("_tag", &about.tag),
    ] {
        put(name, value.as_str().into());
    }
    for (name, value) in &about.attrs {
        put(&format!("_{name}"), value.as_str().into());
    }
    Value::Object(fields).to_string().into_bytes()
}

/// A message as datagrams.
pub(super) fn datagrams(message: &[u8], compression: Compression) -> io::Result<Vec<Vec<u8>>> {
    let packed = match compression {
        Compression::None => message.to_vec(),
        Compression::Gzip(level) => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(level));
            encoder.write_all(message)?;
            encoder.finish()?
        }
        Compression::Zlib(level) => {
            let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::new(level));
            encoder.write_all(message)?;
            encoder.finish()?
        }
    };
    if packed.len() <= CHUNK_BYTES {
        return Ok(vec![packed]);
    }
    let chunks: Vec<&[u8]> = packed.chunks(CHUNK_BYTES).collect();
    if chunks.len() > CHUNKS_MAX {
        // Lines are at most 16 KiB: only labels without measure come here.
        return Ok(Vec::new());
    }
    let mut id = [0u8; 8];
    let _ = getrandom::fill(&mut id);
    let chunk = |(number, chunk): (usize, &&[u8])| [&CHUNK_MAGIC, id.as_slice(), &[number as u8, chunks.len() as u8], chunk].concat();
    Ok(chunks.iter().enumerate().map(chunk).collect())
}

#[cfg(test)]
mod tests {
    use super::super::testing::about;
    use super::*;
    use crate::log::decode::LogTime;

    #[test]
    fn messages_have_the_fields_and_are_split() {
        let line = vec![b'x'; 5000];
        let record = LogRecord { stream: Stream::Stderr, time: LogTime::Nanos(0), line: &line, attrs: "" };
        let text = message(&about(), &record, 1_500_000_000);
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!((value["timestamp"].as_f64(), value["level"].as_i64(), &value["_team.a"]), (Some(1.5), Some(3), &Value::from("blue")));
        let parts = datagrams(&text, Compression::None).expect("split");
        assert_eq!(
            (parts.len(), &parts[1][..2], parts[1][10], parts[1][11]),
            (text.len().div_ceil(CHUNK_BYTES), CHUNK_MAGIC.as_slice(), 1, 4)
        );
        assert_eq!(parts.iter().flat_map(|part| part[12..].to_vec()).collect::<Vec<_>>(), text);
        let packed = datagrams(&text, Compression::Gzip(1)).expect("packed");
        assert_eq!((packed.len(), &packed[0][..2]), (1, [0x1f, 0x8b].as_slice()));
    }
}
