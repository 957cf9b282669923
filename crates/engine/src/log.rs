//! Reading logs: json-file records of a container, from rotated files and the current one, from the end, and as they come.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::inotify;
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::container::Container;
use crate::request::{LogReader, LogRecord, ReadLogs, Stream};
use crate::{Engine, Error, ready};

/// Bytes of records that one batch holds at most.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Batches that wait for a slow reader.
const QUEUE_LEN_MAX: usize = 4;
/// A line of the file beyond this is skipped: records are made of at most 16 KiB, escaped sixfold in the worst case.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// How many rotated files are looked for.
const ROTATED_FILES_MAX: u32 = 1000;
const CHUNK_BYTES: u64 = 64 * 1024;

impl Engine {
    /// Starts to read a container's log.
    pub async fn logs(&self, name: &str, request: ReadLogs) -> Result<LogReader, Error> {
        let container = self.find(name)?;
        if !request.stdout && !request.stderr {
            return Err(Error::NoStream);
        }
        let record = container.record();
        if record.host.log_config.kind == "none" {
            return Err(Error::NoLog { name: record.name.clone() });
        }
        let path = self.layout.log(&container.id);
        let (sender, records) = mpsc::channel(QUEUE_LEN_MAX);
        tokio::spawn(follow(path, container, request, sender));
        Ok(LogReader { tty: record.config.tty, records })
    }
}

/// Sends what is there, then what comes until the container stops, if that is asked for.
async fn follow(path: PathBuf, container: Arc<Container>, request: ReadLogs, sender: mpsc::Sender<Vec<LogRecord>>) {
    let follow = request.follow;
    let mut changes = container.watch();
    // Watched before the first read, so that nothing that comes in between is slept through.
    let watch = if follow { Watch::new(&path).ok() } else { None };
    let Ok(mut reader) = tokio::task::spawn_blocking(move || Reader::open(&path, request)).await else { return };
    loop {
        let running = changes.borrow_and_update().is_alive();
        let Ok((next, batch)) = tokio::task::spawn_blocking(move || {
            let batch = reader.batch();
            (reader, batch)
        })
        .await
        else {
            return;
        };
        reader = next;
        let more = batch.is_some();
        if let Some(records) = batch
            && !records.is_empty()
            && sender.send(records).await.is_err()
        {
            return;
        }
        if more {
            continue;
        }
        // The end was seen after the container was seen stopped: nothing can follow.
        let Some(watch) = watch.as_ref().filter(|_| running && !reader.past_end) else { return };
        tokio::select! {
            () = sender.closed() => return,
            () = watch.changed() => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Tells when a file, or the folder it is in, changes.
struct Watch {
    inotify: AsyncFd<OwnedFd>,
}

impl Watch {
    fn new(path: &Path) -> std::io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let folder = path.parent().unwrap_or(path);
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&inotify, folder, flags)?;
        Ok(Self { inotify: ready::watched(inotify)? })
    }

    async fn changed(&self) {
        let Ok(mut ready) = self.inotify.readable().await else { return std::future::pending().await };
        let mut buffer = [0u8; 4096];
        // What happened does not matter: everything that waits is taken at once.
        while rustix::io::read(self.inotify.get_ref(), &mut buffer).is_ok_and(|len| len > 0) {}
        ready.clear_ready();
    }
}

/// Reads records from the files of one log, oldest first.
struct Reader {
    path: PathBuf,
    /// Rotated files still to be read, oldest first; then the current one.
    waiting: VecDeque<File>,
    current: Option<BufReader<File>>,
    /// A line without its end: the writer is not done with it.
    partial: Vec<u8>,
    request: ReadLogs,
    past_end: bool,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    stream: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    time: std::borrow::Cow<'a, str>,
}

impl Reader {
    fn open(path: &Path, request: ReadLogs) -> Self {
        let mut waiting = VecDeque::new();
        for number in 1..=ROTATED_FILES_MAX {
            match File::open(rotated(path, number)) {
                Ok(file) => waiting.push_front(file),
                Err(_) => break,
            }
        }
        if let Ok(file) = File::open(path) {
            waiting.push_back(file);
        }
        if let Some(tail) = request.tail {
            skip_to_tail(&mut waiting, tail);
        }
        Self { path: path.to_owned(), waiting, current: None, partial: Vec::new(), request, past_end: false }
    }

    /// The next records, or `None` when there are none at the moment.
    fn batch(&mut self) -> Option<Vec<LogRecord>> {
        let mut records = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES_MAX && !self.past_end {
            if !self.read_line() {
                if self.next_file() {
                    continue;
                }
                return if records.is_empty() && bytes == 0 { None } else { Some(records) };
            }
            let line = std::mem::take(&mut self.partial);
            bytes += line.len();
            if let Some(record) = self.decode(&line) {
                records.push(record);
            }
            self.partial = line;
            self.partial.clear();
        }
        if self.past_end && records.is_empty() { None } else { Some(records) }
    }

    /// Completes `partial` to a whole line; false when the file ends before.
    fn read_line(&mut self) -> bool {
        let Some(file) = &mut self.current else { return false };
        let room = LINE_BYTES_MAX.saturating_sub(self.partial.len() as u64);
        match file.take(room).read_until(b'\n', &mut self.partial) {
            Ok(_) if self.partial.last() == Some(&b'\n') => true,
            // Too long to be a record: handed on as it is, and refused by the decoder.
            Ok(_) => self.partial.len() as u64 >= LINE_BYTES_MAX,
            Err(_) => false,
        }
    }

    /// Goes on to the next file: one that waits, or a new one that rotation put in the place of the current one.
    fn next_file(&mut self) -> bool {
        if let Some(file) = self.waiting.pop_front() {
            self.partial.clear();
            self.current = Some(BufReader::with_capacity(CHUNK_BYTES as usize, file));
            return true;
        }
        let open_inode = self.current.as_ref().and_then(|file| file.get_ref().metadata().ok()).map(|meta| meta.ino());
        let Ok(file) = File::open(&self.path) else { return false };
        let inode = file.metadata().ok().map(|meta| meta.ino());
        if inode == open_inode {
            return false;
        }
        self.waiting.push_back(file);
        self.next_file()
    }

    fn decode(&mut self, line: &[u8]) -> Option<LogRecord> {
        // A torn or foreign line is skipped: the records around it are whole.
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let stream = if line.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
        if self.request.since.is_some() || self.request.until.is_some() {
            let time: Timestamp = line.time.parse().ok()?;
            if self.request.since.is_some_and(|since| time < since) {
                return None;
            }
            if self.request.until.is_some_and(|until| time > until) {
                self.past_end = true;
                return None;
            }
        }
        let wanted = match stream {
            Stream::Stdout => self.request.stdout,
            Stream::Stderr => self.request.stderr,
        };
        wanted.then(|| LogRecord { stream, time: line.time.into_owned(), line: Bytes::from(line.log.into_owned().into_bytes()) })
    }
}

fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Drops files and moves the first one's position so that just the last `tail` lines are left.
fn skip_to_tail(files: &mut VecDeque<File>, tail: usize) {
    let mut left = tail;
    let mut keep = VecDeque::new();
    while let Some(mut file) = files.pop_back() {
        match position_of_last(&mut file, left) {
            Ok((position, found)) => {
                let placed = file.seek(SeekFrom::Start(position));
                if placed.is_ok() {
                    keep.push_front(file);
                }
                left -= found.min(left);
            }
            Err(_) => continue,
        }
        if left == 0 {
            break;
        }
    }
    *files = keep;
}

/// Where the last `count` lines of a file begin, and how many there are (at most `count`).
fn position_of_last(file: &mut File, count: usize) -> std::io::Result<(u64, usize)> {
    let end = file.seek(SeekFrom::End(0))?;
    if count == 0 {
        return Ok((end, 0));
    }
    let mut found = 0;
    let mut position = end;
    let mut buffer = vec![0u8; CHUNK_BYTES as usize];
    while position > 0 {
        let start = position.saturating_sub(CHUNK_BYTES);
        let chunk = &mut buffer[..(position - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        match file.read_exact(chunk) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok((0, found)),
            Err(error) => return Err(error),
        }
        for (index, byte) in chunk.iter().enumerate().rev() {
            let after = start + index as u64 + 1;
            // The line feed at the very end closes the last line; it does not begin another.
            if *byte == b'\n' && after != end {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> String {
        format!("{{\"log\":\"line {number}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:{number:02}.5Z\"}}\n")
    }

    fn read(path: &Path, request: ReadLogs) -> Vec<String> {
        let mut reader = Reader::open(path, ReadLogs { stdout: true, stderr: true, ..request });
        let mut lines = Vec::new();
        while let Some(batch) = reader.batch() {
            lines.extend(batch.iter().map(|record| String::from_utf8_lossy(&record.line).trim_end().to_owned()));
        }
        lines
    }

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).expect("the temporary folder is writable");
    }

    #[test]
    fn reads_rotated_files_in_order_and_skips_torn_lines() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("x.log");
        write(&rotated(&path, 2), &line(1));
        write(&rotated(&path, 1), &format!("{}{{\"log\":\"torn", line(2)));
        write(&path, &format!("garbage\n{}{}", line(3), line(4)));
        assert_eq!(read(&path, ReadLogs::default()), ["line 1", "line 2", "line 3", "line 4"]);
        assert_eq!(read(&path, ReadLogs { tail: Some(2), ..ReadLogs::default() }), ["line 3", "line 4"]);
        assert_eq!(read(&path, ReadLogs { tail: Some(0), ..ReadLogs::default() }), [""; 0]);
        assert_eq!(read(&path, ReadLogs { tail: Some(99), ..ReadLogs::default() }).len(), 4);
        let since = Some("2026-01-01T00:00:02Z".parse().expect("a time"));
        let until = Some("2026-01-01T00:00:04Z".parse().expect("a time"));
        assert_eq!(read(&path, ReadLogs { since, until, ..ReadLogs::default() }), ["line 2", "line 3"]);
    }

    #[test]
    fn a_reader_sees_what_is_appended_and_what_replaces_the_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("x.log");
        let whole = line(1);
        write(&path, &whole[..20]);
        let mut reader = Reader::open(&path, ReadLogs { stdout: true, ..ReadLogs::default() });
        assert!(reader.batch().is_none());
        write(&path, &whole);
        assert_eq!(reader.batch().map(|batch| batch.len()), Some(1));
        std::fs::rename(&path, rotated(&path, 1)).expect("rename");
        write(&path, &line(2));
        assert_eq!(reader.batch().map(|batch| batch.len()), Some(1));
        assert!(reader.batch().is_none());
    }
}
