//! Entries of systemd's journal, in its native protocol.

use super::About;
use crate::log::decode::LogRecord;
use crate::request::Stream;

/// One record as an entry.
pub(super) fn message(about: &About, record: &LogRecord<'_>, time_ns: i64) -> Vec<u8> {
    let mut out = Vec::new();
    let line = record.line.strip_suffix(b"\n");
    field(&mut out, "MESSAGE", line.unwrap_or(record.line));
    field(&mut out, "PRIORITY", if record.stream == Stream::Stderr { b"3" } else { b"6" });
    let time = (time_ns / 1000).to_string();
    for (name, value) in [
        ("CONTAINER_ID", &about.short_id),
        ("CONTAINER_ID_FULL", &about.id),
        ("CONTAINER_NAME", &about.name),
        ("CONTAINER_TAG", &about.tag),
        ("IMAGE_NAME", &about.image),
        ("SYSLOG_IDENTIFIER", &about.tag),
        ("SYSLOG_TIMESTAMP", &record.time.text().into_owned()),
        ("_SOURCE_REALTIME_TIMESTAMP", &time),
    ] {
        field(&mut out, name, value.as_bytes());
    }
    if line.is_none() {
        field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
    }
    for (name, value) in &about.attrs {
        // The journal's names are of capitals, digits and underscores, and do not begin with one.
        let name: String =
            name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' }).collect();
        let name = name.trim_start_matches('_');
        if !name.is_empty() {
            field(&mut out, name, value.as_bytes());
        }
    }
    out
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::super::testing::about;
    use super::*;
    use crate::log::decode::LogTime;

    #[test]
    fn entries_have_dockers_fields() {
        let record = LogRecord { stream: Stream::Stdout, time: LogTime::Text("2026-01-02T03:04:05Z"), line: b"a\nb", attrs: "" };
        let text = String::from_utf8(message(&about(), &record, 1_000)).expect("text");
        assert!(text.starts_with("MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nPRIORITY=6\nCONTAINER_ID=abababababab\n"), "{text}");
        assert!(text.ends_with("CONTAINER_PARTIAL_MESSAGE=true\nTEAM_A=blue\n"), "{text}");
    }
}
