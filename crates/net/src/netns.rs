//! A network namespace as a pair of descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::Result;

/// A network namespace, kept alive by this value (and by the processes in it). Dropping the last holder destroys it with its interfaces.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

impl Netns {
    /// A new namespace with loopback up, made on a short-lived thread. `sysctls` are names below `net.` with their values,
    /// such as `("net.ipv4.ip_unprivileged_port_start", "0")`: Docker's defaults and the user's own, applied in order.
    pub fn create(sysctls: &[(String, String)]) -> Result<Self> {
        let _ = sysctls;
        todo!()
    }

    /// The namespace behind a descriptor, such as an opened `/proc/PID/ns/net`.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let _ = fd;
        todo!()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
