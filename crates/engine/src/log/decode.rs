//! The records of a log file, read from its bytes in large pieces: Docker's lines of JSON, and Docker's local format.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use jiff::Timestamp;
use monitor::LogFormat;
use serde::Deserialize;

use crate::request::Stream;

/// A record beyond this is none: those of the monitor hold at most 16 KiB, escaped sixfold in the worst case.
pub(super) const RECORD_BYTES_MAX: usize = 1024 * 1024;
const LENGTH_BYTES: usize = 4;

/// Records in the order they were written, in one piece of memory.
#[derive(Debug, Clone, Default)]
pub struct LogBatch {
    data: Bytes,
    records: Vec<Place>,
}

/// One record of a log.
#[derive(Debug, Clone, Copy)]
pub struct LogRecord<'a> {
    /// Where the process wrote it.
    pub stream: Stream,
    /// When it was read.
    pub time: LogTime<'a>,
    /// What was written, with its line feed if there was one.
    pub line: &'a [u8],
    /// What the log's options say of the container: a JSON object, empty where there is none.
    pub attrs: &'a str,
}

/// A moment as it stands in the log.
#[derive(Debug, Clone, Copy)]
pub enum LogTime<'a> {
    /// RFC 3339 with nanoseconds.
    Text(&'a str),
    /// Nanoseconds of Unix time.
    Nanos(i64),
}

#[derive(Debug, Clone)]
struct Place {
    stream: Stream,
    line: Range<usize>,
    attrs: Range<usize>,
    time: When,
}

#[derive(Debug, Clone)]
enum When {
    Text(Range<usize>),
    Nanos(i64),
}

/// A batch being filled.
#[derive(Debug, Default)]
pub(super) struct Filling {
    data: Vec<u8>,
    records: Vec<Place>,
}

/// What is at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A record of this many bytes, put into the batch.
    Record(usize),
    /// This many bytes that are no record.
    Torn(usize),
    /// Not yet the whole of a record.
    Incomplete,
}

impl LogBatch {
    /// The records.
    pub fn iter(&self) -> impl Iterator<Item = LogRecord<'_>> {
        self.records.iter().map(|place| self.at(place))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    fn at(&self, place: &Place) -> LogRecord<'_> {
        let text = |range: &Range<usize>| std::str::from_utf8(&self.data[range.clone()]).unwrap_or_default();
        LogRecord {
            stream: place.stream,
            time: match &place.time {
                When::Text(range) => LogTime::Text(text(range)),
                When::Nanos(nanos) => LogTime::Nanos(*nanos),
            },
            line: &self.data[place.line.clone()],
            attrs: text(&place.attrs),
        }
    }
}

impl<'a> LogTime<'a> {
    /// RFC 3339 in UTC.
    pub fn text(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Nanos(nanos) => Cow::Owned(Timestamp::from_nanosecond(nanos.into()).unwrap_or_default().to_string()),
        }
    }

    /// Nanoseconds of Unix time, if the text is a time.
    pub fn nanos(self) -> Option<i64> {
        match self {
            Self::Text(text) => i64::try_from(text.parse::<Timestamp>().ok()?.as_nanosecond()).ok(),
            Self::Nanos(nanos) => Some(nanos),
        }
    }
}

impl Filling {
    pub(super) fn bytes(&self) -> usize {
        self.data.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn done(self) -> LogBatch {
        LogBatch { data: self.data.into(), records: self.records }
    }

    /// Takes the last record out again if `unwanted` says so of it.
    pub(super) fn reconsider(&mut self, unwanted: impl FnOnce(Stream, Option<i64>) -> bool, timed: bool) {
        let Some(last) = self.records.last() else { return };
        let time = match &last.time {
            When::Nanos(nanos) => Some(*nanos),
            When::Text(range) if timed => LogTime::Text(std::str::from_utf8(&self.data[range.clone()]).unwrap_or_default()).nanos(),
            When::Text(_) => None,
        };
        if unwanted(last.stream, time) {
            self.data.truncate(last.line.start);
            self.records.pop();
        }
    }

    /// Decodes what is at the beginning of `bytes`.
    pub(super) fn take(&mut self, format: LogFormat, bytes: &[u8]) -> Step {
        match format {
            LogFormat::Json => self.take_line(bytes),
            LogFormat::Local => self.take_message(bytes),
        }
    }

    fn take_line(&mut self, bytes: &[u8]) -> Step {
        let start = self.data.len();
        if let Some(length) = self.take_plain_line(bytes) {
            return Step::Record(length);
        }
        self.data.truncate(start);
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            // Too long to be a record: skipped piece by piece.
            return if bytes.len() > RECORD_BYTES_MAX { Step::Torn(bytes.len()) } else { Step::Incomplete };
        };
        match self.take_any_line(&bytes[..end]) {
            Some(()) => Step::Record(end + 1),
            None => Step::Torn(end + 1),
        }
    }

    /// A line whose fields are in the order in which we and Docker write them: without a general parser.
    fn take_plain_line(&mut self, bytes: &[u8]) -> Option<usize> {
        let start = self.data.len();
        let mut at = after(bytes, 0, b"{\"log\":\"")?;
        loop {
            let next = at + memchr::memchr2(b'"', b'\\', &bytes[at..])?;
            self.data.extend_from_slice(&bytes[at..next]);
            if bytes[next] == b'"' {
                at = next;
                break;
            }
            at = self.unescape(bytes, next + 1)?;
        }
        let line = start..self.data.len();
        // A line feed in between: two torn lines look like one.
        at = after(bytes, at, b"\",\"stream\":\"std")?;
        let stream = match bytes.get(at..at + 3)? {
            b"out" => Stream::Stdout,
            b"err" => Stream::Stderr,
            _ => return None,
        };
        at = after(bytes, at + 3, b"\",\"")?;
        let mut attrs = line.end..line.end;
        if let Some(inside) = after(bytes, at, b"attrs\":") {
            let length = object_length(&bytes[inside..])?;
            self.data.extend_from_slice(&bytes[inside..inside + length]);
            attrs.end += length;
            at = after(bytes, inside + length, b",\"")?;
        }
        at = after(bytes, at, b"time\":\"")?;
        let end = at + memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        let time = self.data.len();
        self.data.extend_from_slice(&bytes[at..end]);
        let length = after(bytes, end, b"\"}\n")?;
        self.records.push(Place { stream, line, attrs, time: When::Text(time..self.data.len()) });
        Some(length)
    }

    /// Appends what the escape after a backslash stands for; answers where it ends.
    fn unescape(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let plain = match bytes.get(at)? {
            b'n' => b'\n',
            b'"' => b'"',
            b'\\' => b'\\',
            b'r' => b'\r',
            b't' => b'\t',
            b'/' => b'/',
            b'b' => 8,
            b'f' => 12,
            b'u' => return self.unescape_unicode(bytes, at + 1),
            _ => return None,
        };
        self.data.push(plain);
        Some(at + 1)
    }

    fn unescape_unicode(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let unit = |at: usize| u32::from_str_radix(std::str::from_utf8(bytes.get(at..at + 4)?).ok()?, 16).ok();
        let first = unit(at)?;
        let mut end = at + 4;
        let mut code = first;
        if (0xd800..0xdc00).contains(&first)
            && bytes.get(end..end + 2) == Some(b"\\u")
            && let Some(second) = unit(end + 2).filter(|second| (0xdc00..0xe000).contains(second))
        {
            code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            end += 6;
        }
        let letter = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        self.data.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        Some(end)
    }

    /// Any line of JSON that has the fields.
    fn take_any_line(&mut self, line: &[u8]) -> Option<()> {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(borrow)]
            log: Cow<'a, str>,
            #[serde(borrow)]
            stream: Cow<'a, str>,
            #[serde(borrow)]
            time: Cow<'a, str>,
            #[serde(default)]
            attrs: Option<serde_json::Map<String, serde_json::Value>>,
        }
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let stream = if line.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
        let attrs = line.attrs.filter(|attrs| !attrs.is_empty()).and_then(|attrs| serde_json::to_string(&attrs).ok()).unwrap_or_default();
        let line_range = self.append(line.log.as_bytes());
        let attrs = self.append(attrs.as_bytes());
        let time = When::Text(self.append(line.time.as_bytes()));
        self.records.push(Place { stream, line: line_range, attrs, time });
        Some(())
    }

    fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.data.len();
        self.data.extend_from_slice(bytes);
        start..self.data.len()
    }

    fn take_message(&mut self, bytes: &[u8]) -> Step {
        let Some(length) = be_length(bytes, 0) else { return Step::Incomplete };
        if length > RECORD_BYTES_MAX {
            // The lengths are lost: nothing in the rest of this file can be found again.
            return Step::Torn(bytes.len());
        }
        let whole = length + 2 * LENGTH_BYTES;
        if bytes.len() < whole {
            return Step::Incomplete;
        }
        if be_length(bytes, whole - LENGTH_BYTES) != Some(length) {
            return Step::Torn(bytes.len());
        }
        match self.take_fields(&bytes[LENGTH_BYTES..LENGTH_BYTES + length]) {
            Some(()) => Step::Record(whole),
            None => Step::Torn(whole),
        }
    }

    fn take_fields(&mut self, mut message: &[u8]) -> Option<()> {
        let (mut stream, mut nanos, mut line, mut partial) = (Stream::Stdout, 0, None, false);
        while !message.is_empty() {
            let key = varint(&mut message)?;
            match key & 7 {
                0 => {
                    let value = varint(&mut message)?;
                    match key >> 3 {
                        2 => nanos = value as i64,
                        4 => partial = value != 0,
                        _ => {}
                    }
                }
                2 => {
                    let length = usize::try_from(varint(&mut message)?).ok()?;
                    let content = message.get(..length)?;
                    message = &message[length..];
                    match key >> 3 {
                        1 if content == b"stderr" => stream = Stream::Stderr,
                        3 => line = Some(content),
                        _ => {}
                    }
                }
                _ => return None,
            }
        }
        let start = self.data.len();
        self.data.extend_from_slice(line.unwrap_or_default());
        if !partial {
            self.data.push(b'\n');
        }
        let end = self.data.len();
        self.records.push(Place { stream, line: start..end, attrs: end..end, time: When::Nanos(nanos) });
        Some(())
    }
}

/// The length at a place of a local log.
pub(super) fn be_length(bytes: &[u8], at: usize) -> Option<usize> {
    let length = bytes.get(at..at + LENGTH_BYTES)?.first_chunk::<LENGTH_BYTES>()?;
    Some(u32::from_be_bytes(*length) as usize)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

fn after(bytes: &[u8], at: usize, expected: &[u8]) -> Option<usize> {
    bytes.get(at..)?.starts_with(expected).then(|| at + expected.len())
}

/// How long the object is that `bytes` begin with.
fn object_length(bytes: &[u8]) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<serde::de::IgnoredAny>();
    values.next()?.ok()?;
    Some(values.byte_offset()).filter(|_| bytes.first() == Some(&b'{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(format: LogFormat, mut bytes: &[u8]) -> (Vec<(Stream, String, String, String)>, usize) {
        let (mut filling, mut torn) = (Filling::default(), 0);
        loop {
            match filling.take(format, bytes) {
                Step::Record(length) => bytes = &bytes[length..],
                Step::Torn(length) => {
                    torn += 1;
                    bytes = &bytes[length..];
                }
                Step::Incomplete => break,
            }
        }
        let shown = |record: LogRecord<'_>| {
            (record.stream, String::from_utf8_lossy(record.line).into_owned(), record.time.text().into_owned(), record.attrs.to_owned())
        };
        (filling.done().iter().map(shown).collect(), torn)
    }

    #[test]
    fn lines_are_read_in_the_usual_order_of_fields_and_in_any_other() {
        let text = concat!(
            r#"{"log":"a \u003cb\u003e \"q\" \\ \u0009 \ud83d\ude00 \ufffd\n","stream":"stdout","time":"2026-01-02T03:04:05.6Z"}"#,
            "\n",
            r#"{"log":"torn"#,
            "\n",
            r#"{"stream":"stderr","time":"2026-01-02T03:04:05Z","log":"b","more":1}"#,
            "\n",
            r#"{"log":"c\n","stream":"stderr","attrs":{"tag":"x,\"y\"}"},"time":"2026-01-02T03:04:05Z"}"#,
            "\n",
            r#"{"log":"begun"#,
        );
        let (records, torn) = all(LogFormat::Json, text.as_bytes());
        let lines: Vec<&str> = records.iter().map(|record| record.1.as_str()).collect();
        assert_eq!(lines, ["a <b> \"q\" \\ \t 😀 \u{fffd}\n", "b", "c\n"]);
        assert_eq!((records[0].0, records[1].0, torn), (Stream::Stdout, Stream::Stderr, 1));
        assert_eq!((records[0].2.as_str(), records[2].3.as_str()), ("2026-01-02T03:04:05.6Z", r#"{"tag":"x,\"y\"}"}"#));
    }

    #[test]
    fn messages_are_dockers() {
        let mut bytes =
            b"\0\0\0\x0f\x0a\x06stdout\x10\xac\x02\x1a\x02hi\0\0\0\x0f\0\0\0\x0e\x0a\x06stderr\x10\0\x1a\0\x20\x01\0\0\0\x0e".to_vec();
        let (records, torn) = all(LogFormat::Local, &bytes);
        assert_eq!(records.len(), 2);
        assert_eq!((records[0].0, records[0].1.as_str(), records[0].2.as_str()), (Stream::Stdout, "hi\n", "1970-01-01T00:00:00.0000003Z"));
        assert_eq!((records[1].0, records[1].1.as_str(), torn), (Stream::Stderr, "", 0));
        bytes[22] = 9;
        assert_eq!(all(LogFormat::Local, &bytes).1, 1);
        assert_eq!(all(LogFormat::Local, &[0xff; 64]).1, 1);
        for length in 0..bytes.len() {
            // Whatever is cut off, nothing panics.
            all(LogFormat::Local, &bytes[..length]);
            all(LogFormat::Json, &bytes[..length]);
        }
    }
}
