//! The events of before: in memory, and in two files of the data root, so that `--since` reaches beyond a restart of the engine.
//!
//! Lines are appended by a thread of its own: whoever tells of an event never waits for a disk. What the last moments before a crash brought may be missing.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use jiff::Timestamp;
use serde::Deserialize;

use super::KINDS;
use crate::request::Event;

/// How many past events are kept for `since`.
const HISTORY_LEN_MAX: usize = 1024;
/// A longer file is not ours: it is read up to here.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Events carry the labels of their container, which may be of any size; a longer line is not kept on the disk.
const LINE_BYTES_MAX: usize = 32 << 10;

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct History {
    events: VecDeque<Event>,
    writer: Option<Writer>,
}

/// The way to the files.
#[derive(Debug)]
struct Writer {
    lines: Option<Sender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl History {
    /// Reads what an earlier engine wrote to `path`, and goes on there. Without a usable file the history is one of memory alone.
    pub(super) fn open(path: &Path) -> Self {
        let mut events = VecDeque::new();
        read(&older(path), &mut events);
        let length = read(path, &mut events);
        let own_path = path.to_owned();
        let (lines, waiting) = channel();
        let thread = std::thread::Builder::new().name("events".to_owned()).stack_size(128 << 10);
        let thread = thread.spawn(move || write_all(&own_path, length, &waiting)).ok();
        Self { events, writer: thread.map(|thread| Writer { lines: Some(lines), thread: Some(thread) }) }
    }

    pub(super) fn push(&mut self, event: Event) {
        if let Some(lines) = self.writer.as_ref().and_then(|writer| writer.lines.as_ref())
            && let Ok(mut line) = serde_json::to_vec(&event)
            && line.len() < LINE_BYTES_MAX
        {
            line.push(b'\n');
            // A writer that could not go on has said so.
            let _ = lines.send(line);
        }
        remember(&mut self.events, event);
    }

    pub(super) fn latest(&self) -> Option<Timestamp> {
        self.events.back().map(|event| event.time)
    }

    pub(super) fn all(&self) -> Vec<Event> {
        self.events.iter().cloned().collect()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

fn remember(events: &mut VecDeque<Event>, event: Event) {
    if events.len() == HISTORY_LEN_MAX {
        events.pop_front();
    }
    events.push_back(event);
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("old")
}

/// Reads a file's events; answers how many lines it has.
fn read(path: &Path, events: &mut VecDeque<Event>) -> usize {
    let Ok(file) = File::open(path) else { return 0 };
    let mut reader = BufReader::new(file.take(FILE_BYTES_MAX));
    let (mut line, mut count) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        // One that a crash tore is left out.
        if let Some(event) = decode(&line) {
            remember(events, event);
        }
        line.clear();
        count += 1;
    }
    count
}

fn decode(line: &[u8]) -> Option<Event> {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        action: String,
        id: String,
        attributes: BTreeMap<String, String>,
        time: Timestamp,
    }
    let Line { kind, action, id, attributes, time } = serde_json::from_slice(line).ok()?;
    let kind = KINDS.iter().find(|known| **known == kind)?;
    Some(Event { kind, action, id, attributes, time })
}

/// Appends lines until nobody sends any more. A full file becomes the older one.
fn write_all(path: &Path, mut length: usize, waiting: &Receiver<Vec<u8>>) {
    let open = || File::options().append(true).create(true).mode(0o600).open(path);
    let told = |error: &std::io::Error| tracing::warn!(%error, path = %path.display(), "events are kept in memory only");
    let Ok(mut file) = open().inspect_err(told) else { return };
    // A line that a crash tore must not swallow the next one.
    let mut batch = if length > 0 { vec![b'\n'] } else { Vec::new() };
    while let Ok(first) = waiting.recv() {
        batch.extend_from_slice(&first);
        length += 1;
        while let Ok(more) = waiting.try_recv() {
            batch.extend_from_slice(&more);
            length += 1;
        }
        if let Err(error) = file.write_all(&batch) {
            tracing::warn!(%error, path = %path.display(), "events could not be written");
        }
        batch.clear();
        if length >= HISTORY_LEN_MAX {
            match std::fs::rename(path, older(path)).and_then(|()| open()) {
                Ok(new) => (file, length) = (new, 0),
                Err(error) => tracing::warn!(%error, path = %path.display(), "the history of events could not be rotated"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize) -> Event {
        let attributes = BTreeMap::from([("name".to_owned(), format!("web{number}"))]);
        Event { kind: "container", action: "start".into(), id: number.to_string(), attributes, time: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn what_was_told_is_known_after_a_restart_and_stays_bounded() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("events.jsonl");
        for start in 0..3 {
            let mut history = History::open(&path);
            for number in 0..HISTORY_LEN_MAX {
                history.push(event(start * HISTORY_LEN_MAX + number));
            }
        }
        let torn = std::fs::OpenOptions::new().append(true).create(true).open(&path).and_then(|mut file| file.write_all(b"{\"torn"));
        torn.expect("appended");
        History::open(&path).push(event(7));
        let again = History::open(&path).all();
        assert_eq!(again.len(), HISTORY_LEN_MAX);
        let last: Vec<&str> = again.iter().rev().take(2).map(|event| event.id.as_str()).collect();
        assert_eq!(last, ["7", (3 * HISTORY_LEN_MAX - 1).to_string().as_str()]);
        assert_eq!(again[1].attributes["name"], format!("web{}", 2 * HISTORY_LEN_MAX + 2));
        let files = std::fs::read_dir(folder.path()).expect("listed").count();
        assert_eq!(files, 2);
    }
}
