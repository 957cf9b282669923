//! Fluentd's forward protocol: an array of tag, time and record in MessagePack.

use super::About;
use crate::log::decode::LogRecord;
use crate::request::Stream;

/// One record as an event.
pub(super) fn message(about: &About, record: &LogRecord<'_>, time_ns: i64, nanos: bool) -> Vec<u8> {
    let line = record.line.strip_suffix(b"\n");
    let source = if record.stream == Stream::Stderr { "stderr" } else { "stdout" };
    let name = format!("/{}", about.name);
    let mut fields: Vec<(&str, &[u8])> =
        vec![("container_id", about.id.as_bytes()), ("container_name", name.as_bytes()), ("source", source.as_bytes())];
    fields.push(("log", line.unwrap_or(record.line)));
    if line.is_none() {
        fields.push(("partial_message", b"true"));
    }
    fields.extend(about.attrs.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    let mut out = vec![0x93];
    text(&mut out, about.tag.as_bytes());
    let (seconds, rest) = (time_ns.div_euclid(1_000_000_000), time_ns.rem_euclid(1_000_000_000));
    if nanos {
        // An extension of type 0 and eight bytes.
        out.extend_from_slice(&[0xd7, 0]);
        out.extend_from_slice(&(seconds as u32).to_be_bytes());
        out.extend_from_slice(&(rest as u32).to_be_bytes());
    } else {
        out.push(0xd3);
        out.extend_from_slice(&seconds.to_be_bytes());
    }
    out.push(0xde);
    out.extend_from_slice(&(fields.len() as u16).to_be_bytes());
    for (name, value) in fields {
        text(&mut out, name.as_bytes());
        text(&mut out, value);
    }
    out
}

fn text(out: &mut Vec<u8>, value: &[u8]) {
    match value.len() {
        length @ 0..32 => out.push(0xa0 | length as u8),
        length => {
            out.push(0xdb);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::super::testing::about;
    use super::*;
    use crate::log::decode::LogTime;

    #[test]
    fn events_are_an_array_of_three() {
        let record = LogRecord { stream: Stream::Stdout, time: LogTime::Nanos(0), line: b"hi\n", attrs: "" };
        let bytes = message(&about(), &record, 1_000_000_002, false);
        assert!(bytes.starts_with(b"\x93\xa3tag\xd3\0\0\0\0\0\0\0\x01\xde\0\x05\xaccontainer_id\xdb\0\0\0\x40"));
        assert!(bytes.ends_with(b"\xa6source\xa6stdout\xa3log\xa2hi\xa6team.a\xa4blue"));
        let bytes = message(&about(), &record, 1_000_000_002, true);
        assert!(bytes.starts_with(b"\x93\xa3tag\xd7\0\0\0\0\x01\0\0\0\x02\xde"));
    }
}
