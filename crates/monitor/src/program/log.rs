//! The log: one record per line of output, in one of Docker's two formats, so that everything that reads Docker's logs reads these.
//!
//! Output comes in pieces of up to 64 KiB; the lines of a piece are appended with one write. A line longer than 16 KiB is split into records
//! without newline, of which the last one ends with it. What a stream has begun and not ended is kept until its newline comes, or its end.

mod local;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use monitor::{LogFile, LogFormat};
use rustix::fs::FlockOperation;

/// The longest content of one record, in bytes of output.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Which stream a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The log of one container.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    path: PathBuf,
    size: u64,
    max_bytes: Option<u64>,
    max_files: u32,
    format: LogFormat,
    attrs: String,
    rotated: bool,
    /// Begun lines: of standard output, of standard error.
    begun: [Vec<u8>; 2],
    batch: Vec<u8>,
}

impl LogWriter {
    /// Opens or makes the file, and ends a torn last record of an earlier run.
    pub fn open(log: &LogFile) -> io::Result<Self> {
        if let Some(folder) = log.path.parent() {
            // One level: a container's folder is there, what a format keeps in a folder of its own may not be.
            ignore_present(std::fs::create_dir(folder))?;
        }
        let (file, size) = open_for_append(&log.path)?;
        let mut writer = Self {
            file,
            path: log.path.clone(),
            size,
            max_bytes: log.max_bytes,
            max_files: log.max_files.unwrap_or(1).max(1),
            format: log.format,
            attrs: log.attrs.clone(),
            rotated: false,
            begun: [Vec::new(), Vec::new()],
            batch: Vec::new(),
        };
        match writer.format {
            LogFormat::Json if writer.ends_torn()? => {
                writer.file.write_all(b"\n")?;
                writer.size += 1;
            }
            LogFormat::Json => {}
            LogFormat::Local => {
                writer.size = local::whole(&File::open(&writer.path)?, writer.size)?;
                writer.file.set_len(writer.size)?;
            }
        }
        Ok(writer)
    }

    /// Records a piece of output that was read at `now_ns` (nanoseconds of Unix time).
    pub fn append(&mut self, stream: Stream, piece: &[u8], now_ns: i64) -> io::Result<()> {
        let time = self.stamp(now_ns);
        let mut begun = std::mem::take(&mut self.begun[stream as usize]);
        let mut rest = piece;
        let mut result = Ok(());
        while !rest.is_empty() {
            let room = RECORD_BYTES_MAX - begun.len();
            let newline = find(&rest[..rest.len().min(room)], newlines, |byte| byte == b'\n');
            let (content, after) = rest.split_at(newline.map_or(rest.len().min(room), |position| position + 1));
            rest = after;
            let whole = if begun.is_empty() { content } else { extended(&mut begun, content) };
            let length = match newline {
                Some(_) => whole.len(),
                None if whole.len() == RECORD_BYTES_MAX => RECORD_BYTES_MAX - cut_character(whole),
                None => 0,
            };
            if length > 0 {
                result = result.and(self.push(stream, &whole[..length], &time));
            }
            begun = whole[length..].to_vec();
        }
        self.begun[stream as usize] = begun;
        result.and(self.flush())
    }

    /// Records what a stream has begun and will not end any more.
    pub fn end(&mut self, stream: Stream, now_ns: i64) -> io::Result<()> {
        let begun = std::mem::take(&mut self.begun[stream as usize]);
        let pushed = if begun.is_empty() {
            Ok(())
        } else {
            {
                let time = self.stamp(now_ns);
                self.push(stream, &begun, &time)
            }
        };
        pushed.and(self.flush())
    }

    /// Whether the file was rotated since this was asked last.
    pub fn take_rotated(&mut self) -> bool {
        std::mem::take(&mut self.rotated)
    }

    fn stamp(&self, now_ns: i64) -> Stamp {
        let text = if self.format == LogFormat::Json { timestamp(now_ns) } else { Vec::new() };
        Stamp { ns: now_ns, text }
    }

    /// Frees buffers that an idle log does not need.
    pub fn shrink(&mut self) {
        self.batch = Vec::new();
        for begun in &mut self.begun {
            begun.shrink_to_fit();
        }
    }

    /// Adds a record to the batch. If it makes the file too large, what is before it is written, and the file rotated.
    fn push(&mut self, stream: Stream, content: &[u8], time: &Stamp) -> io::Result<()> {
        let before = self.batch.len();
        match self.format {
            LogFormat::Json => record(&mut self.batch, stream, content, &self.attrs, &time.text),
            LogFormat::Local => local::record(&mut self.batch, stream, content, time.ns),
        }
        let full = |max| self.size + self.batch.len() as u64 > max && self.size + before as u64 > 0;
        if !self.max_bytes.is_some_and(full) {
            return Ok(());
        }
        let last = self.batch.split_off(before);
        let written = self.flush();
        self.batch = last;
        // A file that cannot be rotated goes on growing: better than a lost line.
        written.and(self.rotate())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.file.write_all(&self.batch);
        match &result {
            Ok(()) => self.size += self.batch.len() as u64,
            // What could be written of a record without space is taken back, so that the next record starts on a line of its own.
            Err(_) => {
                let _ = self.file.set_len(self.size);
            }
        }
        self.batch.clear();
        result
    }

    fn rotate(&mut self) -> io::Result<()> {
        // Whoever compresses a rotated file holds this while it takes the file's place. It is not waited for: the file goes on growing.
        let folder = File::open(self.path.parent().unwrap_or(Path::new("/")))?;
        if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        // Readers go on in the old file to its end: it is never truncated.
        if self.max_files == 1 {
            ignore_missing(std::fs::remove_file(&self.path))?;
        } else {
            for number in (1..self.max_files - 1).rev() {
                shift(&self.path, number)?;
            }
            ignore_missing(std::fs::remove_file(compressed(&rotated(&self.path, 1))))?;
            ignore_missing(std::fs::rename(&self.path, rotated(&self.path, 1)))?;
        }
        self.file = open_for_append(&self.path)?.0;
        self.size = 0;
        self.rotated = true;
        Ok(())
    }

    fn ends_torn(&self) -> io::Result<bool> {
        if self.size == 0 {
            return Ok(false);
        }
        let mut reader = File::open(&self.path)?;
        reader.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        reader.read_exact(&mut last)?;
        Ok(last != *b"\n")
    }
}

/// The moment of a record: nanoseconds of Unix time, and the text where the format has one.
struct Stamp {
    ns: i64,
    text: Vec<u8>,
}

/// Both, one after the other.
fn extended<'a>(begun: &'a mut Vec<u8>, content: &[u8]) -> &'a [u8] {
    begun.extend_from_slice(content);
    begun
}

fn open_for_append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// The path of the rotated file `number`, 1 being the youngest.
fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The name that a file has once it is compressed.
fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Moves a rotated file, compressed or not, to the next number, whose file goes.
fn shift(path: &Path, number: u32) -> io::Result<()> {
    let (from, to) = (rotated(path, number), rotated(path, number + 1));
    for gone in [&to, &compressed(&to)] {
        ignore_missing(std::fs::remove_file(gone))?;
    }
    ignore_missing(std::fs::rename(&from, &to))?;
    ignore_missing(std::fs::rename(compressed(&from), compressed(&to)))
}

fn ignore_present(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// How many bytes at the end of `content` are the beginning of a UTF-8 character that goes on after it: a record must not cut one in two.
fn cut_character(content: &[u8]) -> usize {
    for back in 1..=content.len().min(3) {
        let byte = content[content.len() - back];
        let length = match byte {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => return 0,
        };
        return if length > back { back } else { 0 };
    }
    0
}

fn record(batch: &mut Vec<u8>, stream: Stream, content: &[u8], attrs: &str, time: &[u8]) {
    batch.extend_from_slice(b"{\"log\":\"");
    escape(batch, content);
    batch.extend_from_slice(match stream {
        Stream::Stdout => b"\",\"stream\":\"stdout\",",
        Stream::Stderr => b"\",\"stream\":\"stderr\",",
    });
    if !attrs.is_empty() {
        batch.extend_from_slice(b"\"attrs\":");
        batch.extend_from_slice(attrs.as_bytes());
        batch.push(b',');
    }
    batch.extend_from_slice(b"\"time\":\"");
    batch.extend_from_slice(time);
    batch.extend_from_slice(b"\"}\n");
}

/// Appends `content` as the inside of a JSON string, the way Docker does: `<`, `>`, `&`, U+2028 and U+2029 escaped too, invalid UTF-8 replaced.
fn escape(out: &mut Vec<u8>, content: &[u8]) {
    let mut rest = content;
    while !rest.is_empty() {
        let plain = find(rest, specials, |byte| !PLAIN[byte as usize]).unwrap_or(rest.len());
        out.extend_from_slice(&rest[..plain]);
        rest = &rest[plain..];
        let Some(&byte) = rest.first() else { break };
        if byte < 0x80 {
            escape_ascii(out, byte);
            rest = &rest[1..];
            continue;
        }
        let run = rest.iter().position(|&byte| byte < 0x80).unwrap_or(rest.len());
        escape_utf8(out, &rest[..run]);
        rest = &rest[run..];
    }
}

fn escape_ascii(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
    }
}

/// Appends a run of bytes above 0x7f.
fn escape_utf8(out: &mut Vec<u8>, run: &[u8]) {
    for chunk in run.utf8_chunks() {
        let mut valid = chunk.valid();
        while let Some(position) = valid.find(['\u{2028}', '\u{2029}']) {
            let (before, after) = valid.split_at(position);
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(if after.starts_with('\u{2028}') { b"\\u2028" } else { b"\\u2029" });
            valid = &after['\u{2028}'.len_utf8()..];
        }
        out.extend_from_slice(valid.as_bytes());
        // One replacement per invalid byte, as Go counts them.
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// The first byte that matches, looked for eight bytes at a time: `in_word` marks the matching bytes of a word (little-endian) by their highest
/// bits, and may mark wrongly only above the first true one; `matches` tells for a single byte.
#[inline]
fn find(bytes: &[u8], in_word: impl Fn(u64) -> u64, matches: impl Fn(u8) -> bool) -> Option<usize> {
    let mut offset = 0;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        let marks = in_word(u64::from_le_bytes(*word));
        if marks != 0 {
            return Some(offset + (marks.trailing_zeros() / 8) as usize);
        }
        offset += 8;
        rest = after;
    }
    rest.iter().position(|&byte| matches(byte)).map(|position| offset + position)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Marks the zero bytes of a word; a byte of one above a zero byte may be marked too.
#[inline]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

#[inline]
fn newlines(word: u64) -> u64 {
    zeros(word ^ (ONES * b'\n' as u64))
}

/// Marks the bytes that do not stand for themselves: above 0x7f, below 0x20, and `"` `&` `<` `>` `\`.
#[inline]
fn specials(word: u64) -> u64 {
    let controls = word.wrapping_sub(ONES * 0x20) & !word;
    // `"` and `&` differ in one bit, and so do `<` and `>`.
    let quote_and = zeros((word & (ONES * 0xfb)) ^ (ONES * b'"' as u64));
    let angles = zeros((word & (ONES * 0xfd)) ^ (ONES * b'<' as u64));
    let backslash = zeros(word ^ (ONES * b'\\' as u64));
    (word | controls | quote_and | angles | backslash) & HIGHS
}

/// Bytes that stand for themselves.
static PLAIN: [bool; 256] = plain_table();

const fn plain_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0x20;
    while byte < 0x80 {
        table[byte] = !matches!(byte as u8, b'"' | b'\\' | b'<' | b'>' | b'&');
        byte += 1;
    }
    table
}

/// RFC 3339 in UTC with nanoseconds whose trailing zeros are cut, as Go writes it: `2026-01-02T03:04:05.6Z`.
fn timestamp(now_ns: i64) -> Vec<u8> {
    const SECOND_NS: i64 = 1_000_000_000;
    const DAY_S: i64 = 86_400;
    let (seconds, nanos) = (now_ns.div_euclid(SECOND_NS), now_ns.rem_euclid(SECOND_NS));
    let (days, second) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
    let (year, month, day) = civil(days);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    if nanos != 0 {
        let fraction = format!(".{nanos:09}");
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text.into_bytes()
}

/// The date of a day counted from 1970-01-01 (Howard Hinnant's algorithm `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_NS: i64 = 1_767_323_045_600_000_000;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("cais-log-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a scratch directory");
            Self(path)
        }

        fn log(&self, max_bytes: Option<u64>, max_files: Option<u32>) -> LogFile {
            LogFile { path: self.0.join("x-json.log"), max_bytes, max_files, ..LogFile::default() }
        }

        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn contents(text: &str) -> Vec<String> {
        let value = |line| serde_json::from_str::<serde_json::Value>(line).expect("each line is JSON");
        text.lines().map(|line| value(line)["log"].as_str().expect("a log field").to_owned()).collect()
    }

    #[test]
    fn timestamps_are_gos() {
        assert_eq!(timestamp(NOW_NS), b"2026-01-02T03:04:05.6Z");
        assert_eq!(timestamp(0), b"1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_400_000_000_001), b"2000-02-29T00:00:00.000000001Z");
        assert_eq!(timestamp(4_107_542_399_000_000_000), b"2100-02-28T23:59:59Z");
    }

    #[test]
    fn words_are_searched_as_single_bytes_are() {
        for byte in 0..=255u8 {
            for position in 0..8 {
                for filler in [b'a', b' ', 0x7f, b'!', b'=', b'%'] {
                    let mut bytes = [filler; 9];
                    bytes[position] = byte;
                    let special = |byte: u8| !PLAIN[byte as usize];
                    assert_eq!(find(&bytes, specials, special), bytes.iter().position(|&byte| special(byte)), "{bytes:?}");
                    assert_eq!(find(&bytes, newlines, |byte| byte == b'\n'), bytes.iter().position(|&byte| byte == b'\n'), "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn lines_are_dockers_byte_for_byte() {
        let scratch = Scratch::new("lines");
        let mut log = LogWriter::open(&scratch.log(None, None)).expect("opened");
        log.append(Stream::Stdout, b"plain \"q\" \\ <a&b>\t\r\x01\x7f\n", NOW_NS).expect("written");
        log.append(Stream::Stderr, "é \u{2028}".as_bytes(), NOW_NS).expect("written");
        log.append(Stream::Stdout, b"a\nb", NOW_NS).expect("written");
        log.append(Stream::Stderr, b"\xff\xfe\n", NOW_NS).expect("written");
        log.end(Stream::Stdout, NOW_NS).expect("ended");
        let time = "\"time\":\"2026-01-02T03:04:05.6Z\"}";
        let wanted = format!(
            "{{\"log\":\"plain \\\"q\\\" \\\\ \\u003ca\\u0026b\\u003e\\u0009\\r\\u0001\x7f\\n\",\"stream\":\"stdout\",{time}\n\
             {{\"log\":\"a\\n\",\"stream\":\"stdout\",{time}\n\
             {{\"log\":\"é \\u2028\\ufffd\\ufffd\\n\",\"stream\":\"stderr\",{time}\n\
             {{\"log\":\"b\",\"stream\":\"stdout\",{time}\n"
        );
        assert_eq!(scratch.text("x-json.log"), wanted);
    }

    #[test]
    fn long_lines_are_split_at_16_kib_and_never_within_a_character() {
        let scratch = Scratch::new("long");
        let mut log = LogWriter::open(&scratch.log(None, None)).expect("opened");
        let line = format!("x{}\n", "é".repeat(20_000));
        for (number, length) in [1, 2, 7, 1000, 20_000, 65_536].into_iter().enumerate() {
            for piece in line.as_bytes().chunks(length) {
                log.append(Stream::Stdout, piece, NOW_NS).expect("written");
            }
            let records = contents(&scratch.text("x-json.log"));
            assert_eq!(records[3 * number..].concat(), line, "in pieces of {length}");
            assert_eq!(records.len(), 3 * (number + 1));
            assert!(records.iter().all(|record| record.len() <= RECORD_BYTES_MAX));
        }
        let exact = format!("{}\n", "y".repeat(RECORD_BYTES_MAX));
        log.append(Stream::Stdout, exact.as_bytes(), NOW_NS).expect("written");
        assert_eq!(contents(&scratch.text("x-json.log"))[18..], ["y".repeat(RECORD_BYTES_MAX), "\n".to_owned()]);
    }

    #[test]
    fn a_torn_last_line_is_ended_first() {
        let scratch = Scratch::new("torn");
        std::fs::write(scratch.0.join("x-json.log"), "{\"log\":\"half").expect("written");
        let mut log = LogWriter::open(&scratch.log(None, None)).expect("opened");
        log.append(Stream::Stdout, b"next\n", NOW_NS).expect("written");
        let text = scratch.text("x-json.log");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "{\"log\":\"half");
        assert_eq!(contents(lines[1]), ["next\n"]);
    }

    #[test]
    fn rotation_keeps_the_number_of_files_asked_for() {
        let scratch = Scratch::new("rotation");
        let mut log = LogWriter::open(&scratch.log(Some(200), Some(3))).expect("opened");
        for number in 0..9 {
            log.append(Stream::Stdout, format!("line {number}\n").as_bytes(), NOW_NS).expect("written");
        }
        assert_eq!(contents(&scratch.text("x-json.log")), ["line 8\n"]);
        assert_eq!(contents(&scratch.text("x-json.log.1")), ["line 6\n", "line 7\n"]);
        assert_eq!(contents(&scratch.text("x-json.log.2")), ["line 4\n", "line 5\n"]);
        assert_eq!(scratch.text("x-json.log.3"), "");
    }

    #[test]
    fn rotated_files_keep_their_order_compressed_or_not() {
        let scratch = Scratch::new("compressed");
        let mut log = LogWriter::open(&scratch.log(Some(100), Some(4))).expect("opened");
        let mut write = |number: u32| {
            log.append(Stream::Stdout, format!("line {number}\n").as_bytes(), NOW_NS).expect("written");
            log.take_rotated()
        };
        assert!(!write(0) && write(1) && write(2));
        let gone = scratch.0.join("x-json.log.1");
        std::fs::rename(&gone, scratch.0.join("x-json.log.1.gz")).expect("renamed");
        assert!(write(3));
        assert!(scratch.0.join("x-json.log.2.gz").exists() && gone.exists());
        // A lock that another holds puts the rotation off.
        let folder = File::open(&scratch.0).expect("opened");
        rustix::fs::flock(&folder, FlockOperation::LockExclusive).expect("locked");
        assert!(!write(4));
        drop(folder);
        assert!(write(5) && scratch.0.join("x-json.log.3.gz").exists());
        assert_eq!(contents(&scratch.text("x-json.log.1")), ["line 3\n", "line 4\n"]);
    }

    #[test]
    fn a_single_file_is_replaced_and_readers_of_the_old_one_keep_it() {
        let scratch = Scratch::new("single");
        let mut log = LogWriter::open(&scratch.log(Some(100), Some(1))).expect("opened");
        log.append(Stream::Stdout, b"line 0\n", NOW_NS).expect("written");
        let mut reader = File::open(scratch.0.join("x-json.log")).expect("opened");
        log.append(Stream::Stdout, b"line 1\n", NOW_NS).expect("written");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(contents(&text), ["line 0\n"]);
        assert_eq!(contents(&scratch.text("x-json.log")), ["line 1\n"]);
    }

    #[test]
    fn records_carry_the_attributes_asked_for() {
        let scratch = Scratch::new("attrs");
        let file = LogFile { attrs: "{\"tag\":\"web\"}".to_owned(), ..scratch.log(None, None) };
        LogWriter::open(&file).and_then(|mut log| log.append(Stream::Stdout, b"x\n", NOW_NS)).expect("written");
        let wanted = "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"attrs\":{\"tag\":\"web\"},\"time\":\"2026-01-02T03:04:05.6Z\"}\n";
        assert_eq!(scratch.text("x-json.log"), wanted);
    }
}
