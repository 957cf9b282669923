//! Joining and leaving namespaces (setns(2), unshare(2)), and the id maps of user namespaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::checked;

/// Moves the calling thread into the namespace of `descriptor`, which must be of the kind `flag` (0: any kind). A pidfd joins several at once.
/// For a pid namespace only later children are moved.
///
/// # Errors
/// The errno of setns(2).
pub fn join(descriptor: BorrowedFd<'_>, flag: u64) -> Result<(), Errno> {
    // SAFETY: passes a borrowed descriptor and a number; memory is not involved.
    checked(unsafe { libc::setns(descriptor.as_raw_fd(), flag as libc::c_int) }.into()).map(drop)
}

/// Moves the calling thread into new namespaces (see [`crate::fork::namespace`]).
///
/// # Errors
/// The errno of unshare(2).
pub fn unshare(flags: u64) -> Result<(), Errno> {
    // SAFETY: only namespace flags have a meaning to callers of this crate; file descriptor tables are not unshared with them.
    checked(unsafe { libc::syscall(libc::SYS_unshare, flags & NAMESPACES) }).map(drop)
}

const NAMESPACES: u64 = {
    use crate::fork::namespace::{CGROUP, IPC, MOUNT, NET, PID, TIME, USER, UTS};
    CGROUP | IPC | MOUNT | NET | PID | TIME | USER | UTS
};
