//! Removal in the background: what was moved to the trash goes off the disk on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use durable::{entomb, sweep};

use crate::{Error, Result};

enum Job {
    Sweep,
    Tell(SyncSender<()>),
}

/// The trash directory and the thread that empties it. What a crash leaves there is removed after the next start.
#[derive(Debug)]
pub(crate) struct Reaper {
    trash: PathBuf,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    /// Uses (and makes, if missing) the directory, and begins with what is in it.
    pub fn start(trash: &Path) -> Result<Self> {
        durable::create_dir_all(trash, 0o700)?;
        let (jobs, waiting) = channel();
        let directory = trash.to_owned();
        let builder = std::thread::Builder::new().name("reaper".to_owned()).stack_size(512 << 10);
        let thread = builder.spawn(move || empty(&directory, &waiting)).map_err(|error| Error::io("start a thread for", trash, error))?;
        let reaper = Self { trash: trash.to_owned(), jobs: Some(jobs), thread: Some(thread) };
        reaper.send(Job::Sweep);
        Ok(reaper)
    }

    /// Moves a tree to the trash. Absence is success.
    pub fn bury(&self, path: &Path) -> Result<()> {
        match entomb(path, &self.trash) {
            Ok(_) => {}
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.send(Job::Sweep);
        Ok(())
    }

    /// Waits until everything that was buried before is off the disk.
    pub fn wait(&self) {
        let (tell, told) = sync_channel(1);
        self.send(Job::Tell(tell));
        // An error means that the thread has ended: nothing is left to wait for.
        let _ = told.recv();
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only after the sender does.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn empty(trash: &Path, waiting: &Receiver<Job>) {
    while let Ok(job) = waiting.recv() {
        match job {
            Job::Tell(tell) => {
                let _ = tell.send(());
            }
            Job::Sweep => {
                if let Err(error) = sweep(trash) {
                    tracing::warn!(error = %types::error::chain(&error), "something in the trash could not be removed; it is tried again later");
                }
            }
        }
    }
}
