//! Sending a container's records elsewhere: from the file that its monitor writes, in order, from where the last engine left off.
//!
//! A record is sent at least once. How far it came is written down beside the log: the time of the last record, and how many of that time were sent.

mod fluentd;
mod gelf;
mod journald;
mod sink;
mod syslog;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::decode::LogBatch;
use super::{LogPlan, QUEUE_LEN_MAX, follow};
use crate::container::{Container, Record, lock};
use crate::request::ReadLogs;
use crate::{Engine, Error};

pub(crate) use sink::Sink;

/// Between two attempts to reach a collector that has gone.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long the end of a container, or the next start, waits for what is still to be sent.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// What a collector is told of the container with each record.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) host: String,
    pub(super) id: String,
    pub(super) short_id: String,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) image_id: String,
    pub(super) command: String,
    pub(super) created: String,
    pub(super) tag: String,
    pub(super) attrs: Vec<(String, String)>,
}

/// A container's records on their way.
#[derive(Debug, Default)]
pub(crate) struct Shipping {
    task: Mutex<Option<JoinHandle<()>>>,
}

/// How far the sending has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    time_ns: i64,
    /// Records of that time that were sent.
    count: u64,
}

/// Batches that wait for the collector, in the mode that loses records.
#[derive(Debug, Default)]
struct Ring {
    batches: Mutex<(VecDeque<LogBatch>, bool)>,
    filled: Notify,
}

impl Engine {
    /// Reaches the collector of a container's log, if it has one: a container does not start without.
    pub(crate) async fn open_sink(&self, record: &Record) -> Result<Option<Sink>, Error> {
        let plan = self.log_plan(record)?;
        let driver = || record.host.log_config.kind.clone();
        let Some(target) = &plan.target else { return Ok(None) };
        match Sink::open(target, about(record, &plan)).await {
            Ok(sink) => Ok(Some(sink)),
            Err(_) if target.may_come_later() => Ok(Some(Sink::closed(target, about(record, &plan)))),
            Err(source) => Err(Error::LogDriver { driver: driver(), address: target.address(), source }),
        }
    }

    /// Sends the records of a running container until it ends and all are sent. `sink` is open already after a start.
    pub(crate) fn ship_log(&self, container: &Arc<Container>, sink: Option<Sink>) {
        let record = container.record();
        let Ok(plan) = self.log_plan(&record) else { return };
        let Some(target) = &plan.target else { return };
        let sink = sink.unwrap_or_else(|| Sink::closed(target, about(&record, &plan)));
        let (path, cursor) = (self.log_path(&record, &plan), self.layout.log_cursor(&record.id));
        let (sender, batches) = mpsc::channel(QUEUE_LEN_MAX);
        let request = ReadLogs { follow: true, stdout: true, stderr: true, ..ReadLogs::default() };
        let (followed, format, lossy) = (container.clone(), plan.format(), plan.lossy_bytes);
        let name = record.name.clone();
        let task = tokio::spawn(async move {
            let reading = tokio::spawn(follow(path, format, followed, request, sender));
            match lossy {
                None => send_all(sink, cursor, batches, &name).await,
                Some(limit) => send_what_fits(sink, cursor, batches, limit, &name).await,
            }
            reading.abort();
        });
        if let Some(earlier) = lock(&container.shipping.task).replace(task) {
            // Two would send everything twice.
            earlier.abort();
        }
    }

    /// Waits a while until everything that a container wrote is sent; what could not be sent by then is given up.
    pub(crate) async fn drain_log(&self, container: &Container) {
        let Some(mut task) = lock(&container.shipping.task).take() else { return };
        if tokio::time::timeout(DRAIN_MAX, &mut task).await.is_err() {
            task.abort();
            tracing::warn!(container = container.record().name, "not all of the log could be sent: its collector does not take it");
        }
    }
}

/// Sends everything in order, however long the collector keeps it waiting.
async fn send_all(mut sink: Sink, path: PathBuf, mut batches: mpsc::Receiver<LogBatch>, name: &str) {
    let mut cursor = Cursor::read(&path);
    let mut seen = Cursor::default();
    while let Some(batch) = batches.recv().await {
        send_batch(&mut sink, &batch, &mut cursor, &mut seen, name).await;
        cursor.write(&path);
    }
}

/// The same, but batches that find no room while they wait are lost, the oldest first.
async fn send_what_fits(sink: Sink, path: PathBuf, mut batches: mpsc::Receiver<LogBatch>, limit: u64, name: &str) {
    let ring = Arc::new(Ring::default());
    let (sender, receiver) = mpsc::channel(1);
    let filled = ring.clone();
    let own_name = name.to_owned();
    let filling = async move {
        let mut lost = 0;
        while let Some(batch) = batches.recv().await {
            let dropped = filled.push(batch, limit);
            if dropped > 0 && lost == 0 {
                tracing::warn!(container = own_name, "records of the log are lost: its collector is slower than the container");
            }
            lost += dropped;
            crate::metrics::LOG_RECORDS_LOST.fetch_add(dropped, std::sync::atomic::Ordering::Relaxed);
        }
        filled.close();
    };
    let emptying = async move {
        while let Some(batch) = ring.pop().await {
            if sender.send(batch).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(filling, emptying, send_all(sink, path, receiver, name));
}

async fn send_batch(sink: &mut Sink, batch: &LogBatch, cursor: &mut Cursor, seen: &mut Cursor, name: &str) {
    let mut pause = RETRY_MIN;
    for record in batch.iter() {
        let time_ns = record.time.nanos().unwrap_or_default();
        seen.step(time_ns);
        if !cursor.precedes(seen) {
            continue;
        }
        while let Err(error) = sink.send(&record, time_ns).await {
            if pause == RETRY_MIN {
                tracing::warn!(container = name, %error, "the log's collector cannot be reached; it is tried again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        *cursor = *seen;
    }
    while let Err(error) = sink.flush().await {
        tracing::debug!(container = name, %error, "the log's collector cannot be reached");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

fn about(record: &Record, plan: &LogPlan) -> About {
    About {
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        id: record.id.to_string(),
        short_id: record.id.short().to_owned(),
        name: record.name.clone(),
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        command: std::iter::once(&record.path).chain(&record.args).map(String::as_str).collect::<Vec<_>>().join(" "),
        created: record.created.to_string(),
        tag: plan.tag.clone(),
        attrs: plan.attrs.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

impl Cursor {
    fn read(path: &std::path::Path) -> Self {
        std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Written in place of the old one as a whole; not synced: after a power cut some records are sent again.
    fn write(&self, path: &std::path::Path) {
        let staged = path.with_extension("new");
        let written = serde_json::to_vec(self).map_err(std::io::Error::from).and_then(|text| std::fs::write(&staged, text));
        if let Err(error) = written.and_then(|()| std::fs::rename(&staged, path)) {
            tracing::debug!(%error, "how far the log was sent could not be written down");
        }
    }

    /// Counts a record of this time.
    fn step(&mut self, time_ns: i64) {
        if self.time_ns == time_ns {
            self.count += 1;
        } else {
            *self = Self { time_ns, count: 1 };
        }
    }

    /// Whether the record that `seen` stands at is still to be sent.
    fn precedes(&self, seen: &Self) -> bool {
        (self.time_ns, self.count) < (seen.time_ns, seen.count)
    }
}

impl Ring {
    /// Adds a batch, and takes away what there is no room for; answers how many records that were.
    fn push(&self, batch: LogBatch, limit: u64) -> u64 {
        let mut held = lock(&self.batches);
        held.0.push_back(batch);
        let mut lost = 0;
        while held.0.len() > 1 && held.0.iter().map(|batch| batch.bytes() as u64).sum::<u64>() > limit {
            lost += held.0.pop_front().map_or(0, |batch| batch.len() as u64);
        }
        drop(held);
        self.filled.notify_one();
        lost
    }

    fn close(&self) {
        lock(&self.batches).1 = true;
        self.filled.notify_one();
    }

    async fn pop(&self) -> Option<LogBatch> {
        loop {
            {
                let mut held = lock(&self.batches);
                if let Some(batch) = held.0.pop_front() {
                    return Some(batch);
                }
                if held.1 {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::About;

    pub(crate) fn about() -> About {
        About {
            host: "quay".into(),
            id: "ab".repeat(32),
            short_id: "ab".repeat(6),
            name: "web".into(),
            image: "busybox".into(),
            image_id: "sha256:cd".into(),
            command: "sh -c true".into(),
            created: "2026-01-02T03:04:05Z".into(),
            tag: "tag".into(),
            attrs: vec![("team.a".into(), "blue".into())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_tells_what_is_still_to_be_sent() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("cursor");
        assert_eq!(Cursor::read(&path), Cursor::default());
        let times = [5, 5, 5, 7, 7, 9];
        let (mut cursor, mut seen) = (Cursor::default(), Cursor::default());
        for time in &times[..4] {
            seen.step(*time);
            assert!(cursor.precedes(&seen));
            cursor = seen;
        }
        cursor.write(&path);
        let cursor = Cursor::read(&path);
        let mut again = Cursor::default();
        let left = times.iter().filter(|time| {
            again.step(**time);
            cursor.precedes(&again)
        });
        assert_eq!(left.collect::<Vec<_>>(), [&7, &9]);
    }
}
