//! The logs of containers: what is kept of their output, how it is read, and where else it is sent.
//!
//! A container's monitor writes to a file and nowhere else: whatever becomes of a collector of logs, the container is not held up, and nothing is
//! lost while the engine is away. What a driver sends elsewhere is read from that file.

mod compress;
mod decode;
mod options;
mod reader;
mod ship;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use monitor::{LogFile, LogFormat};
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::container::{Container, Record};
use crate::request::{LogReader, ReadLogs};
use crate::{Engine, Error, ready};

pub use decode::{LogBatch, LogRecord, LogTime};
pub(crate) use options::{DRIVERS, Driver, LogPlan, check};
pub(crate) use ship::{Shipping, Sink};

/// Batches that wait for a slow reader.
const QUEUE_LEN_MAX: usize = 4;

impl Engine {
    /// Starts to read a container's log.
    pub async fn logs(&self, name: &str, request: ReadLogs) -> Result<LogReader, Error> {
        let container = self.find(name)?;
        if !request.stdout && !request.stderr {
            return Err(Error::NoStream);
        }
        let record = container.record();
        let plan = self.log_plan(&record)?;
        if !plan.readable {
            return Err(Error::NoLog { name: record.name.clone(), driver: record.host.log_config.kind.clone() });
        }
        let (sender, records) = mpsc::channel(QUEUE_LEN_MAX);
        tokio::spawn(follow(self.log_path(&record, &plan), plan.format(), container, request, sender));
        Ok(LogReader { tty: record.config.tty, records })
    }

    /// What a container's log options mean.
    pub(crate) fn log_plan(&self, record: &Record) -> Result<LogPlan, Error> {
        options::plan(record)
    }

    /// What the monitor is to write, if anything.
    pub(crate) fn log_file(&self, record: &Record) -> Result<Option<LogFile>, Error> {
        let plan = self.log_plan(record)?;
        if plan.driver == Driver::None {
            return Ok(None);
        }
        Ok(Some(LogFile {
            path: self.log_path(record, &plan),
            max_bytes: Some(plan.max_bytes),
            max_files: Some(plan.max_files),
            format: plan.format(),
            attrs: plan.attrs_json(),
        }))
    }

    /// Where a container's output is kept.
    fn log_path(&self, record: &Record, plan: &LogPlan) -> PathBuf {
        match plan.format() {
            LogFormat::Json => self.layout.log(&record.id),
            LogFormat::Local => self.layout.local_log(&record.id),
        }
    }

    /// Compresses what was rotated, where that is wished for.
    pub(crate) fn compress_log(&self, container: &Container) {
        let record = container.record();
        let Ok(plan) = self.log_plan(&record) else { return };
        if plan.compress {
            let path = self.log_path(&record, &plan);
            tokio::task::spawn_blocking(move || compress::compress_all(&path, plan.max_files));
        }
    }
}

impl LogPlan {
    fn format(&self) -> LogFormat {
        match self.driver {
            Driver::JsonFile | Driver::None => LogFormat::Json,
            Driver::Local | Driver::Syslog | Driver::Journald | Driver::Gelf | Driver::Fluentd => LogFormat::Local,
        }
    }
}

/// Sends what is there, then what comes until the container stops, if that is asked for.
async fn follow(path: PathBuf, format: LogFormat, container: Arc<Container>, request: ReadLogs, sender: mpsc::Sender<LogBatch>) {
    let follow = request.follow;
    let mut changes = container.watch();
    // Watched before the first read, so that nothing that comes in between is slept through.
    let watch = if follow { Watch::new(&path).ok() } else { None };
    let Ok(mut reader) = tokio::task::spawn_blocking(move || reader::Reader::open(&path, format, request)).await else { return };
    let mut torn = 0;
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
        if reader.torn > torn {
            torn = reader.torn;
            crate::metrics::LOG_RECORDS_TORN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::warn!(container = container.record().name, torn, "records of the log are torn and were left out");
        }
        if let Some(records) = batch {
            if sender.send(records).await.is_err() {
                return;
            }
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

/// The path of a rotated file, 1 being the youngest.
fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
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
