//! Signals through a pidfd by number: real-time signals included, which `rustix` leaves to the C library.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::checked;

/// Sends `signal` to the process that the descriptor means, however its number was used since.
///
/// # Errors
/// The errno of pidfd_send_signal(2): ESRCH when it has ended, EINVAL for a number that is no signal, EPERM.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: a descriptor and numbers; the null pointer asks for the usual siginfo.
    checked(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) })
        .map(drop)
}
