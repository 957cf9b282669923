//! Notice when the kernel kills for lack of memory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::{Error, Group, Result, file};

/// Tells when the kernel killed processes of a group for lack of memory. Keeps the group's counter open, so that it can still be read when the
/// processes are gone, until the group is removed.
#[derive(Debug)]
pub struct OomWatch {
    event: OwnedFd,
    counter: OwnedFd,
    path: PathBuf,
}

impl OomWatch {
    /// Starts to watch; `None` when the machine has no memory controller.
    ///
    /// # Errors
    /// The group's files cannot be opened or the kernel refuses to notify.
    pub fn new(group: &Group) -> Result<Option<Self>> {
        let Some(member) = group.member("memory") else { return Ok(None) };
        let path = member.directory.join(if member.unified { "memory.events" } else { "memory.oom_control" });
        let fail = |source| Error::Read { path: path.clone(), source };
        let counter = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
        let event = if member.unified {
            let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).map_err(fail)?;
            inotify::add_watch(&watch, &path, inotify::WatchFlags::MODIFY).map_err(fail)?;
            watch
        } else {
            let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(fail)?;
            let registration = format!("{} {}", event.as_raw_fd(), counter.as_raw_fd());
            file::write(&member.directory.join("cgroup.event_control"), &registration)?;
            event
        };
        Ok(Some(Self { event, counter, path }))
    }

    /// Takes the pending notice, so that the descriptor is no longer readable.
    pub fn acknowledge(&self) {
        let mut buffer = [0u8; 4096];
        while matches!(rustix::io::read(&self.event, &mut buffer), Ok(count) if count == buffer.len()) {}
    }

    /// How many processes of the group the kernel killed so far, with those of groups below it on version 2.
    ///
    /// # Errors
    /// The counter cannot be read: the group is gone.
    pub fn kills(&self) -> Result<u64> {
        let mut buffer = [0u8; 1024];
        let count = loop {
            match rustix::io::pread(&self.counter, &mut buffer, 0) {
                Err(Errno::INTR) => {}
                other => break other.map_err(|source| Error::Read { path: self.path.clone(), source })?,
            }
        };
        Ok(file::field(&String::from_utf8_lossy(&buffer[..count]), "oom_kill").unwrap_or(0))
    }
}

impl AsFd for OomWatch {
    /// Readable when something happened (or when the group was removed): then look at [`OomWatch::kills`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
