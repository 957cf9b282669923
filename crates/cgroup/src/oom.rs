//! Notice when the kernel kills for lack of memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{Group, Result};

/// Tells when the kernel killed processes of a group for lack of memory. Keeps the group's counter open, so that it can still be read when the
/// processes are gone, until the group is removed.
#[derive(Debug)]
pub struct OomWatch {
    event: OwnedFd,
    counter: OwnedFd,
}

impl OomWatch {
    /// Starts to watch; `None` when the machine has no memory controller.
    pub fn new(group: &Group) -> Result<Option<Self>> {
        todo!()
    }

    /// Takes the pending notice, so that the descriptor is no longer readable.
    pub fn acknowledge(&self) {
        todo!()
    }

    /// How many processes of the group the kernel killed so far.
    pub fn kills(&self) -> Result<u64> {
        todo!()
    }
}

impl AsFd for OomWatch {
    /// Readable when something happened (or when the group was removed): then look at [`OomWatch::kills`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
