//! The files of one log as one stream of records, oldest first: rotated ones, compressed or not, then the current one, and those that come in its place.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use monitor::LogFormat;

use super::decode::{Filling, LogBatch, Step, be_length};
use super::{compress, rotated};
use crate::request::{ReadLogs, Stream};

/// Bytes of records that one batch holds at most.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// How many rotated files are looked for.
const ROTATED_FILES_MAX: u32 = 1000;
const CHUNK_BYTES: usize = 256 * 1024;
const TAIL_CHUNK_BYTES: u64 = 64 * 1024;

/// Reads records from the files of one log, oldest first.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    format: LogFormat,
    /// Files still to be read, oldest first.
    waiting: VecDeque<Segment>,
    current: Option<File>,
    /// What is read of the current file and not yet decoded: `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
    request: ReadLogs,
    since: Option<i64>,
    until: Option<i64>,
    pub(super) past_end: bool,
    /// Records that could not be read.
    pub(super) torn: u64,
}

/// A file of the log, compressed or not.
#[derive(Debug)]
enum Segment {
    Plain(File),
    Compressed(File),
}

impl Reader {
    pub(super) fn open(path: &Path, format: LogFormat, request: ReadLogs) -> Self {
        let mut waiting: VecDeque<Segment> = rotated_files(path).into_iter().rev().collect();
        if let Ok(file) = File::open(path) {
            waiting.push_back(Segment::Plain(file));
        }
        if let Some(tail) = request.tail {
            skip_to_tail(&mut waiting, path, format, tail);
        }
        let nanos = |time: Option<Timestamp>| time.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
        let (since, until) = (nanos(request.since), nanos(request.until));
        Self {
            path: path.to_owned(),
            format,
            waiting,
            current: None,
            buffer: Vec::new(),
            start: 0,
            request,
            since,
            until,
            past_end: false,
            torn: 0,
        }
    }

    /// The next records, or `None` when there are none at the moment.
    pub(super) fn batch(&mut self) -> Option<LogBatch> {
        let mut filling = Filling::default();
        while filling.bytes() < BATCH_BYTES_MAX && !self.past_end {
            match filling.take(self.format, &self.buffer[self.start..]) {
                Step::Record(length) => {
                    self.start += length;
                    self.consider(&mut filling);
                }
                Step::Torn(length) => {
                    self.start += length;
                    self.torn += 1;
                }
                Step::Incomplete => {
                    if !self.fill() && !self.next_file() {
                        break;
                    }
                }
            }
        }
        (!filling.is_empty()).then(|| filling.done())
    }

    /// Keeps the record just decoded only if it is wanted.
    fn consider(&mut self, filling: &mut Filling) {
        let (since, until, request, past_end) = (self.since, self.until, &self.request, &mut self.past_end);
        let timed = since.is_some() || until.is_some();
        let unwanted = |stream: Stream, time: Option<i64>| {
            if timed && time.is_none() || since.zip(time).is_some_and(|(since, time)| time < since) {
                return true;
            }
            if until.zip(time).is_some_and(|(until, time)| time > until) {
                *past_end = true;
                return true;
            }
            match stream {
                Stream::Stdout => !request.stdout,
                Stream::Stderr => !request.stderr,
            }
        };
        filling.reconsider(unwanted, timed);
    }

    /// Reads more of the current file; false at its end.
    fn fill(&mut self) -> bool {
        let Some(file) = &mut self.current else { return false };
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.reserve(CHUNK_BYTES);
        file.take(CHUNK_BYTES as u64).read_to_end(&mut self.buffer).is_ok_and(|count| count > 0)
    }

    /// Goes on to the next file: one that waits, or one that rotation put in the place of the current one. False when there is none.
    fn next_file(&mut self) -> bool {
        if self.waiting.is_empty() {
            self.waiting = self.successors();
            // What was written between the look at the end and the rotation is there now, and nothing follows it.
            if !self.waiting.is_empty() && self.fill() {
                return true;
            }
        }
        while let Some(segment) = self.waiting.pop_front() {
            if let Ok(file) = segment.plain(&self.path) {
                if self.start < self.buffer.len() {
                    self.torn += 1;
                }
                self.buffer.clear();
                self.start = 0;
                self.current = Some(file);
                return true;
            }
        }
        false
    }

    /// The files that came after the current one, oldest first.
    fn successors(&self) -> VecDeque<Segment> {
        let Ok(latest) = File::open(&self.path) else { return VecDeque::new() };
        let own = self.current.as_ref().and_then(|file| file.metadata().ok());
        let Some(own) = own else { return VecDeque::from([Segment::Plain(latest)]) };
        let inode = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
        if inode(&latest).is_ok_and(|inode| inode == (own.dev(), own.ino())) {
            return VecDeque::new();
        }
        let mut before: Vec<Segment> = Vec::new();
        let mut found = false;
        for segment in rotated_files(&self.path) {
            if inode(segment.file()).is_ok_and(|inode| inode == (own.dev(), own.ino())) {
                found = true;
                break;
            }
            before.push(segment);
        }
        if !found {
            // Compressed or removed meanwhile, the current one is not among them: only what was finished after it follows.
            let finished = |segment: &Segment| segment.file().metadata().map(|meta| (meta.mtime(), meta.mtime_nsec()));
            before.retain(|segment| finished(segment).is_ok_and(|finished| finished > (own.mtime(), own.mtime_nsec())));
        }
        let mut newer = VecDeque::from([Segment::Plain(latest)]);
        before.into_iter().for_each(|segment| newer.push_front(segment));
        newer
    }
}

impl Segment {
    fn file(&self) -> &File {
        match self {
            Self::Plain(file) | Self::Compressed(file) => file,
        }
    }

    /// The file itself, or what it holds in a file without a name.
    fn plain(self, log: &Path) -> io::Result<File> {
        match self {
            Self::Plain(file) => Ok(file),
            Self::Compressed(file) => compress::inflated(file, log.parent().unwrap_or(log)),
        }
    }
}

/// The rotated files, the youngest first.
fn rotated_files(path: &Path) -> Vec<Segment> {
    let open = |number| {
        let plain = rotated(path, number);
        // While one is being compressed there are both: the plain one is whole.
        File::open(&plain).map(Segment::Plain).or_else(|_| File::open(compress::name(&plain)).map(Segment::Compressed)).ok()
    };
    (1..=ROTATED_FILES_MAX).map_while(open).collect()
}

/// Drops files and moves the first one's position so that just the last `tail` records are left.
fn skip_to_tail(files: &mut VecDeque<Segment>, path: &Path, format: LogFormat, tail: usize) {
    let mut left = tail;
    let mut keep = VecDeque::new();
    while let Some(segment) = files.pop_back() {
        let Ok(mut file) = segment.plain(path) else { continue };
        let found = match format {
            LogFormat::Json => last_lines(&mut file, left),
            LogFormat::Local => last_messages(&mut file, left),
        };
        let Ok((position, found)) = found else { continue };
        if file.seek(SeekFrom::Start(position)).is_ok() {
            keep.push_front(Segment::Plain(file));
        }
        left -= found.min(left);
        if left == 0 {
            break;
        }
    }
    *files = keep;
}

/// Where the last `count` lines of a file begin, and how many there are (at most `count`).
fn last_lines(file: &mut File, count: usize) -> io::Result<(u64, usize)> {
    let end = file.seek(SeekFrom::End(0))?;
    if count == 0 {
        return Ok((end, 0));
    }
    let mut found = 0;
    let mut position = end;
    let mut buffer = vec![0u8; TAIL_CHUNK_BYTES as usize];
    while position > 0 {
        let start = position.saturating_sub(TAIL_CHUNK_BYTES);
        let chunk = &mut buffer[..(position - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        match file.read_exact(chunk) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((0, found)),
            Err(error) => return Err(error),
        }
        for index in memchr::memrchr_iter(b'\n', chunk) {
            let after = start + index as u64 + 1;
            // The line feed at the very end closes the last line; it does not begin another.
            if after != end {
                found += 1;
                if found == count {
                    return Ok((after, found));
                }
            }
        }
        position = start;
    }
    Ok((0, if end > 0 { found + 1 } else { 0 }))
}

/// The same of messages, by the lengths behind them.
fn last_messages(file: &mut File, count: usize) -> io::Result<(u64, usize)> {
    let mut position = file.seek(SeekFrom::End(0))?;
    let mut found = 0;
    while found < count && position > 0 {
        let mut length = [0; 4];
        let Some(at) = position.checked_sub(4) else { break };
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut length)?;
        let whole = be_length(&length, 0).unwrap_or_default() as u64 + 8;
        // A torn end: all of the file is read instead.
        let Some(start) = position.checked_sub(whole) else { return Ok((0, found)) };
        position = start;
        found += 1;
    }
    Ok((position, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> String {
        format!("{{\"log\":\"line {number}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:{number:02}.5Z\"}}\n")
    }

    fn message(number: u8) -> Vec<u8> {
        [b"\0\0\0\x0c\x0a\x06stdout\x10".as_slice(), &[number], b"\x1a\x00\0\0\0\x0c"].concat()
    }

    fn lines(batch: Option<LogBatch>) -> Vec<String> {
        let batch = batch.unwrap_or_default();
        batch.iter().map(|record| String::from_utf8_lossy(record.line).trim_end().to_owned()).collect()
    }

    fn both() -> ReadLogs {
        ReadLogs { stdout: true, stderr: true, ..ReadLogs::default() }
    }

    fn read(path: &Path, request: ReadLogs) -> Vec<String> {
        let mut reader = Reader::open(path, LogFormat::Json, ReadLogs { stdout: true, stderr: true, ..request });
        let mut all = Vec::new();
        while let Some(batch) = reader.batch() {
            all.extend(lines(Some(batch)));
        }
        all
    }

    fn write(path: &Path, text: impl AsRef<[u8]>) {
        std::fs::write(path, text).expect("the temporary folder is writable");
    }

    #[test]
    fn reads_rotated_files_in_order_and_skips_torn_lines() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("x.log");
        write(&rotated(&path, 2), line(1));
        compress::compress(&path, 2).expect("compressed");
        assert!(!rotated(&path, 2).exists());
        write(&rotated(&path, 1), format!("{}{{\"log\":\"torn", line(2)));
        write(&path, format!("garbage\n{}{}", line(3), line(4)));
        assert_eq!(read(&path, ReadLogs::default()), ["line 1", "line 2", "line 3", "line 4"]);
        assert_eq!(read(&path, ReadLogs { tail: Some(2), ..ReadLogs::default() }), ["line 3", "line 4"]);
        assert_eq!(read(&path, ReadLogs { tail: Some(0), ..ReadLogs::default() }), [""; 0]);
        assert_eq!(read(&path, ReadLogs { tail: Some(99), ..ReadLogs::default() }).len(), 4);
        let since = Some("2026-01-01T00:00:02Z".parse().expect("a time"));
        let until = Some("2026-01-01T00:00:04Z".parse().expect("a time"));
        assert_eq!(read(&path, ReadLogs { since, until, ..ReadLogs::default() }), ["line 2", "line 3"]);
        let mut reader = Reader::open(&path, LogFormat::Json, both());
        while reader.batch().is_some() {}
        assert_eq!(reader.torn, 2);
    }

    #[test]
    fn a_reader_sees_what_is_appended_and_everything_that_replaced_the_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("x.log");
        let whole = line(1);
        write(&path, &whole[..20]);
        let mut reader = Reader::open(&path, LogFormat::Json, both());
        assert!(reader.batch().is_none());
        write(&path, &whole);
        assert_eq!(lines(reader.batch()), ["line 1"]);
        // Two rotations at once, and a line that came just before the first.
        let append = |text: String| {
            std::fs::OpenOptions::new().append(true).open(&path).and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
        };
        append(line(2)).expect("appended");
        std::fs::rename(&path, rotated(&path, 1)).expect("rename");
        write(&path, line(3));
        std::fs::rename(rotated(&path, 1), rotated(&path, 2)).expect("rename");
        std::fs::rename(&path, rotated(&path, 1)).expect("rename");
        write(&path, line(4));
        assert_eq!(lines(reader.batch()), ["line 2", "line 3", "line 4"]);
        assert!(reader.batch().is_none());
        // A file that is replaced altogether.
        std::fs::remove_file(&path).expect("removed");
        write(&path, line(5));
        assert_eq!(lines(reader.batch()), ["line 5"]);
    }

    #[test]
    fn messages_are_read_from_both_ends() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("x.log");
        write(&path, [message(1), message(2), message(3)].concat());
        for (tail, expected) in [(None, 3), (Some(2), 2), (Some(0), 0), (Some(9), 3)] {
            let mut reader = Reader::open(&path, LogFormat::Local, ReadLogs { tail, ..both() });
            assert_eq!(reader.batch().unwrap_or_default().len(), expected, "{tail:?}");
        }
        let since = Timestamp::from_nanosecond(2).ok();
        let mut reader = Reader::open(&path, LogFormat::Local, ReadLogs { since, ..both() });
        assert_eq!(reader.batch().unwrap_or_default().len(), 2);
    }
}
